//! Every form on fixed operands has one digest, on every host and in every build.

use super::super::form_of;
use super::corpus::Seeded;
use super::model;
use super::native::{End, State};
use super::proof::random_state;
use super::table::{codes, instruction};

/// What an execution left, in a fixed order.
fn append(bytes: &mut Vec<u8>, end: End, state: &State) {
    bytes.push(match end {
        End::Completed => 0,
        End::FloatingPoint => 1,
        End::Protection => 2,
    });
    bytes.extend(state.xmm.iter().flat_map(|value| value.to_le_bytes()));
    bytes.extend(state.mm.iter().chain(&state.gpr).flat_map(|value| value.to_le_bytes()));
    bytes.extend(state.flags.to_le_bytes());
    bytes.extend(state.mxcsr.to_le_bytes());
    bytes.extend(state.memory);
}

#[test]
fn the_digest_of_all_forms_is_the_same_everywhere() {
    let mut seeded = Seeded::new(6);
    let mut bytes = Vec::new();
    for code in codes() {
        for memory in [false, true] {
            if instruction(code, memory, 0).is_none() {
                continue;
            }
            let form = form_of(code, memory).expect("every code has a form");
            for _ in 0..100 {
                let mxcsr = seeded.mxcsr(true);
                let imm = seeded.next() as u8;
                let mut state = random_state(&mut seeded, mxcsr);
                let (end, _) = model::run(&mut state, &form, imm, 0);
                append(&mut bytes, end, &state);
            }
        }
    }
    let digest = xxhash_rust::xxh3::xxh3_128(&bytes);
    assert_eq!(
        format!("{digest:032x}"),
        "c2236b8b528ddf25734c6a1458d72da7",
        "a change of the operations, or of the corpus"
    );
}
