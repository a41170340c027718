// The control plane dies and comes back beside a living media node.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Person } from '../lib/browser.mjs';
import { meeting } from '../lib/fixture.mjs';
import { SplitServer } from '../lib/server.mjs';
import { always } from '../lib/until.mjs';

const context = meeting({ server: () => new SplitServer() });

/** Runs in the page: keeps who it is and its PeerConnections. */
function remember() {
  const { room } = window.chappe;
  window.connections = () => {
    const { publisher, subscriber } = room.engine.pcManager;
    return [publisher, subscriber].filter(Boolean).map((one) => one._pc);
  };
  window.before = { sid: room.localParticipant.sid, connections: window.connections() };
}

/** Runs in the page: whether they are the same still. */
function unchanged() {
  const { sid, connections } = window.before;
  const now = window.connections();
  return {
    participant: window.chappe.room.localParticipant.sid === sid,
    connection: now.length === connections.length && now.every((one, index) => one === connections[index]),
  };
}

for (const [label, query] of [['one PeerConnection', {}], ['two PeerConnections', { two: '1' }]]) {
  test(`media goes on without control plane, and new tracks arrive over the same ${label} after its restart`, { timeout: 180_000 }, async () => {
    const room = `split-${query.two ?? 'one'}`;
    const ada = await (await Person.open(context.chrome, context.server, room, 'ada', query)).joined();
    const bob = await (await Person.open(context.chrome, context.server, room, 'bob', { ...query, mic: '0' })).joined();
    await ada.seesAndHears('bob', { audio: false });
    await bob.seesAndHears('ada');
    for (const person of [ada, bob]) await person.evaluate(remember);

    await context.server.killControl();
    await always('frames rise without control plane', () => bob.received('ada').then((r) => r.frames), (before, now) => now > before,
      { duration: 3000, every: 500 });
    await context.server.startControl();
    for (const person of [ada, bob]) {
      await person.until(`${person.name} has resumed`, () => window.chappe.room.state === 'connected', [], 60_000);
    }

    await bob.click('#mic');
    await ada.seesAndHears('bob');
    for (const person of [ada, bob]) {
      assert.deepEqual(await person.evaluate(unchanged), { participant: true, connection: true }, person.name);
    }
    await ada.close();
    await bob.close();
  });
}
