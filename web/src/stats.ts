// The statistics panel: the connection and each track, read once a second while it is open.

import { ConnectionQuality, type Room, Track } from 'livekit-client';

import { h, icon, show } from './dom';
import { type Reading, Readings, type ServerStats, type ServerSubscription, serverStats } from './readings';

export class Stats {
  readonly element = h('section', { class: 'panel-body stats' });
  private timer: number | undefined;
  private readings = new Readings();
  /** Rates of the last minute, kb/s: to us and from us. */
  private readonly totals = { down: [] as number[], up: [] as number[] };
  /** Counts starts: an older round under way draws nothing. */
  private round = 0;

  constructor(private readonly room: Room, private readonly token: string) {}

  start(): void {
    this.stop();
    const round = ++this.round;
    const tick = async () => {
      const [readings, server] = await Promise.all([this.readings.read(this.room), serverStats(this.room, this.token)]);
      if (round !== this.round) return;
      this.draw(readings, server);
      this.timer = window.setTimeout(() => void tick(), 1000);
    };
    void tick();
  }

  stop(): void {
    this.round++;
    window.clearTimeout(this.timer);
    this.timer = undefined;
  }

  private draw(readings: Reading[], server: ServerStats | undefined): void {
    const sum = (sent: boolean) => readings.filter((one) => one.sent === sent).reduce((total, one) => total + (one.rate ?? 0), 0);
    for (const [history, rate] of [[this.totals.down, sum(false)], [this.totals.up, sum(true)]] as const) {
      history.push(rate);
      if (history.length > 60) history.shift();
    }
    const subscribed = new Map(server?.connections.flatMap((one) => one.subscribed).map((one) => [one.track, one]));
    const tracks = new Map<string, Reading[]>();
    for (const reading of readings) tracks.set(reading.track, [...(tracks.get(reading.track) ?? []), reading]);
    // Scrolling survives: the section stays, its children are replaced.
    const { scrollTop } = this.element;
    show(this.element, this.connection(readings, server),
      ...[...tracks.values()].map((streams) => trackCard(streams, subscribed.get(streams[0]!.track))),
      readings.length ? null : h('p', { class: 'empty' }, 'No media yet.'));
    this.element.scrollTop = scrollTop;
  }

  private connection(readings: Reading[], server: ServerStats | undefined): HTMLElement {
    const quality = this.room.localParticipant.connectionQuality;
    const down = server?.connections.find((one) => one.role !== 'uplink');
    const up = server?.connections.find((one) => one.role !== 'downlink');
    const { rtt, uplinkEstimate } = this.readings.path;
    const limited = readings.find((one) => one.sent && one.limited && one.limited !== 'none')?.limited;
    return h('article', { class: 'card-stats connection', 'data-quality': quality },
      h('header', {},
        h('span', { class: 'quality large', 'data-quality': quality, 'aria-hidden': 'true' }, h('i'), h('i'), h('i')),
        h('b', {}, WORDS[quality] ?? 'Measuring …'),
        server?.score ? h('span', { class: 'chip', title: 'Mean opinion score, 1 to 4.4' }, `score ${server.score.toFixed(1)}`) : null),
      h('div', { class: 'ways' },
        way('To you', '↓', this.totals.down, down?.estimate ? down.estimate / 1000 : undefined, LIMITS[down?.limit ?? ''] ?? '', 'downlink'),
        way('From you', '↑', this.totals.up, uplinkEstimate, limited ? `held by ${limited}` : '', 'uplink')),
      h('dl', { class: 'figures' },
        figure('rtt', 'Round trip', millis(rtt ?? down?.rtt_ms ?? undefined)),
        figure('loss-down', 'Loss ↓', percent(down?.loss_down ?? undefined)),
        figure('loss-up', 'Loss ↑', percent(up?.loss_up ?? undefined))));
  }
}

const WORDS: Partial<Record<ConnectionQuality, string>> = {
  [ConnectionQuality.Excellent]: 'Excellent connection',
  [ConnectionQuality.Good]: 'Good connection',
  [ConnectionQuality.Poor]: 'Poor connection',
  [ConnectionQuality.Lost]: 'Connection lost',
};

/** What the server says holds its estimate. */
const LIMITS: Record<string, string> = {
  start: 'not tried yet', delay: 'held by delay', loss: 'held by loss', client: 'as this browser says',
  silence: 'no feedback', configured: 'as configured',
};

const SOURCES: Partial<Record<Track.Source, [string, string]>> = {
  [Track.Source.Camera]: ['camera', 'Camera'],
  [Track.Source.Microphone]: ['mic', 'Microphone'],
  [Track.Source.ScreenShare]: ['screen', 'Screen'],
  [Track.Source.ScreenShareAudio]: ['screen', 'Sound of the screen'],
};

/** One direction: what flows, out of what is thought to fit. */
function way(title: string, arrow: string, history: number[], estimate: number | undefined, why: string, name: string): HTMLElement {
  return h('div', { class: 'way', 'data-way': name },
    h('span', { class: 'title' }, `${title} ${arrow}`),
    h('span', { class: 'rate' }, rate(history.at(-1)),
      estimate === undefined ? null : h('small', { 'data-figure': 'estimate' }, ` of ${rate(estimate)}`)),
    spark(history, estimate),
    h('small', { class: 'why' }, why || '\u00a0'));
}

