// The grid: a tile for each participant, and one for each shared screen.

import { ConnectionQuality, type Participant, ParticipantEvent, type RemoteTrackPublication, Track, type TrackPublication } from 'livekit-client';

import { h, icon, show } from './dom';

/** Between tiles, pixels; style.css has the same. */
const GAP = 10;
/** Of the longer side: what people get beside or below a stage. */
const STRIP = 0.24;
/** Width to height of the widest tile and of the tallest: what is cut off of a 16:9 picture stays small. */
const WIDEST = 16 / 9;
const TALLEST = 3 / 4;

/** Tiles keyed by participant and source; grows and shrinks with the room. */
export class Grid {
  readonly element = h('section', { class: 'grid', 'aria-label': 'Participants' });
  private readonly tiles = new Map<string, Tile>();

  /** Shows what `participants` publish now. */
  update(participants: Participant[]): void {
    const wanted = new Map<string, [Participant, Track.Source]>();
    for (const participant of participants) {
      const screen = participant.getTrackPublication(Track.Source.ScreenShare);
      if (screen && !screen.isMuted) wanted.set(`${participant.sid}/screen`, [participant, Track.Source.ScreenShare]);
      wanted.set(`${participant.sid}/camera`, [participant, Track.Source.Camera]);
    }
    for (const [key, tile] of this.tiles) {
      if (wanted.has(key)) continue;
      tile.remove();
      this.tiles.delete(key);
    }
    for (const [key, [participant, source]] of wanted) {
      let tile = this.tiles.get(key);
      if (!tile) {
        tile = new Tile(participant, source);
        this.tiles.set(key, tile);
      }
      tile.update();
    }
    // Screens first, then people in the order given.
    const ordered = [...wanted.keys()].sort((a, b) => Number(b.endsWith('/screen')) - Number(a.endsWith('/screen')));
    const elements = ordered.map((key) => this.tiles.get(key)!.element);
    if (elements.some((element, index) => this.element.children[index] !== element) || this.element.children.length !== elements.length) {
      this.element.replaceChildren(...elements);
    }
    // The first screen is what everybody looks at; alone it fills the grid anyway.
    this.element.classList.toggle('with-stage', elements.length > 1 && ordered[0]?.endsWith('/screen') === true);
    this.arrange();
  }

  /** Says on the tile why a picture cannot be shown. */
  explain(participant: Participant, source: Track.Source, text: string): void {
    const tile = this.tiles.get(`${participant.sid}/${source === Track.Source.ScreenShare ? 'screen' : 'camera'}`);
    tile?.explain(text);
  }

  /** Chooses the number of columns that makes tiles largest, and their size: no wider than 16:9, no taller than 3:4. */
  arrange(): void {
    const staged = this.element.classList.contains('with-stage');
    const count = this.element.children.length - Number(staged);
    // Whole pixels, and none more than there are: a row that is too wide by a fraction breaks.
    const { width: exactWidth, height: exactHeight } = this.element.getBoundingClientRect();
    const [fullWidth, fullHeight] = [Math.floor(exactWidth), Math.floor(exactHeight)];
    if (count < 1 || !fullWidth || !fullHeight) return;
    // Beside the stage where there is more width, below it otherwise: style.css gives the stage the rest.
    const beside = fullWidth > fullHeight;
    const width = staged && beside ? fullWidth * STRIP : fullWidth;
    const height = staged && !beside ? fullHeight * STRIP : fullHeight;
    let best = { width: 0, height: 0, columns: 1 };
    for (let columns = 1; columns <= count; columns++) {
      const rows = Math.ceil(count / columns);
      const cell = { width: (width - (columns - 1) * GAP) / columns, height: (height - (rows - 1) * GAP) / rows };
      const tile = { width: Math.min(cell.width, cell.height * WIDEST), height: Math.min(cell.height, cell.width / TALLEST), columns };
      if (tile.width * tile.height > best.width * best.height) best = tile;
    }
    const { style, classList } = this.element;
    classList.toggle('beside', staged && beside);
    style.setProperty('--tile-width', `${Math.floor(best.width)}px`);
    style.setProperty('--tile-height', `${Math.floor(best.height)}px`);
    style.setProperty('--strip', `${Math.ceil(beside ? best.columns * (best.width + GAP) : Math.ceil(count / best.columns) * (best.height + GAP))}px`);
  }

