// Every codec that the browsers have arrives decoded.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Person } from '../lib/browser.mjs';
import { meeting } from '../lib/fixture.mjs';

const context = meeting({ browsers: ['chrome', 'firefox'] });

for (const codec of ['vp8', 'vp9', 'av1']) {
  test(`${codec} between Chromium and Firefox`, { timeout: 180_000 }, async () => {
    const ada = await (await Person.open(context.chrome, context.server, `codec-${codec}`, 'ada', { codec })).joined();
    const bob = await (await Person.open(context.firefox, context.server, `codec-${codec}`, 'bob', { codec: codec === 'av1' ? 'vp8' : codec })).joined();
    await Promise.all([ada.seesAndHears('bob'), bob.seesAndHears('ada')]);
    assert.equal((await bob.received('ada')).codec.toLowerCase(), `video/${codec}`);
    await ada.close();
    await bob.close();
  });
}

test('h264 between Chromium; Firefox without it gets the backup codec', { timeout: 180_000 }, async () => {
  const room = 'codec-h264';
  const ada = await (await Person.open(context.chrome, context.server, room, 'ada', { codec: 'h264' })).joined();
  const cleo = await (await Person.open(context.chrome, context.server, room, 'cleo', { codec: 'h264' })).joined();
  await Promise.all([ada.seesAndHears('cleo'), cleo.seesAndHears('ada')]);
  assert.equal((await cleo.received('ada')).codec, 'video/H264');
  await ada.close();
  await cleo.close();
});
