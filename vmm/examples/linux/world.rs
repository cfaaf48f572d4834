//! The world outside of the guest: console, disks, the network card's other end.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex};
use std::thread;

use devices::{Effect, Stimulus};
use vmm::{Kicker, Vm};

use crate::Failure;

const SECTOR: usize = 512;
/// Arrivals that may wait.
const BACKLOG_MAX: usize = 256;
/// Bytes of an Ethernet frame.
const FRAME_MAX: usize = 1514;

/// Where bytes come from, and what they are for the guest.
type Source = (Box<dyn Read + Send>, fn(Vec<u8>) -> Stimulus);

/// What the guest can reach, and what it did there.
pub(crate) struct World {
    disks: Vec<Vec<u8>>,
    tap: Option<File>,
    inbox: Arc<Mutex<Vec<Stimulus>>>,
    until: Option<Vec<u8>>,
    /// The end of what was printed, as long as the text that is waited for.
    printed: Vec<u8>,
    finished: bool,
    frames: [u64; 2],
    disk_requests: [u64; 3],
    entropy: u64,
}

impl World {
    /// Disks are files, or sizes in MiB.
    pub(crate) fn new(disks: &[String], tap: Option<&str>, until: Option<String>) -> Result<Self, Failure> {
        let disks = disks.iter().map(|disk| match disk.parse::<usize>() {
            Ok(mib) => Ok(vec![0; mib << 20]),
            Err(_) => fs::read(disk).map_err(|error| Failure::from(format!("cannot read {disk}: {error}"))),
        });
        Ok(World {
            disks: disks.collect::<Result<_, _>>()?,
            tap: tap.map(open_tap).transpose()?,
            inbox: Arc::default(),
            until: until.map(String::into_bytes),
            printed: Vec::new(),
            finished: false,
            frames: [0; 2],
            disk_requests: [0; 3],
            entropy: 0,
        })
    }

    /// Size of each disk.
    pub(crate) fn sectors(&self) -> Vec<u64> {
        self.disks.iter().map(|disk| (disk.len() / SECTOR) as u64).collect()
    }

    /// Whether the guest has stopped, or has printed what was waited for.
    pub(crate) fn finished(&self) -> bool {
        self.finished
    }

    /// Starts to receive frames and what is typed. Both wake the calling thread.
    pub(crate) fn receive(&self, kicker: &Kicker) -> Result<(), Failure> {
        let mut sources: Vec<Source> = vec![(Box::new(io::stdin()), Stimulus::ConsoleInput)];
        if let Some(tap) = &self.tap {
            sources.push((Box::new(tap.try_clone()?), |frame| Stimulus::Frame { nic: 0, frame }));
        }
        for (mut source, stimulus) in sources {
            let (inbox, owner, kicker) = (Arc::clone(&self.inbox), thread::current(), kicker.clone());
            thread::spawn(move || {
                let mut buffer = [0; FRAME_MAX];
                while let Ok(length @ 1..) = source.read(&mut buffer) {
                    if let Ok(mut inbox) = inbox.lock()
                        && inbox.len() < BACKLOG_MAX
                    {
                        inbox.push(stimulus(buffer[..length].to_vec()));
                    }
                    kicker.kick();
                    owner.unpark();
                }
            });
        }
        Ok(())
    }

    /// What has arrived.
    pub(crate) fn take_arrivals(&mut self) -> Result<Vec<Stimulus>, Failure> {
        let arrivals = std::mem::take(&mut *self.inbox.lock().map_err(|_| "a receiver failed")?);
        self.frames[0] +=
            arrivals.iter().filter(|event| matches!(event, Stimulus::Frame { .. })).count() as u64;
        Ok(arrivals)
    }

    /// Does what the guest asks for.
    pub(crate) fn take(&mut self, vm: &mut Vm, effect: Effect) -> Result<(), Failure> {
        match effect {
            Effect::Console(bytes) => self.print(&bytes)?,
            Effect::Frame { frame, .. } => self.send(&frame),
            Effect::DiskRead { disk, id, sector, len } => {
                self.disk_requests[0] += 1;
                let data = self.part(disk, sector, len as usize)?.to_vec();
                vm.place(&Stimulus::DiskDone { disk, id, ok: true, data })?;
            }
            Effect::DiskWrite { disk, sector, data } => {
                self.disk_requests[1] += 1;
                self.part(disk, sector, data.len())?.copy_from_slice(&data);
            }
            Effect::DiskFlush { disk, id } => {
                self.disk_requests[2] += 1;
                vm.place(&Stimulus::DiskDone { disk, id, ok: true, data: Vec::new() })?;
            }
            Effect::Entropy { len } => {
                self.entropy += 1;
                let mut bytes = vec![0; len as usize];
                File::open("/dev/urandom")?.read_exact(&mut bytes)?;
                vm.place(&Stimulus::Entropy(bytes))?;
            }
            Effect::Reset | Effect::PowerOff | Effect::GuestPanicked => {
                println!("\n[{effect:?}]");
                self.finished = true;
            }
        }
        Ok(())
    }

    fn part(&mut self, disk: u8, sector: u64, bytes: usize) -> Result<&mut [u8], Failure> {
        let start = usize::try_from(sector)?.saturating_mul(SECTOR);
        let disk = self.disks.get_mut(usize::from(disk)).ok_or("there is no such disk")?;
        Ok(disk.get_mut(start..start.saturating_add(bytes)).ok_or("a request beyond the disk")?)
    }

    fn print(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let mut out = io::stdout();
        out.write_all(bytes)?;
        out.flush()?;
        if let Some(until) = &self.until {
            self.printed.extend_from_slice(bytes);
            self.finished |= self.printed.windows(until.len().max(1)).any(|window| window == until);
            let surplus = self.printed.len().saturating_sub(until.len());
            self.printed.drain(..surplus);
        }
        Ok(())
    }

    fn send(&mut self, frame: &[u8]) {
        self.frames[1] += 1;
        if let Some(tap) = &mut self.tap
            && let Err(error) = tap.write_all(frame)
        {
            // A tap that is down refuses frames; a wire that is unplugged loses them.
            eprintln!("[frame lost: {error}]");
        }
    }

    /// Counts.
    pub(crate) fn summary(&self) -> String {
        let ([received, sent], [reads, writes, flushes]) = (self.frames, self.disk_requests);
        format!(
            "frames in {received} out {sent}, disk reads {reads} writes {writes} flushes {flushes}, entropy {}",
            self.entropy
        )
    }
}

fn open_tap(name: &str) -> Result<File, Failure> {
    let tap = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    // struct ifreq: 16 bytes of name, flags, padding.
    let mut request = [0_u8; 40];
    if name.len() >= libc::IFNAMSIZ {
        return Err(format!("{name} is too long for the name of a network device").into());
    }
    request[..name.len()].copy_from_slice(name.as_bytes());
    let flags = u16::try_from(libc::IFF_TAP | libc::IFF_NO_PI)?;
    request[16..18].copy_from_slice(&flags.to_le_bytes());
    // SAFETY: TUNSETIFF reads and writes a struct ifreq, which is as long as the request.
    if unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETIFF, request.as_mut_ptr()) } != 0 {
        return Err(format!("cannot attach to {name}: {}", io::Error::last_os_error()).into());
    }
    Ok(tap)
}
