//! Instructions on the host's own x87.
//!
//! FRSTOR, the instruction, FNSAVE: both images are the whole state, and FNSAVE waits for no exception and
//! leaves the unit as the ABI wants it.

use super::super::{FXSAVE_SIZE, STATE_SIZE};

/// What an instruction reads and writes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[repr(C, align(16))]
pub(super) struct Machine {
    /// The memory operand.
    pub(super) memory: [u8; FXSAVE_SIZE],
    /// An FSAVE image, 32-bit layout.
    pub(super) image: [u8; STATE_SIZE],
    /// AX: the flags in AH (SF, ZF, AF, PF, CF as LAHF has them), or what FNSTSW wrote.
    pub(super) ax: u16,
}

/// Runs one instruction, and gives back its bytes. Its memory operand is at RDI.
pub(super) type Native = fn(&mut Machine) -> &'static [u8];

/// An instruction by its text.
macro_rules! native {
    ($text:literal) => {
        |machine: &mut $crate::soft::float::tests::native::Machine| -> &'static [u8] {
            let mut rax = u64::from(machine.ax);
            let (begin, end): (*const u8, *const u8);
            // SAFETY: the image is 108 bytes at RSI, the operand at most 512 aligned ones at RDI. No instruction
            // waits while an unmasked exception is pending: the image has none, and FNSAVE does not wait.
            // FNSAVE leaves the control word and an empty stack as on entry; all registers count as clobbered.
            // MXCSR is loaded only by FXRSTOR, from an operand which has the value that it has on entry.
            unsafe {
                std::arch::asm!(
                    "frstor [rsi]",
                    "sahf",
                    "77:",
                    $text,
                    "78:",
                    "lahf",
                    "fnsave [rsi]",
                    "lea r8, [rip + 77b]",
                    "lea r9, [rip + 78b]",
                    in("rsi") machine.image.as_mut_ptr(),
                    in("rdi") machine.memory.as_mut_ptr(),
                    out("r8") begin,
                    out("r9") end,
                    inout("rax") rax,
                    clobber_abi("sysv64"),
                    options(nostack),
                );
            }
            machine.ax = rax as u16;
            // SAFETY: both point into this function's code, which stays and is never written.
            unsafe { std::slice::from_raw_parts(begin, end.offset_from_unsigned(begin)) }
        }
    };
}
pub(super) use native;

/// Whether this is an Intel processor, whose choices this unit follows where the manual leaves one.
pub(super) fn genuine_intel() -> bool {
    let leaf = std::arch::x86_64::__cpuid(0);
    [leaf.ebx, leaf.edx, leaf.ecx].map(u32::to_le_bytes).concat() == b"GenuineIntel"
}
