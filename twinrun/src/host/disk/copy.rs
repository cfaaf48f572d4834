//! Which parts of the disks a fill still has to copy.

use std::collections::BTreeSet;

/// Size of a region in bytes; the last one of a disk may be shorter.
pub const REGION: u64 = 256 << 10;

/// Index of a disk and of a region on it.
type Region = (u8, u64);

/// The state of a copy: passes over the regions, each over those that were written since they were copied.
#[derive(Debug)]
pub(super) struct Copy {
    /// Size of each disk in bytes.
    sizes: Vec<u64>,
    pass: Pass,
    /// Written since they were last copied, or since the start.
    written: BTreeSet<Region>,
}

/// What the present pass still has to copy.
#[derive(Debug)]
enum Pass {
    /// The first pass: everything from this region on.
    First { next: Region },
    /// A later pass: these regions.
    Later(BTreeSet<Region>),
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Copy these bytes.
    Region { disk: u8, offset: u64, len: u32 },
    /// The pass is over; so many regions were written meanwhile, and the next pass takes them.
    PassDone { left: u32 },
}

impl Copy {
    /// Everything on disks of these sizes in bytes.
    pub(super) fn new(sizes: Vec<u64>) -> Self {
        Copy { sizes, pass: Pass::First { next: (0, 0) }, written: BTreeSet::new() }
    }

    /// A write of the content that is being copied.
    pub(super) fn wrote(&mut self, disk: u8, offset: u64, len: u64) {
        if len > 0 {
            let regions = offset / REGION..=(offset + len - 1) / REGION;
            self.written.extend(regions.map(|region| (disk, region)));
        }
    }

    /// The next region, which then counts as copied.
    pub(super) fn next(&mut self) -> Step {
        let next = match &mut self.pass {
            Pass::First { next } => {
                let found = existing(*next, &self.sizes);
                if let Some((disk, region)) = found {
                    *next = (disk, region + 1);
                }
                found
            }
            Pass::Later(regions) => regions.pop_first(),
        };
        let Some((disk, region)) = next else {
            let written = std::mem::take(&mut self.written);
            let left = u32::try_from(written.len()).unwrap_or(u32::MAX);
            self.pass = Pass::Later(written);
            return Step::PassDone { left };
        };
        self.written.remove(&(disk, region));
        let offset = region * REGION;
        let size = self.sizes[usize::from(disk)];
        let len = u32::try_from(REGION.min(size - offset)).expect("a region is small");
        Step::Region { disk, offset, len }
    }
}

/// This region, or when its disk ends before it the first one of the next disk.
fn existing((disk, region): Region, sizes: &[u64]) -> Option<Region> {
    let size = *sizes.get(usize::from(disk))?;
    if region * REGION < size { Some((disk, region)) } else { existing((disk.checked_add(1)?, 0), sizes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(disk: u8, offset: u64, len: u32) -> Step {
        Step::Region { disk, offset, len }
    }

    #[test]
    fn the_first_pass_takes_everything_and_the_next_what_was_written_after_its_copy() {
        const SMALL: u32 = 512;
        let whole = u32::try_from(REGION).expect("small");
        let mut copy = Copy::new(vec![REGION + 512, 512]);
        assert_eq!(copy.next(), region(0, 0, whole));
        copy.wrote(0, REGION - 1, 2); // one region that is copied, one that is not
        copy.wrote(1, 0, 512); // not copied yet
        assert_eq!(copy.next(), region(0, REGION, SMALL));
        assert_eq!(copy.next(), region(1, 0, SMALL));
        assert_eq!(copy.next(), Step::PassDone { left: 1 });
        assert_eq!(copy.next(), region(0, 0, whole));
        assert_eq!(copy.next(), Step::PassDone { left: 0 });
        assert_eq!(copy.next(), Step::PassDone { left: 0 });
    }
}
