// The room: tiles, toolbar, side panels, and what happens while the connection comes and goes.

import {
  ConnectionState,
  DisconnectReason,
  type Participant,
  Room,
  RoomEvent,
  Track,
  type TrackPublication,
  VideoPresets,
} from 'livekit-client';

import { Chat } from './chat';
import { h, icon, show } from './dom';
import { type JoinChoice, readable } from './join';
import { Stats } from './stats';
import { Grid } from './tiles';

type Panel = 'chat' | 'people' | 'stats' | 'settings';

/** Joins and stays until the person leaves or the server ends it. Resolves with a sentence for the join screen. */
export async function meeting(app: Element, choice: JoinChoice, token: string): Promise<string> {
  const room = new Room({
    adaptiveStream: true,
    dynacast: true,
    singlePeerConnection: !choice.twoPeers,
    videoCaptureDefaults: { resolution: choice.small ? VideoPresets.h180.resolution : VideoPresets.h720.resolution },
    publishDefaults: { simulcast: choice.simulcast, ...(choice.codec ? { videoCodec: choice.codec } : {}) },
  });
  // For people with a console open, and for tests: the SDK's own object, nothing more than the page itself uses.
  (window as unknown as { chappe: { room: Room } }).chappe = { room };

  const screen = new MeetingScreen(app, room, token);
  const ended = new Promise<string>((resolve) => {
    room.on(RoomEvent.Disconnected, (reason) => resolve(goodbye(reason)));
  });
  try {
    performance.mark('chappe-join');
    await room.connect(choice.url, token, { autoSubscribe: choice.autoSubscribe });
  } catch (cause) {
    screen.close();
    void room.disconnect();
    throw cause;
  }
  screen.connected();
  await screen.publish(choice);
  const sentence = await ended;
  screen.close();
  return sentence;
}

class MeetingScreen {
  private readonly grid = new Grid();
  private readonly chat: Chat;
  private readonly stats: Stats;
  private readonly banner = h('div', { class: 'banner', role: 'status', id: 'banner' });
  private readonly bar = h('nav', { class: 'bar', 'aria-label': 'Controls' });
  private readonly side = h('aside', { class: 'side', 'aria-label': 'Side panel' });
  private readonly people = h('ul', { class: 'panel-body people', id: 'people' });
  private readonly title = h('span', { class: 'room-name' });
  private open: Panel | undefined;
  private noticeTimer: number | undefined;
  private readonly resize = new ResizeObserver(() => this.grid.arrange());
  private readonly keys = (event: KeyboardEvent) => this.key(event);

  constructor(app: Element, private readonly room: Room, token: string) {
    this.chat = new Chat(room);
    this.stats = new Stats(room, token);
    this.chat.onUnread = () => {
      if (this.open === 'chat') this.chat.unread = 0;
      this.drawBar();
    };
    show(app, h('main', { class: 'meeting' },
      h('header', { class: 'top' }, this.title, this.banner),
      h('div', { class: 'content' }, this.grid.element, this.side),
      this.bar));
    this.notice('Connecting …', false);
    this.drawBar();
    this.resize.observe(this.grid.element);
    document.addEventListener('keydown', this.keys);
    this.listen();
  }

  private listen(): void {
    const { room } = this;
    const redraw = () => this.redraw();
    for (const event of [
      RoomEvent.ParticipantConnected, RoomEvent.ParticipantDisconnected, RoomEvent.TrackSubscribed, RoomEvent.TrackUnsubscribed,
      RoomEvent.TrackPublished, RoomEvent.TrackUnpublished, RoomEvent.LocalTrackPublished, RoomEvent.LocalTrackUnpublished,
      RoomEvent.TrackMuted, RoomEvent.TrackUnmuted, RoomEvent.ParticipantNameChanged, RoomEvent.ActiveSpeakersChanged,
    ] as const) room.on(event, redraw);
    room.on(RoomEvent.TrackSubscribed, (track) => {
      if (track.kind !== Track.Kind.Audio) return;
      const element = track.attach();
      element.dataset.audio = track.sid;
      document.body.append(element);
    });
    room.on(RoomEvent.TrackUnsubscribed, (track) => track.detach().forEach((element) => element.remove()));
    room.on(RoomEvent.TrackSubscriptionFailed, (sid, participant) => {
      const source = participant.trackPublications.get(sid)?.source ?? Track.Source.Camera;
      this.grid.explain(participant, source, 'This browser cannot play the codec of this track.');
    });
    room.on(RoomEvent.ConnectionStateChanged, (state) => {
      if (state === ConnectionState.Reconnecting || state === ConnectionState.SignalReconnecting) {
        this.notice('The connection is interrupted. Reconnecting …', false);
      } else if (state === ConnectionState.Connected) this.notice('', false);
      document.body.dataset.connection = state;
    });
    room.on(RoomEvent.MediaDevicesError, (cause) => this.notice(`Device: ${readable(cause)}`, true));
    room.on(RoomEvent.AudioPlaybackStatusChanged, () => {
      if (room.canPlaybackAudio) return;
      const button = h('button', { onclick: () => void room.startAudio() }, 'Play sound');
      show(this.banner, 'The browser holds the sound back. ', button);
    });
  }

