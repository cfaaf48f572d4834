//! Telling switches where the guest's MAC addresses are now: a broadcast frame from each, repeated.
//!
//! The VMM knows no IP address, so it sends RARP requests (RFC 903), as hypervisors do after a migration.

use crate::host::tap::Tap;

/// When the announcements leave, in nanoseconds after the first: a switch may lose one.
const TIMES: [u64; 5] = [0, 50_000_000, 200_000_000, 600_000_000, 1_500_000_000];

/// What is left to be announced.
pub(super) struct Announcer {
    frames: Vec<Vec<u8>>,
    /// Times still to come, the next one last.
    times: Vec<u64>,
}

impl Announcer {
    pub(super) fn new(macs: &[[u8; 6]]) -> Self {
        Announcer { frames: macs.iter().map(rarp).collect(), times: Vec::new() }
    }

    /// Starts over at host time `now`.
    pub(super) fn begin(&mut self, now: u64) {
        self.times = TIMES.iter().rev().map(|after| now + after).collect();
    }

    /// When the next announcement is due.
    pub(super) fn next(&self) -> Option<u64> {
        self.times.last().copied()
    }

    /// Sends what is due.
    pub(super) fn run(&mut self, now: u64, taps: &[Tap]) {
        while self.times.pop_if(|at| *at <= now).is_some() {
            for (tap, frame) in taps.iter().zip(&self.frames) {
                tap.send(frame);
            }
        }
    }
}

/// A reverse ARP request for the sender's own address, padded to the least size of a frame.
fn rarp(mac: &[u8; 6]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(60);
    frame.extend([0xff; 6]);
    frame.extend(mac);
    frame.extend([0x80, 0x35]); // EtherType RARP
    frame.extend([0, 1, 8, 0, 6, 4, 0, 3]); // Ethernet, IPv4, sizes, "request reverse"
    frame.extend(mac);
    frame.extend([0; 4]);
    frame.extend(mac);
    frame.extend([0; 4]);
    frame.resize(60, 0);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announcement_is_a_broadcast_from_the_guest() {
        let frame = rarp(&[2, 0, 0, 0, 0, 7]);
        assert_eq!(frame.len(), 60);
        assert_eq!(frame[..6], [0xff; 6]);
        assert_eq!(frame[6..12], [2, 0, 0, 0, 0, 7]);
        assert_eq!(frame[12..14], [0x80, 0x35]);
    }

    #[test]
    fn announcements_are_repeated_and_end() {
        let mut announcer = Announcer::new(&[[2; 6]]);
        assert_eq!(announcer.next(), None);
        announcer.begin(1_000);
        assert_eq!(announcer.next(), Some(1_000));
        announcer.run(1_000, &[]);
        assert_eq!(announcer.next(), Some(1_000 + TIMES[1]));
        announcer.run(u64::MAX, &[]);
        assert_eq!(announcer.next(), None);
    }
}
