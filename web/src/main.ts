// The meeting page: join screen, room, and back.

import { ConnectionError, ConnectionErrorReason } from 'livekit-client';

import { h, show } from './dom';
import { joinScreen } from './join';
import { meeting } from './meeting';
import { readServerConfig, readVisit, tokenFor } from './settings';

import './style.css';

/** What went wrong while joining, as a sentence that says what to do. */
function joinError(cause: unknown): string {
  if (cause instanceof ConnectionError) {
    const said = cause.message.replace(/^.*?: /, '');
    switch (cause.reason) {
      case ConnectionErrorReason.NotAllowed: return `The server did not accept the access token: ${said}`;
      case ConnectionErrorReason.ServerUnreachable: return `The server does not answer: ${said}`;
      case ConnectionErrorReason.ServiceNotFound: return `There is no such room or server: ${said}`;
      case ConnectionErrorReason.Timeout: return 'The connection took too long. A firewall may block the media ports.';
      default: return said;
    }
  }
  return cause instanceof Error ? cause.message : String(cause);
}

async function run(): Promise<void> {
  const app = document.getElementById('app')!;
  const { join, ...visit } = readVisit();
  const config = await readServerConfig();
  let error = '';
  let straightIn = join;
  let current = visit;
  for (;;) {
    const choice = straightIn ? current : await joinScreen(app, current, config, error);
    straightIn = false;
    current = choice;
    error = '';
    try {
      show(app, h('p', { class: 'waiting' }, 'Joining …'));
      error = await meeting(app, choice, await tokenFor(choice, config));
    } catch (cause) {
      error = joinError(cause);
    }
    document.title = 'Chappe';
  }
}

void run();