function trackCard(streams: Reading[], server: ServerSubscription | undefined): HTMLElement {
  const [first] = streams;
  const { participant, source, sent, codec } = first!;
  const [symbol, name] = SOURCES[source] ?? ['stats', source];
  const who = participant.isLocal ? 'You' : participant.name || participant.identity;
  const video = streams.some((one) => one.width > 0);
  return h('article', {
    class: 'card-stats track', 'data-identity': participant.identity, 'data-source': source, 'data-direction': sent ? 'sent' : 'received',
  },
  h('header', {},
    icon(symbol), h('b', {}, who), h('span', { class: 'what' }, `${name} ${sent ? '↑' : '↓'}`),
    h('span', { class: 'chips' },
      codec ? h('span', { class: 'chip', 'data-figure': 'codec' }, codec) : null,
      video && server ? layerChip(server) : null)),
  ...streams.map((one) => stream(one, video, streams.length > 1)),
  spark(sumOf(streams), undefined));
}

/** The layer that the server gives. */
function layerChip(server: ServerSubscription): HTMLElement {
  if (server.paused) return h('span', { class: 'chip bad', 'data-figure': 'layer', title: 'There is no room for this picture' }, 'paused');
  if (server.layer === null) return h('span', { class: 'chip', 'data-figure': 'layer', title: 'Nothing passes now' }, 'no layer');
  const turning = server.target !== null && server.target < server.layer ? ` → ${server.target}` : '';
  const temporal = server.temporal === null ? '' : ` T${server.temporal}`;
  return h('span', { class: 'chip', 'data-figure': 'layer', title: `Spatial layer ${server.layer}, temporal layer ${server.temporal ?? 0}; 0 is the lowest` },
    `S${server.layer}${turning}${temporal}`);
}

/** The figures of one stream. */
function stream(one: Reading, video: boolean, several: boolean): HTMLElement {
  const frozen = one.freezes && (one.freezes.count ? `${one.freezes.count} · ${one.freezes.seconds.toFixed(1)} s` : 'none');
  return h('dl', { class: 'figures', 'data-rid': one.rid },
    several ? figure('rid', 'Layer', one.rid || '–') : null,
    video ? figure('size', 'Size', one.width ? `${one.width}×${one.height}` : '–') : null,
    video ? figure('fps', 'Pictures', one.width ? `${Math.round(one.fps)} fps` : '–') : null,
    figure('rate', 'Rate', rate(one.rate)),
    several ? null : figure('loss', 'Loss', percent(one.loss), (one.loss ?? 0) >= 2),
    several ? null : figure('jitter', 'Jitter', millis(one.jitter)),
    one.sent && !several ? figure('rtt', 'Round trip', millis(one.rtt)) : null,
    !one.sent && video ? figure('freezes', 'Freezes', frozen ?? '–', (one.freezes?.count ?? 0) > 0) : null,
    !one.sent && !video ? figure('concealed', 'Made up', percent(one.concealed), (one.concealed ?? 0) >= 2) : null);
}

function figure(name: string, title: string, value: string, bad = false): HTMLElement {
  return h('div', { class: bad ? 'bad' : undefined }, h('dt', {}, title), h('dd', { 'data-figure': name }, value));
}

function sumOf(streams: Reading[]): number[] {
  const longest = Math.max(...streams.map((one) => one.history.length));
  return Array.from({ length: longest }, (_, at) =>
    streams.reduce((sum, one) => sum + (one.history[one.history.length - longest + at] ?? 0), 0));
}

/** A minute of rates as a line over a filled area; `bound` is a dashed line. */
function spark(values: number[], bound: number | undefined): Element {
  const width = 240;
  const height = 34;
  const top = Math.max(1, ...values, Math.min(bound ?? 0, 2 * Math.max(1, ...values))) * 1.08;
  const x = (index: number) => width - (values.length - 1 - index) * (width / 59);
  const y = (value: number) => height - (value / top) * (height - 2) - 1;
  const points = values.map((value, index) => `${x(index).toFixed(1)},${y(value).toFixed(1)}`);
  const namespace = 'http://www.w3.org/2000/svg';
  const svg = document.createElementNS(namespace, 'svg');
  svg.setAttribute('class', 'spark');
  svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
  svg.setAttribute('preserveAspectRatio', 'none');
  svg.setAttribute('aria-hidden', 'true');
  const path = (kind: string, d: string) => {
    const element = document.createElementNS(namespace, 'path');
    element.setAttribute('class', kind);
    element.setAttribute('d', d);
    svg.append(element);
  };
  if (points.length > 1) {
    path('area', `M${x(0).toFixed(1)},${height} L${points.join(' L')} L${width},${height} Z`);
    path('line', `M${points.join(' L')}`);
  }
  if (bound !== undefined && bound <= top) path('bound', `M0,${y(bound).toFixed(1)} H${width}`);
  return svg;
}

function rate(kbps: number | undefined): string {
  if (kbps === undefined) return '–';
  return kbps >= 1000 ? `${(kbps / 1000).toFixed(kbps >= 10_000 ? 0 : 1)} Mb/s` : `${Math.round(kbps)} kb/s`;
}

function percent(share: number | undefined): string {
  return share === undefined ? '–' : `${share.toFixed(1)} %`;
}

function millis(time: number | undefined): string {
  return time === undefined ? '–' : `${time < 10 ? time.toFixed(1) : Math.round(time)} ms`;
}
