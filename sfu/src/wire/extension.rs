//! Values of RTP header extensions. One struct serves both ways: read from a packet, written into a header.

use std::time::Duration;

use super::{
    cursor::{BufferTooSmall, Reader, Writer},
    ntp::NtpTime,
};
use crate::rtp::{Extension, Mid, Rid};

/// Client-to-mixer audio level (RFC 6464).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AudioLevel {
    /// In -dBov: 0 is the loudest, 127 is silence.
    pub level: u8,
    /// The encoder thinks that this is voice.
    pub voice: bool,
}

impl AudioLevel {
    /// Digital silence, or a microphone that is switched off.
    pub const fn is_silent(self) -> bool {
        self.level == 127
    }
}

/// Seconds in 6.18 fixed point, modulo 64 s: when a packet left its sender.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AbsSendTime(u32);

impl AbsSendTime {
    /// The low 24 bits of `value`.
    pub const fn from_bits(value: u32) -> Self {
        Self(value & 0xff_ffff)
    }

    /// From the time since any fixed point.
    pub fn from_duration(since: Duration) -> Self {
        let fraction = (u64::from(since.subsec_nanos()) << 18) / 1_000_000_000;
        Self::from_bits((since.as_secs() << 18) as u32 | fraction as u32)
    }

    /// 24 bits.
    pub const fn bits(self) -> u32 {
        self.0
    }
}

/// When the first frame of a packet was captured, on the capturer's clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AbsCaptureTime {
    /// Capture time.
    pub ntp: NtpTime,
    /// The sender's estimate of its own clock minus the capturer's, in 32.32 seconds.
    pub clock_offset: Option<i64>,
}

/// Bounds of the receiver's playout delay, in steps of 10 ms up to 40.95 s.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PlayoutDelay {
    /// Least delay.
    pub min: Duration,
    /// Greatest delay.
    pub max: Duration,
}

impl PlayoutDelay {
    fn steps(delay: Duration) -> u32 {
        (delay.as_millis() / 10).min(0xfff) as u32
    }
}

/// Coordination of video orientation (3GPP TS 26.114): the byte 0000CFRR, passed on as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VideoOrientation(pub u8);

/// What the extensions of one packet say. Reading takes the extensions that a peer negotiated; writing leaves out
/// those that the other peer did not.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[allow(missing_docs)] // named as in `rtp::Extension`
pub struct ExtensionValues<'a> {
    pub mid: Option<Mid>,
    pub rid: Option<Rid>,
    pub repaired_rid: Option<Rid>,
    pub audio_level: Option<AudioLevel>,
    /// Transport-wide sequence number.
    pub transport_cc: Option<u16>,
    pub abs_send_time: Option<AbsSendTime>,
    pub abs_capture_time: Option<AbsCaptureTime>,
    pub playout_delay: Option<PlayoutDelay>,
    pub video_orientation: Option<VideoOrientation>,
    /// Raw: see [`super::DependencyDescriptor`].
    pub dependency_descriptor: Option<&'a [u8]>,
    /// Raw.
    pub video_layers_allocation: Option<&'a [u8]>,
    /// Transmission time minus RTP timestamp, in units of the codec's clock, 24 bits with sign (RFC 5450).
    pub transmission_offset: Option<i32>,
}

impl<'a> ExtensionValues<'a> {
    /// Takes one element; a value of a wrong length or form is left out.
    pub fn read(&mut self, extension: Extension, value: &'a [u8]) {
        match extension {
            Extension::Mid => self.mid = Mid::new(value),
            Extension::Rid => self.rid = Rid::new(value),
            Extension::RepairedRid => self.repaired_rid = Rid::new(value),
            Extension::AudioLevel => {
                self.audio_level = value
                    .first()
                    .map(|byte| AudioLevel { level: byte & 0x7f, voice: byte & 0x80 != 0 });
            }
            Extension::TransportCc => {
                // Version 2 of the extension appends a feedback request to the same two bytes.
                self.transport_cc = Reader::new(value).u16();
            }
            Extension::AbsSendTime => {
                self.abs_send_time = Reader::new(value).u24().map(AbsSendTime);
            }
            Extension::AbsCaptureTime => {
                let mut reader = Reader::new(value);
                self.abs_capture_time = reader.u64().map(|ntp| AbsCaptureTime {
                    ntp: NtpTime(ntp),
                    clock_offset: reader.u64().map(|offset| offset as i64),
                });
            }
            Extension::PlayoutDelay => {
                self.playout_delay = Reader::new(value).u24().map(|bits| PlayoutDelay {
                    min: Duration::from_millis(u64::from(bits >> 12) * 10),
                    max: Duration::from_millis(u64::from(bits & 0xfff) * 10),
                });
            }
            Extension::VideoOrientation => {
                self.video_orientation = value.first().copied().map(VideoOrientation);
            }
            Extension::DependencyDescriptor => self.dependency_descriptor = Some(value),
            Extension::VideoLayersAllocation => self.video_layers_allocation = Some(value),
            Extension::TransmissionOffset => {
                self.transmission_offset =
                    Reader::new(value).u24().map(|bits| (bits << 8) as i32 >> 8);
            }
        }
    }

