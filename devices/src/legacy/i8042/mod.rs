//! The keyboard controller of the PC (8042) without a keyboard and without a mouse, and port 0x92 (IBM Personal
//! System/2 Hardware Interface Technical Reference, "Keyboard and Auxiliary Device Controller" and "System
//! Control Port A"). IRQ1 and IRQ12.
//!
//! What guests need of it is the reset line. The rest is there so that their probes come to an end. A probe
//! sees:
//! - a controller that passes its self-test (0x55) and has two ports without faults (0x00);
//! - interrupts that work: a byte that is looped back with 0xd2 or 0xd3 raises IRQ1 or IRQ12, if enabled;
//! - no device: to each byte for one the controller answers at once, as it does when a device does not take the
//!   clock, with 0xfe (resend) and the time-out bit in the status. Linux and SeaBIOS then give the port up; an
//!   answer that does not come would cost them a wait each.
//!
//! Commands and bytes are carried out at once, so the input buffer is never full. There is one output buffer: a
//! byte that is not read is replaced by the next. The A20 bit is kept and changes no address.

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::Effect;
use crate::state::Invalid;

pub(crate) const DATA: u16 = 0x60;
/// The status when read, commands when written.
pub(crate) const COMMAND: u16 = 0x64;
pub(crate) const PORT_92: u16 = 0x92;

const STATUS_OUTPUT_FULL: u8 = 1 << 0;
const STATUS_SYSTEM: u8 = 1 << 2;
const STATUS_COMMAND: u8 = 1 << 3;
/// The keyboard is not locked.
const STATUS_UNLOCKED: u8 = 1 << 4;
const STATUS_AUX: u8 = 1 << 5;
const STATUS_TIME_OUT: u8 = 1 << 6;

/// The command byte.
const KEYBOARD_INTERRUPT: u8 = 1 << 0;
const AUX_INTERRUPT: u8 = 1 << 1;
/// The self-test was passed.
const SYSTEM: u8 = 1 << 2;
const KEYBOARD_DISABLED: u8 = 1 << 4;
const AUX_DISABLED: u8 = 1 << 5;
const TRANSLATE: u8 = 1 << 6;
const COMMAND_BYTE_WRITABLE: u8 =
    KEYBOARD_INTERRUPT | AUX_INTERRUPT | SYSTEM | KEYBOARD_DISABLED | AUX_DISABLED | TRANSLATE;

const SELF_TEST_PASSED: u8 = 0x55;
const PORT_TEST_PASSED: u8 = 0x00;
/// Input port: the keyboard is not locked.
const INPUT_PORT: u8 = 0x80;
const RESEND: u8 = 0xfe;

/// Output port: bit 0 low resets; the data and clock lines are idle.
const OUTPUT_NOT_RESET: u8 = 1 << 0;
const OUTPUT_A20: u8 = 1 << 1;
const OUTPUT_KEYBOARD_FULL: u8 = 1 << 4;
const OUTPUT_AUX_FULL: u8 = 1 << 5;
const OUTPUT_IDLE: u8 = 0xcc;

const PORT_92_RESET: u8 = 1 << 0;
const PORT_92_A20: u8 = 1 << 1;

/// What the next byte written to the data port is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Expect {
    ForKeyboard,
    CommandByte,
    OutputPort,
    KeyboardLoop,
    AuxLoop,
    ForAux,
}

/// The output buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Output {
    Empty,
    /// The controller's own bytes too.
    Keyboard {
        time_out: bool,
    },
    Aux {
        time_out: bool,
    },
}

/// The controller and port 0x92.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct I8042 {
    command_byte: u8,
    expect: Expect,
    output: Output,
    /// The byte in the output buffer; it stays after it was read.
    data: u8,
    /// The last write was a command.
    command_last: bool,
    a20: bool,
}

impl I8042 {
    /// The controller as firmware leaves one without devices: tested, both ports disabled, no interrupts, A20
    /// on.
    pub(crate) fn new() -> Self {
        I8042 {
            command_byte: SYSTEM | KEYBOARD_DISABLED | AUX_DISABLED | TRANSLATE,
            expect: Expect::ForKeyboard,
            output: Output::Empty,
            data: 0,
            command_last: false,
            a20: true,
        }
    }

    /// IN of a byte.
    pub(crate) fn read(&mut self, port: u16) -> u8 {
        match port {
            DATA => {
                self.output = Output::Empty;
                self.data
            }
            COMMAND => self.status(),
            PORT_92 => u8::from(self.a20) * PORT_92_A20,
            _ => 0xff,
        }
    }

    /// OUT of a byte. The effect is a reset.
    pub(crate) fn write(&mut self, port: u16, value: u8) -> Option<Effect> {
        match port {
            DATA => {
                self.command_last = false;
                self.take_byte(value)
            }
            COMMAND => {
                self.command_last = true;
                self.expect = Expect::ForKeyboard;
                self.command(value)
            }
            PORT_92 => {
                self.a20 = value & PORT_92_A20 != 0;
                (value & PORT_92_RESET != 0).then_some(Effect::Reset)
            }
            _ => None,
        }
    }

