//! Ports, model-specific registers, time and what the machine refuses.

use devices::{ConfigError, Effect, PlaceError, Platform, PlatformConfig, Stimulus};

use crate::driver::{APIC, MEMORY_BYTES, Machine, config};

const SYSTEM_TIME: u32 = 0x4b56_4d01;
const WALL_CLOCK: u32 = 0x4b56_4d00;

fn out(machine: &mut Machine, port: u16, data: &[u8]) {
    machine.platform.pio_write(port, data, &machine.mem);
}

fn wrmsr(machine: &mut Machine, index: u32, value: u64) -> Option<()> {
    machine.platform.msr_write(index, value, &machine.mem)
}

fn le64(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().unwrap())
}

#[test]
fn ports_with_effects() {
    let mut machine = Machine::new();
    out(&mut machine, 0xe9, b"A");
    out(&mut machine, 0xcf9, &[0x02]);
    out(&mut machine, 0x604, &[0x20]);
    out(&mut machine, 0x604, &[0x00, 0x10]);
    assert_eq!(machine.effects(), [Effect::Console(vec![b'A'])]);
    out(&mut machine, 0xcf9, &[0x06]);
    out(&mut machine, 0x604, &[0x00, 0x20]);
    assert_eq!(machine.effects(), [Effect::Reset, Effect::PowerOff]);
}

#[test]
fn the_serial_port_is_the_console() {
    let mut machine = Machine::new();
    machine.enable_apic();
    machine.ioapic_write(0x10 + 4 * 2, 0x34);
    out(&mut machine, 0x3f8, b"A");
    assert_eq!(machine.effects(), [Effect::Console(vec![b'A'])]);
    out(&mut machine, 0x3fc, &[0x0b]);
    out(&mut machine, 0x3f9, &[0x01]);
    machine.place(&Stimulus::ConsoleInput(b"xy".to_vec()));
    assert_eq!(machine.interrupt(), Some(0x34));
    let mut data = [0];
    machine.platform.pio_read(0x3f8, &mut data);
    assert_eq!(data, *b"x");
    machine.place(&Stimulus::ConsoleInput(vec![0; 20_000]));
    assert!(machine.platform.counters().console_dropped > 3000);
}

#[test]
fn the_interval_timer_runs_before_it_is_programmed() {
    let mut machine = Machine::new();
    let mut read_back = |now| {
        machine.place(&Stimulus::Time(now));
        // Latch status and count of counter 0.
        out(&mut machine, 0x43, &[0xc2]);
        let [mut status, mut low, mut high] = [[0]; 3];
        for byte in [&mut status, &mut low, &mut high] {
            machine.platform.pio_read(0x40, byte);
        }
        (status[0] & 0x40, u16::from_le_bytes([low[0], high[0]]))
    };
    let (null, first) = read_back(1_000_000);
    let (still_null, second) = read_back(2_000_000);
    assert_eq!((null, still_null), (0, 0), "the count is loaded");
    assert_eq!(first.wrapping_sub(second), 1193, "and counts down a millisecond's pulses");
    // It comes to its end once and then asks for nothing more.
    machine.place(&Stimulus::Time(60_000_000));
    assert_eq!(machine.interrupt(), None);
    assert_eq!(machine.platform.next_deadline(), None);
}

#[test]
fn nobody_home_reads_all_ones() {
    let mut machine = Machine::new();
    let mut data = [0; 4];
    machine.platform.pio_read(0x2f8, &mut data);
    assert_eq!(data, [0xff; 4]);
    assert_eq!(machine.read::<8>(0xfed0_0000), [0xff; 8]);
    assert_eq!(machine.read::<8>(u64::MAX - 3), [0xff; 8]);
    assert_eq!(machine.read::<8>(APIC + 0xffc), [0xff; 8], "across the end of the page");
}

#[test]
fn apic_base_is_fixed() {
    let mut machine = Machine::new();
    assert_eq!(machine.platform.msr_read(0x1b), Some(0xfee0_0900));
    assert_eq!(wrmsr(&mut machine, 0x1b, 0xfee0_0900), Some(()));
    assert_eq!(wrmsr(&mut machine, 0x1b, 0xfee0_0100), None);
    for unknown in [0x10, 0x11, 0x12, 0x4b56_4d02, 0x4b56_4d03, 0xc000_0080] {
        assert_eq!(machine.platform.msr_read(unknown), None);
        assert_eq!(wrmsr(&mut machine, unknown, 0), None);
    }
}

