//! Numbers with meaning: what RTP counts and names, each as a type of its own.
//!
//! Wrap-around is solved at the border (`wire` reads [`Seq16`] and [`RtpTs32`], `ingress` extends them once);
//! behind it [`SeqNo`] and [`MediaTime`] are plain growing integers.

mod codec;
mod id;
mod probe;
mod seq;
mod unit;

pub use codec::{Codec, CodecKind, CodecMap, Extension, ExtensionMap, MediaKind, PayloadMeaning};
pub use id::{Mid, Pt, Rid, Ssrc, TrackId};
pub use probe::{Probe, ProbeId};
pub use seq::{MediaTime, RtpTs32, Seq16, SeqExtender, SeqNo, TimeExtender};
pub use unit::{Bitrate, DataSize, FrameRate};