    fn status(&self) -> u8 {
        let output = match self.output {
            Output::Empty => 0,
            Output::Keyboard { time_out } => STATUS_OUTPUT_FULL | time_out_bit(time_out),
            Output::Aux { time_out } => STATUS_OUTPUT_FULL | STATUS_AUX | time_out_bit(time_out),
        };
        let system = if self.command_byte & SYSTEM == 0 { 0 } else { STATUS_SYSTEM };
        let command = if self.command_last { STATUS_COMMAND } else { 0 };
        STATUS_UNLOCKED | output | system | command
    }

    /// Commands that do not exist do nothing.
    fn command(&mut self, command: u8) -> Option<Effect> {
        match command {
            0x20 => self.answer(self.command_byte),
            0x60 => self.expect = Expect::CommandByte,
            0xa7 => self.command_byte |= AUX_DISABLED,
            0xa8 => self.command_byte &= !AUX_DISABLED,
            0xaa => {
                self.command_byte |= SYSTEM;
                self.answer(SELF_TEST_PASSED);
            }
            0xa9 | 0xab => self.answer(PORT_TEST_PASSED),
            0xad => self.command_byte |= KEYBOARD_DISABLED,
            0xae => self.command_byte &= !KEYBOARD_DISABLED,
            0xc0 => self.answer(INPUT_PORT),
            0xd0 => self.answer(self.output_port()),
            0xd1 => self.expect = Expect::OutputPort,
            0xd2 => self.expect = Expect::KeyboardLoop,
            0xd3 => self.expect = Expect::AuxLoop,
            0xd4 => self.expect = Expect::ForAux,
            // Not IBM's, but widespread: A20 off and on.
            0xdd => self.a20 = false,
            0xdf => self.a20 = true,
            // Pulses the output port's bits that are 0 in the command; bit 0 is the reset line.
            0xf0..=0xff if command & OUTPUT_NOT_RESET == 0 => return Some(Effect::Reset),
            _ => {}
        }
        None
    }

    fn take_byte(&mut self, value: u8) -> Option<Effect> {
        match std::mem::replace(&mut self.expect, Expect::ForKeyboard) {
            Expect::ForKeyboard => {
                // A byte for a device enables its port.
                self.command_byte &= !KEYBOARD_DISABLED;
                self.put(Output::Keyboard { time_out: true }, RESEND);
            }
            Expect::ForAux => {
                self.command_byte &= !AUX_DISABLED;
                self.put(Output::Aux { time_out: true }, RESEND);
            }
            Expect::CommandByte => self.command_byte = value & COMMAND_BYTE_WRITABLE,
            Expect::KeyboardLoop => self.put(Output::Keyboard { time_out: false }, value),
            Expect::AuxLoop => self.put(Output::Aux { time_out: false }, value),
            Expect::OutputPort => {
                self.a20 = value & OUTPUT_A20 != 0;
                return (value & OUTPUT_NOT_RESET == 0).then_some(Effect::Reset);
            }
        }
        None
    }

    fn answer(&mut self, value: u8) {
        self.put(Output::Keyboard { time_out: false }, value);
    }

    fn put(&mut self, output: Output, value: u8) {
        self.output = output;
        self.data = value;
    }

    fn output_port(&self) -> u8 {
        let full = match self.output {
            Output::Empty => 0,
            Output::Keyboard { .. } => OUTPUT_KEYBOARD_FULL,
            Output::Aux { .. } => OUTPUT_AUX_FULL,
        };
        OUTPUT_IDLE | OUTPUT_NOT_RESET | full | if self.a20 { OUTPUT_A20 } else { 0 }
    }

    /// The level of IRQ1: the output buffer holds a byte that is not the mouse's.
    pub(crate) fn keyboard_irq(&self) -> bool {
        matches!(self.output, Output::Keyboard { .. }) && self.command_byte & KEYBOARD_INTERRUPT != 0
    }

    /// The level of IRQ12: the output buffer holds a byte of the mouse's port.
    pub(crate) fn aux_irq(&self) -> bool {
        matches!(self.output, Output::Aux { .. }) && self.command_byte & AUX_INTERRUPT != 0
    }

    /// Checks what decoding cannot: that this is a state which the registers can reach.
    pub(crate) fn validate(&self) -> Result<(), Invalid> {
        let time_out_ok = match self.output {
            Output::Keyboard { time_out } | Output::Aux { time_out } => !time_out || self.data == RESEND,
            Output::Empty => true,
        };
        if self.command_byte & !COMMAND_BYTE_WRITABLE == 0 && time_out_ok {
            Ok(())
        } else {
            Err(Invalid("the keyboard controller (8042) holds an impossible value"))
        }
    }
}

fn time_out_bit(time_out: bool) -> u8 {
    if time_out { STATUS_TIME_OUT } else { 0 }
}
