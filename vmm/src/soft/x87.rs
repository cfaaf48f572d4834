//! The x87 registers as FXSAVE shows them.

/// Value of the control word after FNINIT: everything masked, 64-bit precision.
const CONTROL_RESET: u16 = 0x37f;
/// Error summary and busy.
const SUMMARY: u16 = 0x8080;
/// Bytes of the FXSAVE image.
pub(super) const IMAGE: usize = 512;

/// The x87 register file (SDM volume 1 section 8.1). The last instruction's and operand's addresses and the
/// last opcode are kept as loaded and never set: they always read as zero for a guest that does not load them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fpu {
    /// Control word.
    pub(super) control: u16,
    /// Status word, the top of the stack in bits 11 to 13.
    pub(super) status: u16,
    /// A bit per physical register: not empty.
    pub(super) used: u8,
    /// Opcode, instruction and operand address as in the image, bytes 6 to 23.
    pub(super) last: [u8; 18],
    /// Physical registers, 80 bits each.
    pub(super) registers: [u128; 8],
}

impl Fpu {
    /// After FNINIT.
    pub(super) fn reset() -> Self {
        Fpu { control: CONTROL_RESET, status: 0, used: 0, last: [0; 18], registers: [0; 8] }
    }

    /// FNINIT: the registers' contents stay, but count as empty.
    pub(super) fn init(&mut self) {
        *self = Fpu { registers: self.registers, ..Fpu::reset() };
    }

    /// FNCLEX
    pub(super) fn clear_exceptions(&mut self) {
        self.status &= !(0x7f | SUMMARY);
    }

    /// FLDCW
    pub(super) fn set_control(&mut self, value: u16) {
        self.control = value & 0x1f3f | 0x40;
        self.summarise();
    }

    /// Whether an unmasked exception waits for the next instruction.
    pub(super) fn pending(&self) -> bool {
        self.status & 0x80 != 0
    }

    /// Sets the summary bits from flags and masks.
    fn summarise(&mut self) {
        self.status &= !SUMMARY;
        if self.status & !self.control & 0x3f != 0 {
            self.status |= SUMMARY;
        }
    }

    fn top(&self) -> usize {
        usize::from(self.status >> 11 & 7)
    }

    /// An MMX instruction: top 0, nothing empty.
    pub(super) fn enter_mmx(&mut self) {
        self.status &= !(7 << 11);
        self.used = 0xff;
    }

    /// EMMS
    pub(super) fn leave_mmx(&mut self) {
        self.used = 0;
    }

    /// An MMX register.
    pub(super) fn mmx(&self, number: u8) -> u64 {
        self.registers[usize::from(number & 7)] as u64
    }

    /// Writes an MMX register: sign and exponent become ones.
    pub(super) fn set_mmx(&mut self, number: u8, value: u64) {
        self.registers[usize::from(number & 7)] = u128::from(value) | 0xffff << 64;
    }

    /// The first 160 bytes of the FXSAVE image but for MXCSR and its mask (SDM volume 1 table 10-2).
    pub(super) fn save(&self, image: &mut [u8; IMAGE]) {
        image[0..2].copy_from_slice(&self.control.to_le_bytes());
        image[2..4].copy_from_slice(&self.status.to_le_bytes());
        image[4] = self.used;
        image[6..24].copy_from_slice(&self.last);
        for (number, place) in image[32..160].as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let physical = self.registers[(self.top() + number) % 8];
            place[..10].copy_from_slice(&physical.to_le_bytes()[..10]);
        }
    }

    /// The reverse.
    pub(super) fn restore(&mut self, image: &[u8; IMAGE]) {
        let word = |at: usize| u16::from_le_bytes([image[at], image[at + 1]]);
        self.status = word(2);
        self.used = image[4];
        self.last.copy_from_slice(&image[6..24]);
        for (number, place) in image[32..160].as_chunks::<16>().0.iter().enumerate() {
            let mut bytes = [0; 16];
            bytes[..10].copy_from_slice(&place[..10]);
            self.registers[(self.top() + number) % 8] = u128::from_le_bytes(bytes);
        }
        self.set_control(word(0));
    }
}
