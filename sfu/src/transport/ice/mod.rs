//! ICE-lite (RFC 8445 section 2.5): answers checks, notes which path the peer nominates, watches consent (RFC 7675).
//!
//! Our own rather than the agent of crate `is`: a lite agent is this file, while of that crate's agent in lite mode the path
//! selection (highest priority for ever), the forgetting of remote candidates (never), the restart (old credentials gone
//! at once), destinations that are no host candidate (1:1 NAT) and requests that precede the remote credentials would each
//! have to be worked around from outside. Its STUN codec is the oracle of ours in tests.
//!
//! - A check is valid when its MESSAGE-INTEGRITY was made with our password. The peer's half of the username must match once
//!   the peer's credentials are known; before that (RFC 8445 section 7.3: a check may overtake the description) any will do.
//! - Egress goes to the five-tuple of the latest valid USE-CANDIDATE request, whatever its priority; before the first one, to
//!   the first five-tuple that passed a check.
//! - At a restart both credentials are answered until the new ones have a path.
//! - Checks with wrong credentials are dropped silently: an answer would only tell a scanner that we are here.

use std::time::{Duration, Instant};

pub(super) use self::stun::Response;
use self::stun::{BindingRequest, ParseError};
use super::{DropReason, FiveTuple, IceCredentials};
use crate::prefetch::prefetch;

mod stun;
#[cfg(any(test, fuzzing))]
pub use stun::fuzz_check;
#[cfg(test)]
mod tests;

/// Five-tuples of one peer. Enough for two interfaces x two address families x UDP and TCP.
pub(super) const MAX_TUPLES: usize = 8;

/// A five-tuple without a check for this long may be replaced. Browsers check idle candidate pairs each 2.5 s or so.
const REPLACEABLE_AFTER: Duration = Duration::from_secs(6);

/// A five-tuple without a check for this long is forgotten (RFC 7675 section 5.1).
const TUPLE_EXPIRY: Duration = Duration::from_secs(30);

/// No valid check for this long and the peer is lost. Half of RFC 7675's 30 s: peers check each 5 s or more often, and a
/// participant who is gone should not stay on screen.
const CONSENT_EXPIRY: Duration = Duration::from_secs(15);

/// Time for the first check to arrive: the peer may still be gathering or waiting for its description.
const FIRST_CHECK_EXPIRY: Duration = Duration::from_secs(30);

/// What a valid check changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum IceEvent {
    Added(FiveTuple),
    Removed(FiveTuple),
    Selected(FiveTuple),
    Retired(String),
}

/// ICE of one transport. In this order: each packet that leaves looks at the first field.
#[derive(Debug)]
#[repr(C)]
pub(super) struct IceLite {
    /// One of `tuples`.
    selected: Option<FiveTuple>,
    tuples: Vec<Tuple>,
    current: Credentials,
    /// Of before a restart.
    previous: Option<Credentials>,
    /// Whether `selected` was nominated, rather than just first.
    nominated: bool,
    last_check: Option<Instant>,
    created: Instant,
    only_tcp: bool,
}

struct Credentials {
    ufrag: String,
    /// Expanded for each check: the key takes 1,232 bytes for as long as the peer lives, and checks are seconds apart.
    pwd: String,
    remote_ufrag: Option<String>,
}

#[derive(Debug)]
struct Tuple {
    five: FiveTuple,
    last_check: Instant,
}

impl IceLite {
    pub(super) fn new(local: &IceCredentials, now: Instant) -> Self {
        Self {
            current: Credentials::new(local),
            previous: None,
            tuples: Vec::with_capacity(1),
            selected: None,
            nominated: false,
            last_check: None,
            created: now,
            only_tcp: false,
        }
    }

    /// What [`Self::egress_path`] looks at.
    #[inline(always)]
    pub(super) fn prefetch(&self) {
        prefetch(&self.selected);
        // It lies behind the end of the path.
        prefetch(&self.tuples);
    }

