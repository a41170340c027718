//! A description that is kept for a resume, which may never come: deflated, a tenth of its size.

use std::io::{Read, Write};

use flate2::{Compression, read::DeflateDecoder, write::DeflateEncoder};
use livekit_protocol::SessionDescription;
use prost::Message as _;

#[derive(Debug, Default)]
pub(crate) enum Kept {
    #[default]
    Nothing,
    /// As it came: the next one may follow at once.
    Fresh(SessionDescription),
    Packed(Vec<u8>),
}

impl Kept {
    /// Makes it small.
    pub(crate) fn pack(&mut self) {
        if let Self::Fresh(description) = self {
            let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
            let written = encoder.write_all(&description.encode_to_vec());
            if let (Ok(()), Ok(mut packed)) = (written, encoder.finish()) {
                packed.shrink_to_fit();
                *self = Self::Packed(packed);
            }
        }
    }

    pub(crate) fn open(&self) -> Option<SessionDescription> {
        match self {
            Self::Nothing => None,
            Self::Fresh(description) => Some(description.clone()),
            Self::Packed(packed) => {
                let mut bytes = Vec::new();
                DeflateDecoder::new(&packed[..]).read_to_end(&mut bytes).ok()?;
                SessionDescription::decode(&bytes[..]).ok()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_comes_back() {
        let mut kept = Kept::default();
        kept.pack();
        assert_eq!(kept.open(), None);
        let sdp = "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\n".repeat(100);
        let description = SessionDescription { sdp, id: 7, ..Default::default() };
        kept = Kept::Fresh(description.clone());
        assert_eq!(kept.open(), Some(description.clone()));
        kept.pack();
        assert!(matches!(&kept, Kept::Packed(packed) if packed.len() < 500), "{kept:?}");
        assert_eq!(kept.open(), Some(description));
    }
}
