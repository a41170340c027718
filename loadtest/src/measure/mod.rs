//! What is measured. Each worker writes one [`Stats`] without locks; once a second it is taken away and added to the run's.

mod host;
mod stream;
mod times;

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

pub(crate) use host::{Cores, Process, Usage, open_files_limit};
pub(crate) use stream::{Header, HeaderStream, Reported};
pub(crate) use times::Times;

/// One worker's measurements since they were last taken.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Stats {
    // Over the whole run.
    pub(crate) join: Times,
    pub(crate) first_packet: Times,
    pub(crate) first_frame: Times,
    pub(crate) reconnect: Times,
    pub(crate) failures: BTreeMap<String, u64>,
    pub(crate) lost: BTreeMap<String, u64>,
    // Inside the window.
    pub(crate) latency_video: Times,
    pub(crate) latency_audio: Times,
    pub(crate) latency_data: Times,
    pub(crate) data_round_trip: Times,
    pub(crate) jitter: Times,
    pub(crate) freezes: Times,
    pub(crate) switch: Times,
    /// How late the tester came to a datagram that the kernel had.
    pub(crate) tester_delay: Times,
    /// How late the tester sent a frame.
    pub(crate) tester_lateness: Times,
    pub(crate) count: Counters,
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Counts inside the window.
        #[derive(Clone, Debug, Default, Serialize, Deserialize)]
        #[serde(default)]
        pub(crate) struct Counters { $($(#[$doc])* pub(crate) $name: u64),* }
        impl Counters {
            fn add(&mut self, other: &Self) { $(self.$name += other.$name;)* }
            fn one_of_each() -> Self { Self { $($name: 1),* } }
        }
    };
}

counters! {
    packets_sent, bytes_sent,
    /// By layer: low, mid, high.
    layer_low_bytes_sent, layer_mid_bytes_sent, layer_high_bytes_sent,
    frames_sent,
    /// RTP packets that arrived, repair included.
    packets_received,
    /// RTP bytes that arrived, headers and repair included.
    bytes_received,
    /// Of these, behind the headers and not repair: payload with SRTP's tag.
    payload_bytes_received,
    repair_packets, audio_bytes_received,
    layer_low_bytes_received, layer_mid_bytes_received, layer_high_bytes_received,
    /// Packets of the streams by their sequence numbers.
    expected,
    /// Of these, never seen on their own stream.
    lost_before_repair,
    /// Of these, not repaired in time either.
    lost_after_repair,
    /// Frames whose send time was that of abs-capture-time.
    frames_timed_by_capture_time,
    frames_received, keyframes_received, layer_switches,
    keyframe_requests_received, keyframe_requests_sent,
    data_sent, data_received, datagrams_impaired, ice_disconnects,
    /// Sum of participants' seconds of media.
    stream_milliseconds, freeze_milliseconds,
    sink_packets_decrypted,
}

impl Stats {
    /// Everything was seen once.
    pub(crate) fn one_of_each() -> Self {
        let mut once = Times::default();
        once.record(Duration::from_millis(1));
        Self {
            join: once.clone(),
            first_packet: once.clone(),
            first_frame: once.clone(),
            reconnect: once.clone(),
            failures: BTreeMap::new(),
            lost: BTreeMap::new(),
            latency_video: once.clone(),
            latency_audio: once.clone(),
            latency_data: once.clone(),
            data_round_trip: once.clone(),
            jitter: once.clone(),
            freezes: once.clone(),
            switch: once.clone(),
            tester_delay: once.clone(),
            tester_lateness: once,
            count: Counters::one_of_each(),
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (own, other) in [
            (&mut self.join, &other.join),
            (&mut self.first_packet, &other.first_packet),
            (&mut self.first_frame, &other.first_frame),
            (&mut self.reconnect, &other.reconnect),
            (&mut self.latency_video, &other.latency_video),
            (&mut self.latency_audio, &other.latency_audio),
            (&mut self.latency_data, &other.latency_data),
            (&mut self.data_round_trip, &other.data_round_trip),
            (&mut self.jitter, &other.jitter),
            (&mut self.freezes, &other.freezes),
            (&mut self.switch, &other.switch),
            (&mut self.tester_delay, &other.tester_delay),
            (&mut self.tester_lateness, &other.tester_lateness),
        ] {
            own.add(other);
        }
        for (own, other) in [(&mut self.failures, &other.failures), (&mut self.lost, &other.lost)] {
            for (reason, count) in other {
                *own.entry(reason.clone()).or_default() += count;
            }
        }
        self.count.add(&other.count);
    }

    /// A datagram with RTP arrived, of so many bytes; the tester came to it so late.
    pub(crate) fn count_arrival(
        &mut self,
        bytes: usize,
        header: Header,
        repair: bool,
        late: Duration,
    ) {
        self.tester_delay.record(late);
        self.count.packets_received += 1;
        self.count.bytes_received += bytes as u64;
        if repair {
            self.count.repair_packets += 1;
        } else {
            self.count.payload_bytes_received += bytes.saturating_sub(header.size) as u64;
        }
    }

    /// Video and audio together: the latency that objectives are stated for.
    pub(crate) fn latency(&self) -> Times {
        let mut both = self.latency_video.clone();
        both.add(&self.latency_audio);
        both
    }
}

/// A worker's pen.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    pub(crate) stats: Stats,
    measuring: bool,
    /// Number of the window: who has counted for an older one starts anew.
    pub(crate) window: u32,
}

impl Recorder {
    /// Opens or closes the window.
    pub(crate) fn measure(&mut self, on: bool) {
        self.measuring = on;
        self.window += 1;
    }

    /// The measurements, while the window is open.
    pub(crate) fn window(&mut self) -> Option<&mut Stats> {
        self.measuring.then_some(&mut self.stats)
    }

    pub(crate) fn take(&mut self) -> Stats {
        std::mem::take(&mut self.stats)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_counted_outside_the_window() {
        let mut recorder = Recorder::default();
        assert!(recorder.window().is_none());
        recorder.measure(true);
        recorder.window().unwrap().count.expected = 3;
        recorder.measure(false);
        assert!(recorder.window().is_none());
        let mut sum = Stats::default();
        sum.add(&recorder.take());
        sum.add(&recorder.take());
        assert_eq!(sum.count.expected, 3);
    }
}