#[test]
fn clock_page_is_written_with_the_register_and_with_time() {
    let mut machine = Machine::new();
    machine.place(&Stimulus::Time(5));
    assert_eq!(machine.bytes(0x1000, 32), [0; 32]);
    wrmsr(&mut machine, SYSTEM_TIME, 0x1001).unwrap();
    assert_eq!(machine.platform.msr_read(SYSTEM_TIME), Some(0x1001));
    let page = machine.bytes(0x1000, 32);
    assert_eq!(page[0..16], [2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(le64(&page[16..24]), 5);
    assert_eq!(page[24..32], [1, 0, 0, 0, 0xc1, 1, 0, 0], "multiplier 1, shift -63, stable");
    machine.place(&Stimulus::Time(1_000_000_007));
    let page = machine.bytes(0x1000, 32);
    assert_eq!((page[0], le64(&page[16..24])), (4, 1_000_000_007));
    wrmsr(&mut machine, SYSTEM_TIME, 0x1000).unwrap();
    machine.place(&Stimulus::Time(2_000_000_000));
    assert_eq!(machine.bytes(0x1000, 32), page, "disabled");
}

#[test]
fn the_clock_page_tells_that_the_guest_was_stopped() {
    let mut machine = Machine::new();
    let before = machine.platform.save();
    machine.place(&Stimulus::Stopped);
    assert_eq!(machine.platform.save(), before, "nobody to tell");
    wrmsr(&mut machine, SYSTEM_TIME, 0x1001).unwrap();
    machine.place(&Stimulus::Stopped);
    assert_eq!((machine.bytes(0x1000, 1), machine.bytes(0x101d, 1)), (vec![4], vec![3]));
    machine.place(&Stimulus::Time(5));
    assert_eq!(machine.bytes(0x101d, 1), [3], "the guest has not taken note yet");
    machine.poke(0x101d, &[1]);
    machine.place(&Stimulus::Time(6));
    assert_eq!(machine.bytes(0x101d, 1), [1]);
}

#[test]
fn the_wall_clock_starts_where_the_configuration_says() {
    let mut machine = Machine::of(&PlatformConfig { wall_base_s: 1_000_000_000, ..config() });
    machine.place(&Stimulus::Time(7_000_000_000));
    wrmsr(&mut machine, WALL_CLOCK, 0x2000).unwrap();
    assert_eq!(machine.bytes(0x2004, 4), 1_000_000_000u32.to_le_bytes(), "of virtual time 0, not of now");
    // 2001-09-09 01:46:40 UTC, and seven seconds.
    let shown = [0x32, 9, 8, 7, 4, 2, 0].map(|register| {
        out(&mut machine, 0x70, &[register]);
        let mut data = [0];
        machine.platform.pio_read(0x71, &mut data);
        data[0]
    });
    assert_eq!(shown, [0x20, 0x01, 0x09, 0x09, 0x01, 0x46, 0x47]);
}

#[test]
fn every_way_to_reset() {
    let mut machine = Machine::new();
    for (port, value) in [(0xcf9, 0x06), (0x64, 0xfe), (0x92, 0x01)] {
        out(&mut machine, port, &[value]);
        assert_eq!(machine.effects(), [Effect::Reset], "port {port:#x}");
    }
}

#[test]
fn the_real_time_clock_interrupts() {
    let mut machine = Machine::new();
    machine.enable_apic();
    machine.ioapic_write(0x10 + 8 * 2, 0x38);
    // Register B: update-ended interrupt, 24 hours.
    out(&mut machine, 0x70, &[0x0b]);
    out(&mut machine, 0x71, &[0x12]);
    machine.place(&Stimulus::Time(100_000_000));
    assert_eq!(machine.platform.next_deadline(), Some(1_000_000_000));
    machine.place(&Stimulus::Time(1_000_000_000));
    assert_eq!(machine.interrupt(), Some(0x38));
    machine.place(&Stimulus::Time(2_000_000_000));
    assert_eq!(machine.interrupt(), None, "register C was not read: no new edge");
}

#[test]
fn wall_clock_is_written_once() {
    let mut machine = Machine::new();
    wrmsr(&mut machine, WALL_CLOCK, 0x2000).unwrap();
    let wall = machine.bytes(0x2000, 12);
    assert_eq!(wall[0..4], [2, 0, 0, 0]);
    assert_eq!(u32::from_le_bytes(wall[4..8].try_into().unwrap()), 1_767_225_600);
    assert_eq!(wall[8..12], [0; 4]);
}

#[test]
fn clock_pages_outside_of_memory_are_ignored_and_counted() {
    let mut machine = Machine::new();
    let end = MEMORY_BYTES as u64;
    for (msr, value) in [(SYSTEM_TIME, end - 31 + 1), (SYSTEM_TIME, u64::MAX), (WALL_CLOCK, end - 11)] {
        wrmsr(&mut machine, msr, value | 1).unwrap();
    }
    assert_eq!(machine.platform.counters().clock_updates_ignored, 3);
    assert_eq!(machine.memory(), vec![0; MEMORY_BYTES]);
    wrmsr(&mut machine, SYSTEM_TIME, (end - 32) | 1).unwrap();
    assert_eq!(machine.bytes(end - 32, 1), [2]);
}

#[test]
fn timer_interrupt_comes_with_time() {
    let mut machine = Machine::new();
    machine.enable_apic();
    machine.place(&Stimulus::Time(100_001_000));
    machine.write(APIC + 0x3e0, &0xbu32.to_le_bytes());
    machine.write(APIC + 0x320, &0xecu32.to_le_bytes());
    machine.write(APIC + 0x380, &500u32.to_le_bytes());
    assert_eq!(machine.platform.next_deadline(), Some(100_001_500));
    machine.place(&Stimulus::Time(100_001_400));
    assert_eq!(machine.platform.pending_interrupt(), None);
    assert_eq!(machine.read32(APIC + 0x390), 100);
    machine.place(&Stimulus::Time(100_001_600));
    assert_eq!(machine.platform.now(), 100_001_600);
    assert_eq!(machine.platform.pending_interrupt(), Some(0xec));
    assert_eq!(machine.interrupt(), Some(0xec));
    assert_eq!(machine.platform.next_deadline(), None);
}

#[test]
fn stimuli_that_cannot_be_placed() {
    let mut machine = Machine::new();
    machine.place(&Stimulus::Time(10));
    for (stimulus, error) in [
        (Stimulus::Time(9), PlaceError::TimeWentBack { now: 10, asked: 9 }),
        (Stimulus::Time(u64::MAX), PlaceError::EndOfTime(u64::MAX)),
        (Stimulus::Frame { nic: 1, frame: vec![0; 60] }, PlaceError::NoDevice("frame")),
        (Stimulus::Entropy(vec![]), PlaceError::EntropyLength { got: 0, limit: 256 }),
        (Stimulus::Entropy(vec![1; 257]), PlaceError::EntropyLength { got: 257, limit: 256 }),
    ] {
        let before = machine.platform.save();
        assert_eq!(machine.platform.place(&stimulus, &machine.mem), Err(error));
        assert_eq!(machine.platform.save(), before);
    }
    machine.place(&Stimulus::Time(10));
}

#[test]
fn machines_that_cannot_be_built() {
    let full = PlatformConfig { macs: vec![[0; 6]; 4], disks: vec![1; 8], ..PlatformConfig::default() };
    assert!(Platform::new(&full).is_ok());
    let crowded = PlatformConfig { macs: vec![[0; 6]; 5], ..full.clone() };
    let error = ConfigError::TooMany { kind: "network cards", limit: 4, got: 5 };
    assert_eq!(Platform::new(&crowded).err(), Some(error));
    let crowded = PlatformConfig { disks: vec![1; 9], ..full };
    let error = ConfigError::TooMany { kind: "disks", limit: 8, got: 9 };
    assert_eq!(Platform::new(&crowded).err(), Some(error));
    let huge = PlatformConfig { disks: vec![u64::MAX], ..PlatformConfig::default() };
    assert_eq!(Platform::new(&huge).err(), Some(ConfigError::DiskTooLarge(u64::MAX)));
}

#[test]
fn device_writes_are_seen_by_the_dirty_bitmap() {
    use vm_memory::bitmap::Bitmap;
    use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};
    let mut machine = Machine::new();
    wrmsr(&mut machine, SYSTEM_TIME, 0x3001).unwrap();
    let region = machine.mem.iter().next().unwrap();
    let dirty: Vec<usize> =
        (0..MEMORY_BYTES).step_by(4096).filter(|at| region.bitmap().dirty_at(*at)).collect();
    assert_eq!(dirty, [0x3000]);
}
