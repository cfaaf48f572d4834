use std::path::{Path, PathBuf};

use crossbeam_channel::unbounded;
use proptest::prelude::*;

use super::*;

/// Images of a bit more than two regions.
const SECTORS: u64 = 2 * REGION / SECTOR + 3;

struct Bench {
    thread: DiskThread,
    reports: Receiver<DiskReport>,
}

impl Bench {
    fn new(disks: Vec<Disk>) -> Self {
        let (sender, reports) = unbounded();
        Bench { thread: DiskThread::start(disks, sender).expect("start"), reports }
    }

    fn with_image(path: &Path) -> Self {
        std::fs::File::create(path).expect("create").set_len(SECTORS * SECTOR).expect("set length");
        Self::new(vec![Disk::open(path).expect("open")])
    }

    fn ask(&self, command: DiskCommand) -> DiskReport {
        self.thread.send(command);
        self.reports.recv().expect("a report")
    }

    fn write(&self, epoch: Epoch, sector: u64, data: &[u8]) {
        self.thread.send(DiskCommand::Write { epoch, disk: 0, sector, data: data.to_vec() });
    }

    fn read(&self, sector: u64, sectors: u64) -> (bool, Vec<u8>) {
        let len = u32::try_from(sectors * SECTOR).expect("small");
        match self.ask(DiskCommand::Read { disk: 0, id: 9, sector, len }) {
            DiskReport::Read { disk: 0, id: 9, ok, data } => (ok, data),
            other => panic!("{other:?}"),
        }
    }

    fn commit(&self, epoch: Epoch) -> DiskReport {
        self.ask(DiskCommand::Commit { epoch, sync: true })
    }

    /// Copies the next part to `other`. `None`: a part was copied; else what is left after this pass.
    fn copy_part(&self, other: &Bench) -> Option<u32> {
        match self.ask(DiskCommand::CopyNext) {
            DiskReport::Part { disk, offset, len, data } => {
                other.thread.send(DiskCommand::Load { disk, offset, len, data });
                None
            }
            DiskReport::PassDone { left } => Some(left),
            report => panic!("{report:?}"),
        }
    }
}

fn scratch() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path().join("disk.img");
    (dir, path)
}

fn filled(value: u8, sectors: u64) -> Vec<u8> {
    vec![value; usize::try_from(sectors * SECTOR).expect("small")]
}

fn durable(epoch: Epoch, ok: bool) -> DiskReport {
    DiskReport::Durable { epoch, ok }
}

#[test]
fn a_write_is_read_at_once_and_reaches_the_file_at_its_commit() {
    let (_dir, path) = scratch();
    let bench = Bench::with_image(&path);
    bench.write(3, 1, &filled(7, 2));
    assert_eq!(bench.read(0, 4), (true, [filled(0, 1), filled(7, 2), filled(0, 1)].concat()));
    assert_eq!(bench.commit(2), durable(2, true));
    assert_eq!(std::fs::read(&path).expect("read")[512], 0, "epoch 3 is not committed");
    assert_eq!(bench.thread.pending_bytes(), 1024);
    assert_eq!(bench.commit(3), durable(3, true));
    assert_eq!(std::fs::read(&path).expect("read")[512..1536], filled(7, 2));
    assert_eq!(bench.thread.pending_bytes(), 0);
}

#[test]
fn requests_beyond_the_disk_fail_and_harm_nothing() {
    let (_dir, path) = scratch();
    let bench = Bench::with_image(&path);
    assert_eq!(bench.read(SECTORS - 1, 2), (false, Vec::new()));
    assert_eq!(bench.read(u64::MAX, 1), (false, Vec::new()));
    let read = DiskCommand::Read { disk: 4, id: 1, sector: 0, len: 512 };
    assert_eq!(bench.ask(read), DiskReport::Read { disk: 4, id: 1, ok: false, data: Vec::new() });
    assert!(bench.read(SECTORS - 1, 1).0);
}

