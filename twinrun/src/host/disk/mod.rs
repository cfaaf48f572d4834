//! The disk thread: obeys [`DiskCommand`]s strictly in order and answers with [`DiskReport`]s.
//!
//! Reads see the overlay of uncommitted writes over the file. A disk that failed once stays failed: after a
//! failed write or fsync nobody knows what the file holds.
//!
//! A fill copies what is in the files, and takes again what a commit changes meanwhile. A lone host commits
//! each write at once, so the copy has everything that its guest wrote; the writes of the new pair's first
//! epochs stay in the overlay until the copy is over, and the secondary makes them itself.

mod copy;
mod image;
mod overlay;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender};
use lockstep::core::{DiskCommand, DiskReport};
use lockstep::log::Epoch;

pub use copy::REGION;
pub use image::{Disk, DiskError, SECTOR};

use copy::{Copy, Step};
use overlay::{Layer, Overlay};

/// Longest read of a guest in bytes: more in one request fails.
pub const READ_MAX: u32 = 64 << 20;
/// More bytes of writes that wait are reported as [`DiskReport::Pressure`].
pub const PENDING_MAX: u64 = 64 << 20;
/// With at most so many bytes the pressure is over: it does not come and go with every write.
const PENDING_LOW: u64 = PENDING_MAX / 2;

/// The running disk thread. Dropping it lets the thread finish the commands it has, then ends it.
#[derive(Debug)]
pub struct DiskThread {
    commands: Option<Sender<DiskCommand>>,
    thread: Option<JoinHandle<()>>,
    gauge: Arc<Gauge>,
}

/// Bytes of writes that wait. The core stalls the guest while they are too many.
#[derive(Debug)]
struct Gauge {
    queued: AtomicU64,
    overlay: AtomicU64,
    /// What was reported last. Held while a report is sent, so that the last report is the last word.
    pressed: Mutex<bool>,
    reports: Sender<DiskReport>,
}

impl Gauge {
    fn pending(&self) -> u64 {
        self.queued.load(Ordering::Relaxed) + self.overlay.load(Ordering::Relaxed)
    }

    /// Reports when the pressure begins or ends.
    fn watch(&self) {
        let mut pressed = self.pressed.lock().unwrap_or_else(PoisonError::into_inner);
        let limit = if *pressed { PENDING_LOW } else { PENDING_MAX };
        let now = self.pending() > limit;
        if now != *pressed {
            *pressed = now;
            // Nobody listens any more when the engine is going down.
            let _ = self.reports.send(DiskReport::Pressure(now));
        }
    }
}

impl DiskThread {
    /// Starts the thread. Commands name a disk by its place in `disks`.
    ///
    /// # Errors
    /// When the host gives no thread.
    pub fn start(disks: Vec<Disk>, reports: Sender<DiskReport>) -> io::Result<Self> {
        let (commands, queue) = crossbeam_channel::unbounded();
        let (queued, overlay) = (AtomicU64::new(0), AtomicU64::new(0));
        let gauge = Arc::new(Gauge { queued, overlay, pressed: Mutex::new(false), reports: reports.clone() });
        let mut worker = Worker {
            disks: disks.into_iter().map(|image| Slot { image, failed: false }).collect(),
            overlay: Overlay::default(),
            copy: None,
            reports,
            gauge: Arc::clone(&gauge),
        };
        let thread = std::thread::Builder::new().name("disk".to_owned()).spawn(move || worker.run(&queue))?;
        Ok(DiskThread { commands: Some(commands), thread: Some(thread), gauge })
    }

    /// Gives the thread its next command; never waits. The queue has no limit: the sender stops while there is
    /// [`DiskReport::Pressure`].
    pub fn send(&self, command: DiskCommand) {
        if let DiskCommand::Write { data, .. } = &command {
            self.gauge.queued.fetch_add(data.len() as u64, Ordering::Relaxed);
            self.gauge.watch();
        }
        if let Some(commands) = &self.commands
            && commands.send(command).is_err()
        {
            tracing::error!("the disk thread is gone");
        }
    }

