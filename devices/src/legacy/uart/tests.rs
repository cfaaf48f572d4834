//! Register-level tests of the serial port. Names in quotes are sections of the PC16550D data sheet.

use proptest::prelude::*;

use super::*;
use crate::legacy::harness::{self, Op, Subject};

const DATA: u16 = BASE;
const IER: u16 = BASE + reg::IER;
const IIR: u16 = BASE + reg::IIR_FCR;
const FCR: u16 = IIR;
const LCR: u16 = BASE + reg::LCR;
const MCR: u16 = BASE + reg::MCR;
const LSR: u16 = BASE + reg::LSR;
const MSR: u16 = BASE + reg::MSR;
const SCR: u16 = BASE + reg::SCR;

/// A port with its interrupt line connected, these interrupts enabled, and this FCR.
fn port(ier: u8, fcr: u8) -> Uart {
    let mut uart = Uart::new();
    uart.write(MCR, MCR_OUT2);
    uart.write(FCR, fcr);
    uart.write(IER, ier);
    uart
}

/// "Reset Configuration".
#[test]
fn registers_after_reset() {
    let mut uart = Uart::new();
    let values: Vec<u8> = (BASE..=LAST).map(|port| uart.read(port)).collect();
    assert_eq!(values, [0, 0, 0x01, 0, 0, 0x60, 0xb0, 0]);
    assert!(!uart.irq());
}

#[test]
fn registers_keep_what_they_have() {
    let mut uart = Uart::new();
    for (port, kept) in [(IER, 0x0f), (LCR, 0xff), (MCR, 0x1f), (SCR, 0xff)] {
        uart.write(LCR, 0);
        uart.write(port, 0xff);
        assert_eq!(uart.read(port), kept, "{port:#x}");
    }
    assert_eq!((uart.read(BASE - 1), uart.read(LAST + 1)), (0xff, 0xff));
}

#[test]
fn divisor_latch() {
    let mut uart = Uart::new();
    uart.write(LCR, 0x83);
    assert_eq!((uart.read(DATA), uart.read(IER)), (1, 0));
    assert_eq!(uart.write(DATA, 0x0c), None);
    uart.write(IER, 0x01);
    assert_eq!((uart.read(DATA), uart.read(IER)), (0x0c, 0x01));
    uart.write(LCR, 0x03);
    assert_eq!((uart.read(DATA), uart.read(IER)), (0, 0));
    assert_eq!(uart.write(DATA, b'x'), Some(Effect::Console(vec![b'x'])));
}

#[test]
fn transmitter_interrupt_comes_with_enabling_and_with_each_byte() {
    let mut uart = port(0, 0);
    uart.write(DATA, b'a');
    assert!(!uart.irq());
    uart.write(IER, IER_TRANSMITTER_EMPTY);
    assert!(uart.irq());
    assert_eq!(uart.read(IIR), IIR_TRANSMITTER_EMPTY);
    assert!(!uart.irq(), "reading IIR ends it");
    assert_eq!(uart.read(IIR), IIR_NONE);
    uart.write(IER, IER_TRANSMITTER_EMPTY);
    assert!(!uart.irq(), "it was enabled already");
    assert_eq!(uart.write(DATA, b'b'), Some(Effect::Console(vec![b'b'])));
    assert_eq!(uart.read(LSR), 0x60);
    assert_eq!(uart.read(IIR), IIR_TRANSMITTER_EMPTY);
    // Linux tells chips with and without a known fault by this: disabling and enabling raises it again.
    uart.write(IER, 0);
    uart.write(IER, IER_TRANSMITTER_EMPTY);
    assert_eq!(uart.read(IIR), IIR_TRANSMITTER_EMPTY);
}

#[test]
fn out2_gates_the_line() {
    let mut uart = port(IER_TRANSMITTER_EMPTY, 0);
    uart.write(MCR, 0);
    assert!(!uart.irq());
    uart.write(MCR, MCR_OUT2);
    assert!(uart.irq());
    uart.write(MCR, MCR_OUT2 | MCR_LOOPBACK);
    assert!(!uart.irq());
}

#[test]
fn receiver_without_fifo() {
    let mut uart = port(IER_RECEIVED, 0);
    uart.receive(b"ab");
    assert_eq!(uart.read(IIR), IIR_RECEIVED);
    assert_eq!(uart.read(LSR), 0x61);
    assert_eq!(uart.read(DATA), b'a');
    assert!(uart.irq(), "the next byte has come");
    assert_eq!(uart.read(DATA), b'b');
    assert!(!uart.irq());
    assert_eq!(uart.read(LSR), 0x60);
    assert_eq!(uart.read(DATA), 0);
}

