// Connections that break and come back.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Person } from '../lib/browser.mjs';
import { meeting } from '../lib/fixture.mjs';
import { always } from '../lib/until.mjs';

const context = meeting();

for (const [label, query] of [['one PeerConnection', {}], ['two PeerConnections', { two: '1' }]]) {
  test(`a cut WebSocket is resumed without a gap in the picture over ${label}`, { timeout: 120_000 }, async () => {
    const room = `resume-${query.two ?? 'one'}`;
    const ada = await (await Person.open(context.chrome, context.server, room, 'ada', query)).joined();
    const bob = await (await Person.open(context.chrome, context.server, room, 'bob', { ...query, mic: '0' })).joined();
    await ada.seesAndHears('bob', { audio: false });
    await bob.seesAndHears('ada');
    await bob.evaluate(() => {
      const { room } = window.chappe;
      const connections = () => {
        const { publisher, subscriber } = room.engine.pcManager;
        return [publisher, subscriber].filter(Boolean).map((one) => one._pc);
      };
      window.connections = connections;
      window.seen = { resumed: 0, restarted: 0, sid: room.localParticipant.sid, connections: connections() };
      room.on('signalReconnecting', () => { window.seen.cut = true; });
      room.on('reconnecting', () => { window.seen.restarted += 1; });
      room.on('reconnected', () => { window.seen.resumed += 1; });
      room.simulateScenario('signal-reconnect');
    });
    // Frames keep coming in every window of 500 ms while the socket is away and comes back.
    await always('frames rise while the WebSocket is cut', () => bob.received('ada').then((r) => r.frames), (before, now) => now > before,
      { duration: 5000, every: 500 });
    await bob.until('bob has resumed', () => window.chappe.room.state === 'connected');
    const seen = await bob.evaluate(() => ({
      cut: window.seen.cut, resumed: window.seen.resumed, restarted: window.seen.restarted, sid: window.seen.sid,
      now: window.chappe.room.localParticipant.sid,
      count: window.seen.connections.length,
      same: window.connections().every((one, index) => one === window.seen.connections[index]),
    }));
    assert.equal(seen.cut, true, 'the WebSocket was cut');
    assert.ok(seen.resumed >= 1, 'and resumed');
    assert.equal(seen.now, seen.sid, 'the same participant');
    assert.ok(seen.count >= 1 && seen.same, 'the same PeerConnection');

    // What is published after the resume arrives on the same PeerConnection.
    await bob.click('#mic');
    await ada.seesAndHears('bob');
    await ada.click('#screen');
    await bob.seesAndHears('ada', { audio: false, source: 'screen_share', frames: 3 });
    assert.ok(await bob.evaluate(() => window.connections().every((one, index) => one === window.seen.connections[index])), 'still the same PeerConnection');
    await ada.close();
    await bob.close();
  });
}

test('a full reconnect brings everything back', { timeout: 120_000 }, async () => {
  const ada = await (await Person.open(context.chrome, context.server, 'full', 'ada')).joined();
  const bob = await (await Person.open(context.chrome, context.server, 'full', 'bob')).joined();
  await Promise.all([ada.seesAndHears('bob'), bob.seesAndHears('ada')]);
  const before = await bob.evaluate(() => window.chappe.room.localParticipant.sid);
  await bob.evaluate(() => window.chappe.room.simulateScenario('full-reconnect'));
  await bob.until('bob joined anew', (sid) => window.chappe.room.state === 'connected' && window.chappe.room.localParticipant.sid !== sid, [before]);
  await Promise.all([ada.seesAndHears('bob'), bob.seesAndHears('ada')]);
  await ada.close();
  await bob.close();
});

test('100 random publish, subscribe and unsubscribe steps in 10 s end with all wanted tracks decoding', { timeout: 180_000 }, async () => {
  const ada = await (await Person.open(context.chrome, context.server, 'steps', 'ada')).joined();
  const bob = await (await Person.open(context.chrome, context.server, 'steps', 'bob')).joined();
  await Promise.all([ada.seesAndHears('bob'), bob.seesAndHears('ada')]);
  const seed = Number(process.env.SEED ?? Date.now() % 1e9);
  console.log(`seed ${seed}`);
  const walk = (walkSeed) => {
    // Park-Miller: the same seed walks the same way.
    let state = walkSeed % 2147483647 || 1;
    const random = (n) => { state = (state * 48271) % 2147483647; return state % n; };
    const { room } = window.chappe;
    const local = room.localParticipant;
    const done = { published: 0, unpublished: 0, subscribed: 0, unsubscribed: 0, errors: [] };
    room.on('localTrackPublished', () => { done.published += 1; });
    room.on('localTrackUnpublished', () => { done.unpublished += 1; });
    // Muting would keep the track: what is there is taken back, what is not is published anew.
    const turn = async (source, publish) => {
      const track = local.getTrackPublication(source)?.track;
      await (track ? local.unpublishTrack(track) : publish());
    };
    const step = async () => {
      const remote = [...room.remoteParticipants.values()][0];
      const publications = [...(remote?.trackPublications.values() ?? [])];
      switch (random(4)) {
        case 0: await turn('microphone', () => local.setMicrophoneEnabled(true)); break;
        case 1: await turn('camera', () => local.setCameraEnabled(true)); break;
        default: {
          const publication = publications[random(publications.length || 1)];
          if (!publication) break;
          const on = random(2) === 0;
          done[on ? 'subscribed' : 'unsubscribed'] += 1;
          publication.setSubscribed(on);
        }
      }
    };
    return (async () => {
      const pending = [];
      for (let i = 0; i < 50; i++) {
        // Steps are not waited for: offers overlap.
        pending.push(step().catch((error) => done.errors.push(String(error))));
        await new Promise((resolve) => setTimeout(resolve, 200));
      }
      await Promise.all(pending);
      await local.setMicrophoneEnabled(true);
      await local.setCameraEnabled(true);
      for (const participant of room.remoteParticipants.values()) {
        for (const publication of participant.trackPublications.values()) publication.setSubscribed(true);
      }
      // Tracks that appear later are wanted as well.
      room.on('trackPublished', (publication) => publication.setSubscribed(true));
      return done;
    })();
  };
  for (const done of await Promise.all([ada.evaluate(walk, seed), bob.evaluate(walk, seed + 1)])) {
    console.log(JSON.stringify(done));
    for (const kind of ['published', 'unpublished', 'subscribed', 'unsubscribed']) assert.ok(done[kind] > 0, `${kind} at least once`);
  }
  await Promise.all([ada.seesAndHears('bob'), bob.seesAndHears('ada')]);
  await ada.close();
  await bob.close();
});
