//! A whole machine as one stream of bytes: what it was made of, processor and devices, memory.
//!
//! ```text
//! mark 8 bytes, format u16                      all numbers little endian
//! digest of the machine table u128, of the configuration u128
//! pages of memory u32, length of the state u32, the state (see Vm::save)
//! page number u32, 4096 bytes                   each page that is not zero, ascending
//! END u32, XXH3-128 of all that went before
//! ```

use std::io::{Read, Write};

use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use super::{Life, Vm};
use crate::PAGE_SIZE;
use crate::error::{LoadImageError, SaveImageError};

const MARK: [u8; 8] = *b"TWNRUNPC";
const FORMAT: u16 = 1;
/// Ends the pages.
const END: u32 = u32::MAX;
/// Bytes of the state at most: what waits in the devices is bounded, and far below.
const STATE_MAX: u32 = 64 << 20;

impl Vm {
    /// Writes the whole machine. What the guest did to the world is not part of it: take it first
    /// ([`Self::take_effects`]). The next [`Self::run`] decides anew about interrupts, as that of a machine
    /// which reads the image does.
    ///
    /// # Errors
    ///
    /// See [`SaveImageError`]. The machine can go on.
    pub fn save_to(&mut self, out: &mut dyn Write) -> Result<(), SaveImageError> {
        let state = self.save()?;
        self.reevaluate();
        let length = u32::try_from(state.len()).ok().filter(|length| *length <= STATE_MAX);
        let length = length.ok_or_else(|| std::io::Error::other("the devices' state is too large"))?;
        let mut out = Summed { inner: out, sum: Xxh3::new() };
        out.write(&MARK)?;
        out.write(&FORMAT.to_le_bytes())?;
        out.write(&Self::table_digest().to_le_bytes())?;
        out.write(&self.config_digest().to_le_bytes())?;
        out.write(&self.page_count().to_le_bytes())?;
        out.write(&length.to_le_bytes())?;
        out.write(&state)?;
        let mut bytes = [0; PAGE_SIZE];
        for page in 0..self.page_count() {
            self.read_page(page, &mut bytes);
            if bytes != [0; PAGE_SIZE] {
                out.write(&page.to_le_bytes())?;
                out.write(&bytes)?;
            }
        }
        out.write(&END.to_le_bytes())?;
        let sum = out.sum.digest128();
        out.write(&sum.to_le_bytes())?;
        out.inner.flush()?;
        Ok(())
    }

    /// Takes over a machine that [`Self::save_to`] wrote, on one of the same configuration, table and vendor. The
    /// kernel's file is not looked at. Requests that the guest has in flight are to be issued again:
    /// [`Self::outstanding_disk`], [`Self::outstanding_entropy`].
    ///
    /// # Errors
    ///
    /// See [`LoadImageError`]. The machine cannot run then until a later restore succeeds.
    pub fn restore_from(&mut self, from: &mut dyn Read) -> Result<(), LoadImageError> {
        self.life = Life::Filling;
        let mut from = Summed { inner: from, sum: Xxh3::new() };
        if from.read::<8>()? != MARK {
            return Err(LoadImageError::NotAnImage);
        }
        let format = u16::from_le_bytes(from.read()?);
        if format != FORMAT {
            return Err(LoadImageError::Version { got: format, want: FORMAT });
        }
        if u128::from_le_bytes(from.read()?) != Self::table_digest() {
            return Err(LoadImageError::OtherMachine("machine table"));
        }
        if u128::from_le_bytes(from.read()?) != self.config_digest() {
            return Err(LoadImageError::OtherMachine("configuration or processor vendor"));
        }
        if u32::from_le_bytes(from.read()?) != self.page_count() {
            return Err(LoadImageError::OtherMachine("size of memory"));
        }
        let state = from.state()?;
        self.fill(&mut from)?;
        let sum = from.sum.digest128();
        if u128::from_le_bytes(from.read()?) != sum {
            return Err(LoadImageError::Damaged("its checksum is wrong"));
        }
        Ok(self.restore(&state)?)
    }

    /// Reads memory: the pages of the image, and zeroes where it has none.
    fn fill(&mut self, from: &mut Summed<&mut dyn Read>) -> Result<(), LoadImageError> {
        let pages = self.page_count();
        let mut next = 0;
        loop {
            let page = u32::from_le_bytes(from.read()?);
            let end = if page == END { pages } else { page };
            if end < next || (page != END && page >= pages) {
                return Err(LoadImageError::Damaged("its pages are not in order"));
            }
            for absent in next..end {
                self.clear_page(absent);
            }
            if page == END {
                return Ok(());
            }
            let bytes = from.read()?;
            self.write_page(page, &bytes);
            next = page + 1;
        }
    }

    /// A page that is zero already is left alone: it need not be populated.
    fn clear_page(&mut self, page: u32) {
        let mut bytes = [0; PAGE_SIZE];
        self.read_page(page, &mut bytes);
        if bytes != [0; PAGE_SIZE] {
            self.write_page(page, &[0; PAGE_SIZE]);
        }
    }

    /// Digest of what makes machines of the same table different: memory, devices, vendor. Not of what is
    /// booted, which is in memory.
    fn config_digest(&self) -> u128 {
        let parts = (self.config.memory_mib, &self.config.platform, self.vendor().name());
        let bytes = postcard::to_stdvec(&parts).expect("plain numbers and lists can be encoded");
        xxh3_128(&bytes)
    }
}

/// A stream with the checksum of what went through.
struct Summed<S> {
    inner: S,
    sum: Xxh3,
}

impl Summed<&mut dyn Write> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.sum.update(bytes);
        self.inner.write_all(bytes)
    }
}

impl Summed<&mut dyn Read> {
    fn read<const N: usize>(&mut self) -> std::io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.inner.read_exact(&mut bytes)?;
        self.sum.update(&bytes);
        Ok(bytes)
    }

    /// The state with its length. No more is allocated than is there.
    fn state(&mut self) -> Result<Vec<u8>, LoadImageError> {
        let length = u32::from_le_bytes(self.read()?);
        if length > STATE_MAX {
            return Err(LoadImageError::Damaged("its state is impossibly long"));
        }
        let mut state = Vec::new();
        (&mut self.inner).take(u64::from(length)).read_to_end(&mut state)?;
        if state.len() != length as usize {
            return Err(LoadImageError::Damaged("it is cut short"));
        }
        self.sum.update(&state);
        Ok(state)
    }
}
