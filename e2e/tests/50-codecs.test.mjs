// Every codec that the browsers have arrives decoded.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { launch, Person } from '../lib/browser.mjs';
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

test('who decodes neither vp9 nor av1 gets pictures in the backup codec, and the others keep the first', { timeout: 180_000 }, async (t) => {
  const without = { 'media.peerconnection.video.vp9_enabled': false, 'media.webrtc.codec.video.av1.enabled': false };
  const firefox = await launch('firefox', context.server.url, without);
  t.after(() => firefox.close().catch(() => {}));
  const publishers = { ada: 'vp9', dora: 'av1' };
  const [ada, dora, cleo, bob] = await Promise.all([
    Person.open(context.chrome, context.server, 'backup', 'ada', { codec: publishers.ada }),
    Person.open(context.chrome, context.server, 'backup', 'dora', { codec: publishers.dora }),
    Person.open(context.chrome, context.server, 'backup', 'cleo', { camera: '0', mic: '0' }),
    Person.open(firefox, context.server, 'backup', 'bob', { camera: '0', mic: '0' }),
  ].map(async (opening) => (await opening).joined()));
  const decodes = await bob.evaluate(() => RTCRtpReceiver.getCapabilities('video').codecs.map((one) => one.mimeType.toLowerCase()));
  for (const codec of Object.values(publishers)) assert.ok(!decodes.includes(`video/${codec}`), `this Firefox decodes ${codec} after all: ${decodes}`);
  await Promise.all(Object.keys(publishers).flatMap((name) => [bob.seesAndHears(name), cleo.seesAndHears(name)]));
  for (const name of Object.keys(publishers)) assert.equal((await bob.received(name)).codec, 'video/VP8', name);
  await bob.screenshot('backup');
  // The backup was there before: the first codec still flows beside it.
  for (const [name, codec] of Object.entries(publishers)) {
    await cleo.seesAndHears(name);
    assert.equal((await cleo.received(name)).codec.toLowerCase(), `video/${codec}`);
  }
  for (const person of [ada, dora, bob, cleo]) await person.close();
});

test('h264 between Chromium; a Firefox without it gets the picture in the backup codec', { timeout: 180_000 }, async () => {
  const room = 'codec-h264';
  const ada = await (await Person.open(context.chrome, context.server, room, 'ada', { codec: 'h264' })).joined();
  const cleo = await (await Person.open(context.chrome, context.server, room, 'cleo', { codec: 'h264' })).joined();
  await Promise.all([ada.seesAndHears('cleo'), cleo.seesAndHears('ada')]);
  assert.equal((await cleo.received('ada')).codec, 'video/H264');
  const bob = await (await Person.open(context.firefox, context.server, room, 'bob', { camera: '0' })).joined();
  await bob.seesAndHears('ada');
  const decodes = await bob.evaluate(() => RTCRtpReceiver.getCapabilities('video').codecs.some((one) => one.mimeType === 'video/H264'));
  assert.equal((await bob.received('ada')).codec, decodes ? 'video/H264' : 'video/VP8');
  await bob.screenshot('h264-firefox');
  for (const person of [ada, bob, cleo]) await person.close();
});
