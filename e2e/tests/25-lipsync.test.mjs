// A camera and its microphone are one MediaStream, and the browser plays them in step.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Person } from '../lib/browser.mjs';
import { meeting } from '../lib/fixture.mjs';
import { until } from '../lib/until.mjs';

const context = meeting({ browsers: ['chrome', 'firefox'] });

/** How long pictures are held back, ms. */
const HELD_BACK = 600;
/** By how much sound and picture have to be held back to be in step; sound alone is by 100 or so, and a sound card's delay adds to it. */
const BOTH_AT_LEAST = 400;
/** How far apart what is played may be, ms (ITU-R BT.1359 calls 185 acceptable). */
const IN_STEP = 185;

/** Runs in the page: what arrives from `identity`, and how long the browser holds it back: seconds summed over samples. */
async function arrives(identity) {
  const participant = window.chappe.room.remoteParticipants.get(identity);
  const one = async (source, kind) => {
    const track = participant?.getTrackPublication(source)?.track;
    const report = await track?.getRTCStatsReport?.();
    const rtp = [...(report?.values() ?? [])].find((entry) => entry.type === 'inbound-rtp' && entry.kind === kind);
    return rtp && {
      stream: track.mediaStream.id, source: track.source, kind: track.mediaStreamTrack.kind, playout: rtp.estimatedPlayoutTimestamp,
      delay: rtp.jitterBufferDelay, emitted: rtp.jitterBufferEmittedCount,
    };
  };
  return { audio: await one('microphone', 'audio'), video: await one('camera', 'video') };
}

/** Holds pictures back at `person`, and waits until sound follows them. */
async function heldBackTogether(person, identity) {
  const samples = [];
  let last = await person.evaluate(arrives, identity);
  assert.equal(last.audio.stream, last.video.stream, 'one stream');
  assert.match(last.audio.stream, /^PA_\w+\|camera$/);
  assert.deepEqual([last.audio.source, last.audio.kind, last.video.source, last.video.kind], ['microphone', 'audio', 'camera', 'video']);
  await until('sound is held back like the picture', async () => {
    await person.evaluate((from, ms) => {
      window.chappe.room.remoteParticipants.get(from).getTrackPublication('camera').track.receiver.jitterBufferTarget = ms;
    }, identity, HELD_BACK);
    const now = await person.evaluate(arrives, identity);
    const held = (kind) => Math.round(((now[kind].delay - last[kind].delay) / (now[kind].emitted - last[kind].emitted)) * 1000);
    const seen = { audio: held('audio'), video: held('video'), apart: now.audio.playout - now.video.playout };
    samples.push(seen);
    last = now;
    return seen.video > BOTH_AT_LEAST && seen.audio > BOTH_AT_LEAST && Math.abs(seen.apart) < IN_STEP;
  }, { timeout: 60_000, every: 1000 }).catch((error) => { throw new Error(`${error.message}; held back ${JSON.stringify(samples)}`); });
  console.log(`${person.name}: held back ${JSON.stringify(samples.at(-1))}`);
}

for (const browser of ['chrome', 'firefox']) {
  for (const [label, query] of [['one PeerConnection', {}], ['two PeerConnections', { two: '1' }]]) {
    test(`${browser} plays sound in step with a picture that is held back, over ${label}`, { timeout: 240_000 }, async () => {
      const room = `sync-${browser}-${query.two ?? 'one'}`;
      const ada = await (await Person.open(context.chrome, context.server, room, 'ada', query)).joined();
      const sid = await ada.evaluate(() => window.chappe.room.localParticipant.sid);
      const bob = await (await Person.open(context[browser], context.server, room, 'bob', { ...query, camera: '0', mic: '0' })).joined();
      await bob.seesAndHears('ada');
      await heldBackTogether(bob, 'ada');

      // An m-line that is used again brings another track of the same stream, and is not taken for the old one.
      const camera = () => window.chappe.room.remoteParticipants.get('ada').getTrackPublication('camera')?.trackSid;
      const before = await bob.evaluate(camera);
      await ada.evaluate(async () => {
        const local = window.chappe.room.localParticipant;
        await local.unpublishTrack(local.getTrackPublication('camera').track);
      });
      await bob.until("ada's camera is gone", () => !window.chappe.room.remoteParticipants.get('ada').getTrackPublication('camera'));
      await ada.evaluate(() => window.chappe.room.localParticipant.setCameraEnabled(true));
      await bob.seesAndHears('ada');
      assert.notEqual(await bob.evaluate(camera), before, 'another track');
      const { audio, video } = await bob.evaluate(arrives, 'ada');
      assert.equal(audio.stream, video.stream, 'still one stream');

      // Who receives nothing on a PeerConnection of its own is not lost.
      const now = await ada.evaluate(() => ({ sid: window.chappe.room.localParticipant.sid, quality: window.chappe.room.localParticipant.connectionQuality }));
      assert.equal(now.sid, sid, 'ada did not reconnect');
      assert.notEqual(now.quality, 'lost');
      await ada.close();
      await bob.close();
    });
  }
}