    /// The peer's credentials, which checks must name from now on.
    pub(super) fn set_remote(&mut self, remote: &IceCredentials) {
        // After a restart the description of before may be stated once more: it belongs to the old credentials.
        let belongs_to_previous = self
            .previous
            .as_ref()
            .is_some_and(|previous| previous.remote_ufrag.as_deref() == Some(&*remote.ufrag));
        if !belongs_to_previous {
            self.current.remote_ufrag = Some(remote.ufrag.clone());
        }
    }

    pub(super) fn set_only_tcp(&mut self, only_tcp: bool) {
        self.only_tcp = only_tcp;
    }

    /// New local credentials; the old ones stay answered until these have a path. Appends the ufrag that is not.
    pub(super) fn restart(&mut self, local: &IceCredentials, events: &mut Vec<IceEvent>) {
        if local.ufrag == self.current.ufrag {
            return;
        }
        let old = std::mem::replace(&mut self.current, Credentials::new(local));
        // A second restart before the first had a path: the credentials that carry the path are the ones to keep.
        match self.previous {
            Some(_) => events.push(IceEvent::Retired(old.ufrag)),
            None => self.previous = Some(old),
        }
    }

    /// Whether a check for this local ufrag is for us.
    pub(super) fn answers_to(&self, ufrag: &str) -> bool {
        self.current.ufrag == ufrag || self.previous.as_ref().is_some_and(|c| c.ufrag == ufrag)
    }

    /// Checks one STUN message. Returns the answer, which leaves on the five-tuple it came by; appends what changed.
    pub(super) fn handle(
        &mut self,
        now: Instant,
        five: FiveTuple,
        message: &[u8],
        events: &mut Vec<IceEvent>,
    ) -> Result<Response, DropReason> {
        let request = BindingRequest::parse(message).map_err(|error| match error {
            ParseError::Malformed => DropReason::StunMalformed,
            ParseError::NotABindingRequest => DropReason::StunUnexpected,
            ParseError::Unauthenticated => DropReason::StunIntegrity,
        })?;
        let by_current = self.current.is_addressed_by(request.username);
        let credentials = match &self.previous {
            _ if by_current => &self.current,
            Some(previous) if previous.is_addressed_by(request.username) => previous,
            _ => return Err(DropReason::StunUsername),
        };
        let key = stun::integrity_key(&credentials.pwd);
        if !request.verify(&key) {
            return Err(DropReason::StunIntegrity);
        }
        if self.only_tcp && five.protocol != super::Protocol::Tcp {
            return Err(DropReason::Protocol);
        }
        if request.controlled {
            return Ok(stun::role_conflict(request.transaction, &key));
        }
        let answer = stun::binding_success(request.transaction, five.remote, &key);
        self.note(now, five, request.use_candidate, events)?;
        self.last_check = Some(now);
        self.select(five, request.use_candidate, by_current, events);
        Ok(answer)
    }

    /// Whether packets from this five-tuple are the peer's.
    pub(super) fn accepts(&self, five: &FiveTuple) -> bool {
        self.tuples.iter().any(|tuple| tuple.five == *five)
    }

