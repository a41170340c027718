//! Datagrams ready to leave, in one buffer that is reused.

use crate::transport::FiveTuple;

/// Largest packet that is built here: an Ethernet frame's worth, so that a media packet which just fitted the publisher's
/// path still fits after its header was written anew.
pub(crate) const MAX_PACKET: usize = 1_600;

/// Segments of one GSO send (UDP_MAX_SEGMENTS of Linux).
const MAX_SEGMENTS: usize = 64;

/// Bytes of one GSO send: below the 65,535 of an IP packet.
const MAX_RUN: usize = 64_000;

/// One datagram, or several of the same size for the same path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub struct Transmit<'a> {
    /// Where it goes, and which of our addresses it leaves from.
    pub path: FiveTuple,
    /// The datagrams, one behind the other.
    pub bytes: &'a [u8],
    /// `Some(n)`: several datagrams of `n` bytes, the last may be shorter. `None`: one datagram.
    pub segment: Option<usize>,
}

/// Datagrams for one path. It ends where the next one begins, or where nothing was written yet.
#[derive(Clone, Copy, Debug)]
struct Run {
    path: FiveTuple,
    start: usize,
    /// Size of the first datagram: that of all but the last.
    segment: usize,
}

/// The egress arena of a shard. Everything that leaves is written here once and sealed in place.
#[derive(Debug)]
pub(crate) struct Outbox {
    bytes: Vec<u8>,
    len: usize,
    /// Largest datagram that may join the last run, 0 where none may.
    segment: usize,
    /// Where it ends at the latest.
    until: usize,
    runs: Vec<Run>,
    next: usize,
    /// Where what is written now goes.
    path: Option<FiveTuple>,
}

/// Bytes and runs that there is room for from the start: a step and the run that ends it.
const FIRST_BYTES: usize = 64 * 1024;
const FIRST_RUNS: usize = 256;

impl Default for Outbox {
    fn default() -> Self {
        Self {
            bytes: vec![0; FIRST_BYTES],
            len: 0,
            segment: 0,
            until: 0,
            runs: Vec::with_capacity(FIRST_RUNS),
            next: 0,
            path: None,
        }
    }
}

impl Outbox {
    /// What is committed from now on goes there.
    #[inline(always)]
    pub(crate) fn aim(&mut self, path: FiveTuple) {
        if self.is_empty() {
            // Not only when nobody has anything to send: under overload that moment never comes.
            self.restart();
        }
        if self.segment > 0 && self.path != Some(path) {
            self.close_run();
        }
        self.path = Some(path);
        self.make_room();
    }