  connected(): void {
    this.title.textContent = this.room.name;
    document.title = `${this.room.name} – Chappe`;
    this.notice('', false);
    this.redraw();
  }

  /** Publishes what was chosen on the join screen; a missing device is said, not fatal. */
  async publish(choice: JoinChoice): Promise<void> {
    const local = this.room.localParticipant;
    const attempt = async (what: string, start: () => Promise<unknown>) => {
      try {
        await start();
      } catch (cause) {
        this.notice(`${what}: ${readable(cause)}`, true);
      }
    };
    if (choice.microphone) await attempt('Microphone', () => local.setMicrophoneEnabled(true));
    if (choice.camera) await attempt('Camera', () => local.setCameraEnabled(true));
    this.redraw();
  }

  private redraw(): void {
    const everyone: Participant[] = [this.room.localParticipant, ...this.room.remoteParticipants.values()];
    this.grid.update(everyone);
    this.drawBar();
    if (this.open === 'people') this.drawPeople(everyone);
  }

  private drawBar(): void {
    const local = this.room.localParticipant;
    const button = (id: string, label: string, name: string, on: boolean, action: () => unknown, badge = '') =>
      h('button', { id, class: `round${on ? '' : ' off'}`, title: label, 'aria-label': label, 'aria-pressed': on, onclick: action },
        icon(name), badge ? h('span', { class: 'badge' }, badge) : null);
    const mic = local.isMicrophoneEnabled;
    const camera = local.isCameraEnabled;
    const screen = local.isScreenShareEnabled;
    const count = this.room.remoteParticipants.size + 1;
    const panel = (id: Panel, label: string, name: string, badge = '') => {
      const element = button(`toggle-${id}`, label, name, true, () => this.toggle(id), badge);
      element.classList.toggle('open', this.open === id);
      element.setAttribute('aria-pressed', String(this.open === id));
      return element;
    };
    const focused = document.activeElement?.id;
    show(this.bar,
      button('mic', mic ? 'Turn microphone off (m)' : 'Turn microphone on (m)', mic ? 'mic' : 'micOff', mic, () => this.device('mic')),
      button('camera', camera ? 'Turn camera off (v)' : 'Turn camera on (v)', camera ? 'camera' : 'cameraOff', camera, () => this.device('camera')),
      navigator.mediaDevices && 'getDisplayMedia' in navigator.mediaDevices
        ? (() => {
            const element = button('screen', screen ? 'Stop sharing (s)' : 'Share your screen (s)', 'screen', true, () => this.device('screen'));
            element.classList.toggle('open', screen);
            return element;
          })()
        : null,
      h('span', { class: 'gap' }),
      panel('chat', 'Chat (c)', 'chat', this.chat.unread ? String(this.chat.unread) : ''),
      panel('people', 'Participants (p)', 'people', String(count)),
      panel('stats', 'Statistics', 'stats'),
      panel('settings', 'Devices', 'settings'),
      h('span', { class: 'gap' }),
      h('button', { id: 'leave', class: 'round leave', title: 'Leave', 'aria-label': 'Leave', onclick: () => void this.room.disconnect() }, icon('leave')));
    // Redrawing must not take the keyboard focus away.
    if (focused) document.getElementById(focused)?.focus();
  }

  private async device(which: 'mic' | 'camera' | 'screen'): Promise<void> {
    const local = this.room.localParticipant;
    try {
      if (which === 'mic') await local.setMicrophoneEnabled(!local.isMicrophoneEnabled);
      else if (which === 'camera') await local.setCameraEnabled(!local.isCameraEnabled);
      else await local.setScreenShareEnabled(!local.isScreenShareEnabled, { audio: true });
    } catch (cause) {
      this.notice(`${which === 'mic' ? 'Microphone' : which === 'camera' ? 'Camera' : 'Screen'}: ${readable(cause)}`, true);
    }
    this.redraw();
  }

