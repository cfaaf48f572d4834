#![no_std]
#![no_main]
//! The chaos guest: whatever happens to it, where it happens decides everything after.
//!
//! It computes for a random time without an exit, stores to a random page in a random manner, and begins again. All
//! randomness is one running hash, which takes in what is read back from memory, the floating-point state, each frame
//! received and each interrupt: instruction pointer and registers at its arrival, and the time. An interrupt that two
//! runs place one instruction apart, or a byte of memory that differs, makes two different guests of them.

mod options;
mod stroke;

use core::fmt::Write;
use machine::apic::{self, vector};
use machine::net::{self, Nic};
use machine::{boot, cpu, pci};
use smoltcp::phy::{Device, RxToken, TxToken};
use smoltcp::time::Instant;

use options::Options;
use stroke::Area;

/// The queues of the network card, and some more.
const SMALLEST_HEAP: usize = 2 << 20;
/// One round in so many ends with an exit: one in some milliseconds.
const EXITS: u64 = 128;
/// The longest computation: less than a millisecond on a processor of today.
const LONGEST: u64 = 1 << 16;
/// Odd, so that no two values become one.
const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;
/// Experimental ethertype 1 (IEEE 802).
const ETHERTYPE: [u8; 2] = [0x88, 0xB5];
const HEADER: usize = 14;
const REPLY: usize = 60;

/// Called by stub.s in user mode, with the address of the zero page.
#[unsafe(no_mangle)]
extern "C" fn guest_main(zero_page: u64) -> ! {
    // SAFETY: stub.s passes on what the loader put into RSI.
    let boot = unsafe { boot::ZeroPage::new(zero_page) };
    let options = Options::parse(boot.command_line()).unwrap_or_else(|error| panic!("{error}"));
    boot.init_heap(SMALLEST_HEAP + options.pages * 4096);
    Chaos::start(&options).run(options.rounds)
}

struct Chaos {
    nic: Option<Nic>,
    area: Area,
    hash: u64,
    value: f64,
    rounds: u64,
    frames: u64,
    interrupts: u64,
}

impl Chaos {
    fn start(options: &Options) -> Self {
        let nic = pci::Function::find(net::ID).map(|_| Nic::start(vector::TRACED_NET));
        apic::periodic(vector::TRACED_TIMER, options.timer);
        Self {
            nic: nic.map(|mut nic| {
                // From here on for ever: nothing waits yet.
                nic.may_sleep();
                nic
            }),
            area: Area::new(options.pages),
            hash: mix(options.seed),
            value: 0.3,
            rounds: 0,
            frames: 0,
            interrupts: 0,
        }
    }

    fn run(mut self, rounds: u64) -> ! {
        while rounds == 0 || self.rounds < rounds {
            self.round();
        }
        let Self { hash, rounds, interrupts, frames, .. } = self;
        // Writing to the console cannot fail.
        let _ = writeln!(
            cpu::Console,
            "chaos: hash={hash:016x} rounds={rounds} interrupts={interrupts} frames={frames}"
        );
        cpu::stop()
    }

    fn round(&mut self) {
        let draw = self.draw();
        self.compute((draw % LONGEST) >> (draw >> 61));
        let (place, manner, word) = (self.draw(), self.draw(), self.draw());
        let seen = self.area.stroke(place, manner, word);
        self.take(seen);
        match self.draw() % (2 * EXITS) {
            0 => self.take(u64::from(apic::version())),
            1 => self.take(u64::from(host_bridge())),
            _ => {}
        }
        self.listen();
        self.rounds += 1;
    }

    fn draw(&mut self) -> u64 {
        self.take(self.rounds);
        self.hash
    }

    fn take(&mut self, input: u64) {
        // Multiplied first: an input that is the hash itself, read back from memory, must not cancel it.
        self.hash = mix(self.hash.wrapping_mul(FACTOR) ^ input);
    }

    /// Registers only: a logistic map, which stays between 0 and 1 and never settles, and the hash beside it.
    fn compute(&mut self, turns: u64) {
        let (mut value, mut hash) = (self.value, self.hash);
        for turn in 0..turns {
            value = 3.9375 * value * (1.0 - value);
            hash = (hash ^ turn).rotate_left(29).wrapping_mul(FACTOR);
        }
        (self.value, self.hash) = (value, hash);
        self.take(value.to_bits());
    }

    /// Takes in the interrupts of this round and what came with them.
    fn listen(&mut self) {
        let trace = cpu::trace();
        if trace.count != self.interrupts {
            self.interrupts = trace.count;
            self.take(trace.count);
            self.take(trace.hash);
            self.take(cpu::now());
        }
        if cpu::Pending::take().net() {
            self.receive();
        }
    }

    fn receive(&mut self) {
        let Some(mut nic) = self.nic.take() else { return };
        let own = nic.mac();
        while let Some((received, slot)) = nic.receive(Instant::ZERO) {
            if let Some(sender) = received.consume(|frame| self.take_frame(frame)) {
                slot.consume(REPLY, |reply| self.answer(reply, sender, own));
            }
        }
        nic.flush();
        self.nic = Some(nic);
    }

    /// Takes in a frame. Who sent it, if it wants an answer.
    fn take_frame(&mut self, frame: &[u8]) -> Option<[u8; 6]> {
        self.frames += 1;
        self.take(frame.len() as u64);
        for chunk in frame.chunks(8) {
            self.take(chunk.iter().fold(0, |word, &byte| word << 8 | u64::from(byte)));
        }
        let header = frame.get(..HEADER)?;
        (header[12..] == ETHERTYPE).then(|| core::array::from_fn(|n| header[6 + n]))
    }

    fn answer(&self, reply: &mut [u8], sender: [u8; 6], own: [u8; 6]) {
        reply.fill(0);
        reply[..6].copy_from_slice(&sender);
        reply[6..12].copy_from_slice(&own);
        reply[12..14].copy_from_slice(&ETHERTYPE);
        reply[14..18].copy_from_slice(b"TWCP");
        for (n, field) in [self.hash, self.rounds, self.interrupts].iter().enumerate() {
            reply[22 + 8 * n..][..8].copy_from_slice(&field.to_le_bytes());
        }
    }
}

/// Vendor and device of 00:00.0: two exits that change nothing.
fn host_bridge() -> u32 {
    cpu::out32(0xCF8, 1 << 31);
    cpu::in32(0xCFC)
}

/// The finisher of the splitmix64 generator, after its step.
fn mix(x: u64) -> u64 {
    let z = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
