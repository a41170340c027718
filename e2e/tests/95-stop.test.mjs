// SIGTERM: clients are told, sockets drain, the exit code is 0; and people are back when the server is.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Person } from '../lib/browser.mjs';
import { meeting } from '../lib/fixture.mjs';
import { SplitServer } from '../lib/server.mjs';
import { until } from '../lib/until.mjs';

/** Longest time a graceful stop may take, ms. */
const STOP_WITHIN = 15_000;

/** Waits until sound of `identity` has energy. */
async function hears(person, identity) {
  let first;
  await until(`${person.name} hears ${identity}`, async () => {
    const { energy } = await person.received(identity);
    first ??= energy;
    return energy > first;
  }, { timeout: 40_000 });
}

for (const [label, server] of [['one process', undefined], ['two processes', () => new SplitServer()]]) {
  const context = meeting(server ? { server } : {});

  test(`a server that is stopped says so to its rooms and ends well: ${label}`, { timeout: 180_000 }, async () => {
    const ada = await (await Person.open(context.chrome, context.server, 'stop', 'ada')).joined();
    // One camera only: the SDK opens cameras anew when it joins again, and Chromium's one fake camera, let go and opened by two
    // pages at the same moment, may stay black in both.
    const bob = await (await Person.open(context.chrome, context.server, 'stop', 'bob', { camera: '0' })).joined();
    await Promise.all([hears(ada, 'bob'), bob.seesAndHears('ada')]);

    const began = performance.now();
    const code = await context.server.stop();
    const took = performance.now() - began;
    assert.equal(code, 0, context.server.log.slice(-2000));
    assert.ok(took < STOP_WITHIN, `${Math.round(took)} ms`);
    for (const person of [ada, bob]) {
      await person.until(`${person.name} reads what happens`, () => document.querySelector('#banner.shown')?.textContent.includes('Reconnecting')
        || document.querySelector('#join-error')?.textContent);
    }
    await ada.screenshot(`stopped-${label.replace(' ', '-')}`);

    await context.server.start();
    for (const person of [ada, bob]) await person.joined(60_000);
    await Promise.all([hears(ada, 'bob'), bob.seesAndHears('ada')]);
    await ada.until('the banner is gone', () => !document.querySelector('#banner.shown'));
    await ada.close();
    await bob.close();
  });
}
