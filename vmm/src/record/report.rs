//! The first difference, as people want to see it.

use std::collections::BTreeMap;
use std::fmt;

use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};
use vm_memory::{Bytes, GuestAddress};

use super::Entry;
use super::observe::{Changes, Shadow};
use crate::PAGE_SIZE;
use crate::machine::{ExitKind, Vm};
use crate::saved::{self, SavedVm};
use crate::vcpu::CpuState;
use crate::walk::{Paging, translate};

/// Differing bytes that are listed.
const BYTES_SHOWN: usize = 16;
/// Instructions that are listed.
const INSTRUCTIONS_SHOWN: usize = 4;
/// An instruction has at most 15 bytes.
const CODE_BYTES: usize = INSTRUCTIONS_SHOWN * 15;
const STATE_MAX: usize = 64 << 20;

/// Where the replay ended up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reached {
    Exit(ExitKind),
    Shutdown,
    Sleeps,
    Refused(String),
}

/// A byte of guest memory: its guest-physical address, as recorded, as replayed.
pub type DifferingByte = (u64, u8, u8);

/// The first place at which a replay is not what was recorded. Its text shows all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Divergence {
    /// The exit's number; the first has 1.
    pub exit: u64,
    recorded: String,
    replayed: String,
    /// Name, recorded, replayed.
    registers: Vec<(&'static str, u64, u64)>,
    /// Bytes of the processor's and the devices' saved state that differ, and are not in `registers`.
    hidden: [usize; 2],
    code: [Vec<String>; 2],
    /// As many as are shown.
    memory: Vec<DifferingByte>,
    memory_total: usize,
    events: Vec<String>,
}

impl Divergence {
    /// Compares. Nothing if the recording itself is impossible.
    pub(super) fn new(
        vm: &Vm,
        shadow: &Shadow,
        exit: u64,
        reached: Reached,
        recorded: Option<&Entry>,
        own: &Changes,
        events: Vec<String>,
    ) -> Option<Self> {
        let nothing = Changes::default();
        let (recorded, theirs) = match recorded {
            Some(Entry::Exit { kind, changes }) => (format!("{:?}", ExitKind::from_number(*kind)?), changes),
            Some(Entry::Shutdown) => ("a triple fault".into(), &nothing),
            Some(Entry::Place(_)) | None => ("a stimulus".into(), &nothing),
        };
        let replayed = match reached {
            Reached::Exit(kind) => format!("{kind:?}"),
            Reached::Shutdown => "a triple fault".into(),
            Reached::Sleeps => "the guest sleeps and nothing wakes it".into(),
            Reached::Refused(why) => why,
        };
        let state = |changes: &Changes| {
            let whole = *changes != nothing;
            let bytes =
                if whole { changes.state.applied(&shadow.state, STATE_MAX)? } else { shadow.state.clone() };
            saved::decode(&bytes).ok()
        };
        let (left, right) = (state(theirs)?, state(own)?);
        let (memory, memory_total) = memory(shadow, theirs, own)?;
        Some(Divergence {
            exit,
            recorded,
            replayed,
            registers: registers(&left.cpu)
                .into_iter()
                .zip(registers(&right.cpu))
                .map(|(l, r)| (l.0, l.1, r.1))
                .collect(),
            hidden: hidden(&left, &right),
            code: [&left.cpu, &right.cpu].map(|cpu| code(vm, cpu)),
            memory,
            memory_total,
            events,
        })
    }

    /// Names of the registers that differ.
    pub fn differing_registers(&self) -> impl Iterator<Item = &'static str> {
        self.registers.iter().filter(|(_, left, right)| left != right).map(|(name, ..)| *name)
    }

    /// Differing bytes of memory, at most 16, by ascending address.
    #[must_use]
    pub fn differing_bytes(&self) -> &[DifferingByte] {
        &self.memory
    }
}

/// Of all pages that either side changed, the bytes that differ: the first few, and how many.
fn memory(shadow: &Shadow, theirs: &Changes, own: &Changes) -> Option<(Vec<DifferingByte>, usize)> {
    let mut pages = BTreeMap::new();
    for (side, changes) in [theirs, own].into_iter().enumerate() {
        for (page, patch) in &changes.pages {
            let old = shadow.page(*page)?;
            let new = patch.applied(old, PAGE_SIZE).filter(|new| new.len() == PAGE_SIZE)?;
            pages.entry(*page).or_insert_with(|| [old.to_vec(), old.to_vec()])[side] = new;
        }
    }
    let (mut shown, mut total) = (Vec::new(), 0);
    for (page, [left, right]) in pages {
        for (at, (left, right)) in (0..).zip(left.into_iter().zip(right)).filter(|(_, (l, r))| l != r) {
            total += 1;
            if shown.len() < BYTES_SHOWN {
                shown.push((u64::from(page) * PAGE_SIZE as u64 + at, left, right));
            }
        }
    }
    Some((shown, total))
}

