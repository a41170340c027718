// The statistics panel: what each track really does, read from the browser once a second.

import { type LocalTrack, type Participant, type RemoteTrack, type Room, Track } from 'livekit-client';

import { h, show } from './dom';

interface Row {
  who: string;
  what: string;
  direction: 'sent' | 'received';
  codec: string;
  size: string;
  fps: string;
  bitrate: string;
  loss: string;
  rtt: string;
}

interface Counter {
  bytes: number;
  at: number;
}

export class Stats {
  readonly element = h('section', { class: 'panel-body stats' });
  private timer: number | undefined;
  private readonly counters = new Map<string, Counter>();

  constructor(private readonly room: Room) {}

  start(): void {
    this.stop();
    const tick = async () => {
      this.draw(await this.rows());
      this.timer = window.setTimeout(() => void tick(), 1000);
    };
    void tick();
  }

  stop(): void {
    window.clearTimeout(this.timer);
    this.timer = undefined;
  }

  private async rows(): Promise<Row[]> {
    const rows: Row[] = [];
    const everyone: Participant[] = [this.room.localParticipant, ...this.room.remoteParticipants.values()];
    for (const participant of everyone) {
      for (const publication of participant.trackPublications.values()) {
        const track = publication.track as LocalTrack | RemoteTrack | undefined;
        const report = await track?.getRTCStatsReport();
        if (!report) continue;
        rows.push(...this.read(report, participant, publication.source));
      }
    }
    return rows;
  }

  private read(report: RTCStatsReport, participant: Participant, source: Track.Source): Row[] {
    // eslint-disable-next-line @typescript-eslint/no-explicit-any -- the DOM types lag behind the statistics
    const all = new Map<string, any>();
    report.forEach((entry) => all.set(entry.id, entry));
    const rows: Row[] = [];
    for (const entry of all.values()) {
      const received = entry.type === 'inbound-rtp';
      if (!received && entry.type !== 'outbound-rtp') continue;
      const bytes: number = received ? entry.bytesReceived : entry.bytesSent;
      if (!bytes) continue;
      const remote = received ? undefined : all.get(entry.remoteId);
      const lost: number = received ? entry.packetsLost : remote?.packetsLost;
      const packets: number = received ? entry.packetsReceived : entry.packetsSent;
      const pair = [...all.values()].find((other) => other.type === 'candidate-pair' && other.nominated);
      const rtt: number | undefined = remote?.roundTripTime ?? pair?.currentRoundTripTime;
      rows.push({
        who: participant.isLocal ? 'You' : participant.name || participant.identity,
        what: entry.rid ? `${source} ${entry.rid}` : source,
        direction: received ? 'received' : 'sent',
        codec: (all.get(entry.codecId)?.mimeType ?? '').replace(/^.*\//, ''),
        size: entry.frameWidth ? `${entry.frameWidth}×${entry.frameHeight}` : '–',
        fps: entry.framesPerSecond ? String(Math.round(entry.framesPerSecond)) : '–',
        bitrate: this.rate(entry.id + participant.sid, bytes, entry.timestamp),
        loss: packets > 0 && lost !== undefined ? `${((100 * Math.max(0, lost)) / (packets + Math.max(0, lost))).toFixed(1)} %` : '–',
        rtt: rtt === undefined ? '–' : `${Math.round(rtt * 1000)} ms`,
      });
    }
    return rows;
  }

  private rate(key: string, bytes: number, at: number): string {
    const before = this.counters.get(key);
    this.counters.set(key, { bytes, at });
    if (!before || at <= before.at) return '–';
    return `${Math.max(0, Math.round((8 * (bytes - before.bytes)) / (at - before.at)))} kb/s`;
  }

  private draw(rows: Row[]): void {
    if (!rows.length) {
      show(this.element, h('p', { class: 'empty' }, 'No media yet.'));
      return;
    }
    const cell = (label: string, value: string) => h('td', { 'data-label': label }, value);
    show(this.element, h('table', {},
      h('thead', {}, h('tr', {}, ...['Track', 'Codec', 'Size', 'fps', 'Rate', 'Loss', 'RTT'].map((title) => h('th', { scope: 'col' }, title)))),
      h('tbody', {}, ...rows.map((row) => h('tr', { class: row.direction },
        h('th', { scope: 'row' }, h('b', {}, row.who), ` ${row.what.replace('_', ' ')} ${row.direction === 'sent' ? '↑' : '↓'}`),
        cell('Codec', row.codec), cell('Size', row.size), cell('fps', row.fps), cell('Rate', row.bitrate), cell('Loss', row.loss), cell('RTT', row.rtt))))));
  }
}