#[test]
fn a_failed_disk_stays_failed() {
    let (_dir, path) = scratch();
    std::fs::write(&path, filled(0, 4)).expect("write");
    let bench = Bench::new(vec![Disk::broken(&path)]);
    bench.write(1, 0, &filled(1, 1));
    bench.thread.send(DiskCommand::Commit { epoch: 1, sync: false });
    assert_eq!(bench.reports.recv(), Ok(durable(1, false)), "told without having been asked");
    assert_eq!(bench.commit(2), durable(2, false));
    assert_eq!(bench.read(0, 1), (false, Vec::new()));
}

#[test]
fn a_write_that_does_not_fit_is_not_lost_in_silence() {
    let (_dir, path) = scratch();
    let bench = Bench::with_image(&path);
    bench.write(1, SECTORS, &filled(1, 1));
    assert_eq!(bench.reports.recv(), Ok(durable(1, false)));
    let (_dir, path) = scratch();
    let bench = Bench::with_image(&path);
    bench.thread.send(DiskCommand::Load { disk: 0, offset: SECTORS * SECTOR, len: 1, data: vec![1] });
    assert_eq!(bench.ask(DiskCommand::Sync), DiskReport::Synced { ok: false });
}

#[test]
fn a_copy_leaves_out_what_the_new_pair_writes() {
    let (_dir, path) = scratch();
    let (_other_dir, other_path) = scratch();
    let (from, to) = (Bench::with_image(&path), Bench::with_image(&other_path));
    from.write(5, 0, &filled(1, 1));
    assert_eq!(from.commit(5), durable(5, true));
    from.thread.send(DiskCommand::CopyStart);
    assert_eq!(from.copy_part(&to), None);
    from.write(6, 1, &filled(2, 1));
    from.write(7, 2, &filled(3, 1));
    assert_eq!(from.commit(6), durable(6, true));
    assert_eq!(from.read(2, 1), (true, filled(3, 1)));
    while from.copy_part(&to) != Some(0) {}
    assert_eq!(to.read(0, 3), (true, [filled(1, 1), filled(2, 1), filled(0, 1)].concat()));
}

#[test]
fn a_fill_overwrites_with_zeroes_and_keeps_holes() {
    let (_dir, path) = scratch();
    let (_other_dir, other_path) = scratch();
    let from = Bench::with_image(&path);
    std::fs::write(&other_path, filled(9, SECTORS)).expect("write");
    let to = Bench::new(vec![Disk::open(&other_path).expect("open")]);
    from.thread.send(DiskCommand::CopyStart);
    while from.copy_part(&to) != Some(0) {}
    assert_eq!(to.ask(DiskCommand::Sync), DiskReport::Synced { ok: true });
    assert_eq!(std::fs::read(&other_path).expect("read"), filled(0, SECTORS));

    let (_third_dir, third_path) = scratch();
    let third = Bench::with_image(&third_path);
    from.thread.send(DiskCommand::CopyStart);
    while from.copy_part(&third) != Some(0) {}
    assert_eq!(third.ask(DiskCommand::Sync), DiskReport::Synced { ok: true });
    let blocks = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(&third_path).expect("metadata"));
    assert_eq!(blocks, 0, "nothing was written");
}

#[derive(Clone, Debug)]
enum Step {
    Write(u64, u64, u8),
    Read(u64, u64),
    NextEpoch,
    Commit,
    Discard,
}

fn step() -> impl Strategy<Value = Step> {
    // Short ranges at both ends and around the border of two regions: much overlap.
    let sector = prop_oneof![0..12u64, REGION / SECTOR - 4..REGION / SECTOR + 4, SECTORS - 10..SECTORS - 6];
    prop_oneof![
        4 => (sector.clone(), 0..6u64, any::<u8>()).prop_map(|(at, len, value)| Step::Write(at, len, value)),
        4 => (sector, 0..6u64).prop_map(|(at, len)| Step::Read(at, len)),
        1 => Just(Step::NextEpoch),
        1 => Just(Step::Commit),
        1 => Just(Step::Discard),
    ]
}

/// The plain model: the content without the newest epoch, and with it.
struct Model {
    epoch: Epoch,
    before: Vec<u8>,
    now: Vec<u8>,
}

fn range(sector: u64, sectors: u64) -> std::ops::Range<usize> {
    let at = |sector: u64| usize::try_from(sector * SECTOR).expect("small");
    at(sector)..at(sector + sectors)
}

