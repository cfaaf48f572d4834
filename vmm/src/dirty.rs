//! Which pages changed: what the vCPU wrote or what this process wrote.
//!
//! The vCPU backend logs the guest's stores only; a device that writes a received frame into guest memory
//! goes past it, through the bitmap of guest memory. Missing either half would let a replica drift.

use vm_memory::GuestMemoryBackend;

use crate::error::DirtyError;
use crate::memory::{Ram, page_count};
use crate::vcpu::Vcpu;

/// Takes both logs and clears them; the result is sorted and unique.
pub(crate) fn take(vcpu: &mut dyn Vcpu, ram: &Ram) -> Result<Vec<u32>, DirtyError> {
    let by_guest = vcpu.take_dirty()?;
    let by_us: Vec<u64> = ram.iter().flat_map(|region| (**region).bitmap().get_and_reset()).collect();
    Ok(union(&by_guest, &by_us, page_count(ram)))
}

/// The page numbers below `pages` whose bit is set in either bitmap, ascending.
fn union(left: &[u64], right: &[u64], pages: u32) -> Vec<u32> {
    let words = left.len().max(right.len());
    let word = |bits: &[u64], at: usize| bits.get(at).copied().unwrap_or(0);
    let mut dirty = Vec::new();
    for at in 0..words {
        let mut bits = word(left, at) | word(right, at);
        while bits != 0 {
            let page = u32::try_from(at * 64).unwrap_or(u32::MAX).saturating_add(bits.trailing_zeros());
            bits &= bits - 1;
            if page < pages {
                dirty.push(page);
            }
        }
    }
    dirty
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn union_is_the_set_union(
            left in proptest::collection::vec(any::<u64>(), 0..5),
            right in proptest::collection::vec(any::<u64>(), 0..5),
            pages in 0u32..320,
        ) {
            let bit = |bits: &[u64], page: u32| {
                bits.get(page as usize / 64).is_some_and(|word| word >> (page % 64) & 1 == 1)
            };
            let expected: Vec<u32> =
                (0..pages).filter(|&page| bit(&left, page) || bit(&right, page)).collect();
            prop_assert_eq!(union(&left, &right, pages), expected);
        }
    }
}
