//! Streams that a description names and of which nothing has come yet. str0m reports on all streams that it learns of at one moment
//! together for ever, and its queue of reports (1 KiB each) never gets shorter than the longest was: 40 KiB for eighteen
//! streams. Told of each when it begins, it reports on each in a rhythm of its own, as browsers do.

use str0m::{Rtc, change::DirectApi, media::Mid, rtp::Ssrc};

use crate::measure::Header;

#[derive(Debug)]
struct Stream {
    mid: Mid,
    ssrc: Ssrc,
    rtx: Option<Ssrc>,
}

#[derive(Debug, Default)]
pub(crate) struct Announced(Vec<Stream>);

impl Announced {
    /// Takes the stream of a section back from str0m, unless it has begun.
    pub(crate) fn hold(&mut self, direct: &mut DirectApi<'_>, mid: Mid) {
        let Some(stream) = direct.stream_rx_by_mid(mid, None) else { return };
        if stream.last_time().is_some() {
            return;
        }
        let (ssrc, rtx) = (stream.ssrc(), stream.rtx());
        direct.remove_stream_rx(ssrc);
        self.0.retain(|other| other.mid != mid);
        self.0.push(Stream { mid, ssrc, rtx });
    }

    /// Gives str0m the stream that begins with this datagram.
    pub(crate) fn begin(&mut self, rtc: &mut Rtc, datagram: &[u8]) {
        if self.0.is_empty() {
            return;
        }
        let Some(header) = Header::parse(datagram) else { return };
        let arrived = Ssrc::from(header.ssrc);
        let begins = |stream: &Stream| stream.ssrc == arrived || stream.rtx == Some(arrived);
        if let Some(index) = self.0.iter().position(begins) {
            let Stream { mid, ssrc, rtx } = self.0.swap_remove(index);
            let mut direct = rtc.direct_api();
            // As str0m does when it reads an answer: without a stream to repair there are no NACKs.
            direct.expect_stream_rx(ssrc, rtx, mid, None).suppress_nack(rtx.is_none());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use str0m::{
        RtcConfig,
        media::{Direction, MediaKind},
    };

    use super::*;

    #[test]
    fn a_stream_begins_with_its_first_packet() {
        let rtc = || RtcConfig::new().set_rtp_mode(true).build(Instant::now());
        let (mut client, mut server) = (rtc(), rtc());
        let mut changes = client.sdp_api();
        let kinds = [MediaKind::Audio, MediaKind::Video];
        let add = |kind| changes.add_media(kind, Direction::RecvOnly, None, None, None);
        let mids = kinds.map(add);
        let (offer, pending) = changes.apply().unwrap();
        let answer = server.sdp_api().accept_offer(offer).unwrap();
        client.sdp_api().accept_answer(pending, answer).unwrap();

        let mut announced = Announced::default();
        let known = |rtc: &mut Rtc| {
            mids.map(|mid| {
                rtc.direct_api().stream_rx_by_mid(mid, None).map(|rx| (rx.ssrc(), rx.rtx()))
            })
        };
        let [audio, video] = known(&mut client).map(Option::unwrap);
        for mid in mids {
            announced.hold(&mut client.direct_api(), mid);
        }
        assert_eq!(known(&mut client), [None, None]);
        let mut arrive = |ssrc: u32| {
            let datagram =
                [&[0x80, 96, 0, 1, 0, 0, 0, 1][..], &ssrc.to_be_bytes(), &[0; 20]].concat();
            announced.begin(&mut client, &datagram);
            known(&mut client)
        };
        assert_eq!(arrive(*audio.0 ^ *video.0), [None, None], "nobody's");
        assert_eq!(arrive(*audio.0), [Some(audio), None]);
        // What repairs may be the first.
        assert_eq!(arrive(*video.1.unwrap()), [Some(audio), Some(video)]);
    }
}
