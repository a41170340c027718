//! The fields of a scenario. One flat list, so that `--set field=value` reaches each.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Network, ScenarioError, Span};
use crate::{measure::open_files_limit, media::VideoCodec};

/// Open files beside those of the clients: the threads' event loops, standard streams, the server's pipes.
const OTHER_FILES: u64 = 64;

/// What is run. Numbers of people are per room.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Scenario {
    /// Name in reports.
    pub(crate) name: String,
    /// One sentence for people.
    pub(crate) about: String,
    /// Length of the measured window, which opens when everybody has joined.
    pub(crate) duration: Span,
    /// Between the last join and the window.
    pub(crate) warmup: Span,
    /// Joins started in a second.
    pub(crate) join_rate: f64,
    /// Until joins come at that rate, which grows from nothing.
    pub(crate) join_ramp: Span,
    /// A client that is not connected after this long has failed.
    pub(crate) join_timeout: Span,
    /// Rooms of the same make.
    pub(crate) rooms: u32,
    /// Begin of the rooms' names; drawn at random when empty.
    pub(crate) room_prefix: String,
    /// People who send and receive.
    pub(crate) publishers: u32,
    /// People who only receive.
    pub(crate) subscribers: u32,
    /// How people who only receive are played.
    pub(crate) subscriber_mode: SubscriberMode,
    /// Publishers receive as well.
    pub(crate) publishers_subscribe: bool,
    /// Publishers send sound.
    pub(crate) audio: bool,
    /// Publishers send a camera.
    pub(crate) video: bool,
    /// What cameras send: `vp8` or `h264`.
    pub(crate) video_codec: VideoCodec,
    /// Publishers come muted: their tracks are there and nothing is sent.
    pub(crate) muted: bool,
    /// Simulcast layers of the camera, 1 to 3, from the lowest up.
    pub(crate) layers: u8,
    /// Cameras that each person sees at most; 0 is all.
    pub(crate) grid: u32,
    /// Size at which a camera is seen.
    pub(crate) view: Quality,
    /// 1 (`/rtc/v1`) or 2 (`/rtc`) PeerConnections for each client.
    pub(crate) peer_connections: u8,
    /// Clients answer with transport-wide feedback, from which servers estimate bandwidth.
    pub(crate) bandwidth_feedback: bool,
    /// So often the large view moves to the next person (0: never).
    pub(crate) switch_every: Span,
    /// Leaves and joins a second while the window is open.
    pub(crate) churn_rate: f64,
    /// Everybody loses their connection so long after the window opened (0: never).
    pub(crate) reconnect_at: Span,
    /// How they come back.
    pub(crate) reconnect: Reconnect,
    /// Publishers stop sending so long after the window opened (0: never) ...
    pub(crate) pause_at: Span,
    /// ... for this long.
    pub(crate) pause_for: Span,
    /// Data messages a second from each publisher.
    pub(crate) data_rate: f64,
    /// Bytes of a data message.
    pub(crate) data_size: u32,
    /// Data messages are repaired (`_reliable`), or not (`_lossy`).
    pub(crate) data_reliable: bool,
    /// Share of the clients whose network is bad, in percent.
    pub(crate) impaired_percent: f64,
    /// Loss toward such a client, in percent.
    pub(crate) loss_percent: f64,
    /// Loss from such a client, in percent.
    pub(crate) uplink_loss_percent: f64,
    /// Delay each way.
    pub(crate) delay: Span,
    /// Rate toward such a client in kilobits a second (0: no limit), with a queue of 300 ms.
    pub(crate) rate_kbps: u32,
    /// Bad networks beside that one, each with its share of the clients.
    pub(crate) networks: Vec<Network>,
}

/// Layers by their height.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub(crate) enum Quality {
    /// Small tiles.
    #[serde(rename = "180p")]
    Low,
    /// A grid.
    #[serde(rename = "360p")]
    Medium,
    /// One large picture.
    #[serde(rename = "720p")]
    High,
}

