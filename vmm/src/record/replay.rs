//! Replaying, and noticing the first difference.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read};

use super::observe::{Changes, Shadow};
use super::report::{Divergence, Reached};
use super::{ENTRY_MAX, Entry, FORMAT, MARK, MachineError, ReplayError};
use crate::error::RunError;
use crate::machine::{ExitKind, Stop, Vm};

/// How many of the last stimuli a report shows.
const EVENTS_SHOWN: usize = 8;
/// Bytes of a machine's state at most, as in an image.
const STATE_MAX: usize = 64 << 20;

/// What one step of a replay came to.
#[derive(Debug)]
pub enum Step {
    /// The same exit as in the recording, with the same state.
    Exit(ExitKind),
    /// The same triple fault.
    Shutdown,
    /// A kick; the step is to be taken again.
    Kicked,
    /// The recording is over.
    End,
    /// The first difference. There is no going on after it.
    Diverged(Box<Divergence>),
}

/// Drives a machine through a recording.
pub struct Replayer<R: Read> {
    from: R,
    shadow: Shadow,
    entries: u64,
    exits: u64,
    events: VecDeque<String>,
    /// What the guest is on its way to, if a kick stopped it.
    ahead: Option<(Entry, Vec<u8>)>,
}

impl<R: Read> Replayer<R> {
    /// Makes the machine the one that the recording begins with.
    ///
    /// # Errors
    ///
    /// See [`ReplayError`].
    pub fn open(vm: &mut Vm, mut from: R) -> Result<Self, ReplayError> {
        let mut head = [0; 10];
        from.read_exact(&mut head)?;
        let [mark @ .., low, high] = head;
        if mark != MARK {
            return Err(ReplayError::NotARecording);
        }
        let format = u16::from_le_bytes([low, high]);
        if format != FORMAT {
            return Err(ReplayError::Version { got: format, want: FORMAT });
        }
        vm.restore_from(&mut from)?;
        let shadow = Shadow::of(vm)?;
        Ok(Replayer { from, shadow, entries: 0, exits: 0, events: VecDeque::new(), ahead: None })
    }

    /// Places what was placed, runs to the next exit and compares. What the guest does to the world is dropped.
    ///
    /// # Errors
    ///
    /// See [`ReplayError`].
    pub fn step(&mut self, vm: &mut Vm) -> Result<Step, ReplayError> {
        loop {
            let next = self.ahead.take().map_or_else(|| self.read(), |entry| Ok(Some(entry)))?;
            let Some((entry, encoded)) = next else { return Ok(Step::End) };
            let Entry::Place(stimulus) = &entry else { return self.run(vm, entry, encoded) };
            self.note(format!("before exit {}: {}", self.exits + 1, short(stimulus)));
            if let Err(error) = vm.place(stimulus) {
                let reached = Reached::Refused(error.to_string());
                return self.diverged(vm, reached, None, &Changes::default());
            }
        }
    }

    fn run(&mut self, vm: &mut Vm, entry: Entry, encoded: Vec<u8>) -> Result<Step, ReplayError> {
        let stop = match vm.run() {
            Ok(stop) => stop,
            Err(RunError::Halted) => {
                return self.diverged(vm, Reached::Sleeps, Some(&entry), &Changes::default());
            }
            Err(error) => return Err(MachineError::from(error).into()),
        };
        vm.take_effects();
        match (stop, &entry) {
            (Stop::Kicked, _) => {
                self.ahead = Some((entry, encoded));
                Ok(Step::Kicked)
            }
            (Stop::Shutdown, Entry::Shutdown) => Ok(Step::Shutdown),
            (Stop::Exit(kind), _) => {
                let own = self.shadow.changes(vm)?;
                let same = matches!(&entry, Entry::Exit { kind: recorded, changes }
                    if *recorded == kind as u8 && *changes == own);
                if !same {
                    return self.diverged(vm, Reached::Exit(kind), Some(&entry), &own);
                }
                self.exits += 1;
                if self.shadow.follow(&own, &encoded, STATE_MAX) {
                    Ok(Step::Exit(kind))
                } else {
                    Err(ReplayError::Damaged { entry: self.entries })
                }
            }
            (Stop::Shutdown, _) => self.diverged(vm, Reached::Shutdown, Some(&entry), &Changes::default()),
        }
    }

    fn diverged(
        &self,
        vm: &Vm,
        reached: Reached,
        recorded: Option<&Entry>,
        own: &Changes,
    ) -> Result<Step, ReplayError> {
        let events = self.events.iter().cloned().collect();
        Divergence::new(vm, &self.shadow, self.exits + 1, reached, recorded, own, events)
            .map(|report| Step::Diverged(Box::new(report)))
            .ok_or(ReplayError::Damaged { entry: self.entries })
    }

    fn note(&mut self, event: String) {
        if self.events.len() == EVENTS_SHOWN {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    /// The next entry and its bytes; nothing at the end.
    fn read(&mut self) -> Result<Option<(Entry, Vec<u8>)>, ReplayError> {
        let mut length = [0; 4];
        let first = loop {
            match self.from.read(&mut length[..1]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        if first == 0 {
            return Ok(None);
        }
        self.from.read_exact(&mut length[1..])?;
        let length = u32::from_le_bytes(length);
        let damaged = ReplayError::Damaged { entry: self.entries };
        if length > ENTRY_MAX {
            return Err(damaged);
        }
        let mut bytes = Vec::new();
        (&mut self.from).take(u64::from(length)).read_to_end(&mut bytes)?;
        if bytes.len() != length as usize {
            return Err(std::io::Error::from(ErrorKind::UnexpectedEof).into());
        }
        let entry = match postcard::take_from_bytes(&bytes) {
            Ok((entry, [])) => entry,
            _ => return Err(damaged),
        };
        self.entries += 1;
        Ok(Some((entry, bytes)))
    }

    /// Deterministic exits that were equal.
    #[must_use]
    pub fn exits(&self) -> u64 {
        self.exits
    }

    /// As [`Recorder::digest`](super::Recorder::digest).
    #[must_use]
    pub fn digest(&self) -> u128 {
        self.shadow.digest()
    }
}

/// One line about a stimulus.
fn short(stimulus: &devices::Stimulus) -> String {
    const SHOWN: usize = 100;
    let mut text = format!("{stimulus:?}");
    if let Some((at, _)) = text.char_indices().nth(SHOWN) {
        text.truncate(at);
        text.push_str(" ...");
    }
    text
}
