//! Guests that know where the devices are and sometimes what they expect.

use devices::{Effect, Stimulus};

use crate::{Action, MEMORY_BYTES, Machine};

const APIC: u64 = 0xfee0_0000;
const IOAPIC: u64 = 0xfec0_0000;
/// Slot and number of queues of every virtio function.
const FUNCTIONS: [(u64, u64); 5] = [(2, 2), (3, 1), (4, 1), (5, 1), (12, 2)];
/// Descriptors of the queues that the guest sets up by the rules.
const RING: u64 = 16;
/// Ports with something behind them.
const PORTS: [(u16, u16); 14] = [
    (0x20, 2),
    (0x40, 4),
    (0x60, 5),
    (0x70, 2),
    (0x92, 1),
    (0xa0, 2),
    (0xe9, 1),
    (0x3f8, 8),
    (0x4d0, 2),
    (0x505, 1),
    (0x600, 12),
    (0xcf8, 1),
    (0xcf9, 1),
    (0xcfc, 4),
];
const MSRS: [u32; 6] = [0x1b, 0x4b56_4d00, 0x4b56_4d01, 0x4b56_4d04, 0x10, 0xc000_0080];

/// SplitMix64: a sequence of numbers that only its seed decides.
pub(crate) struct Generator {
    state: u64,
    /// What the available index of each queue should be.
    offered: [[u16; 2]; FUNCTIONS.len()],
}

