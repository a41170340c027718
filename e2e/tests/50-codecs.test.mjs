// Every codec that the browsers have arrives decoded.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Person } from '../lib/browser.mjs';
import { meeting } from '../lib/fixture.mjs';

const context = meeting({ browsers: ['chrome', 'firefox'] });

test('the browsers have the codecs that the tests below need', { timeout: 60_000 }, async () => {
  for (const [kind, codecs] of [['chrome', ['VP8', 'VP9', 'AV1', 'H264']], ['firefox', ['VP8', 'VP9', 'AV1']]]) {
    const person = await Person.open(context[kind], context.server, 'codecs', kind, { camera: '0', mic: '0' });
    const missing = await person.evaluate((wanted) => wanted.filter((codec) => (
      !RTCRtpReceiver.getCapabilities('video').codecs.some((one) => one.mimeType.toLowerCase() === `video/${codec}`.toLowerCase()))), codecs);
    assert.deepEqual(missing, [], `this ${kind} is built without ${missing.join(', ')}: install the one of Debian (chromium, firefox-esr)`);
    await person.close();
  }
});

// Two Chromium and a Firefox: everybody publishes what it can encode, everybody decodes it.
for (const codec of ['vp8', 'vp9', 'av1']) {
  test(`${codec} among two Chromium and a Firefox`, { timeout: 180_000 }, async () => {
    const room = `codec-${codec}`;
    const ada = await (await Person.open(context.chrome, context.server, room, 'ada', { codec })).joined();
    const cleo = await (await Person.open(context.chrome, context.server, room, 'cleo', { codec })).joined();
    // Firefox receives AV1 but sends none through this SDK: it publishes VP8 in that room.
    const bob = await (await Person.open(context.firefox, context.server, room, 'bob', { codec: codec === 'av1' ? 'vp8' : codec })).joined();
    const people = [ada, bob, cleo];
    await Promise.all(people.flatMap((person) => people.filter((other) => other !== person).map((other) => person.seesAndHears(other.name))));
    for (const person of [bob, cleo]) assert.equal((await person.received('ada')).codec.toLowerCase(), `video/${codec}`);
    for (const person of people) await person.close();
  });
}

test('h264 between Chromium; a Firefox without it gets the backup codec or a tile that says why', { timeout: 180_000 }, async () => {
  const room = 'codec-h264';
  const ada = await (await Person.open(context.chrome, context.server, room, 'ada', { codec: 'h264' })).joined();
  const cleo = await (await Person.open(context.chrome, context.server, room, 'cleo', { codec: 'h264' })).joined();
  await Promise.all([ada.seesAndHears('cleo'), cleo.seesAndHears('ada')]);
  assert.equal((await cleo.received('ada')).codec, 'video/H264');
  const bob = await (await Person.open(context.firefox, context.server, room, 'bob', { camera: '0' })).joined();
  await bob.until("ada's picture or the reason why there is none", async () => {
    const tile = document.querySelector('[data-identity=ada]');
    if (tile?.querySelector('.hint')?.textContent.includes('cannot play')) return 'hint';
    const video = tile?.querySelector('video');
    return video && video.videoWidth > 0 ? 'picture' : false;
  });
  await bob.screenshot('h264-firefox');
  for (const person of [ada, bob, cleo]) await person.close();
});