/// "FIFO Interrupt Mode Operation".
#[test]
fn trigger_levels_and_timeout() {
    for (fcr, trigger) in [(0x01, 1), (0x41, 4), (0x81, 8), (0xc1, 14)] {
        let mut uart = port(IER_RECEIVED, fcr);
        assert_eq!(uart.read(IIR), IIR_FIFOS | IIR_NONE);
        for count in 1..=16 {
            uart.receive(&[count]);
            let expected = if count < trigger { IIR_TIMEOUT } else { IIR_RECEIVED };
            assert_eq!(uart.read(IIR), IIR_FIFOS | expected, "{count} bytes of {trigger}");
            assert!(uart.irq());
        }
        let received: Vec<u8> = (0..16).map(|_| uart.read(DATA)).collect();
        assert_eq!(received, (1..=16).collect::<Vec<u8>>());
        assert!(!uart.irq());
    }
}

#[test]
fn switching_and_clearing_the_fifo() {
    let mut uart = port(0, 0x01);
    uart.receive(b"abcd");
    uart.write(FCR, 0x81);
    assert_eq!(uart.read(DATA), b'a', "another trigger level keeps the bytes");
    uart.write(FCR, 0x03);
    assert_eq!(uart.read(LSR), 0x60, "cleared");
    uart.receive(b"efgh");
    uart.write(FCR, 0x00);
    assert_eq!(uart.read(LSR), 0x60, "switched off");
    uart.receive(b"ij");
    uart.write(FCR, 0x02);
    assert_eq!(uart.read(DATA), b'i', "the FIFO is off: its clear bit does nothing");
}

#[test]
fn what_finds_no_room_waits_and_then_is_dropped() {
    let mut uart = port(0, 0x01);
    let bytes: Vec<u8> = (0..FIFO + BACKLOG + 7).map(|index| index as u8).collect();
    uart.receive(&bytes[..FIFO]);
    uart.receive(&bytes[FIFO..]);
    assert_eq!(uart.dropped(), 7);
    assert_eq!(uart.validate(), Ok(()));
    let mut received = Vec::new();
    while uart.read(LSR) & LSR_DATA_READY != 0 {
        received.push(uart.read(DATA));
    }
    assert!(received == bytes[..FIFO + BACKLOG]);
}

/// "Modem Control Register", bit 4. This is the test by which Linux finds a port.
#[test]
fn loopback_of_the_modem_lines() {
    let mut uart = Uart::new();
    uart.write(MCR, MCR_LOOPBACK | 0x0a);
    assert_eq!(uart.read(MSR) & 0xf0, 0x90);
    for (output, input) in [(0x01, MSR_DSR), (0x02, MSR_CTS), (0x04, MSR_RI), (0x08, MSR_DCD)] {
        uart.write(MCR, MCR_LOOPBACK | output);
        assert_eq!(uart.read(MSR) & 0xf0, input);
    }
}

#[test]
fn loopback_of_data_and_overrun() {
    let mut uart = port(IER_LINE_STATUS | IER_RECEIVED, 0x01);
    uart.write(MCR, MCR_LOOPBACK);
    for byte in 0..17 {
        assert_eq!(uart.write(DATA, byte), None, "nothing leaves");
    }
    uart.receive(b"z");
    assert_eq!(uart.read(IIR), IIR_FIFOS | IIR_LINE_STATUS);
    assert_eq!(uart.read(LSR), 0x63);
    assert_eq!(uart.read(LSR), 0x61, "reading it clears the overrun");
    assert_eq!(uart.read(IIR), IIR_FIFOS | IIR_RECEIVED);
    assert_eq!((0..16).map(|_| uart.read(DATA)).collect::<Vec<u8>>(), (0..16).collect::<Vec<u8>>());
    assert_eq!(uart.read(LSR), 0x60, "the input is disconnected");
    uart.write(MCR, MCR_OUT2);
    assert_eq!(uart.read(DATA), b'z');

    let mut uart = Uart::new();
    uart.write(MCR, MCR_LOOPBACK);
    uart.write(DATA, 1);
    uart.write(DATA, 2);
    assert_eq!(uart.read(LSR), 0x63);
    assert_eq!(uart.read(DATA), 2, "without FIFO the new byte stays");
}