impl Quality {
    /// Position of the layer, from the lowest.
    pub(crate) fn layer(self) -> u8 {
        match self {
            Self::Low => 0,
            Self::Medium => 1,
            Self::High => 2,
        }
    }

    /// Pixels of a view.
    pub(crate) fn size(self) -> (u32, u32) {
        match self {
            Self::Low => (320, 180),
            Self::Medium => (640, 360),
            Self::High => (1_280, 720),
        }
    }
}

/// How clients come back after their connection was cut.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reconnect {
    /// They resume their session.
    Resume,
    /// They join anew.
    Full,
}

/// How a client that only receives is played.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SubscriberMode {
    /// A whole client.
    Full,
    /// Counts headers and decrypts a sample.
    Sink,
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            name: String::new(),
            about: String::new(),
            duration: Span(Duration::from_secs(20)),
            warmup: Span(Duration::from_secs(2)),
            join_rate: 20.0,
            join_ramp: Span::default(),
            join_timeout: Span(Duration::from_secs(15)),
            rooms: 1,
            room_prefix: String::new(),
            publishers: 2,
            subscribers: 0,
            subscriber_mode: SubscriberMode::Full,
            publishers_subscribe: true,
            audio: true,
            video: true,
            video_codec: VideoCodec::Vp8,
            muted: false,
            layers: 3,
            grid: 0,
            view: Quality::High,
            peer_connections: 1,
            bandwidth_feedback: true,
            switch_every: Span::default(),
            churn_rate: 0.0,
            reconnect_at: Span::default(),
            reconnect: Reconnect::Resume,
            pause_at: Span::default(),
            pause_for: Span(Duration::from_secs(2)),
            data_rate: 0.0,
            data_size: 200,
            data_reliable: true,
            impaired_percent: 100.0,
            loss_percent: 0.0,
            uplink_loss_percent: 0.0,
            delay: Span::default(),
            rate_kbps: 0,
            networks: Vec::new(),
        }
    }
}

impl Scenario {
    /// Clients of the whole run.
    pub(crate) fn clients(&self) -> u64 {
        u64::from(self.rooms) * (u64::from(self.publishers) + u64::from(self.subscribers))
    }

    /// Joins that are due so long after the start: half of them while the rate grows.
    pub(crate) fn joins_due(&self, elapsed: Duration) -> u64 {
        let (at, ramp) = (elapsed.as_secs_f64(), self.join_ramp.0.as_secs_f64());
        let whole = if at < ramp { at * at / (2.0 * ramp) } else { at - ramp / 2.0 };
        (self.join_rate * whole) as u64 + 1
    }

    /// How long it takes until all joins are due.
    pub(crate) fn joining(&self) -> Duration {
        let (count, ramp) =
            (self.clients() as f64 / self.join_rate, self.join_ramp.0.as_secs_f64());
        let in_ramp = ramp / 2.0;
        let seconds = if count < in_ramp { (2.0 * count * ramp).sqrt() } else { count + in_ramp };
        Duration::from_secs_f64(seconds.min(1e6))
    }

    /// Whether this process may open as many files as so many clients need. Errors are sentences.
    pub(crate) fn fits(&self, clients: u64) -> Result<(), String> {
        let needed = clients * (1 + u64::from(self.peer_connections)) + OTHER_FILES;
        match open_files_limit() {
            Some(limit) if limit < needed => Err(format!(
                "{clients} clients need {needed} open files, and the limit is {limit}: ulimit -n {needed}"
            )),
            _ => Ok(()),
        }
    }

    /// Of its networks, each way.
    pub(crate) fn longest_delay(&self) -> Duration {
        let listed = self.networks.iter().map(|network| network.delay.0);
        listed.fold(self.delay.0, Duration::max)
    }

