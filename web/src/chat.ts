// Chat over the room's data channels (the SDK's text streams).

import type { Room } from 'livekit-client';

import { h, icon } from './dom';

const TOPIC = 'lk.chat';

export class Chat {
  readonly element: HTMLElement;
  private readonly list = h('ol', { class: 'messages', 'aria-live': 'polite' });
  private readonly input = h('input', { id: 'chat-input', placeholder: 'Write to everyone', autocomplete: 'off', maxlength: 2000 });
  unread = 0;
  onUnread: () => void = () => {};

  constructor(private readonly room: Room) {
    this.element = h('section', { class: 'panel-body chat' }, this.list,
      h('form', { class: 'chat-form', onsubmit: (event: Event) => void this.send(event) }, this.input,
        h('button', { class: 'round primary', type: 'submit', 'aria-label': 'Send' }, icon('send'))));
    room.registerTextStreamHandler(TOPIC, async (reader, sender) => {
      const text = await reader.readAll();
      const participant = room.remoteParticipants.get(sender.identity);
      this.add(participant?.name || sender.identity, text, false);
    });
  }

  private async send(event: Event): Promise<void> {
    event.preventDefault();
    const text = this.input.value.trim();
    if (!text) return;
    this.input.value = '';
    try {
      await this.room.localParticipant.sendText(text, { topic: TOPIC });
      this.add('You', text, true);
    } catch (cause) {
      this.input.value = text;
      this.add('Not sent', cause instanceof Error ? cause.message : String(cause), true);
    }
  }

  private add(author: string, text: string, own: boolean): void {
    const time = new Date().toLocaleTimeString([], { hour: '2-digit', minute: '2-digit' });
    this.list.append(h('li', { class: own ? 'own' : '' }, h('span', { class: 'author' }, `${author} · ${time}`), h('p', {}, text)));
    while (this.list.children.length > 500) this.list.firstChild?.remove();
    this.list.scrollTop = this.list.scrollHeight;
    if (!own) {
      this.unread += 1;
      this.onUnread();
    }
  }

  focus(): void {
    this.unread = 0;
    this.onUnread();
    this.input.focus();
  }
}