const GENERAL: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
    "r15",
];

fn registers(cpu: &CpuState) -> Vec<(&'static str, u64)> {
    let [cr0, cr2, cr3, cr4, cr8] = cpu.control;
    let [_, _, _, fs, gs, ..] = cpu.segments;
    let others = [
        ("rip", cpu.rip),
        ("rflags", cpu.rflags),
        ("cr0", cr0),
        ("cr2", cr2),
        ("cr3", cr3),
        ("cr4", cr4),
        ("cr8", cr8),
        ("efer", cpu.efer),
        ("fs base", fs.base),
        ("gs base", gs.base),
    ];
    GENERAL.into_iter().zip(cpu.general).chain(others).collect()
}

/// What differs and has no line of its own: in the rest of the processor, in the devices.
fn hidden(left: &SavedVm, right: &SavedVm) -> [usize; 2] {
    // The shown registers are made equal first.
    let mut rest = right.cpu.clone();
    (rest.general, rest.rip, rest.rflags) = (left.cpu.general, left.cpu.rip, left.cpu.rflags);
    (rest.control, rest.efer) = (left.cpu.control, left.cpu.efer);
    for segment in [3, 4] {
        rest.segments[segment].base = left.cpu.segments[segment].base;
    }
    let bytes = |cpu: &CpuState, halted: bool| postcard::to_stdvec(&(cpu, halted)).unwrap_or_default();
    let processor = differing(&bytes(&left.cpu, left.halted), &bytes(&rest, right.halted));
    [processor, differing(&left.devices, &right.devices)]
}

fn differing(left: &[u8], right: &[u8]) -> usize {
    left.iter().zip(right).filter(|(left, right)| left != right).count() + left.len().abs_diff(right.len())
}

/// The next instructions, as memory has them now.
fn code(vm: &Vm, cpu: &CpuState) -> Vec<String> {
    let [cr0, _, cr3, cr4, _] = cpu.control;
    let paging = Paging { cr0, cr3, cr4, efer: cpu.efer };
    let mut bytes = Vec::new();
    for at in (0..CODE_BYTES as u64).map(|at| cpu.rip.wrapping_add(at)) {
        let byte = translate(vm.ram(), &paging, at, &mut Vec::new())
            .and_then(|at| vm.ram().read_obj::<u8>(GuestAddress(at)).ok());
        let Some(byte) = byte else { break };
        bytes.push(byte);
    }
    let mut formatter = IntelFormatter::new();
    let options = formatter.options_mut();
    options.set_hex_prefix("0x");
    options.set_hex_suffix("");
    options.set_space_after_operand_separator(true);
    let decoder = Decoder::with_ip(64, &bytes, cpu.rip, DecoderOptions::NONE);
    let lines = decoder.into_iter().take(INSTRUCTIONS_SHOWN).map(|instruction| {
        let mut line = format!("{:#018x}  ", instruction.ip());
        formatter.format(&instruction, &mut line);
        line
    });
    lines.collect()
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "The replay differs at exit {}.", self.exit)?;
        writeln!(f, "  recorded: {}", self.recorded)?;
        writeln!(f, "  replayed: {}", self.replayed)?;
        writeln!(f, "registers         recorded            replayed")?;
        for (name, left, right) in &self.registers {
            let mark = if left == right { ' ' } else { '*' };
            writeln!(f, "{mark} {name:<8} {left:#018x}  {right:#018x}")?;
        }
        let [processor, devices] = self.hidden;
        writeln!(f, "not shown: {processor} bytes of the processor and {devices} of the devices differ")?;
        for (side, lines) in ["recorded", "replayed"].iter().zip(&self.code) {
            writeln!(f, "next instructions, {side}")?;
            lines.iter().try_for_each(|line| writeln!(f, "  {line}"))?;
        }
        writeln!(f, "memory: {} bytes differ", self.memory_total)?;
        for (address, left, right) in &self.memory {
            writeln!(f, "  {address:#012x}  {left:02x}  {right:02x}")?;
        }
        writeln!(f, "last events")?;
        self.events.iter().try_for_each(|event| writeln!(f, "  {event}"))
    }
}
