//! RTCP, one message per file (RFC 3550, 4585, 5104, 3611, 8888): compound or reduced-size (RFC 5506).

mod bye;
mod ccfb;
mod fir;
mod nack;
mod pli;
mod receiver_report;
mod remb;
mod sdes;
mod sender_report;
mod transport_cc;
mod writer;
mod xr;

#[cfg(test)]
mod tests;

pub use bye::Bye;
pub use ccfb::{CcfbArrival, CcfbBlock, CcfbReport, CongestionFeedback};
pub use fir::{Fir, FirEntry};
pub use nack::Nack;
pub use pli::Pli;
pub use receiver_report::{ReceiverReport, ReportBlock, ReportBlocks};
pub use remb::Remb;
pub use sdes::{Sdes, SdesItem};
pub use sender_report::{SenderInfo, SenderReport};
pub use transport_cc::{ArrivalTick, Arrivals, TransportFeedback, TransportFeedbackFields};
pub use writer::CompoundWriter;
pub use xr::{DlrrItem, ExtendedReport, XrBlock};

use super::cursor::{BufferTooSmall, Reader, Writer};

/// Why bytes are no RTCP.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum RtcpError {
    /// Ends inside a message header, or a message claims more than there is. Nothing behind it can be read.
    #[error("RTCP cut short")]
    Short,
    /// Version is not 2. Nothing behind it can be read.
    #[error("RTCP version is not 2")]
    Version,
    /// The padding count is zero or larger than the message.
    #[error("RTCP padding count is wrong")]
    Padding,
    /// The message is shorter than its own counts say, or has an impossible value.
    #[error("RTCP message malformed")]
    Malformed,
}

/// One message, borrowed from its datagram.
#[derive(Clone, Copy, Debug)]
pub enum Message<'a> {
    /// Sender report, 200.
    SenderReport(SenderReport<'a>),
    /// Receiver report, 201.
    ReceiverReport(ReceiverReport<'a>),
    /// Source description, 202.
    Sdes(Sdes<'a>),
    /// Goodbye, 203.
    Bye(Bye<'a>),
    /// Generic NACK, 205/1.
    Nack(Nack<'a>),
    /// Transport-wide feedback, 205/15.
    TransportCc(TransportFeedback<'a>),
    /// Congestion control feedback of RFC 8888, 205/11.
    Ccfb(CongestionFeedback<'a>),
    /// Picture loss indication, 206/1.
    Pli(Pli),
    /// Full intra request, 206/4.
    Fir(Fir<'a>),
    /// Receiver estimated maximum bitrate, 206/15.
    Remb(Remb<'a>),
    /// Extended report, 207.
    ExtendedReport(ExtendedReport<'a>),
    /// Something else, application-defined messages included.
    Unknown {
        /// RTCP packet type.
        packet_type: u8,
        /// Count or format: the low five bits of the first byte.
        count: u8,
    },
}

/// Iterates the messages of a decrypted datagram. A malformed message is an error of its own and the next one is
/// still read; where the length cannot be trusted, the error is the last item.
pub const fn messages(datagram: &[u8]) -> Messages<'_> {
    Messages { reader: Reader::new(datagram) }
}

/// See [`messages`].
#[derive(Clone, Copy, Debug)]
pub struct Messages<'a> {
    reader: Reader<'a>,
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>, RtcpError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.reader.rest().is_empty() {
            return None;
        }
        let frame = take_frame(&mut self.reader);
        if frame.is_err() {
            self.reader = Reader::new(&[]);
        }
        Some(frame.and_then(Frame::parse))
    }
}

/// A message by its header: what RFC 3550 section 6.1 promises to be walkable.
struct Frame<'a> {
    has_padding: bool,
    count: u8,
    packet_type: u8,
    body: &'a [u8],
}

fn take_frame<'a>(reader: &mut Reader<'a>) -> Result<Frame<'a>, RtcpError> {
    let [first, packet_type] = reader.array().ok_or(RtcpError::Short)?;
    if first >> 6 != 2 {
        return Err(RtcpError::Version);
    }
    let words = reader.u16().ok_or(RtcpError::Short)?;
    let body = reader.take(usize::from(words) * 4).ok_or(RtcpError::Short)?;
    Ok(Frame { has_padding: first & 0x20 != 0, count: first & 0x1f, packet_type, body })
}

impl<'a> Frame<'a> {
    fn parse(self) -> Result<Message<'a>, RtcpError> {
        let mut body = self.body;
        if self.has_padding {
            let padding = usize::from(*body.last().ok_or(RtcpError::Padding)?);
            let len = body.len().checked_sub(padding).ok_or(RtcpError::Padding)?;
            if padding == 0 {
                return Err(RtcpError::Padding);
            }
            body = body.get(..len).ok_or(RtcpError::Padding)?;
        }
        let count = self.count;
        let message = match (self.packet_type, count) {
            (200, _) => SenderReport::parse(count, body).map(Message::SenderReport),
            (201, _) => ReceiverReport::parse(count, body).map(Message::ReceiverReport),
            (202, _) => Sdes::parse(count, body).map(Message::Sdes),
            (203, _) => Bye::parse(count, body).map(Message::Bye),
            (205, 1) => Nack::parse(body).map(Message::Nack),
            (205, 11) => CongestionFeedback::parse(body).map(Message::Ccfb),
            (205, 15) => TransportFeedback::parse(body).map(Message::TransportCc),
            (206, 1) => Pli::parse(body).map(Message::Pli),
            (206, 4) => Fir::parse(body).map(Message::Fir),
            (206, 15) if Remb::is(body) => Remb::parse(body).map(Message::Remb),
            (207, _) => ExtendedReport::parse(body).map(Message::ExtendedReport),
            (packet_type, count) => Some(Message::Unknown { packet_type, count }),
        };
        message.ok_or(RtcpError::Malformed)
    }
}
