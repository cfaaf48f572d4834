//! Recording.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use devices::Stimulus;

use super::observe::Shadow;
use super::{ENTRY_MAX, Entry, FORMAT, MARK, MachineError, RecordError};
use crate::machine::{Stop, Vm};

/// Drives a machine and writes down what happens. The machine must not be driven past it meanwhile, nor its
/// changed pages be asked for.
pub struct Recorder<W: Write> {
    out: W,
    shadow: Shadow,
    /// The guest stands at an exit, or where the recording began.
    at_exit: bool,
}

impl Recorder<BufWriter<File>> {
    /// Begins a recording in a new file that its owner alone can read.
    ///
    /// # Errors
    ///
    /// See [`RecordError`].
    pub fn create(vm: &mut Vm, path: &Path) -> Result<Self, RecordError> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        Self::begin(vm, BufWriter::new(file))
    }
}

impl<W: Write> Recorder<W> {
    /// Begins a recording with the machine as it is.
    ///
    /// # Errors
    ///
    /// See [`RecordError`].
    pub fn begin(vm: &mut Vm, mut out: W) -> Result<Self, RecordError> {
        out.write_all(&MARK)?;
        out.write_all(&FORMAT.to_le_bytes())?;
        vm.save_to(&mut out)?;
        Ok(Recorder { out, shadow: Shadow::of(vm)?, at_exit: true })
    }

    /// As [`Vm::place`].
    ///
    /// # Errors
    ///
    /// See [`RecordError`]; nothing was placed.
    pub fn place(&mut self, vm: &mut Vm, stimulus: &Stimulus) -> Result<(), RecordError> {
        if !self.at_exit {
            return Err(RecordError::NotAtAnExit);
        }
        vm.place(stimulus)?;
        self.write(&Entry::Place(stimulus.clone()))?;
        Ok(())
    }

    /// As [`Vm::run`].
    ///
    /// # Errors
    ///
    /// See [`RecordError`].
    pub fn run(&mut self, vm: &mut Vm) -> Result<Stop, RecordError> {
        let stop = vm.run().map_err(MachineError::from)?;
        self.at_exit = matches!(stop, Stop::Exit(_));
        match stop {
            Stop::Exit(kind) => {
                let changes = self.shadow.changes(vm)?;
                let entry = Entry::Exit { kind: kind as u8, changes };
                let encoded = self.write(&entry)?;
                if let Entry::Exit { changes, .. } = &entry {
                    let own = self.shadow.follow(changes, &encoded, usize::MAX);
                    debug_assert!(own, "changes of the machine itself can be applied");
                }
            }
            Stop::Shutdown => {
                self.write(&Entry::Shutdown)?;
            }
            Stop::Kicked => {}
        }
        Ok(stop)
    }

    fn write(&mut self, entry: &Entry) -> Result<Vec<u8>, RecordError> {
        let bytes = postcard::to_stdvec(entry).map_err(std::io::Error::other)?;
        let length = u32::try_from(bytes.len()).ok().filter(|length| *length <= ENTRY_MAX);
        self.out.write_all(&length.ok_or(RecordError::TooLarge)?.to_le_bytes())?;
        self.out.write_all(&bytes)?;
        Ok(bytes)
    }

    /// XXH3-128 over what all exits so far have changed: equal to that of a replay without a difference.
    #[must_use]
    pub fn digest(&self) -> u128 {
        self.shadow.digest()
    }

    /// Ends the recording and gives back what was written to.
    ///
    /// # Errors
    ///
    /// When the rest cannot be written.
    pub fn finish(mut self) -> Result<W, RecordError> {
        self.out.flush()?;
        Ok(self.out)
    }
}