    /// Length of a value on the wire; `None` when there is none, or none that an element can carry.
    pub(super) fn wire_len(&self, extension: Extension) -> Option<usize> {
        let len = match extension {
            Extension::Mid => self.mid.as_ref()?.as_bytes().len(),
            Extension::Rid => self.rid.as_ref()?.as_bytes().len(),
            Extension::RepairedRid => self.repaired_rid.as_ref()?.as_bytes().len(),
            Extension::AudioLevel => self.audio_level.map(|_| 1)?,
            Extension::TransportCc => self.transport_cc.map(|_| 2)?,
            Extension::AbsSendTime => self.abs_send_time.map(|_| 3)?,
            Extension::AbsCaptureTime => match self.abs_capture_time?.clock_offset {
                None => 8,
                Some(_) => 16,
            },
            Extension::PlayoutDelay => self.playout_delay.map(|_| 3)?,
            Extension::VideoOrientation => self.video_orientation.map(|_| 1)?,
            Extension::DependencyDescriptor => self.dependency_descriptor?.len(),
            Extension::VideoLayersAllocation => self.video_layers_allocation?.len(),
            Extension::TransmissionOffset => self.transmission_offset.map(|_| 3)?,
        };
        (1..=255).contains(&len).then_some(len)
    }

    /// Writes a value without its element header.
    pub(super) fn write(
        &self,
        extension: Extension,
        writer: &mut Writer<'_>,
    ) -> Result<(), BufferTooSmall> {
        match extension {
            Extension::Mid => self.mid.map_or(Ok(()), |mid| writer.put(mid.as_bytes())),
            Extension::Rid => self.rid.map_or(Ok(()), |rid| writer.put(rid.as_bytes())),
            Extension::RepairedRid => {
                self.repaired_rid.map_or(Ok(()), |rid| writer.put(rid.as_bytes()))
            }
            Extension::AudioLevel => self.audio_level.map_or(Ok(()), |audio| {
                writer.u8(audio.level.min(127) | u8::from(audio.voice) << 7)
            }),
            Extension::TransportCc => self.transport_cc.map_or(Ok(()), |seq| writer.u16(seq)),
            Extension::AbsSendTime => {
                self.abs_send_time.map_or(Ok(()), |time| writer.u24(time.bits()))
            }
            Extension::AbsCaptureTime => self.abs_capture_time.map_or(Ok(()), |time| {
                writer.u64(time.ntp.0)?;
                time.clock_offset.map_or(Ok(()), |offset| writer.u64(offset as u64))
            }),
            Extension::PlayoutDelay => self.playout_delay.map_or(Ok(()), |delay| {
                let (min, max) = (PlayoutDelay::steps(delay.min), PlayoutDelay::steps(delay.max));
                writer.u24(min << 12 | max)
            }),
            Extension::VideoOrientation => {
                self.video_orientation.map_or(Ok(()), |orientation| writer.u8(orientation.0))
            }
            Extension::DependencyDescriptor => {
                self.dependency_descriptor.map_or(Ok(()), |raw| writer.put(raw))
            }
            Extension::VideoLayersAllocation => {
                self.video_layers_allocation.map_or(Ok(()), |raw| writer.put(raw))
            }
            Extension::TransmissionOffset => {
                self.transmission_offset.map_or(Ok(()), |offset| writer.u24(offset as u32))
            }
        }
    }
}
