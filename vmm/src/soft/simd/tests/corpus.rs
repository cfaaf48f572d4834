//! Operands: the corners of every format and lane, and random values; by seed.

/// splitmix64.
pub(super) struct Seeded(u64);

impl Seeded {
    pub(super) fn new(seed: u64) -> Self {
        Seeded(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut value = self.0;
        value = (value ^ value >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        value = (value ^ value >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        value ^ value >> 31
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// 128 bits, cut into singles, doubles, or something else.
    pub(super) fn operand(&mut self) -> u128 {
        match self.below(8) {
            0..3 => (0..4).fold(0, |value, _| value << 32 | u128::from(self.single())),
            3..6 => (0..2).fold(0, |value, _| value << 64 | u128::from(self.double())),
            6 => (0..16).fold(0, |value, _| value << 8 | u128::from(self.pick(&BYTES))),
            _ => u128::from(self.next()) << 64 | u128::from(self.next()),
        }
    }

    fn single(&mut self) -> u32 {
        let bits = self.next() as u32;
        let sign = bits & 1 << 31;
        match self.below(8) {
            0..3 => self.pick(&SINGLES) ^ sign,
            // About one, so that sums cancel and products are close.
            3 | 4 => sign | (120 + self.below(16) as u32) << 23 | bits & 0x7F_FFFF,
            // Few significant bits, so that results are exact.
            5 => sign | (110 + self.below(40) as u32) << 23 | bits & 0x7C_0000,
            // What products and quotients of extremes are made of.
            6 => {
                sign | self.pick(&[0, 1, 2, 62, 63, 64, 65, 190, 191, 252, 253, 254]) << 23 | bits & 0x7F_FFFF
            }
            _ => bits,
        }
    }

    fn double(&mut self) -> u64 {
        let bits = self.next();
        let sign = bits & 1 << 63;
        let fraction = bits & 0xF_FFFF_FFFF_FFFF;
        match self.below(8) {
            0..3 => self.pick(&DOUBLES) ^ sign,
            3 => sign | (1016 + self.below(16)) << 52 | fraction,
            // At the edges of integers and of the single format.
            4 => sign | (1023 + self.pick(&[30, 31, 32, 62, 63, 127, 128])) << 52 | fraction & self.mask(),
            5 => {
                sign | (1023 - self.pick(&[126, 127, 128, 148, 149, 150, 151])) << 52 | fraction & self.mask()
            }
            6 => sign | self.pick(&[0, 1, 2, 52, 511, 512, 513, 1535, 2045, 2046]) << 52 | fraction,
            _ => bits,
        }
    }

    /// Clears the low end of a fraction, by any length.
    fn mask(&mut self) -> u64 {
        u64::MAX << self.below(53)
    }

    /// A value of MXCSR: the default as often as all others; never a reserved bit.
    pub(super) fn mxcsr(&mut self, unmasked: bool) -> u32 {
        let bits = self.next() as u32;
        let base = match self.below(4) {
            0 => 0x1F80,
            1 => 0x1F80 | 0x20,
            _ => 0x1F80 | bits & 0xE07F,
        };
        if unmasked { base & !(bits >> 9 & 0x1F80) } else { base }
    }
}

const BYTES: [u8; 8] = [0, 1, 2, 0x7F, 0x80, 0x81, 0xFE, 0xFF];

/// Corners of the single format: zero, denormals, the ends of the normal range, one, integers' limits, infinity,
/// signaling and quiet NaNs.
pub(super) const SINGLES: [u32; 32] = [
    0,
    1,
    2,
    0x40_0000,
    0x7F_FFFE,
    0x7F_FFFF,
    0x80_0000,
    0x80_0001,
    0xFF_FFFF,
    0x100_0000,
    0x1F80_0000,
    0x2000_0000,
    0x3300_0000,
    0x3380_0000,
    0x3F00_0000,
    0x3F7F_FFFF,
    0x3F80_0000,
    0x3F80_0001,
    0x3FC0_0000,
    0x4000_0000,
    0x4B00_0001,
    0x4EFF_FFFF,
    0x4F00_0000,
    0x4F00_0001,
    0x5EFF_FFFF,
    0x5F00_0000,
    0x7F7F_FFFF,
    0x7F80_0000,
    0x7F80_0001,
    0x7FBF_FFFF,
    0x7FC0_0000,
    0x7FFF_FFFF,
];

/// The same of the double format.
pub(super) const DOUBLES: [u64; 32] = [
    0,
    1,
    2,
    0x0008_0000_0000_0000,
    0x000F_FFFF_FFFF_FFFF,
    0x0010_0000_0000_0000,
    0x0010_0000_0000_0001,
    0x001F_FFFF_FFFF_FFFF,
    0x0020_0000_0000_0000,
    0x1FF0_0000_0000_0000,
    0x2000_0000_0000_0000,
    0x36A0_0000_0000_0000,
    0x380F_FFFF_FFFF_FFFF,
    0x3810_0000_0000_0000,
    0x3CA0_0000_0000_0000,
    0x3CB0_0000_0000_0000,
    0x3FE0_0000_0000_0000,
    0x3FEF_FFFF_FFFF_FFFF,
    0x3FF0_0000_0000_0000,
    0x3FF0_0000_0000_0001,
    0x3FF8_0000_0000_0000,
    0x4000_0000_0000_0000,
    0x41DF_FFFF_FFFF_FFFF,
    0x41DF_FFFF_FFC0_0000,
    0x41E0_0000_0000_0000,
    0x43DF_FFFF_FFFF_FFFF,
    0x47EF_FFFF_F000_0000,
    0x7FEF_FFFF_FFFF_FFFF,
    0x7FF0_0000_0000_0000,
    0x7FF0_0000_0000_0001,
    0x7FF8_0000_0000_0000,
    0x7FFF_FFFF_FFFF_FFFF,
];