    /// Bytes of writes that are queued or uncommitted.
    #[must_use]
    pub fn pending_bytes(&self) -> u64 {
        self.gauge.pending()
    }
}

impl Drop for DiskThread {
    fn drop(&mut self) {
        self.commands.take();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the disk thread had panicked");
        }
    }
}

struct Slot {
    image: Disk,
    failed: bool,
}

struct Worker {
    disks: Vec<Slot>,
    overlay: Overlay,
    copy: Option<Copy>,
    reports: Sender<DiskReport>,
    gauge: Arc<Gauge>,
}

impl Worker {
    fn run(&mut self, queue: &Receiver<DiskCommand>) {
        for command in queue {
            let queued = match &command {
                DiskCommand::Write { data, .. } => data.len() as u64,
                _ => 0,
            };
            self.obey(command);
            if queued > 0 {
                // In this order: the sum never shows less than there is.
                self.gauge.queued.fetch_sub(queued, Ordering::Relaxed);
            }
            self.gauge.watch();
        }
    }

    fn report(&self, report: DiskReport) {
        // Nobody listens any more when the engine is going down; the commands still have to be carried out.
        let _ = self.reports.send(report);
    }

    fn obey(&mut self, command: DiskCommand) {
        match command {
            DiskCommand::Read { disk, id, sector, len } => {
                let data = self.read(disk, sector, len);
                let (ok, data) = data.map_or((false, Vec::new()), |data| (true, data));
                self.report(DiskReport::Read { disk, id, ok, data });
            }
            DiskCommand::Write { epoch, disk, sector, data } => self.write(epoch, disk, sector, data),
            DiskCommand::Commit { epoch, sync } => self.commit(epoch, sync),
            DiskCommand::Discard { epoch } => {
                self.overlay.discard(epoch);
                self.measure();
            }
            DiskCommand::CopyStart => {
                let sizes = self.disks.iter().map(|slot| slot.image.sectors() * SECTOR).collect();
                self.copy = Some(Copy::new(sizes));
            }
            DiskCommand::CopyNext => self.copy_next(),
            DiskCommand::CopyStop => self.copy = None,
            DiskCommand::Load { disk, offset, len, data } => self.load(disk, offset, len, &data),
            DiskCommand::Sync => {
                let ok = self.sync();
                self.report(DiskReport::Synced { ok });
            }
        }
    }

    fn measure(&self) {
        self.gauge.overlay.store(self.overlay.bytes(), Ordering::Relaxed);
    }

    fn fail(&mut self, disk: u8, what: &str, error: &io::Error) {
        if let Some(slot) = self.disks.get_mut(usize::from(disk)) {
            let path = slot.image.path().display();
            tracing::error!("disk image {path}: {what} failed: {error}. The image is out of service");
            slot.failed = true;
        }
    }

    fn healthy(&self) -> bool {
        self.disks.iter().all(|slot| !slot.failed)
    }

    /// The disk, when there is such a one and it has not failed.
    fn good(&mut self, disk: u8) -> Option<&mut Disk> {
        let slot = self.disks.get_mut(usize::from(disk)).filter(|slot| !slot.failed)?;
        Some(&mut slot.image)
    }

    fn read(&mut self, disk: u8, sector: u64, len: u32) -> Option<Vec<u8>> {
        let image = self.good(disk)?;
        let offset = image.offset(sector, u64::from(len)).filter(|_| len <= READ_MAX)?;
        let mut data = vec![0; len as usize];
        if let Err(error) = image.read(offset, &mut data) {
            self.fail(disk, "reading", &error);
            return None;
        }
        self.overlay.read(disk, offset, &mut data);
        Some(data)
    }

    fn write(&mut self, epoch: Epoch, disk: u8, sector: u64, data: Vec<u8>) {
        let image = self.disks.get(usize::from(disk)).map(|slot| &slot.image);
        if image.and_then(|image| image.offset(sector, data.len() as u64)).is_none() {
            // The device checks this; a write that it let through must not be lost in silence.
            self.fail(disk, "writing", &io::Error::other(format!("sector {sector} is not on the disk")));
            self.report(DiskReport::Durable { epoch, ok: false });
            return;
        }
        self.overlay.write(epoch, disk, sector, data);
        self.measure();
    }