impl Generator {
    pub(crate) fn new(seed: u64) -> Self {
        Generator { state: seed, offered: [[0; 2]; FUNCTIONS.len()] }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// Small numbers, single bits, page addresses, edges, noise.
    fn value(&mut self) -> u64 {
        match self.below(6) {
            0 | 1 => self.below(20),
            2 => 1 << self.below(64),
            3 => self.below(64) << 12,
            4 => self.pick(&[0xff, 0xffff, 0xffff_ffff, u64::MAX, MEMORY_BYTES as u64 - 1, 0x8000]),
            _ => self.next(),
        }
    }

    fn width(&mut self) -> usize {
        self.pick(&[1, 1, 2, 4, 4, 4, 8, 0, 3])
    }

    fn bytes(&mut self) -> Vec<u8> {
        let width = self.width();
        self.value().to_le_bytes()[..width].to_vec()
    }

    /// What the guest does next.
    pub(crate) fn burst(&mut self, machine: &Machine) -> Vec<Action> {
        match self.below(24) {
            0..3 => vec![self.port_access()],
            3..5 => self.config_access(),
            5..8 => vec![self.memory_access()],
            8 => vec![self.msr_access()],
            9..12 => vec![Action::Place(self.stimulus(machine))],
            12 => self.entry(),
            13 => self.interrupt_set_up(),
            14 | 15 => self.bring_up(),
            16..22 => self.request(),
            22 => self.noise(),
            _ => self.notify(),
        }
    }

    fn port_access(&mut self) -> Action {
        let (first, count) = self.pick(&PORTS);
        let port = if self.one_in(20) { self.next() as u16 } else { first + self.below(count.into()) as u16 };
        let mut data = self.bytes();
        if !self.one_in(4) {
            data.truncate(1);
        }
        if self.one_in(2) { Action::In(port, data.len()) } else { Action::Out(port, data) }
    }

    fn config_access(&mut self) -> Vec<Action> {
        let (slot, _) = self.pick(&FUNCTIONS);
        let slot = if self.one_in(8) { self.below(32) } else { slot };
        let offset = self.pick(&[0x04, 0x10, 0x34, 0x3c, 0x84, 0x88, 0x8c, 0x90, 0x94, 0x98]);
        let offset = if self.one_in(4) { self.below(256) & !3 } else { offset };
        let address = 0x8000_0000 | (slot << 11) | offset;
        let select = Action::Out(0xcf8, (address as u32).to_le_bytes().to_vec());
        let port = 0xcfc + self.below(4) as u16;
        let data = self.bytes();
        let access = if self.one_in(2) { Action::In(port, data.len()) } else { Action::Out(port, data) };
        vec![select, access]
    }

    fn bar(&mut self) -> u64 {
        let (slot, _) = self.pick(&FUNCTIONS);
        0xfeb0_0000 + slot * 0x4000
    }

    fn memory_access(&mut self) -> Action {
        let addr = match self.below(10) {
            0..3 => APIC + self.below(0x40) * 16,
            3 | 4 => IOAPIC + self.pick(&[0, 0x10]),
            5..9 => {
                let offset = match self.below(5) {
                    0 | 1 => self.below(0x40),
                    2 => 0x3000 + self.below(12) * 4,
                    3 => self.pick(&[0x1000, 0x1800, 0x2000, 0x2004, 0x3800]),
                    _ => self.below(0x4000),
                };
                self.bar() + offset
            }
            _ => self.next(),
        };
        let data = self.bytes();
        if self.one_in(3) { Action::Load(addr, data.len()) } else { Action::Store(addr, data) }
    }

    fn msr_access(&mut self) -> Action {
        let msr = if self.one_in(10) { self.next() as u32 } else { self.pick(&MSRS) };
        let value = if self.one_in(3) { self.value() } else { self.below(MEMORY_BYTES as u64) | 1 };
        if self.one_in(3) { Action::ReadMsr(msr) } else { Action::WriteMsr(msr, value) }
    }

    fn stimulus(&mut self, machine: &Machine) -> Stimulus {
        match self.below(12) {
            0..4 => Stimulus::Time(self.time(machine)),
            4 | 5 => {
                let len = if self.one_in(8) { self.below(100_000) } else { self.below(1600) };
                Stimulus::Frame { nic: self.below(3) as u8, frame: vec![len as u8; len as usize] }
            }
            6..9 => self.completion(machine),
            9 => {
                let len = self.below(300);
                Stimulus::Entropy(vec![len as u8; len as usize])
            }
            10 => {
                let len = self.below(64);
                Stimulus::ConsoleInput(vec![b'a'; len as usize])
            }
            _ if self.one_in(2) => Stimulus::Button,
            _ => Stimulus::Stopped,
        }
    }

    fn time(&mut self, machine: &Machine) -> u64 {
        let now = machine.platform.now();
        match self.below(10) {
            0..4 => machine.platform.next_deadline().unwrap_or(now),
            4..8 => now.saturating_add(self.below(10_000_000)),
            8 => now.saturating_add(self.below(1 << 44)),
            // Too late, too early, or the end of time, rarely: little happens after that.
            _ if self.one_in(20) => self.pick(&[0, 1 << 61, 1 << 62, u64::MAX]),
            _ => now,
        }
    }

    fn completion(&mut self, machine: &Machine) -> Stimulus {
        let waiting = machine.platform.outstanding_disk();
        let (disk, id, len) = if waiting.is_empty() || self.one_in(10) {
            (self.below(3) as u8, self.below(20), 512)
        } else {
            match waiting[self.below(waiting.len() as u64) as usize] {
                Effect::DiskRead { disk, id, len, .. } => (disk, id, len),
                Effect::DiskFlush { disk, id } => (disk, id, 0),
                ref other => panic!("{other:?} waits for no disk"),
            }
        };
        let ok = !self.one_in(4);
        let len = if ok || self.one_in(10) { len } else { 0 };
        Stimulus::DiskDone { disk, id, ok, data: vec![id as u8; len as usize] }
    }

    /// The processor takes an interrupt, enters the guest, and comes back.
    fn entry(&mut self) -> Vec<Action> {
        let mut actions = vec![Action::Accept, Action::BeforeEntry];
        if self.one_in(2) {
            actions.push(Action::Poke(self.below(64) << 12, vec![0]));
        }
        if !self.one_in(4) {
            actions.push(Action::AfterExit);
        }
        if self.one_in(2) {
            actions.push(Action::Store(APIC + 0xb0, vec![0; 4]));
        }
        actions
    }

    /// Local APIC on, its timer, a pin of the I/O APIC, an MSI-X vector.
    fn interrupt_set_up(&mut self) -> Vec<Action> {
        let word = |addr, value: u64| Action::Store(addr, (value as u32).to_le_bytes().to_vec());
        let vector = 0x20 + self.below(0xd0);
        let pin = self.below(24);
        let (slot, _) = self.pick(&FUNCTIONS);
        let bar = 0xfeb0_0000 + slot * 0x4000;
        let entry = bar + 0x3000 + self.below(3) * 16;
        let control = 0x8000_0000 | (slot << 11) | 0x98;
        let mut actions = vec![word(APIC + 0xf0, 0x1ff)];
        actions.extend(match self.below(3) {
            0 => vec![
                word(APIC + 0x320, vector | (self.below(2) << 17)),
                word(APIC + 0x3e0, self.below(16)),
                word(APIC + 0x380, self.below(1 << 20)),
            ],
            1 => vec![word(IOAPIC, 0x10 + pin * 2), word(IOAPIC + 0x10, vector | (self.below(8) << 13))],
            _ => vec![
                Action::Out(0xcf8, (control as u32).to_le_bytes().to_vec()),
                Action::Out(0xcfe, vec![0, self.pick(&[0x80, 0x80, 0xc0, 0])]),
                word(entry, APIC),
                word(entry + 8, vector),
                word(entry + 12, self.below(2)),
            ],
        });
        actions
    }

    /// Where a queue's table is that the guest sets up by the rules: its available ring lies 0x400 above, its
    /// used ring 0x800.
    fn ring_of(function: usize, queue: u64) -> u64 {
        0x10000 + (function as u64 * 2 + queue) * 0x1000
    }

    /// Resets a function and brings it up again, with all its queues.
    fn bring_up(&mut self) -> Vec<Action> {
        let function = self.below(FUNCTIONS.len() as u64) as usize;
        let (slot, queues) = FUNCTIONS[function];
        let bar = 0xfeb0_0000 + slot * 0x4000;
        let store = |offset, data: &[u8]| Action::Store(bar + offset, data.to_vec());
        let address = 0x8000_0000 | (slot << 11);
        let mut actions = vec![
            Action::Out(0xcf8, (address as u32 | 0x04).to_le_bytes().to_vec()),
            Action::Out(0xcfc, vec![6, 0]),
            Action::Out(0xcf8, (address as u32 | 0x10).to_le_bytes().to_vec()),
            Action::Out(0xcfc, (bar as u32).to_le_bytes().to_vec()),
        ];
        actions.extend([store(0x14, &[0]), store(0x14, &[3]), store(0x08, &[1, 0, 0, 0])]);
        actions.extend([store(0x0c, &[1, 0, 0, 0]), store(0x14, &[11])]);
        self.offered[function] = [0; 2];
        for queue in 0..queues {
            let ring = Self::ring_of(function, queue);
            actions.push(Action::Poke(ring, vec![0; 0x1000]));
            actions.push(store(0x16, &[queue as u8, 0]));
            actions.push(store(0x18, &(RING as u16).to_le_bytes()));
            actions.push(store(0x1a, &[self.below(4) as u8, 0]));
            for (offset, part) in [(0x20, 0), (0x28, 0x400), (0x30, 0x800)] {
                let outside = self.one_in(100);
                let value = if outside { self.value() & !0xf } else { ring + part };
                actions.push(store(offset, &value.to_le_bytes()));
            }
            actions.push(store(0x1c, &[1, 0]));
        }
        actions.push(store(0x14, &[15]));
        actions
    }

    /// A chain that could be a request of some device, on offer in some queue, and a notification.
    fn request(&mut self) -> Vec<Action> {
        let function = self.below(FUNCTIONS.len() as u64) as usize;
        let (slot, queues) = FUNCTIONS[function];
        let queue = self.below(queues);
        let ring = Self::ring_of(function, queue);
        let (header, data) = (0x30000 + self.below(8) * 0x100, 0x20000 + self.below(16) * 0x1000);
        let kind: u32 = self.pick(&[0, 0, 1, 1, 4, 8, 11]);
        let mut image = [0; 16];
        image[..4].copy_from_slice(&kind.to_le_bytes());
        image[8..].copy_from_slice(&self.below(70).to_le_bytes());
        let lawful = !self.one_in(4);
        let len: u32 = if lawful {
            self.pick(&[512, 512, 1024, 1536])
        } else {
            self.pick(&[0, 1, 60, 72, 1500, 2000, 0x8000, 0xffff_ffff])
        };
        let write = if lawful { u16::from(kind != 1) * 2 } else { self.pick(&[0, 2]) };
        let buffers = if self.one_in(3) {
            vec![(data, len, write)]
        } else {
            vec![(header, 16, 0), (data, len, write), (header + 0x80, 1, 2)]
        };
        // Three descriptors for each entry of the available ring, so that they rarely overlap.
        let first = u64::from(self.offered[function][queue as usize]) * 3 % RING;
        let mut actions = vec![Action::Poke(header, image.to_vec())];
        for (i, (addr, len, flags)) in (0..).zip(&buffers) {
            let more = u16::from(i + 1 < buffers.len() as u64);
            let next = ((first + i + 1) % RING) as u16;
            let mut descriptor = addr.to_le_bytes().to_vec();
            descriptor.extend_from_slice(&len.to_le_bytes());
            descriptor.extend_from_slice(&(flags | more).to_le_bytes());
            descriptor.extend_from_slice(&next.to_le_bytes());
            actions.push(Action::Poke(ring + ((first + i) % RING) * 16, descriptor));
        }
        let offered = &mut self.offered[function][queue as usize];
        let entry = ring + 0x404 + u64::from(*offered) % RING * 2;
        *offered = offered.wrapping_add(1);
        let index = *offered;
        let index = if self.one_in(30) { self.value() as u16 } else { index };
        actions.push(Action::Poke(entry, (first as u16).to_le_bytes().to_vec()));
        actions.push(Action::Poke(ring + 0x402, index.to_le_bytes().to_vec()));
        let notify = 0xfeb0_0000 + slot * 0x4000 + 0x2000 + queue * 4;
        actions.push(Action::Store(notify, (queue as u16).to_le_bytes().to_vec()));
        actions
    }

    /// Nonsense in a ring: loops, indices that jump, lengths of all sizes.
    fn noise(&mut self) -> Vec<Action> {
        let function = self.below(FUNCTIONS.len() as u64) as usize;
        let ring = Self::ring_of(function, self.below(2));
        let at = self.pick(&[0, 0x400, 0x800]) + self.below(16) * 2;
        let count = 1 + self.below(8);
        let bytes = (0..count).flat_map(|_| self.value().to_le_bytes()).collect();
        let mut actions = vec![Action::Poke(ring + at, bytes)];
        actions.extend(self.notify());
        actions
    }

    fn notify(&mut self) -> Vec<Action> {
        let queue = self.below(2);
        vec![Action::Store(self.bar() + 0x2000 + queue * 4, vec![queue as u8, 0])]
    }
}