    /// `source` names the text in errors.
    pub(crate) fn parse(
        source: &str,
        text: &str,
        overrides: &[String],
    ) -> Result<Self, ScenarioError> {
        let mut scenario: Self = serde_saphyr::from_str(text)
            .map_err(|error| ScenarioError(one_line(&format!("{source}: {error}"))))?;
        if scenario.name.is_empty() {
            let stem = std::path::Path::new(source).file_stem().unwrap_or_default();
            scenario.name = stem.to_string_lossy().into_owned();
        }
        for text in overrides {
            scenario = scenario.set(text)?;
        }
        scenario.check().map_err(|error| ScenarioError(format!("{source}: {error}")))?;
        Ok(scenario)
    }

    /// Applies one `field=value`.
    fn set(&self, text: &str) -> Result<Self, ScenarioError> {
        let fail = |error: &str| ScenarioError(format!("--set {text}: {error}"));
        let (field, value) = text.split_once('=').ok_or_else(|| fail("write field=value"))?;
        let mut fields = serde_json::to_value(self).map_err(|error| fail(&error.to_string()))?;
        let known = fields.as_object_mut().ok_or_else(|| fail("not a list of fields"))?;
        let Some(place) = known.get_mut(field.trim()) else {
            let names: Vec<_> = known.keys().map(String::as_str).collect();
            return Err(fail(&format!("no such field; there are {}", names.join(", "))));
        };
        let value = value.trim();
        *place = serde_json::from_str(value).unwrap_or_else(|_| value.into());
        serde_json::from_value(fields).map_err(|error| fail(&error.to_string()))
    }

    /// What a value of the right type can still get wrong.
    pub(crate) fn check(&self) -> Result<(), String> {
        let percent = |name: &str, value: f64| match value {
            0.0..=100.0 => Ok(()),
            _ => Err(format!("{name}: {value} is no percentage")),
        };
        percent("impaired_percent", self.impaired_percent)?;
        percent("loss_percent", self.loss_percent)?;
        percent("uplink_loss_percent", self.uplink_loss_percent)?;
        for network in &self.networks {
            percent("networks: percent", network.percent)?;
            percent("networks: loss_percent", network.loss_percent)?;
            percent("networks: uplink_loss_percent", network.uplink_loss_percent)?;
        }
        let shares: f64 = super::plan::networks(self).map(|network| network.percent).sum();
        if shares > 100.0 {
            return Err(format!("networks: shares of {shares} % of the clients are more than all"));
        }
        let positive = |name: &str, value: f64| match value {
            v if v > 0.0 && v <= 100_000.0 => Ok(()),
            _ => Err(format!("{name}: {value} is not between 0 and 100000")),
        };
        positive("join_rate", self.join_rate)?;
        for (name, rate) in [("churn_rate", self.churn_rate), ("data_rate", self.data_rate)] {
            if rate != 0.0 {
                positive(name, rate)?;
            }
        }
        if !(1..=3).contains(&self.layers) {
            return Err(format!("layers: {} is not between 1 and 3", self.layers));
        }
        if !(1..=2).contains(&self.peer_connections) {
            return Err(format!("peer_connections: {} is neither 1 nor 2", self.peer_connections));
        }
        if !(48..=60_000).contains(&self.data_size) {
            return Err(format!("data_size: {} is not between 48 and 60000", self.data_size));
        }
        if self.clients() == 0 {
            return Err("nobody takes part: rooms x (publishers + subscribers) is 0".to_owned());
        }
        if self.subscriber_mode == SubscriberMode::Sink && self.peer_connections == 2 {
            return Err("subscriber_mode sink: runs with one PeerConnection only".to_owned());
        }
        if self.duration.0 < Duration::from_secs(1) {
            return Err(format!("duration: {} is shorter than a second", self.duration));
        }
        Ok(())
    }
}

/// Errors are one line each; a quoted excerpt of the file is cut off.
fn one_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim().to_owned()
}
