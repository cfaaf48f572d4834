//! The machine that the guest sees, as data. Both hosts of a pair must have the same table.

pub mod cpuid;
pub mod layout;
pub mod msrs;

use xxhash_rust::xxh3::Xxh3;

use crate::soft::tlb;

/// Version of the table's meaning, for changes that the data do not show.
pub const TABLE_VERSION: u32 = 1;

/// XXH3-128 of the whole table. It does not depend on the host.
#[must_use]
pub fn digest() -> u128 {
    let mut hash = Xxh3::new();
    let mut add = |words: &[u64]| {
        hash.update(&(words.len() as u64).to_le_bytes());
        for word in words {
            hash.update(&word.to_le_bytes());
        }
    };
    add(&[u64::from(TABLE_VERSION)]);
    for vendor in [cpuid::Vendor::Intel, cpuid::Vendor::Amd] {
        for leaf in cpuid::profile(vendor) {
            add(&[leaf.function, leaf.index, leaf.eax, leaf.ebx, leaf.ecx, leaf.edx].map(u64::from));
        }
    }
    add(&msrs::SAVED.map(|msr| u64::from(msr.index)));
    add(&msrs::SAVED.map(|msr| msr.reset));
    for range in msrs::OWNED {
        add(&[u64::from(range.first), u64::from(range.count)]);
    }
    add(&layout::as_words());
    // What of the software processor the guest can see: the translation cache, the clock, the counting of REP.
    let soft =
        [tlb::ENTRIES as u64, tlb::TABLES as u64, crate::soft::TSC_PER_INSTRUCTION, crate::soft::CHUNK];
    add(&soft);
    hash.digest128()
}

#[cfg(test)]
mod tests {
    /// A change of this number means that hosts with the old and the new program cannot pair.
    #[test]
    fn the_digest_is_known() {
        assert_eq!(super::digest(), 0x0aad_3c83_2841_eb5a_7b6f_f646_c77b_a11e);
    }
}