  private toggle(panel: Panel): void {
    this.open = this.open === panel ? undefined : panel;
    this.side.parentElement?.classList.toggle('with-side', this.open !== undefined);
    if (this.open !== 'stats') this.stats.stop();
    const body = {
      chat: () => this.chat.element,
      people: () => {
        this.drawPeople([this.room.localParticipant, ...this.room.remoteParticipants.values()]);
        return this.people;
      },
      stats: () => {
        this.stats.start();
        return this.stats.element;
      },
      settings: () => this.devices(),
    };
    const titles = { chat: 'Chat', people: 'Participants', stats: 'Statistics', settings: 'Devices' };
    if (this.open) {
      show(this.side,
        h('header', {}, h('h2', {}, titles[this.open]),
          h('button', { class: 'plain', 'aria-label': 'Close', onclick: () => this.toggle(this.open!) }, icon('close'))),
        body[this.open]());
      if (this.open === 'chat') this.chat.focus();
    } else show(this.side);
    this.side.dataset.panel = this.open ?? '';
    this.drawBar();
    this.grid.arrange();
  }

  private drawPeople(everyone: Participant[]): void {
    const state = (publication: TrackPublication | undefined, name: string) =>
      icon(publication && !publication.isMuted ? name : `${name}Off`);
    show(this.people, ...everyone.map((participant) =>
      h('li', {},
        h('span', {}, participant.name || participant.identity, participant.isLocal ? ' (you)' : ''),
        h('span', { class: 'icons' },
          state(participant.getTrackPublication(Track.Source.Microphone), 'mic'),
          state(participant.getTrackPublication(Track.Source.Camera), 'camera')))));
  }

  private devices(): HTMLElement {
    const body = h('section', { class: 'panel-body devices' }, 'Looking for devices …');
    const kinds: [MediaDeviceKind, string][] = [['audioinput', 'Microphone'], ['videoinput', 'Camera'], ['audiooutput', 'Speaker']];
    void (async () => {
      const rows: HTMLElement[] = [];
      for (const [kind, label] of kinds) {
        const devices = await Room.getLocalDevices(kind, false).catch(() => []);
        if (!devices.length) continue;
        const select = h('select', { id: `device-${kind}` }, ...devices.map((device) => h('option', { value: device.deviceId }, device.label || label)));
        const active = this.room.getActiveDevice(kind);
        if (active) select.value = active;
        select.addEventListener('change', () => {
          this.room.switchActiveDevice(kind, select.value).catch((cause) => this.notice(`${label}: ${readable(cause)}`, true));
        });
        rows.push(h('label', { class: 'field' }, h('span', {}, label), select));
      }
      if (rows.length) show(body, ...rows);
      else show(body, h('p', { class: 'empty' }, 'No devices found. Allow camera and microphone in the address bar.'));
    })();
    return body;
  }

  private notice(text: string, passing: boolean): void {
    window.clearTimeout(this.noticeTimer);
    show(this.banner, text);
    this.banner.classList.toggle('shown', text !== '');
    if (passing) this.noticeTimer = window.setTimeout(() => this.notice('', false), 8000);
  }

  private key(event: KeyboardEvent): void {
    const target = event.target as HTMLElement;
    if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName)) return;
    const actions: Record<string, () => unknown> = {
      m: () => this.device('mic'),
      v: () => this.device('camera'),
      s: () => this.device('screen'),
      c: () => this.toggle('chat'),
      p: () => this.toggle('people'),
      Escape: () => this.open && this.toggle(this.open),
    };
    const action = actions[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  }

  close(): void {
    this.stats.stop();
    this.resize.disconnect();
    window.clearTimeout(this.noticeTimer);
    document.removeEventListener('keydown', this.keys);
    document.querySelectorAll('[data-audio]').forEach((element) => element.remove());
    this.grid.clear();
  }
}

/** Why the room ended, as a sentence; empty when the person left. */
function goodbye(reason: DisconnectReason | undefined): string {
  switch (reason) {
    case DisconnectReason.CLIENT_INITIATED: return '';
    case DisconnectReason.DUPLICATE_IDENTITY: return 'You joined this room somewhere else with the same name.';
    case DisconnectReason.PARTICIPANT_REMOVED: return 'You were removed from the room.';
    case DisconnectReason.ROOM_DELETED:
    case DisconnectReason.ROOM_CLOSED: return 'The room was closed.';
    case DisconnectReason.SERVER_SHUTDOWN: return 'The server was stopped.';
    case DisconnectReason.JOIN_FAILURE: return 'The media connection could not be made. A firewall may block UDP.';
    default: return 'The connection was lost. You can join again.';
  }
}