impl Model {
    fn write(&mut self, sector: u64, sectors: u64, value: u8) -> Vec<u8> {
        let data = filled(value, sectors);
        self.now[range(sector, sectors)].copy_from_slice(&data);
        data
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn like_a_plain_array(steps in prop::collection::vec(step(), 1..60)) {
        let (_dir, path) = scratch();
        let bench = Bench::with_image(&path);
        let mut model = Model { epoch: 2, before: filled(0, SECTORS), now: filled(0, SECTORS) };
        for step in steps {
            match step {
                Step::Write(sector, sectors, value) => {
                    bench.write(model.epoch, sector, &model.write(sector, sectors, value));
                }
                Step::Read(sector, sectors) => {
                    prop_assert_eq!(bench.read(sector, sectors), (true, model.now[range(sector, sectors)].to_vec()));
                }
                Step::NextEpoch => {
                    model.epoch += 1;
                    model.before.clone_from(&model.now);
                }
                Step::Commit => {
                    let epoch = model.epoch - 1;
                    prop_assert_eq!(bench.commit(epoch), durable(epoch, true));
                    prop_assert!(std::fs::read(&path).expect("read") == model.before, "the file at a commit");
                }
                Step::Discard => {
                    bench.thread.send(DiskCommand::Discard { epoch: model.epoch });
                    model.now.clone_from(&model.before);
                }
            }
        }
        prop_assert_eq!(bench.commit(model.epoch), durable(model.epoch, true));
        prop_assert!(std::fs::read(&path).expect("read") == model.now, "the file at the end");
        prop_assert_eq!(bench.thread.pending_bytes(), 0);
    }

    #[test]
    fn a_copy_under_writes_ends_equal(
        steps in prop::collection::vec(step(), 1..40),
        rests in prop::collection::vec(any::<bool>(), 40),
    ) {
        let (_dir, path) = scratch();
        let (_other_dir, other_path) = scratch();
        let (from, to) = (Bench::with_image(&path), Bench::with_image(&other_path));
        let mut model = Model { epoch: 1, before: filled(0, SECTORS), now: filled(0, SECTORS) };
        from.thread.send(DiskCommand::CopyStart);
        for (step, rest) in steps.into_iter().zip(rests) {
            match step {
                Step::Write(sector, sectors, value) => {
                    from.write(model.epoch, sector, &model.write(sector, sectors, value));
                    from.thread.send(DiskCommand::Commit { epoch: model.epoch, sync: false });
                }
                Step::NextEpoch => model.epoch += 1,
                Step::Commit => {
                    prop_assert_eq!(from.commit(model.epoch), durable(model.epoch, true));
                }
                _ => {}
            }
            if rest {
                from.copy_part(&to);
            }
        }
        // At most two more passes: one with what is left, one that finds nothing.
        let mut passes = 0;
        while from.copy_part(&to) != Some(0) {
            passes += 1;
            prop_assert!(passes < 20, "the copy does not end");
        }
        prop_assert_eq!(to.ask(DiskCommand::Sync), DiskReport::Synced { ok: true });
        prop_assert!(std::fs::read(&path).expect("read") == model.now, "the source");
        prop_assert!(std::fs::read(&other_path).expect("read") == model.now, "the copy");
    }
}

#[test]
fn too_many_waiting_writes_are_reported_once_and_so_is_their_end() {
    const MIB: u64 = 1 << 20;
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path().join("disk.img");
    let count = PENDING_MAX / MIB + 4;
    std::fs::File::create(&path).expect("create").set_len(count * MIB).expect("set length");
    let bench = Bench::new(vec![Disk::open(&path).expect("open")]);
    let payload = vec![1; usize::try_from(MIB).expect("small")];
    for place in 0..count {
        bench.write(1, place * MIB / SECTOR, &payload);
    }
    assert_eq!(bench.reports.recv().expect("a report"), DiskReport::Pressure(true));
    assert_eq!(bench.commit(1), DiskReport::Durable { epoch: 1, ok: true });
    assert_eq!(bench.reports.recv().expect("a report"), DiskReport::Pressure(false));
    assert_eq!(bench.thread.pending_bytes(), 0);
    assert!(bench.reports.try_recv().is_err(), "nothing else is said");
}
