// Simulcast layers on command, and data between participants.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Person } from '../lib/browser.mjs';
import { meeting } from '../lib/fixture.mjs';
import { sentEncodings } from '../lib/media.mjs';
import { until } from '../lib/until.mjs';

const context = meeting({ browsers: ['chrome', 'firefox'] });

const LOW = 0;
const MEDIUM = 1;
const HIGH = 2;
/** Longest time without a new frame that a switch of layers may cost, ms: a key frame of the other layer is asked for
 * while the old one still runs, so none is lost; what remains is a busy test machine. */
const LONGEST_GAP = 1500;

/** Has `bob` ask for a quality of ada's camera and waits for pictures so wide, without a gap at the switch. */
async function change(bob, quality, width) {
  await bob.evaluate((wanted) => {
    window.chappe.room.remoteParticipants.get('ada').getTrackPublication('camera').setVideoQuality(wanted);
  }, quality);
  let seen;
  let moved = performance.now();
  let gap = 0;
  const steady = { width: 0, frames: 0 };
  await until(`pictures ${width} wide`, async () => {
    const now = await bob.received('ada');
    const at = performance.now();
    if (now.frames !== seen?.frames) {
      gap = Math.max(gap, at - moved);
      moved = at;
    } else gap = Math.max(gap, at - moved);
    seen = now;
    if (now.width !== steady.width) Object.assign(steady, { width: now.width, frames: now.frames });
    // The new width, and frames that go on in it.
    return now.width === width && now.frames >= steady.frames + 15;
  }, { timeout: 60_000, every: 50 }).catch((error) => {
    throw new Error(`${error.message}; received ${JSON.stringify(seen)}\nserver:\n${context.server.log.slice(-3000)}`);
  });
  assert.ok(gap < LONGEST_GAP, `to ${width}: ${Math.round(gap)} ms without a frame`);
}

test('the quality asked for is the quality received, without a gap at the switch', { timeout: 240_000 }, async () => {
  const ada = await (await Person.open(context.chrome, context.server, 'layers', 'ada', { small: '0' })).joined();
  const bob = await (await Person.open(context.chrome, context.server, 'layers', 'bob', { camera: '0' })).joined();
  // A tile as wide as the window: the SDK asks for no more than a tile shows.
  await bob.page.setViewport({ width: 1280, height: 1500 });
  await bob.seesAndHears('ada');

  // 1280 first: the publisher's bandwidth estimate has to allow its third layer.
  await bob.until('the full picture arrives', async () => {
    const report = await window.chappe.room.remoteParticipants.get('ada').getTrackPublication('camera').track.getRTCStatsReport();
    return [...report.values()].some((entry) => entry.type === 'inbound-rtp' && entry.frameWidth === 1280);
  }, [], 90_000);
  await bob.screenshot('layers-high');
  await change(bob, LOW, 320);
  await bob.screenshot('layers-low');
  await change(bob, MEDIUM, 640);
  await change(bob, HIGH, 1280);
  await change(bob, LOW, 320);
  await change(bob, HIGH, 1280);
  await ada.close();
  await bob.close();
});

/** Publishes a camera as three streams of a codec; the SDK has layers within one stream for VP9 and AV1 otherwise. */
const publishSimulcast = async (codec, scalabilityMode) => {
  const { room } = window.chappe;
  const camera = { resolution: { width: 1280, height: 720, frameRate: 15 } };
  const options = { videoCodec: codec, simulcast: true, backupCodec: false, ...(scalabilityMode ? { scalabilityMode } : {}) };
  await room.localParticipant.setCameraEnabled(true, camera, options);
};

// The two lower layers: they need little of the publisher's bandwidth, and nobody wants the third.
for (const [codec, mode] of [['h264', undefined], ['vp9', 'L1T3'], ['av1', 'L1T3']]) {
  test(`simulcast of ${codec} switches without a gap`, { timeout: 120_000 }, async (t) => {
    const began = performance.now();
    const room = `simulcast-${codec}`;
    const ada = await (await Person.open(context.chrome, context.server, room, 'ada', { camera: '0', mic: '0' })).joined();
    const bob = await (await Person.open(context.chrome, context.server, room, 'bob', { camera: '0', mic: '0' })).joined();
    await bob.page.setViewport({ width: 1280, height: 1500 });
    await ada.evaluate(publishSimulcast, codec, mode);
    await bob.seesAndHears('ada', { audio: false });
    for (const [quality, width] of [[MEDIUM, 640], [LOW, 320], [MEDIUM, 640]]) await change(bob, quality, width);
    const { codec: received } = await bob.received('ada');
    assert.equal(received.toLowerCase(), `video/${codec}`);
    const sends = await ada.evaluate(sentEncodings);
    assert.deepEqual(sends.map((one) => one.rid).toSorted(), ['f', 'h', 'q'], JSON.stringify(sends));
    // Of the third, which stops while nobody wants it, statistics lose the mode.
    for (const one of sends.filter((each) => each.rid !== 'f')) {
      assert.equal(one.codec.toLowerCase(), `video/${codec}`);
      if (mode) assert.equal(one.mode, mode, JSON.stringify(sends));
    }
    t.diagnostic(`${((performance.now() - began) / 1000).toFixed(1)} s; ${JSON.stringify(sends)}`);
    await ada.close();
    await bob.close();
  });
}

