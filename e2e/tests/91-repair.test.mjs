// What a browser gets over a link that is long and loses packets: repair packets beside retransmissions.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Person } from '../lib/browser.mjs';
import { meeting } from '../lib/fixture.mjs';
import { Link } from '../lib/link.mjs';
import { Server } from '../lib/server.mjs';
import { until } from '../lib/until.mjs';

// Without ICE-TCP, which would lead around the link.
const context = meeting({
  browsers: ['chrome'],
  server: () => new Server({ env: { CHAPPE_RTC_TCP_PORT: '0', CHAPPE_RTC_SHARDS: '1' } }),
});

/** Runs in the page: what came of one participant's camera. */
const video = async () => {
  const sum = {};
  for (const participant of window.chappe.room.remoteParticipants.values()) {
    for (const publication of participant.trackPublications.values()) {
      const report = publication.kind === 'video' ? await publication.track?.getRTCStatsReport?.() : undefined;
      report?.forEach((entry) => {
        if (entry.type !== 'inbound-rtp') return;
        for (const name of ['fecPacketsReceived', 'fecPacketsDiscarded', 'packetsReceived', 'packetsLost', 'retransmittedPacketsReceived', 'nackCount', 'framesDecoded', 'framesDropped', 'freezeCount', 'totalFreezesDuration', 'totalInterFrameDelay', 'totalSquaredInterFrameDelay', 'jitterBufferDelay', 'jitterBufferEmittedCount', 'bytesReceived', 'pliCount', 'frameWidth']) {
          sum[name] = entry[name] ?? 0;
        }
      });
    }
  }
  return sum;
};

/** Before a page loads: it takes no repair packets. For whoever compares. */
const refuse = (page) => page.evaluateOnNewDocument(() => {
  const { prototype } = window.RTCPeerConnection;
  const { createOffer } = prototype;
  prototype.createOffer = async function create(...args) {
    const { type, sdp } = await createOffer.apply(this, args);
    const pt = sdp.match(/a=rtpmap:(\d+) flexfec-03/)?.[1];
    if (!pt) return { type, sdp };
    const lines = sdp.split('\r\n').filter((line) => !new RegExp(`^a=(rtpmap|fmtp|rtcp-fb):${pt} `).test(line));
    return { type, sdp: lines.map((line) => (line.startsWith('m=video') ? line.replace(` ${pt}`, '') : line)).join('\r\n') };
  };
});

const difference = (now, before) => Object.fromEntries(Object.entries(now).map(([name, value]) => [name, value - before[name]]));

// The first bytes of RTP and RTCP are not encrypted: what is lost by kind.
const isRtcp = (bytes) => bytes[0] >> 6 === 2 && bytes[1] >= 192 && bytes[1] <= 223;
const payloadType = (bytes) => (bytes[0] >> 6 === 2 && !isRtcp(bytes) ? bytes[1] & 0x7f : undefined);
/** Feedback other than transport-wide: NACKs come behind receiver reports, or alone. */
const asksAgain = (bytes) => isRtcp(bytes) && !(bytes[1] === 205 && (bytes[0] & 0x1f) === 15);

/** Before a page loads: which payload type VP8 has. */
const watchFormats = (page) => page.evaluateOnNewDocument(() => {
  const { prototype } = window.RTCPeerConnection;
  const { setRemoteDescription } = prototype;
  prototype.setRemoteDescription = function set(description) {
    window.vp8 ??= Number(description.sdp.match(/a=rtpmap:(\d+) VP8/)?.[1]) || undefined;
    return setRemoteDescription.call(this, description);
  };
});

const counter = async (name) => {
  const lines = (await context.server.metrics()).split('\n').filter((line) => line.startsWith(`chappe_sfu_${name}`));
  assert.ok(lines.length > 0, `${name} is counted`);
  return lines.reduce((sum, line) => sum + Number(line.split(' ').pop()), 0);
};

for (const [label, query] of [['one PeerConnection', {}], ['two PeerConnections', { two: '1' }]]) {
  test(`repair packets alone bring back what a long path loses, over ${label}`, { timeout: 120_000 }, async (t) => {
    const link = await Link.open(context.server.address, context.server.port + 2);
    // An open socket would keep a failed test from ending.
    t.after(() => link.close());
    const room = `repair-${query.two ?? 'one'}`;
    const ada = await (await Person.open(context.chrome, context.server, room, 'ada', { codec: 'vp8', small: '0' })).joined();
    link.down.delay = 100;
    link.up.delay = 100;
    const bob = await (await Person.open(context.chrome, context.server, room, 'bob', { camera: '0', mic: '0', ...query }, async (page) => {
      await watchFormats(page);
      await link.lead(page);
      if (process.env.CHAPPE_E2E_NO_FEC) await refuse(page);
    })).joined();
    await bob.page.setViewport({ width: 1280, height: 1500 });
    await bob.seesAndHears('ada');
    if (process.env.CHAPPE_E2E_SECONDS) {
      // For whoever compares: at random, with retransmissions, with and without repair packets.
      link.down.loss = 0.05;
      await new Promise((done) => { setTimeout(done, 12_000); });
      const before = await bob.evaluate(video);
      await new Promise((done) => { setTimeout(done, Number(process.env.CHAPPE_E2E_SECONDS) * 1_000); });
      console.log(label, JSON.stringify(difference(await bob.evaluate(video), before)));
      return;
    }
    const vp8 = await bob.evaluate(() => window.vp8);
    let packets = 0;
    let lost = 0;
    link.down.loses = (bytes) => {
      if (payloadType(bytes) !== vp8) return false;
      packets += 1;
      if (packets % 30 !== 0) return false;
      lost += 1;
      return true;
    };
    const state = async () => ({ ...await bob.evaluate(video), lost, resent: await counter('retransmitted') });
    let before;
    let now;
    const said = (error) => { throw new Error(`${error.message}; ${JSON.stringify(before)}; ${JSON.stringify(now)}; ${JSON.stringify(link.directions)}`); };
    await until('repair packets come', async () => {
      now = await state();
      return now.fecPacketsReceived > 3;
    }, { timeout: 40_000 }).catch(said);
    // From now on nothing is sent again. Pictures that lack a packet, and all behind them, would wait for a keyframe.
    link.up.loses = asksAgain;
    await until('ten losses in a row cost no picture', async () => {
      now = await state();
      // Anew where something was sent again, or a keyframe was needed: the node makes no repair packets while it sees no room.
      if (!before || now.resent > before.resent || now.pliCount > before.pliCount) before = now;
      const one = difference(now, before);
      return one.lost >= 10 && one.framesDecoded > 3 * one.lost && one.fecPacketsReceived >= one.lost;
    }, { timeout: 60_000, every: 250 }).catch(said);
    assert.ok(await counter('fec_out') > 0);
    await ada.close();
    await bob.close();
  });
}
