//! The small chips that a PC has had since the AT.
//!
//! Each is a state machine of its own and knows neither the others nor the bus. Accesses are of one byte and
//! name the port by its absolute number, out of the ones in the table; the platform takes wider accesses
//! apart. A chip that depends on time is given each new virtual time by `advance`, and the time with each access.
//! What comes out is the byte read, an [`Effect`](crate::Effect) of a write, and the levels of interrupt lines,
//! which the platform asks for after each access, stimulus and new time, and hands on.
//!
//! | chip | ports | out |
//! |---|---|---|
//! | [`pic::Pic`] | 0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1 | INTR to the processor, and a vector when it answers |
//! | [`pit::Pit`] | 0x40 to 0x43, 0x61 | rises of IRQ0 and its level; a deadline |
//! | [`uart::Uart`] | 0x3f8 to 0x3ff | bytes for the console, the level of IRQ4; takes bytes from the console |
//! | [`rtc::Rtc`] | 0x70, 0x71 | the level of IRQ8; a deadline |
//! | [`i8042::I8042`] | 0x60, 0x64, 0x92 | the levels of IRQ1 and IRQ12, resets |
//!
//! Every chip has `validate`: decoding restores any combination of values, a chip only reaches some.

pub(crate) mod i8042;
pub(crate) mod pic;
pub(crate) mod pit;
pub(crate) mod rtc;
pub(crate) mod uart;

#[cfg(test)]
mod harness;