  clear(): void {
    for (const tile of this.tiles.values()) tile.remove();
    this.tiles.clear();
  }
}

class Tile {
  readonly element: HTMLElement;
  private readonly media = h('div', { class: 'media' });
  private readonly label = h('span', { class: 'name' });
  private readonly mark = h('span', { class: 'mark' });
  private readonly quality = h('span', { class: 'quality', role: 'img' }, h('i'), h('i'), h('i'));
  private attached: Track | undefined;
  private hint = '';
  private readonly refresh = () => this.update();

  constructor(private readonly participant: Participant, private readonly source: Track.Source) {
    this.element = h('article', { class: 'tile', tabindex: 0 }, this.media,
      h('div', { class: 'caption' }, this.mark, this.label, this.quality));
    this.element.dataset.identity = participant.identity;
    this.element.dataset.source = source;
    participant.on(ParticipantEvent.IsSpeakingChanged, this.refresh);
    participant.on(ParticipantEvent.ConnectionQualityChanged, this.refresh);
  }

  explain(text: string): void {
    this.hint = text;
    this.update();
  }

  update(): void {
    const { participant, source } = this;
    const publication = participant.getTrackPublication(source);
    const microphone = participant.getTrackPublication(Track.Source.Microphone);
    const name = participant.name || participant.identity || 'Guest';
    const screen = source === Track.Source.ScreenShare;
    this.label.textContent = screen ? `${name} is sharing` : participant.isLocal ? `${name} (you)` : name;
    this.element.setAttribute('aria-label', this.label.textContent);
    const silent = !microphone || microphone.isMuted;
    show(this.mark, screen ? icon('screen') : silent ? icon('micOff') : null);
    this.mark.title = silent ? 'Microphone is off' : '';
    this.element.classList.toggle('muted', silent && !screen);
    this.element.classList.toggle('speaking', participant.isSpeaking && !screen);
    this.showQuality(screen ? ConnectionQuality.Unknown : participant.connectionQuality);
    this.showMedia(publication, name);
  }

  /** Bars for the participant's connection; none before the server said something. */
  private showQuality(quality: ConnectionQuality): void {
    const known = QUALITIES[quality];
    this.quality.hidden = !known;
    this.quality.dataset.quality = quality;
    this.quality.title = known ?? '';
    this.quality.setAttribute('aria-label', known ?? '');
  }

  private showMedia(publication: TrackPublication | undefined, name: string): void {
    const track = publication && !publication.isMuted ? publication.videoTrack : undefined;
    const failed = (publication as RemoteTrackPublication | undefined)?.subscriptionStatus === 'desired' ? 'loading' : '';
    this.element.dataset.state = track ? 'video' : failed || 'off';
    if (track === this.attached && this.media.firstChild) {
      // The track may live on while what is written in the placeholder changes.
      if (!track) this.placeholder(name);
      return;
    }
    this.attached?.detach().forEach((element) => element.remove());
    this.attached = track;
    if (!track) {
      this.placeholder(name);
      return;
    }
    this.hint = '';
    const video = track.attach() as HTMLVideoElement;
    video.classList.toggle('mirrored', this.participant.isLocal && this.source === Track.Source.Camera);
    show(this.media, video);
  }

  private placeholder(name: string): void {
    const initials = name.split(/\s+/).map((word) => word[0] ?? '').join('').slice(0, 2).toUpperCase();
    show(this.media, h('span', { class: 'avatar', style: `--hue:${hue(name)}` }, initials),
      this.hint ? h('span', { class: 'hint' }, this.hint) : null);
  }

  remove(): void {
    this.participant.off(ParticipantEvent.IsSpeakingChanged, this.refresh);
    this.participant.off(ParticipantEvent.ConnectionQualityChanged, this.refresh);
    this.attached?.detach().forEach((element) => element.remove());
    this.element.remove();
  }
}

/** What the bars say in words. */
const QUALITIES: Partial<Record<ConnectionQuality, string>> = {
  [ConnectionQuality.Excellent]: 'Excellent connection',
  [ConnectionQuality.Good]: 'Good connection',
  [ConnectionQuality.Poor]: 'Poor connection',
  [ConnectionQuality.Lost]: 'Connection lost',
};

/** A steady colour for a name. */
function hue(name: string): number {
  let sum = 0;
  for (const char of name) sum = (sum * 31 + char.codePointAt(0)!) % 360;
  return sum;
}
