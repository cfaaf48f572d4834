//! Guest-linear to guest-physical addresses, without a trace in the guest.
//!
//! KVM_TRANSLATE would do it too, but it walks as the processor does: it sets accessed bits in the guest's
//! tables, at places that the other host does not know of.

use vm_memory::{Bytes, GuestAddress};

use crate::memory::Ram;

/// The registers that say how addresses are translated.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Paging {
    pub cr0: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub efer: u64,
}

const CR0_PAGING: u64 = 1 << 31;
const CR4_FIVE_LEVELS: u64 = 1 << 12;
const EFER_LONG_MODE_ACTIVE: u64 = 1 << 10;
const PRESENT: u64 = 1;
const LARGE: u64 = 1 << 7;
/// Bits 12 to 51 of a table entry.
const FRAME: u64 = 0x000f_ffff_ffff_f000;

/// The guest-physical address, or `None` where nothing is mapped. Knows 64-bit mode with four levels (SDM
/// volume 3 section 4.5) and no paging at all; elsewhere nothing is found, so there are no landings. Access
/// rights are not looked at: an access that the guest's tables forbid faults in the guest and dirties nothing.
/// The pages of the tables that were read are added to `tables`.
pub(crate) fn translate(ram: &Ram, paging: &Paging, linear: u64, tables: &mut Vec<u32>) -> Option<u64> {
    if paging.cr0 & CR0_PAGING == 0 {
        return Some(linear & u64::from(u32::MAX));
    }
    if paging.efer & EFER_LONG_MODE_ACTIVE == 0 || paging.cr4 & CR4_FIVE_LEVELS != 0 {
        return None;
    }
    let mut table = paging.cr3 & FRAME;
    for shift in [39, 30, 21, 12] {
        let at = GuestAddress(table + (linear >> shift & 0x1ff) * 8);
        let mut entry = [0; 8];
        ram.read_slice(&mut entry, at).ok()?;
        if let Ok(page) = u32::try_from(table >> 12)
            && !tables.contains(&page)
        {
            tables.push(page);
        }
        let entry = u64::from_le_bytes(entry);
        if entry & PRESENT == 0 {
            return None;
        }
        let inside = (1 << shift) - 1;
        if shift == 12 || (shift < 39 && entry & LARGE != 0) {
            return Some((entry & FRAME & !inside) | (linear & inside));
        }
        table = entry & FRAME;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory;

    fn mapped() -> (Ram, Paging) {
        let ram = memory::allocate(1).expect("1 MiB");
        let put =
            |at: u64, value: u64| ram.write_slice(&value.to_le_bytes(), GuestAddress(at)).expect("fits");
        put(0x1000 + 8 * 0x100, 0x2003);
        put(0x2000 + 8 * 2, 0x3003);
        put(0x2000 + 8 * 3, 0x4000_0083);
        put(0x3000 + 8 * 5, 0x4003);
        put(0x3000 + 8 * 6, 0x80_0000_0020_0083);
        put(0x4000 + 8 * 7, 0x8000_0000_0005_5003);
        put(0x3000 + 8 * 9, 0xfff_ffff_f003);
        let paging = Paging { cr0: CR0_PAGING, cr3: 0x1018, cr4: 0x20, efer: 0x500 };
        (ram, paging)
    }

    fn found(ram: &Ram, paging: &Paging, linear: u64) -> Option<u64> {
        translate(ram, paging, linear, &mut Vec::new())
    }

    #[test]
    fn the_tables_on_the_way_are_told() {
        let (ram, paging) = mapped();
        let mut tables = vec![3];
        translate(&ram, &paging, 0xffff_8000_8000_0000 + (5 << 21) + (7 << 12), &mut tables);
        assert_eq!(tables, [3, 1, 2, 4]);
    }

    #[test]
    fn pages_of_every_size_are_found() {
        let (ram, paging) = mapped();
        let base = 0xffff_8000_8000_0000;
        let small = base + (5 << 21) + (7 << 12);
        assert_eq!(found(&ram, &paging, small + 0x123), Some(0x5_5123));
        assert_eq!(found(&ram, &paging, base + (6 << 21) + 0x1_2345), Some(0x21_2345));
        assert_eq!(found(&ram, &paging, base + (1 << 30) + 0x321), Some(0x4000_0321));
        assert_eq!(found(&ram, &paging, small + 0x1000), None, "not present");
        assert_eq!(found(&ram, &paging, base + (9 << 21)), None, "a table outside memory");
    }

    #[test]
    fn other_modes_are_known_or_refused() {
        let (ram, paging) = mapped();
        let none = Paging { cr0: 0, ..paging };
        assert_eq!(found(&ram, &none, 0x1_0000_1234), Some(0x1234));
        assert_eq!(found(&ram, &Paging { cr4: 0x1020, ..paging }, 0x1234), None);
        assert_eq!(found(&ram, &Paging { efer: 0, ..paging }, 0x1234), None);
    }
}
