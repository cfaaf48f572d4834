//! What devices need of guest memory.

/// Guest memory as the devices see it: byte access by guest-physical address, bounds-checked.
///
/// Implemented for every vm-memory collection, `GuestMemoryMmap<AtomicBitmap>` included: all device writes
/// go through vm-memory, so such a bitmap records them.
pub trait Memory: vm_memory::GuestMemory {}

impl<M: vm_memory::GuestMemory> Memory for M {}
