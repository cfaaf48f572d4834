//! What crosses the border of the machine: effects out, stimuli in.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Virtual time of the guest: nanoseconds since it was started.
pub type Ns = u64;

/// Something the guest wants from the world, in the order of occurrence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// The guest sent an Ethernet frame (14 to 1514 bytes, no checksum trailer).
    Frame {
        /// Index of the network card in [`PlatformConfig::macs`](crate::PlatformConfig::macs).
        nic: u8,
        /// The frame, from the destination address on.
        frame: Vec<u8>,
    },
    /// The guest asks for sectors; answered by [`Stimulus::DiskDone`].
    DiskRead {
        /// Index of the disk in [`PlatformConfig::disks`](crate::PlatformConfig::disks).
        disk: u8,
        /// Request number, unique per disk; counts reads and flushes from 0.
        id: u64,
        /// First sector, in units of 512 bytes.
        sector: u64,
        /// Length in bytes, a multiple of 512, at most 1 MiB.
        len: u32,
    },
    /// The guest wrote sectors. For the guest the write is complete, in a volatile cache.
    DiskWrite {
        /// Index of the disk.
        disk: u8,
        /// First sector, in units of 512 bytes.
        sector: u64,
        /// The payload, a multiple of 512 bytes, at most 1 MiB.
        data: Vec<u8>,
    },
    /// All writes before this one shall become durable; answered by [`Stimulus::DiskDone`].
    DiskFlush {
        /// Index of the disk.
        disk: u8,
        /// Request number, unique per disk.
        id: u64,
    },
    /// The guest asks for random bytes; answered by [`Stimulus::Entropy`], in the order of the requests.
    Entropy {
        /// How many, 1 to 256.
        len: u32,
    },
    /// Bytes for the console: from the serial port, or from port 0xE9.
    Console(Vec<u8>),
    /// The guest asks for a reset of the machine.
    Reset,
    /// The guest asks for power off.
    PowerOff,
    /// The guest's kernel reports that it has panicked. What it does next is up to the guest.
    GuestPanicked,
}

/// Something the world does to the guest, placed at an exact position of its execution.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stimulus {
    /// Virtual time has reached this value.
    Time(Ns),
    /// An Ethernet frame arrived for the guest.
    Frame {
        /// Index of the network card.
        nic: u8,
        /// The frame, from the destination address on.
        frame: Vec<u8>,
    },
    /// A disk read or flush is done.
    DiskDone {
        /// Index of the disk.
        disk: u8,
        /// The number of the request's effect.
        id: u64,
        /// Whether it succeeded; if not, the guest sees an I/O error.
        ok: bool,
        /// The sectors of a successful read, of exactly the requested length; else empty.
        data: Vec<u8>,
    },
    /// Random bytes for the oldest [`Effect::Entropy`] that waits: 1 to 256 of them. Fewer than asked for are
    /// an answer too; those beyond are dropped.
    Entropy(Vec<u8>),
    /// Bytes typed at the console, for the serial port. Those beyond 16 KiB that the guest has not read are
    /// dropped.
    ConsoleInput(Vec<u8>),
    /// The power button was pressed.
    Button,
    /// The guest stood still while time passed outside: its clock tells it, so that its watchdogs do not fire.
    Stopped,
}

/// Why a stimulus could not be placed. The machine is unchanged.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PlaceError {
    /// The stimulus names a device that this machine does not have.
    #[error("the machine has no device for this {0}; check the machine's configuration")]
    NoDevice(&'static str),
    /// Virtual time never goes back.
    #[error("virtual time would go back from {now} ns to {asked} ns; place time in rising order")]
    TimeWentBack {
        /// The time placed last.
        now: Ns,
        /// The time of the refused stimulus.
        asked: Ns,
    },
    /// Virtual time ends at 2^62 ns (146 years).
    #[error("virtual time {0} ns is beyond the end of time at 2^62 ns")]
    EndOfTime(Ns),
    /// The disk never submitted this request.
    #[error("disk {disk} has never submitted request {id}; the completion belongs to another machine")]
    UnknownRequest {
        /// Index of the disk.
        disk: u8,
        /// The request number of the refused completion.
        id: u64,
    },
    /// An answer to a request for entropy that is empty or too long.
    #[error("{got} random bytes do not answer a request for entropy; give 1 to {limit}")]
    EntropyLength {
        /// Bytes in the answer.
        got: usize,
        /// The longest possible answer in bytes.
        limit: u32,
    },
    /// A completion carries another number of bytes than the request asked for.
    #[error("request {id} of disk {disk} wants {want} bytes of data, the completion has {got}")]
    WrongLength {
        /// Index of the disk.
        disk: u8,
        /// The request number.
        id: u64,
        /// Bytes that the request asked for.
        want: u32,
        /// Bytes that the completion carries.
        got: usize,
    },
}
