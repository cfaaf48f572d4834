//! Recordings and their replay.

use std::fs::File;
use std::io::BufReader;
use std::os::unix::fs::PermissionsExt;

use crate::guest::{Program, booted, empty};
use devices::Stimulus;
use vmm::record::{RecordError, Recorder, ReplayError, Replayer, Step};
use vmm::{Stop, Vm};

/// Records `exits` exits with time going on before some of them; returns the bytes and the digest after each.
fn record(vm: &mut Vm, exits: u64) -> (Vec<u8>, Vec<u128>) {
    let mut recorder = Recorder::begin(vm, Vec::new()).expect("begins");
    let mut digests = Vec::new();
    for at in 0..exits {
        if at % 3 == 0 {
            recorder.place(vm, &Stimulus::Time(at * 70_000)).expect("time goes on");
        }
        while recorder.run(vm).expect("the guest runs") == Stop::Kicked {}
        vm.take_effects();
        digests.push(recorder.digest());
    }
    (recorder.finish().expect("a list takes every byte"), digests)
}

#[test]
fn a_replay_is_the_same_at_every_exit() {
    let (Some(mut vm), Some(mut other)) = (booted("record-a", Program::Churn), empty("record-b")) else {
        return;
    };
    let (bytes, digests) = record(&mut vm, 300);
    let mut replayer = Replayer::open(&mut other, bytes.as_slice()).expect("opens");
    for (exit, digest) in (1..).zip(digests) {
        let step = replayer.step(&mut other).expect("reads");
        assert!(matches!(step, Step::Exit(_)), "exit {exit}: {step:?}");
        assert_eq!((replayer.exits(), replayer.digest()), (exit, digest));
    }
    assert!(matches!(replayer.step(&mut other), Ok(Step::End)));
    assert_eq!(vm.save().expect("saves"), other.save().expect("saves"));
}

#[test]
fn the_first_difference_is_shown() {
    let (Some(mut vm), Some(mut other)) = (booted("differ-a", Program::Churn), empty("differ-b")) else {
        return;
    };
    let (bytes, _) = record(&mut vm, 60);
    let mut replayer = Replayer::open(&mut other, bytes.as_slice()).expect("opens");
    for _ in 0..31 {
        assert!(matches!(replayer.step(&mut other), Ok(Step::Exit(_))));
    }
    // The guest adds this to all that it computes.
    let mut page = [0; 4096];
    other.read_page(0x300, &mut page);
    page[8] ^= 1;
    other.write_page(0x300, &page);
    let report = loop {
        match replayer.step(&mut other).expect("reads") {
            Step::Diverged(report) => break report,
            Step::Exit(_) | Step::Kicked => {}
            step => panic!("{step:?} in spite of the difference"),
        }
    };
    let text = report.to_string();
    assert_eq!(report.exit, 32);
    let tick = report.differing_bytes().iter().find(|(address, ..)| *address == 0x30_0008);
    assert!(tick.is_some_and(|(_, recorded, replayed)| recorded != replayed));
    assert!(report.differing_registers().any(|name| name == "r8"), "the guest has computed with it");
    for words in
        ["exit 32", "* r8 ", "  rip ", "before exit 31: Time(2100000)", "0x0000300008", "  0x0000000000201"]
    {
        assert!(text.contains(words), "{words:?} is missing in:\n{text}");
    }
}

#[test]
fn stimuli_are_recorded_at_exits_only() {
    let Some(mut vm) = booted("between", Program::Spin) else { return };
    let mut recorder = Recorder::begin(&mut vm, Vec::new()).expect("begins");
    recorder.place(&mut vm, &Stimulus::Time(1)).expect("at the beginning");
    vm.kicker().kick();
    assert_eq!(recorder.run(&mut vm).expect("runs"), Stop::Kicked);
    let refused = recorder.place(&mut vm, &Stimulus::Time(2));
    assert!(matches!(refused, Err(RecordError::NotAtAnExit)), "{refused:?}");
}

#[test]
fn damaged_recordings_are_refused() {
    let (Some(mut vm), Some(mut other)) = (booted("damage-a", Program::Churn), empty("damage-b")) else {
        return;
    };
    let (bytes, _) = record(&mut vm, 20);
    let mut replay = |bytes: &[u8]| -> Result<u64, ReplayError> {
        let mut replayer = Replayer::open(&mut other, bytes)?;
        loop {
            match replayer.step(&mut other)? {
                Step::End | Step::Diverged(_) | Step::Shutdown => return Ok(replayer.exits()),
                Step::Exit(_) | Step::Kicked => {}
            }
        }
    };
    assert_eq!(replay(&bytes).expect("intact"), 20);
    assert!(matches!(replay(b"TWNRUNRX\x01\0"), Err(ReplayError::NotARecording)));
    assert!(matches!(replay(b"TWNRUNRC\x02\0"), Err(ReplayError::Version { got: 2, want: 1 })));
    assert!(matches!(replay(&bytes[..1000]), Err(ReplayError::Image(_))));
    assert!(matches!(replay(&bytes[..bytes.len() - 1]), Err(ReplayError::Read(_))));
    let long = [bytes.as_slice(), &[0xff; 4]].concat();
    assert!(matches!(replay(&long), Err(ReplayError::Damaged { .. })));
    let garbled = [bytes.as_slice(), &[1, 0, 0, 0, 0x77]].concat();
    assert!(matches!(replay(&garbled), Err(ReplayError::Damaged { .. })));
}

#[test]
fn a_recording_is_its_owners_alone() {
    let (Some(mut vm), Some(mut other)) = (booted("owner-a", Program::Churn), empty("owner-b")) else {
        return;
    };
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("recording");
    let mut recorder = Recorder::create(&mut vm, &path).expect("a new file");
    while recorder.run(&mut vm).expect("the guest runs") == Stop::Kicked {}
    recorder.finish().expect("written");
    let mode = std::fs::metadata(&path).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(matches!(Recorder::create(&mut vm, &path), Err(RecordError::Write(_))), "nothing is overwritten");
    let file = BufReader::new(File::open(&path).expect("readable"));
    let mut replayer = Replayer::open(&mut other, file).expect("opens");
    assert!(matches!(replayer.step(&mut other), Ok(Step::Exit(_))));
}
