//! What user mode does with the bare processor: ports, device memory, waiting, the clock, the console.

use core::arch::{asm, global_asm};
use core::fmt;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

global_asm!(include_str!("stub.s"));

/// Time since the machine was switched on, in nanoseconds of guest time.
pub type Ns = u64;

/// The clock page (Linux: `struct pvclock_vcpu_time_info`), as far as it is read here.
#[repr(C)]
struct PvClock {
    version: AtomicU32,
    _pad: u32,
    _tsc_timestamp: u64,
    system_time: AtomicU64,
}

unsafe extern "C" {
    /// stub.s: sleeps until an interrupt has been noted in `PENDING`.
    fn cpu_idle();
    /// stub.s: halts for ever.
    fn cpu_stop() -> !;
    /// stub.s: written by the host.
    static PV_CLOCK: PvClock;
    /// stub.s: one byte per interrupt source, set by the handlers.
    static PENDING: AtomicU64;
    /// stub.s: written by the traced handlers: count, hash.
    static TRACE: [AtomicU64; 2];
}

/// Interrupts since the last look, and sleeping.
#[derive(Clone, Copy, Debug)]
pub struct Pending(u64);

impl Pending {
    /// Takes what was noted.
    pub fn take() -> Self {
        // SAFETY: stub.s defines PENDING, 8 bytes, aligned; it is only ever accessed whole or by its handlers.
        Self(unsafe { PENDING.swap(0, Ordering::SeqCst) })
    }

    /// The timer's interrupt came.
    pub fn timer(self) -> bool {
        self.0 & 0xFF != 0
    }

    /// The network card's interrupt came.
    pub fn net(self) -> bool {
        self.0 >> 8 & 0xFF != 0
    }
}

/// Whether an interrupt came since [`Pending::take`].
pub fn interrupted() -> bool {
    // SAFETY: as above.
    unsafe { PENDING.load(Ordering::SeqCst) != 0 }
}

/// What the traced interrupts left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    /// How many there were.
    pub count: u64,
    /// A hash over vector, instruction pointer and general registers at the arrival of each of them: one that comes
    /// an instruction or a turn of a loop earlier or later gives another value.
    pub hash: u64,
}

/// The traced interrupts until now.
pub fn trace() -> Trace {
    // SAFETY: stub.s defines TRACE, two aligned words, written whole by its handlers.
    let [count, hash] = unsafe { &TRACE };
    Trace { count: count.load(Ordering::SeqCst), hash: hash.load(Ordering::SeqCst) }
}

/// Halts with interrupts off: the end, the machine stays on.
pub fn stop() -> ! {
    // SAFETY: cpu_stop follows the C calling convention and never returns.
    unsafe { cpu_stop() }
}

/// Sleeps until an interrupt comes, or not at all if one came since [`Pending::take`].
pub fn idle() {
    // SAFETY: cpu_idle follows the C calling convention; the handlers that run meanwhile keep all registers.
    unsafe { cpu_idle() }
}

/// The guest time that the host published last.
pub fn now() -> Ns {
    // SAFETY: stub.s defines PV_CLOCK, aligned to 64; the host writes it between two instructions of ours.
    let clock = unsafe { &PV_CLOCK };
    loop {
        // The host's scale makes the processor's own counter count for nothing: system_time is the time.
        let version = clock.version.load(Ordering::Acquire);
        let time = clock.system_time.load(Ordering::Acquire);
        fence(Ordering::Acquire);
        if version & 1 == 0 && version == clock.version.load(Ordering::Acquire) {
            return time;
        }
    }
}

/// Writes to a port. The stub's I/O bitmap allows ports below 0xD00.
pub fn out8(port: u16, value: u8) {
    debug_assert!(port < 0xD00);
    // SAFETY: the machine's ports do not touch memory behind the program's back.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags)) }
}

/// Writes 32 bits to a port.
pub fn out32(port: u16, value: u32) {
    // SAFETY: as above.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nomem, nostack, preserves_flags)) }
}

/// Reads 32 bits from a port.
pub fn in32(port: u16) -> u32 {
    let value;
    // SAFETY: as above.
    unsafe { asm!("in eax, dx", in("dx") port, out("eax") value, options(nomem, nostack, preserves_flags)) }
    value
}

/// Switches the machine off (ACPI sleep type 5 at the port that the machine documents).
pub fn power_off() -> ! {
    // SAFETY: as above. Should the machine go on, an undefined instruction ends it with a line on the console.
    unsafe { asm!("out dx, ax", "ud2", in("dx") 0x604_u16, in("ax") 0x2000_u16, options(noreturn)) }
}

/// A window of device memory.
#[derive(Clone, Copy, Debug)]
pub struct Mmio(usize);

impl Mmio {
    /// Device memory at a physical address; `None` where the stub maps no devices.
    pub fn new(address: u64, length: u64) -> Option<Self> {
        let end = address.checked_add(length)?;
        let pci = address >= 0xFEA0_0000 && end <= 0xFEC0_0000;
        let apic = address >= 0xFEE0_0000 && end <= 0xFEE0_1000;
        (pci || apic).then_some(Self(address as usize))
    }

    /// A part of the window.
    pub fn at(self, offset: usize) -> Self {
        Self(self.0 + offset)
    }

    /// Reads a register. `T` is u8, u16 or u32, as wide as the register.
    pub fn read<T: Copy>(self, offset: usize) -> T {
        // SAFETY: the address lies in mapped device memory (checked by `new`), where reads have no alias.
        unsafe { core::ptr::with_exposed_provenance::<T>(self.0 + offset).read_volatile() }
    }

    /// Writes a register.
    pub fn write<T: Copy>(self, offset: usize, value: T) {
        // SAFETY: as for reads. What a device then does to memory is the business of the queue that asked for it.
        unsafe { core::ptr::with_exposed_provenance_mut::<T>(self.0 + offset).write_volatile(value) }
    }
}

/// The debug console. Every byte is an exit: for the few lines that matter.
pub struct Console;

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(|byte| out8(0xE9, byte));
        Ok(())
    }
}
