//! What the loader tells: the Linux "zero page" (struct `boot_params`): memory map and command line.

use crate::runtime;

/// The stub maps this much memory.
const MAPPED: u64 = 64 << 20;
const LONGEST_LINE: usize = 2048;

unsafe extern "C" {
    /// guest.ld: first address after the program.
    static IMAGE_END: u8;
}

/// The zero page.
#[derive(Clone, Copy, Debug)]
pub struct ZeroPage(usize);

impl ZeroPage {
    /// # Safety
    /// `address` must be that of a zero page, in memory that nobody changes any more.
    pub unsafe fn new(address: u64) -> Self {
        assert!(address != 0 && address < MAPPED - 4096, "boot: no zero page in RSI");
        Self(address as usize)
    }

    fn bytes<const N: usize>(self, offset: usize) -> [u8; N] {
        // SAFETY: within the zero page, which `new` was promised; bytes need no alignment.
        unsafe { core::ptr::with_exposed_provenance::<[u8; N]>(self.0 + offset).read() }
    }

    fn long(self, offset: usize) -> u64 {
        u64::from_le_bytes(self.bytes(offset))
    }

    /// Gives everything between the program and the end of its piece of memory to the heap: `least` bytes or more.
    pub fn init_heap(self, least: usize) {
        let start = (&raw const IMAGE_END).expose_provenance();
        let [entries] = self.bytes(0x1E8);
        let end = (0..usize::from(entries).min(128))
            .map(|n| 0x2D0 + 20 * n)
            .filter(|&at| self.bytes(at + 16) == 1_u32.to_le_bytes())
            .map(|at| (self.long(at), self.long(at).saturating_add(self.long(at + 8))))
            .find(|&(from, to)| from <= start as u64 && start as u64 <= to)
            .map_or(0, |(_, to)| to.min(MAPPED) as usize);
        assert!(end >= start + least, "boot: too little memory, {least} bytes of heap are needed");
        // SAFETY: memory by the e820 map, after the program; the loader's structures lie below it.
        unsafe { runtime::init_heap(start, end) }
    }

    /// The command line; what is not UTF-8 counts as empty.
    pub fn command_line(self) -> &'static str {
        let address = u32::from_le_bytes(self.bytes(0x228)) as usize;
        if address == 0 || address > MAPPED as usize - LONGEST_LINE {
            return "";
        }
        // SAFETY: mapped memory (checked) that the loader wrote and nobody changes.
        let bytes: &[u8; LONGEST_LINE] = unsafe { &*core::ptr::with_exposed_provenance(address) };
        let length = bytes.iter().position(|&byte| byte == 0).unwrap_or(LONGEST_LINE);
        core::str::from_utf8(&bytes[..length]).unwrap_or("")
    }
}