    /// Where media and DTLS leave.
    pub(super) fn egress_path(&self) -> Option<FiveTuple> {
        self.selected
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub(super) fn poll_timeout(&self) -> Instant {
        let expiry = self
            .tuples
            .iter()
            .map(|tuple| {
                let selected = self.is_selected(tuple);
                tuple.last_check + if selected { CONSENT_EXPIRY } else { TUPLE_EXPIRY }
            })
            .min();
        expiry.map_or(self.consent_deadline(), |expiry| expiry.min(self.consent_deadline()))
    }

    /// Forgets silent five-tuples. `false` when the peer is lost.
    #[must_use]
    pub(super) fn handle_timeout(&mut self, now: Instant, events: &mut Vec<IceEvent>) -> bool {
        if now >= self.consent_deadline() {
            return false;
        }
        self.leave_silent_path(now, events);
        while let Some(slot) = self
            .tuples
            .iter()
            .position(|tuple| !self.is_selected(tuple) && now >= tuple.last_check + TUPLE_EXPIRY)
        {
            self.remove(slot, events);
        }
        true
    }

    /// Consent is per path (RFC 7675): where only another one is still checked, that one takes over, nominated or not.
    fn leave_silent_path(&mut self, now: Instant, events: &mut Vec<IceEvent>) {
        let Some(selected) = self.tuples.iter().find(|tuple| self.is_selected(tuple)) else {
            return;
        };
        if now < selected.last_check + CONSENT_EXPIRY {
            return;
        }
        let newest = self.tuples.iter().max_by_key(|tuple| tuple.last_check);
        if let Some(Tuple { five, .. }) = newest.filter(|newest| newest.five != selected.five) {
            events.push(IceEvent::Selected(*five));
            self.selected = Some(*five);
        }
    }

    fn is_selected(&self, tuple: &Tuple) -> bool {
        self.selected == Some(tuple.five)
    }

    fn consent_deadline(&self) -> Instant {
        match self.last_check {
            Some(last_check) => last_check + CONSENT_EXPIRY,
            None => self.created + FIRST_CHECK_EXPIRY,
        }
    }

    /// Notes a valid check of `five`; makes room for it where it is new.
    fn note(
        &mut self,
        now: Instant,
        five: FiveTuple,
        nominates: bool,
        events: &mut Vec<IceEvent>,
    ) -> Result<(), DropReason> {
        if let Some(tuple) = self.tuples.iter_mut().find(|tuple| tuple.five == five) {
            tuple.last_check = now;
            return Ok(());
        }
        if self.tuples.len() >= MAX_TUPLES {
            let silent = self
                .tuples
                .iter()
                .enumerate()
                .filter(|(_, tuple)| !self.is_selected(tuple))
                .min_by_key(|(_, tuple)| tuple.last_check)
                .map(|(slot, tuple)| (slot, now.saturating_duration_since(tuple.last_check)));
            match silent {
                // A nomination is the client's word on where it is now: it always finds room.
                Some((slot, silence)) if nominates || silence >= REPLACEABLE_AFTER => {
                    self.remove(slot, events);
                }
                _ => return Err(DropReason::TooManyTuples),
            }
        }
        self.tuples.push(Tuple { five, last_check: now });
        events.push(IceEvent::Added(five));
        Ok(())
    }

    fn select(
        &mut self,
        five: FiveTuple,
        nominates: bool,
        by_current: bool,
        events: &mut Vec<IceEvent>,
    ) {
        if nominates
            && by_current
            && let Some(previous) = self.previous.take()
        {
            events.push(IceEvent::Retired(previous.ufrag));
        }
        let first = self.selected.is_none() && !self.nominated;
        if !nominates && !first {
            return;
        }
        self.nominated |= nominates;
        if self.selected.replace(five) != Some(five) {
            events.push(IceEvent::Selected(five));
        }
    }

    fn remove(&mut self, slot: usize, events: &mut Vec<IceEvent>) {
        let tuple = self.tuples.remove(slot);
        debug_assert!(!self.is_selected(&tuple), "media would leave on a path that is forgotten");
        events.push(IceEvent::Removed(tuple.five));
    }
}

impl Credentials {
    fn new(local: &IceCredentials) -> Self {
        Self { ufrag: local.ufrag.clone(), pwd: local.pwd.clone(), remote_ufrag: None }
    }

    fn is_addressed_by(&self, username: &[u8]) -> bool {
        let Some(rest) = username.strip_prefix(self.ufrag.as_bytes()) else {
            return false;
        };
        let Some(remote) = rest.strip_prefix(b":") else {
            return false;
        };
        self.remote_ufrag.as_ref().is_none_or(|known| known.as_bytes() == remote)
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(redacted)")
    }
}
