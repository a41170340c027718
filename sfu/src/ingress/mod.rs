//! What a publisher sends: from decrypted packets to a track's cache.
//!
//! Per peer a [`SsrcBinder`] says which encoding a packet belongs to and a [`TwccRecorder`] notes arrivals. Per track a
//! [`PublishedTrack`] extends numbers once, unwraps retransmissions, reads each payload descriptor once, stores packets
//! and asks the publisher for what is missing. Feedback is written into compound packets of the caller
//! (RFC 3550, 4585, 4588, 5104).

mod audio;
mod binder;
mod ccfb;
mod describe;
mod drop_reason;
mod encoding;
mod fec;
mod keyframe;
mod layer_rate;
mod layers;
mod nack;
mod rate;
mod recent;
mod reception;
mod stats;
mod stream;
mod track;
mod twcc;

pub use binder::{
    Binding, BoundEncoding, BoundTrack, ParkedPacket, Role, SsrcBinder, TrackSlot, Unbound,
};
pub use ccfb::CcfbRecorder;
pub use drop_reason::DropReason;
pub use fec::FecDecoder;
pub use keyframe::KeyframeRequester;
pub use nack::NackGenerator;
pub use rate::RateMeter;
pub use reception::ReceptionStats;
pub use stats::EncodingStats;
pub use stream::IngressStream;
pub use track::{Accepted, PublishedTrack, TrackSource};
pub use twcc::TwccRecorder;
