// The control plane dies and comes back beside a living media node.

import { test } from 'node:test';

import { Person } from '../lib/browser.mjs';
import { meeting } from '../lib/fixture.mjs';
import { SplitServer } from '../lib/server.mjs';
import { always } from '../lib/until.mjs';

const context = meeting({ server: () => new SplitServer() });

test('media goes on without control plane, and new tracks arrive on the same PeerConnection after its restart', { timeout: 180_000 }, async () => {
  const ada = await (await Person.open(context.chrome, context.server, 'split', 'ada')).joined();
  const bob = await (await Person.open(context.chrome, context.server, 'split', 'bob', { mic: '0' })).joined();
  await ada.seesAndHears('bob', { audio: false });
  await bob.seesAndHears('ada');
  const sid = await bob.evaluate(() => window.chappe.room.localParticipant.sid);

  await context.server.killControl();
  await always('frames rise without control plane', () => bob.received('ada').then((r) => r.frames), (before, now) => now > before,
    { duration: 3000, every: 500 });
  await context.server.startControl();
  for (const person of [ada, bob]) {
    await person.until(`${person.name} has resumed`, () => window.chappe.room.state === 'connected', [], 60_000);
  }
  await bob.until('bob is the same participant', (before) => window.chappe.room.localParticipant.sid === before, [sid]);

  await bob.click('#mic');
  await ada.seesAndHears('bob');
  await ada.close();
  await bob.close();
});
