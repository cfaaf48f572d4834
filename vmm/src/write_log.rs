//! The log of what this process writes to guest memory, past the vCPU.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use vm_memory::bitmap::{AtomicBitmap, Bitmap, NewBitmap, RefSlice, WithBitmapSlice};

use crate::PAGE_SIZE;

/// Writes remembered one by one between two looks; devices make a few per exit.
const RECENT: usize = 64;

/// A bit per page written, and the latest writes one by one, for a backend that keeps decoded code.
#[derive(Debug)]
pub(crate) struct WriteLog {
    bitmap: AtomicBitmap,
    recent: [AtomicU32; RECENT],
    count: AtomicUsize,
}

impl Default for WriteLog {
    fn default() -> Self {
        WriteLog {
            bitmap: AtomicBitmap::default(),
            recent: [const { AtomicU32::new(0) }; RECENT],
            count: AtomicUsize::new(0),
        }
    }
}

impl WriteLog {
    /// The bitmap, which is empty afterwards.
    pub(crate) fn get_and_reset(&self) -> Vec<u64> {
        self.bitmap.get_and_reset()
    }

    /// Pages written since the last call, some more than once. `None`: more than are remembered, so that every
    /// page of the bitmap may be among them.
    pub(crate) fn take_recent(&self) -> Option<impl Iterator<Item = u32>> {
        let count = self.count.swap(0, Ordering::Relaxed);
        let list = self.recent.get(..count)?;
        Some(list.iter().map(|page| page.load(Ordering::Relaxed)))
    }
}

impl<'a> WithBitmapSlice<'a> for WriteLog {
    type S = RefSlice<'a, Self>;
}

impl Bitmap for WriteLog {
    fn mark_dirty(&self, offset: usize, len: usize) {
        self.bitmap.mark_dirty(offset, len);
        let end = offset.saturating_add(len);
        for page in offset / PAGE_SIZE..end.div_ceil(PAGE_SIZE) {
            let number = self.count.load(Ordering::Relaxed);
            if let Some(place) = self.recent.get(number) {
                place.store(page as u32, Ordering::Relaxed);
            }
            // One beyond the end says that there were more.
            self.count.store((number + 1).min(RECENT + 1), Ordering::Relaxed);
        }
    }

    fn dirty_at(&self, offset: usize) -> bool {
        self.bitmap.dirty_at(offset)
    }

    fn slice_at(&self, offset: usize) -> RefSlice<'_, Self> {
        RefSlice::new(self, offset)
    }
}

impl NewBitmap for WriteLog {
    fn with_len(len: usize) -> Self {
        WriteLog { bitmap: AtomicBitmap::with_len(len), ..WriteLog::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_told_once_or_declared_too_many() {
        let log = WriteLog::with_len(1 << 20);
        log.mark_dirty(0x1fff, 2);
        log.mark_dirty(0x5000, 1);
        assert_eq!(log.take_recent().map(Iterator::collect::<Vec<_>>), Some(vec![1, 2, 5]));
        assert_eq!(log.take_recent().map(Iterator::count), Some(0));
        log.mark_dirty(0, 65 * PAGE_SIZE);
        assert!(log.take_recent().is_none());
        assert_eq!(log.get_and_reset()[..2], [u64::MAX, 1]);
    }
}
