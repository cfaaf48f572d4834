//! Lanes of `W` bits inside of one integer ("SIMD within a register").
//!
//! The highest bit of each lane, `H`, is where lanes would run into each other; it is taken out of the operands
//! and put back by hand. This is some ten instructions for any number of lanes, where a loop over an array of
//! them is taken apart by the compiler into one operation per lane.

const fn repeat(lane: u128, width: u32) -> u128 {
    let (mut all, mut at) = (0, 0);
    while at < 128 {
        all |= lane << at;
        at += width;
    }
    all
}

/// The highest bit of each lane.
const fn high<const W: u32>() -> u128 {
    const { repeat(1 << (W - 1), W) }
}

/// From the highest bit of each lane to the whole lane.
fn widen<const W: u32>(bits: u128) -> u128 {
    bits | (bits - (bits >> (W - 1)))
}

/// `a` where the mask is set, else `b`.
pub(super) fn select(mask: u128, a: u128, b: u128) -> u128 {
    b ^ (a ^ b) & mask
}

pub(super) fn add<const W: u32>(d: u128, s: u128) -> u128 {
    let h = high::<W>();
    ((d & !h) + (s & !h)) ^ (d ^ s) & h
}

pub(super) fn sub<const W: u32>(d: u128, s: u128) -> u128 {
    let h = high::<W>();
    ((d | h) - (s & !h)) ^ (d ^ !s) & h
}

/// All ones in each lane where `d < s`, unsigned: where the subtraction borrows.
pub(super) fn less<const W: u32>(d: u128, s: u128) -> u128 {
    let difference = sub::<W>(d, s);
    widen::<W>((!d & s | !(d ^ s) & difference) & high::<W>())
}

/// All ones in each lane where `d < s`, signed.
pub(super) fn less_signed<const W: u32>(d: u128, s: u128) -> u128 {
    less::<W>(d ^ high::<W>(), s ^ high::<W>())
}

/// All ones in each lane where `d == s`.
pub(super) fn equal<const W: u32>(d: u128, s: u128) -> u128 {
    let h = high::<W>();
    let differing = d ^ s;
    // A carry into H, or H itself, tells a lane that is not zero.
    widen::<W>(!(((differing & !h) + !h) | differing) & h)
}

pub(super) fn add_saturating<const W: u32>(d: u128, s: u128) -> u128 {
    let sum = add::<W>(d, s);
    sum | widen::<W>((d & s | (d | s) & !sum) & high::<W>())
}

pub(super) fn sub_saturating<const W: u32>(d: u128, s: u128) -> u128 {
    sub::<W>(d, s) & !less::<W>(d, s)
}

pub(super) fn add_signed_saturating<const W: u32>(d: u128, s: u128) -> u128 {
    let sum = add::<W>(d, s);
    let overflow = !(d ^ s) & (d ^ sum) & high::<W>();
    select(widen::<W>(overflow), limit::<W>(d), sum)
}

pub(super) fn sub_signed_saturating<const W: u32>(d: u128, s: u128) -> u128 {
    let difference = sub::<W>(d, s);
    let overflow = (d ^ s) & (d ^ difference) & high::<W>();
    select(widen::<W>(overflow), limit::<W>(d), difference)
}

/// The largest value in each lane, or the smallest where `d` is negative.
fn limit<const W: u32>(d: u128) -> u128 {
    !high::<W>() + ((d & high::<W>()) >> (W - 1))
}

/// `(d + s + 1) / 2`, unsigned, without overflow.
pub(super) fn average<const W: u32>(d: u128, s: u128) -> u128 {
    (d | s) - (((d ^ s) >> 1) & !high::<W>())
}

/// The bits of each lane that a shift of the whole to the right by `count < W` fills from the lane itself.
fn low_after<const W: u32>(count: u32) -> u128 {
    // A lane's ones times a one in each lane: no product reaches its neighbour.
    let lane = u64::MAX >> (64 - W) >> count;
    let half = lane.wrapping_mul(const { repeat(1, W) } as u64);
    u128::from(half) | u128::from(half) << 64
}

pub(super) fn shift_right<const W: u32>(d: u128, count: u32) -> u128 {
    if count < W { d >> count & low_after::<W>(count) } else { 0 }
}

pub(super) fn shift_left<const W: u32>(d: u128, count: u32) -> u128 {
    if count < W { (d & low_after::<W>(count)) << count } else { 0 }
}

pub(super) fn shift_right_signed<const W: u32>(d: u128, count: u32) -> u128 {
    let count = count.min(W - 1);
    let kept = low_after::<W>(count);
    d >> count & kept | widen::<W>(d & high::<W>()) & !kept
}
