// What the browser and the server count about this meeting, as numbers per track.

import { type LocalTrack, type Participant, type RemoteTrack, type Room, Track } from 'livekit-client';

/** One stream in numbers: a received track, or one encoding of a sent one. Rates in kb/s, times in ms, shares in percent. */
export interface Reading {
  key: string;
  track: string;
  participant: Participant;
  source: Track.Source;
  sent: boolean;
  /** Name of the encoding; empty without simulcast. */
  rid: string;
  codec: string;
  width: number;
  height: number;
  fps: number;
  rate: number | undefined;
  loss: number | undefined;
  rtt: number | undefined;
  jitter: number | undefined;
  /** Freezes so far and their length in seconds; undefined where the browser does not count them. */
  freezes: { count: number; seconds: number } | undefined;
  /** Share of the sound of late that was made up for what was missing. */
  concealed: number | undefined;
  /** What keeps the sender from a better picture. */
  limited: string;
  /** Rates of the last minute, oldest first. */
  history: number[];
}

/** The path in both directions. */
export interface PathReading {
  rtt: number | undefined;
  /** The browser's estimate of the way to the server, kb/s. */
  uplinkEstimate: number | undefined;
}

/** From `/page/stats`: what the server has of this participant. */
export interface ServerStats {
  score: number;
  quality: string;
  connections: {
    role: 'both' | 'uplink' | 'downlink';
    estimate: number | null;
    limit: string;
    rtt_ms: number | null;
    loss_up: number | null;
    loss_down: number | null;
    subscribed: ServerSubscription[];
  }[];
}

export interface ServerSubscription {
  track: string;
  paused: boolean;
  layer: number | null;
  temporal: number | null;
  target: number | null;
  resent: number;
}

interface Sample {
  at: number;
  bytes: number;
  packets: number;
  lost: number;
  concealed: number;
  samples: number;
}

/** Shares are of this much time, and histories as long as that, ms. */
const WINDOW = 10_000;
const HISTORY = 60;

/** Turns counters into rates from one look to the next. */
export class Readings {
  private readonly samples = new Map<string, Sample[]>();
  private readonly histories = new Map<string, number[]>();
  path: PathReading = { rtt: undefined, uplinkEstimate: undefined };

  async read(room: Room): Promise<Reading[]> {
    const readings: Reading[] = [];
    const everyone: Participant[] = [room.localParticipant, ...room.remoteParticipants.values()];
    for (const participant of everyone) {
      for (const publication of participant.trackPublications.values()) {
        const track = publication.track as LocalTrack | RemoteTrack | undefined;
        const report = await track?.getRTCStatsReport().catch(() => undefined);
        if (report) readings.push(...this.ofTrack(report, participant, publication.source, publication.trackSid));
      }
    }
    const keys = new Set(readings.map((reading) => reading.key));
    for (const known of [this.samples, this.histories]) {
      for (const key of known.keys()) if (!keys.has(key)) known.delete(key);
    }
    return readings;
  }

  private ofTrack(report: RTCStatsReport, participant: Participant, source: Track.Source, track: string): Reading[] {
    // eslint-disable-next-line @typescript-eslint/no-explicit-any -- the DOM types lag behind the statistics
    const all = new Map<string, any>();
    report.forEach((entry) => all.set(entry.id, entry));
    const entries = [...all.values()];
    const pair = entries.find((entry) => entry.type === 'candidate-pair' && entry.nominated && entry.currentRoundTripTime !== undefined);
    if (pair) {
      this.path = {
        rtt: pair.currentRoundTripTime * 1000,
        uplinkEstimate: pair.availableOutgoingBitrate === undefined ? this.path.uplinkEstimate : pair.availableOutgoingBitrate / 1000,
      };
    }
    const streams = entries.filter((entry) => entry.type === 'inbound-rtp' || entry.type === 'outbound-rtp');
    return streams.filter((entry) => entry.bytesReceived || entry.bytesSent).map((entry): Reading => {
      const sent = entry.type === 'outbound-rtp';
      const remote = sent ? all.get(entry.remoteId) ?? entries.find((other) => other.localId === entry.id) : undefined;
      const key = `${track}/${entry.id}`;
      const now: Sample = {
        at: entry.timestamp,
        bytes: sent ? entry.bytesSent : entry.bytesReceived,
        packets: sent ? entry.packetsSent : entry.packetsReceived,
        lost: (sent ? remote?.packetsLost : entry.packetsLost) ?? 0,
        concealed: (entry.concealedSamples ?? 0) - (entry.silentConcealedSamples ?? 0),
        samples: entry.totalSamplesReceived ?? 0,
      };
      const { rate, first } = this.since(key, now);
      const packets = now.packets - first.packets;
      const lost = Math.max(0, now.lost - first.lost);
      const samples = now.samples - first.samples;
      return {
        key, track, participant, source, sent, rate,
        rid: entry.rid ?? '',
        codec: (all.get(entry.codecId)?.mimeType ?? '').replace(/^.*\//, ''),
        width: entry.frameWidth ?? 0,
        height: entry.frameHeight ?? 0,
        fps: entry.framesPerSecond ?? 0,
        // What is sent is lost behind the numbers of packets: the receiver's report lags.
        loss: packets > 0 ? (100 * lost) / (sent ? Math.max(packets, lost) : packets + lost) : undefined,
        rtt: remote?.roundTripTime === undefined ? undefined : remote.roundTripTime * 1000,
        jitter: (sent ? remote?.jitter : entry.jitter) === undefined ? undefined : (sent ? remote.jitter : entry.jitter) * 1000,
        freezes: entry.freezeCount === undefined ? undefined : { count: entry.freezeCount, seconds: entry.totalFreezesDuration ?? 0 },
        concealed: samples > 0 ? (100 * Math.max(0, now.concealed - first.concealed)) / samples : undefined,
        limited: entry.qualityLimitationReason ?? '',
        history: this.histories.get(key) ?? [],
      };
    });
  }

  private since(key: string, now: Sample): { rate: number | undefined; first: Sample } {
    const samples = this.samples.get(key) ?? [];
    const before = samples.at(-1);
    if (!before || now.at > before.at) samples.push(now);
    while (samples.length > 2 && now.at - samples[0]!.at > WINDOW) samples.shift();
    this.samples.set(key, samples);
    const history = this.histories.get(key) ?? [];
    let rate = history.at(-1);
    if (before && now.at > before.at) {
      rate = Math.max(0, (8 * (now.bytes - before.bytes)) / (now.at - before.at));
      history.push(rate);
      if (history.length > HISTORY) history.shift();
    }
    this.histories.set(key, history);
    return { rate, first: samples[0]! };
  }
}

/** What the server says, or nothing: the page can be served by something else, and tokens end. */
export async function serverStats(room: Room, token: string): Promise<ServerStats | undefined> {
  // The SDK keeps the token fresh, and has no public name for it.
  const fresh = (room as unknown as { engine?: { token?: string } }).engine?.token ?? token;
  try {
    const headers = { authorization: `Bearer ${fresh}` };
    // A server that does not answer must not keep the page from its own readings.
    const response = await fetch('/page/stats', { headers, signal: AbortSignal.timeout(2000) });
    return response.ok ? ((await response.json()) as ServerStats) : undefined;
  } catch {
    return undefined;
  }
}
