// The screen before the room: who, where, and what the camera shows.

import { createLocalTracks, type LocalTrack } from 'livekit-client';

import { h, icon, show } from './dom';
import { missingForCalls, type ServerConfig, type Visit } from './settings';

export interface JoinChoice extends Visit {
  microphone: boolean;
  camera: boolean;
}

/** Shows the form; resolves when the person joins. `error` is shown above the button. */
export function joinScreen(app: Element, visit: Visit, config: ServerConfig, error = ''): Promise<JoinChoice> {
  return new Promise((resolve) => {
    let preview: LocalTrack | undefined;
    let camera = visit.camera;
    let microphone = visit.microphone;

    const room = field('Room', 'room', visit.room, 'for example “standup”');
    const name = field('Your name', 'name', visit.name, 'shown to the others');
    const token = config.tokens ? undefined : field('Access token', 'token', visit.token, 'from your backend');
    const video = h('div', { class: 'preview' });
    const message = h('p', { class: 'error', role: 'alert', id: 'join-error' }, error);
    const button = h('button', { class: 'primary', type: 'submit', id: 'join' }, 'Join the room');

    const toggle = (kind: 'mic' | 'camera', on: boolean) => {
      const label = kind === 'mic' ? 'Microphone' : 'Camera';
      const element = h('button', {
        type: 'button',
        class: on ? 'round' : 'round off',
        'aria-pressed': on,
        'aria-label': label,
        title: label,
        onclick: () => {
          if (kind === 'mic') microphone = !microphone;
          else camera = !camera;
          refresh();
        },
      }, icon(on ? kind : `${kind}Off`));
      return element;
    };
    const toggles = h('div', { class: 'toggles' });
    const refresh = () => {
      show(toggles, toggle('mic', microphone), toggle('camera', camera));
      void showPreview();
    };

    const stopPreview = () => {
      preview?.stop();
      preview = undefined;
    };
    const showPreview = async () => {
      if (!camera || !navigator.mediaDevices) {
        stopPreview();
        show(video, h('span', { class: 'placeholder' }, 'Camera is off'));
        return;
      }
      if (preview) return;
      try {
        const [track] = await createLocalTracks({ video: true, audio: false });
        if (!camera || !track) return track?.stop();
        preview = track;
        const element = track.attach() as HTMLVideoElement;
        element.classList.add('mirrored');
        show(video, element);
      } catch (cause) {
        show(video, h('span', { class: 'placeholder' }, `No camera: ${readable(cause)}`));
      }
    };

    const submit = (event: Event) => {
      event.preventDefault();
      const choice = {
        ...visit,
        room: room.input.value.trim(),
        name: name.input.value.trim(),
        token: token?.input.value.trim() ?? visit.token,
        microphone,
        camera,
      };
      if (config.tokens && (!choice.room || !choice.name)) {
        message.textContent = 'Please give a room and your name.';
        return;
      }
      if (!config.tokens && !choice.token) {
        message.textContent = 'This server needs an access token.';
        return;
      }
      localStorage.setItem('chappe.name', choice.name);
      stopPreview();
      resolve(choice);
    };

    const notice = missingForCalls();
    show(
      app,
      h('main', { class: 'join' },
        h('div', { class: 'card' },
          h('header', {}, brand(), h('h1', {}, 'Join a room')),
          h('div', { class: 'stage' }, video, toggles),
          h('form', { onsubmit: submit },
            ...(config.tokens ? [room.row, name.row] : [token?.row]),
            notice ? h('p', { class: 'notice' }, notice) : null,
            message,
            button)),
        config.version ? h('footer', {}, `Chappe ${config.version}`) : null),
    );
    refresh();
    (room.input.value ? (name.input.value ? button : name.input) : room.input).focus();
  });
}

export function brand(): HTMLElement {
  return h('span', { class: 'brand' }, h('img', { src: '/favicon.svg', alt: '', width: 28, height: 28 }), 'Chappe');
}

function field(label: string, id: string, value: string, placeholder: string) {
  const input = h('input', { id, name: id, value, placeholder, autocomplete: 'off', spellcheck: 'false' });
  return { input, row: h('label', { class: 'field' }, h('span', {}, label), input) };
}

/** A device error in words that say what to do. */
export function readable(cause: unknown): string {
  const name = cause instanceof Error ? cause.name : '';
  if (name === 'NotAllowedError') return 'the browser was not allowed to use it. Allow it in the address bar.';
  if (name === 'NotFoundError') return 'none was found.';
  if (name === 'NotReadableError') return 'another program is using it.';
  return cause instanceof Error ? cause.message : String(cause);
}
