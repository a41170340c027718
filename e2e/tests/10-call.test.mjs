// Two Chromium talk to each other, with one PeerConnection and with two.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Person } from '../lib/browser.mjs';
import { meeting } from '../lib/fixture.mjs';

const context = meeting();

for (const [label, query] of [['one PeerConnection', {}], ['two PeerConnections', { two: '1' }]]) {
  test(`two Chromium see and hear each other over ${label}`, { timeout: 120_000 }, async () => {
    const room = `call-${query.two ?? 'one'}`;
    const ada = await Person.open(context.chrome, context.server, room, 'ada', query);
    await ada.joined();
    const bob = await Person.open(context.chrome, context.server, room, 'bob', query);
    await bob.joined();
    await Promise.all([ada.seesAndHears('bob'), bob.seesAndHears('ada')]);
    const codec = (await ada.received('bob')).codec;
    assert.equal(codec, 'video/VP8');
    await ada.screenshot(`call-${query.two ? 'two' : 'one'}`);

    // A person who leaves by the button is gone for the others at once.
    await bob.click('#leave');
    await ada.until('bob is gone', () => window.chappe.room.remoteParticipants.size === 0);
    await ada.close();
    await bob.close();
  });
}