    fn commit(&mut self, epoch: Epoch, sync: bool) {
        let layers: Vec<Layer> = self.overlay.take_up_to(epoch).collect();
        let mut ok = self.healthy();
        for (disk, extents) in layers.into_iter().flat_map(|layer| layer.disks) {
            ok &= self.apply(disk, extents);
        }
        self.measure();
        if sync {
            ok &= self.sync();
        }
        if sync || !ok {
            self.report(DiskReport::Durable { epoch, ok });
        }
    }

    fn apply(&mut self, disk: u8, extents: overlay::Extents) -> bool {
        if let Some(copy) = &mut self.copy {
            for (&sector, data) in &extents {
                copy.wrote(disk, sector * SECTOR, data.len() as u64);
            }
        }
        let Some(image) = self.good(disk) else { return false };
        let write = |(sector, data): (u64, Vec<u8>)| image.write(sector * SECTOR, &data);
        match extents.into_iter().try_for_each(write) {
            Ok(()) => true,
            Err(error) => {
                self.fail(disk, "writing", &error);
                false
            }
        }
    }

    fn sync(&mut self) -> bool {
        for disk in 0..=u8::MAX {
            let Some(slot) = self.disks.get_mut(usize::from(disk)) else { break };
            if let Err(error) = slot.image.sync() {
                self.fail(disk, "flushing", &error);
            }
        }
        self.healthy()
    }

    fn copy_next(&mut self) {
        let step = match &mut self.copy {
            Some(copy) => copy.next(),
            None => Step::PassDone { left: 0 },
        };
        match step {
            Step::PassDone { left } => self.report(DiskReport::PassDone { left }),
            Step::Region { disk, offset, len } => match self.region(disk, offset, len) {
                Ok(data) => self.report(DiskReport::Part { disk, offset, len, data }),
                Err(error) => {
                    self.fail(disk, "reading", &error);
                    self.report(DiskReport::Durable { epoch: 0, ok: false });
                }
            },
        }
    }

    /// The bytes to copy, or none for zeroes.
    fn region(&self, disk: u8, offset: u64, len: u32) -> io::Result<Vec<u8>> {
        let image = &self.disks[usize::from(disk)].image;
        let mut data = vec![0; len as usize];
        if !image.is_hole(offset, u64::from(len)) {
            image.read(offset, &mut data)?;
        }
        Ok(if data.iter().all(|&byte| byte == 0) { Vec::new() } else { data })
    }

    /// Writes a part of a fill. What is there already is not written again: a refill after a short absence
    /// then costs reads only, and holes stay holes. A part that does not fit fails the disk, which the
    /// answer to [`DiskCommand::Sync`] tells.
    fn load(&mut self, disk: u8, offset: u64, len: u32, data: &[u8]) {
        if let Err(error) = self.try_load(disk, offset, u64::from(len), data) {
            self.fail(disk, "filling", &error);
        }
    }

    fn try_load(&mut self, disk: u8, offset: u64, len: u64, data: &[u8]) -> io::Result<()> {
        let image = self.disks.get_mut(usize::from(disk)).map(|slot| &mut slot.image);
        let fits = image.filter(|image| image.contains(offset, len));
        let Some(image) = fits.filter(|_| data.is_empty() || data.len() as u64 == len) else {
            return Err(io::Error::other(format!("{len} bytes at {offset} do not fit the disk")));
        };
        let mut done = 0;
        while done < len {
            let (at, step) = (offset + done, REGION.min(len - done));
            let mut old = vec![0; usize::try_from(step).expect("a region is small")];
            if !image.is_hole(at, step) {
                image.read(at, &mut old)?;
            }
            let from = usize::try_from(done).expect("len is a u32");
            let new =
                if data.is_empty() { vec![0; old.len()] } else { data[from..from + old.len()].to_vec() };
            if old != new {
                image.write(at, &new)?;
            }
            done += step;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