// Firefox names SSRCs beside its rids, in each offer.
test("the layers of a Firefox are told apart, after another offer too", { timeout: 180_000 }, async () => {
  const ada = await (await Person.open(context.firefox, context.server, 'firefox', 'ada', { small: '0', mic: '0' })).joined();
  const bob = await (await Person.open(context.chrome, context.server, 'firefox', 'bob', { camera: '0', mic: '0' })).joined();
  await bob.page.setViewport({ width: 1280, height: 1500 });
  await bob.seesAndHears('ada', { audio: false });
  await change(bob, LOW, 320);
  await change(bob, MEDIUM, 640);
  await ada.click('#mic');
  await bob.seesAndHears('ada');
  await change(bob, LOW, 320);
  await change(bob, MEDIUM, 640);
  await ada.close();
  await bob.close();
});

test('a smaller window gets a smaller picture', { timeout: 180_000 }, async () => {
  const ada = await (await Person.open(context.chrome, context.server, 'window', 'ada', { small: '0' })).joined();
  const bob = await (await Person.open(context.chrome, context.server, 'window', 'bob', { camera: '0' })).joined();
  const wide = (least, most) => until(`pictures between ${least} and ${most} wide`, async () => {
    const { width } = await bob.received('ada');
    return width >= least && width <= most;
  }, { timeout: 90_000 });
  await bob.page.setViewport({ width: 1280, height: 1500 });
  await wide(1280, 1280);
  await bob.page.setViewport({ width: 320, height: 400 });
  await wide(1, 320);
  await bob.seesAndHears('ada');
  await bob.screenshot('layers-phone');
  await bob.page.setViewport({ width: 1280, height: 1500 });
  await wide(1280, 1280);
  await bob.seesAndHears('ada');
  await ada.close();
  await bob.close();
});

for (const [label, query] of [['one PeerConnection', {}], ['two PeerConnections', { two: '1' }]]) {
  test(`data goes to whom it is addressed, once, and never back, over ${label}`, { timeout: 120_000 }, async () => {
    const people = {};
    for (const name of ['ada', 'bob', 'cleo']) {
      const person = await (await Person.open(context.chrome, context.server, `data-${query.two ?? 'one'}`, name, { ...query, camera: '0', mic: '0' })).joined();
      people[name] = person;
      await person.evaluate(() => {
        window.got = [];
        window.chappe.room.on('dataReceived', (payload, from, kind, topic) => {
          window.got.push(`${from?.identity} ${topic}: ${new TextDecoder().decode(payload)}`);
        });
      });
    }
    const { ada, bob, cleo } = people;
    await ada.until('everybody is there', () => window.chappe.room.remoteParticipants.size === 2);
    const send = (person, texts, options) => person.evaluate(async (list, how) => {
      for (const text of list) await window.chappe.room.localParticipant.publishData(new TextEncoder().encode(text), how);
    }, texts, options);
    // Channels open a moment after the participant is there. What is reliable waits for that; what is lossy does not.
    await send(ada, ['early'], { reliable: true, topic: 'early' });
    for (const person of [bob, cleo]) {
      await person.until('the early message arrives', () => window.got.includes('ada early: early'));
      await until(`the lossy channel of ${person.name} is open`, async () => {
        await send(ada, ['knock'], { reliable: false, topic: 'knock-lossy', destinationIdentities: [person.name] });
        return person.evaluate(() => window.got.includes('ada knock-lossy: knock'));
      });
    }
    const numbered = (word) => Array.from({ length: 20 }, (_, i) => `${word} ${i}`);

    await send(ada, numbered('all'), { reliable: true, topic: 'r' });
    await send(ada, numbered('bob'), { reliable: true, topic: 'r', destinationIdentities: ['bob'] });
    await send(ada, numbered('all'), { reliable: false, topic: 'l' });
    await send(ada, numbered('bob'), { reliable: false, topic: 'l', destinationIdentities: ['bob'] });
    const large = 'x'.repeat(12_000);
    await send(ada, [large], { reliable: true, topic: 'large' });

    const forBoth = ['r', 'l'].flatMap((topic) => numbered('all').map((text) => `ada ${topic}: ${text}`));
    const forBob = ['r', 'l'].flatMap((topic) => numbered('bob').map((text) => `ada ${topic}: ${text}`));
    const wanted = { ada: [], bob: [...forBoth, ...forBob, `ada large: ${large}`], cleo: [...forBoth, `ada large: ${large}`] };
    let missing = [];
    for (const person of [bob, cleo]) {
      await until(`all data is at ${person.name}`, async () => {
        missing = await person.evaluate((list) => list.filter((text) => !window.got.includes(text)), wanted[person.name]);
        return missing.length === 0;
      }).catch((error) => { throw new Error(`${error.message}; missing: ${missing.map((text) => text.slice(0, 40)).join(', ')}`); });
    }
    // A word from each to everybody: what had been doubled or sent back would have arrived before it.
    for (const person of [ada, bob, cleo]) await send(person, ['done'], { reliable: true, topic: 'end' });
    for (const person of [ada, bob, cleo]) {
      const others = Object.keys(people).filter((name) => name !== person.name);
      await person.until('everybody is done', (names) => names.every((name) => window.got.includes(`${name} end: done`)), [others]);
      const got = await person.evaluate(() => window.got);
      const data = got.filter((text) => !/ (end|early|knock-lossy): /.test(text));
      assert.deepEqual(data.toSorted(), wanted[person.name].toSorted(), person.name);
      assert.equal(got.filter((text) => text.includes(' end: ')).length, 2, `${person.name} gets one last word of each other`);
      // The reliable channel keeps the order as well.
      const reliable = (list) => list.filter((text) => text.startsWith('ada r: '));
      assert.deepEqual(reliable(got), reliable(wanted[person.name]), person.name);
    }
    for (const person of Object.values(people)) await person.close();
  });
}