    /// Room for one packet behind what is there. Becomes one by [`Self::commit`]. None before [`Self::aim`].
    #[inline(always)]
    pub(crate) fn space(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.len..self.len + MAX_PACKET).unwrap_or_default()
    }

    /// The first `len` bytes of [`Self::space`] are a datagram for the path of [`Self::aim`]. It joins the run before it where that
    /// is for the same path and of the same size.
    #[inline(always)]
    pub(crate) fn commit(&mut self, len: usize) {
        debug_assert!((1..=MAX_PACKET).contains(&len) && self.len + len <= self.bytes.len());
        if !self.has_room(len) {
            self.begin(len);
        } else if len < self.segment {
            self.close_run();
        }
        self.len += len;
        self.make_room();
    }

    fn begin(&mut self, len: usize) {
        debug_assert!(self.path.is_some(), "aimed before");
        let Some(path) = self.path else { return };
        self.runs.push(Run { path, start: self.len, segment: len });
        self.segment = len;
        self.until = self.len + MAX_RUN.min(MAX_SEGMENTS * len);
    }

    /// A whole datagram from elsewhere.
    pub(crate) fn push(&mut self, path: FiveTuple, datagram: &[u8]) {
        self.aim(path);
        if let Some(space) = self.space().get_mut(..datagram.len()) {
            space.copy_from_slice(datagram);
            self.commit(datagram.len());
        }
        debug_assert!(datagram.len() <= MAX_PACKET);
    }

    /// Whether a datagram of so many bytes, for the same path, would join the last run.
    #[inline(always)]
    pub(crate) fn has_room(&self, len: usize) -> bool {
        len <= self.segment && self.len + len <= self.until
    }

    /// Nothing may join the last run any more.
    pub(crate) fn close_run(&mut self) {
        self.segment = 0;
    }

    /// Bytes that wait.
    #[inline(always)]
    pub(crate) fn pending(&self) -> usize {
        self.runs.get(self.next).map_or(0, |run| self.len - run.start)
    }

    /// Whether everything was taken.
    pub(crate) fn is_empty(&self) -> bool {
        self.next >= self.runs.len()
    }

    /// The next run. When all are taken the arena starts anew.
    pub(crate) fn pop(&mut self) -> Option<Transmit<'_>> {
        let Some(Run { path, start, segment }) = self.runs.get(self.next).copied() else {
            self.restart();
            return None;
        };
        self.next += 1;
        let end = self.runs.get(self.next).map_or(self.len, |next| next.start);
        if self.is_empty() {
            self.close_run();
        }
        let bytes = &self.bytes[start..end];
        let segment = (bytes.len() > segment).then_some(segment);
        Some(Transmit { path, bytes, segment })
    }

    #[inline(always)]
    fn make_room(&mut self) {
        let end = self.len + MAX_PACKET;
        if self.bytes.len() < end {
            self.grow(end);
        }
    }

    #[cold]
    fn grow(&mut self, end: usize) {
        // To the largest turn there was, then never again.
        self.bytes.resize(end.next_power_of_two(), 0);
    }

    fn restart(&mut self) {
        self.runs.clear();
        self.next = 0;
        self.len = 0;
        self.close_run();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::Protocol;

    fn path(port: u16) -> FiveTuple {
        FiveTuple {
            protocol: Protocol::Udp,
            local: ([192, 0, 2, 1], 7882).into(),
            remote: ([192, 0, 2, 2], port).into(),
        }
    }

    fn runs(outbox: &mut Outbox) -> Vec<(u16, usize, Option<usize>)> {
        let mut runs = Vec::new();
        while let Some(transmit) = outbox.pop() {
            runs.push((transmit.path.remote.port(), transmit.bytes.len(), transmit.segment));
        }
        runs
    }

    #[test]
    fn equal_sizes_for_one_path_are_one_run_that_a_shorter_one_ends() {
        let mut outbox = Outbox::default();
        for len in [100, 100, 90, 90, 100] {
            outbox.push(path(1), &vec![7; len]);
        }
        outbox.push(path(2), &[7; 100]);
        let expected = [(1, 290, Some(100)), (1, 90, None), (1, 100, None), (2, 100, None)];
        assert_eq!(runs(&mut outbox), expected);
        assert!(outbox.is_empty());
    }

    #[test]
    fn a_run_has_at_most_64_segments_and_64_kilobytes() {
        let mut outbox = Outbox::default();
        for _ in 0..65 {
            outbox.push(path(1), &[0; 10]);
        }
        assert_eq!(runs(&mut outbox), [(1, 640, Some(10)), (1, 10, None)]);
        for _ in 0..60 {
            outbox.push(path(1), &[0; 1_200]);
        }
        assert_eq!(runs(&mut outbox), [(1, 63_600, Some(1_200)), (1, 8_400, Some(1_200))]);
    }

    #[test]
    fn the_arena_does_not_grow_while_there_is_always_more_to_send() {
        let mut outbox = Outbox::default();
        for _ in 0..1_000 {
            outbox.push(path(1), &[0; 1_200]);
            outbox.push(path(2), &[0; 1_200]);
            while !outbox.is_empty() {
                assert!(outbox.pop().is_some());
            }
        }
        assert_eq!(outbox.bytes.len(), FIRST_BYTES);
        assert_eq!(outbox.runs.capacity(), FIRST_RUNS);
    }

    #[test]
    fn what_waits_grows_while_what_came_before_it_is_taken() {
        let mut outbox = Outbox::default();
        for port in [1, 2] {
            outbox.push(path(port), &[port as u8; 10]);
        }
        let taken = outbox.pop().map(|transmit| (transmit.path, transmit.bytes.to_vec()));
        assert_eq!(taken, Some((path(1), vec![1; 10])));
        outbox.push(path(2), &[2; 10]);
        assert_eq!(runs(&mut outbox), [(2, 20, Some(10))]);
    }

    #[test]
    fn a_closed_run_stays_closed_and_taken_ones_are_not_extended() {
        let mut outbox = Outbox::default();
        outbox.push(path(1), &[0; 10]);
        outbox.close_run();
        outbox.push(path(1), &[0; 10]);
        assert!(outbox.pop().is_some());
        assert!(outbox.pop().is_some());
        assert!(!outbox.has_room(10), "taken");
        outbox.push(path(1), &[0; 10]);
        assert_eq!(outbox.pending(), 10);
        assert_eq!(runs(&mut outbox), [(1, 10, None)]);
    }
}