/// "Modem Status Register": changes are kept until it is read; of the ring indicator only the end counts.
#[test]
fn modem_status_changes() {
    let mut uart = port(IER_MODEM_STATUS, 0);
    let set = |uart: &mut Uart, outputs| {
        uart.write(MCR, MCR_LOOPBACK | outputs);
        (uart.read(IIR), uart.read(MSR), uart.read(MSR))
    };
    // From DCD, DSR and CTS on to DCD alone.
    assert_eq!(set(&mut uart, 0x08), (IIR_MODEM_STATUS, 0x83, 0x80));
    assert_eq!(set(&mut uart, 0x0c), (IIR_NONE, 0xc0, 0xc0));
    assert_eq!(set(&mut uart, 0x00), (IIR_MODEM_STATUS, 0x0c, 0x00));
    uart.write(MCR, MCR_OUT2);
    assert!(uart.irq());
    assert_eq!(uart.read(MSR), 0xbb);
    assert!(!uart.irq());
}

/// "Interrupt Identification Register": priorities.
#[test]
fn interrupts_in_the_order_of_their_priority() {
    let mut uart = port(0x0f, 0x01);
    uart.write(MCR, MCR_LOOPBACK);
    (0..17).for_each(|byte| {
        uart.write(DATA, byte);
    });
    uart.write(MCR, MCR_OUT2);
    assert_eq!(uart.read(IIR), IIR_FIFOS | IIR_LINE_STATUS);
    uart.read(LSR);
    assert_eq!(uart.read(IIR), IIR_FIFOS | IIR_RECEIVED);
    (0..16).for_each(|_| {
        uart.read(DATA);
    });
    assert_eq!(uart.read(IIR), IIR_FIFOS | IIR_TRANSMITTER_EMPTY);
    assert_eq!(uart.read(IIR), IIR_FIFOS | IIR_MODEM_STATUS);
    uart.read(MSR);
    assert_eq!(uart.read(IIR), IIR_FIFOS | IIR_NONE);
}

#[test]
fn impossible_states_are_refused() {
    let mut good = port(0x0f, 0x01);
    good.receive(b"abc");
    assert_eq!(good.validate(), Ok(()));
    for damage in [
        |uart: &mut Uart| uart.ier = 0x10,
        |uart: &mut Uart| uart.mcr = 0x20,
        |uart: &mut Uart| uart.fifos = Fifos::On { trigger: 2 },
        |uart: &mut Uart| uart.fifos = Fifos::Off,
        |uart: &mut Uart| uart.modem_changes = 0x10,
        |uart: &mut Uart| uart.dropped = COUNT_MAX + 1,
        |uart: &mut Uart| uart.backlog.push_back(0),
        |uart: &mut Uart| uart.received.extend([0; FIFO]),
        |uart: &mut Uart| {
            uart.received.extend([0; FIFO - 3]);
            uart.backlog.extend([0; BACKLOG + 1]);
        },
    ] {
        let mut uart = good.clone();
        damage(&mut uart);
        assert!(uart.validate().is_err(), "{uart:?}");
    }
}

impl Subject for Uart {
    fn apply(&mut self, op: &Op, _now: crate::Ns) -> String {
        let (value, effect) = match op {
            Op::Read(port) => (self.read(*port), None),
            Op::Write(port, value) => (0, self.write(*port, *value)),
            Op::Receive(bytes) => {
                self.receive(bytes);
                (0, None)
            }
            Op::Line(..) | Op::Acknowledge | Op::Wait(_) => (0, None),
        };
        format!("{value} {effect:?} {}", self.irq())
    }

    fn check(&self, _now: crate::Ns) -> Result<(), Invalid> {
        self.validate()
    }
}

const PORTS: &[u16] = &[DATA, DATA, IER, IIR, LCR, MCR, LSR, MSR, SCR, LAST + 1];

proptest! {
    #[test]
    fn a_restored_port_goes_on_alike(ops in harness::lives(PORTS), cut: usize) {
        harness::goes_on_alike(Uart::new(), &ops, cut);
    }

    #[test]
    fn damaged_states_are_refused_or_harmless(
        ops in harness::lives(PORTS), cut: usize, damage in harness::damage(),
    ) {
        harness::damage_is_refused_or_harmless(Uart::new(), &ops, cut, &damage);
    }
}
