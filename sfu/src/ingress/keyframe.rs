//! Keyframe requests of one encoding: merged over all who want one, throttled, repeated.

use std::time::{Duration, Instant};

/// Decides when a picture loss indication leaves for one encoding.
///
/// The first request leaves at once. Until the keyframe comes it is repeated, at most once in `interval`: shorter
/// shows pictures sooner after a lost request, longer spares the publisher's bitrate, which a keyframe costs ten
/// times over.
#[derive(Debug)]
pub struct KeyframeRequester {
    interval: Duration,
    state: State,
    last_sent: Option<Instant>,
    came_at: Option<Instant>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Idle,
    Wanted { next: Instant, tries: u8 },
}

impl KeyframeRequester {
    /// For the lowest encoding (LiveKit's parameters, media.md section 3).
    pub const LOW_INTERVAL: Duration = Duration::from_millis(500);
    /// For the encodings above it, whose keyframes are larger.
    pub const HIGH_INTERVAL: Duration = Duration::from_secs(1);
    /// A publisher that does not answer that often does not send this encoding. A subscriber that still waits asks
    /// again as soon as packets come.
    const MAX_TRIES: u8 = 10;

    /// A keyframe is on its way to those who wait for so long after it came: who asks meanwhile has not been given it yet. Who
    /// still waits then asks again with the next picture; from another shard, when its own requester repeats.
    const HANDED_OUT: Duration = Duration::from_millis(30);

    /// For the encoding at this index, lowest first.
    pub fn new(encoding: u8) -> Self {
        let interval = if encoding == 0 { Self::LOW_INTERVAL } else { Self::HIGH_INTERVAL };
        Self { interval, state: State::Idle, last_sent: None, came_at: None }
    }

    /// Somebody needs a keyframe. Cheap to repeat.
    pub fn request(&mut self, now: Instant) {
        let soon = |at: Instant| now.saturating_duration_since(at) < Self::HANDED_OUT;
        if self.state == State::Idle && !self.came_at.is_some_and(soon) {
            let next = self.last_sent.map_or(now, |sent| now.max(sent + self.interval));
            self.state = State::Wanted { next, tries: 0 };
        }
    }

    /// When a request last left.
    pub fn sent_at(&self) -> Option<Instant> {
        self.last_sent
    }

    /// The request that just left may be in vain: if no keyframe comes before, it is repeated at `at`.
    pub fn repeat_at(&mut self, at: Instant) {
        if let State::Wanted { next, .. } = &mut self.state {
            *next = at.min(*next);
        }
    }

    /// A keyframe begins.
    pub fn handle_keyframe(&mut self, now: Instant) {
        self.state = State::Idle;
        self.came_at = Some(now);
    }

    /// When [`Self::poll`] has a request.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Idle => None,
            State::Wanted { next, .. } => Some(next),
        }
    }

    /// Whether a request has to leave now; it then counts as sent.
    pub fn poll(&mut self, now: Instant) -> bool {
        let State::Wanted { next, tries } = self.state else { return false };
        if now < next {
            return false;
        }
        self.last_sent = Some(now);
        self.state = if tries + 1 == Self::MAX_TRIES {
            State::Idle
        } else {
            State::Wanted { next: now + self.interval, tries: tries + 1 }
        };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods)] // any instant will do
    fn requests_are_merged_throttled_and_repeated_until_the_keyframe() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut requester = KeyframeRequester::new(0);
        assert!(!requester.poll(at(0)));
        requester.request(at(0));
        requester.request(at(0));
        assert!(requester.poll(at(0)), "at once when first");
        assert!(!requester.poll(at(0)), "merged");
        requester.request(at(100));
        assert!(!requester.poll(at(499)));
        assert_eq!(requester.poll_timeout(), Some(at(500)));
        assert!(requester.poll(at(500)), "repeated");
        requester.handle_keyframe(at(550));
        assert_eq!(requester.poll_timeout(), None);
        requester.request(at(560));
        assert_eq!(requester.poll_timeout(), None, "it is being handed out");
        requester.request(at(600));
        assert!(!requester.poll(at(600)), "throttled");
        assert!(requester.poll(at(1_000)));
    }

    #[test]
    #[allow(clippy::disallowed_methods)] // any instant will do
    fn a_silent_publisher_is_not_asked_for_ever() {
        let start = Instant::now();
        let mut requester = KeyframeRequester::new(1);
        requester.request(start);
        let sent = (0..100).filter(|s| requester.poll(start + Duration::from_secs(*s))).count();
        assert_eq!(sent, 10);
    }
}
