// Networks as people have them: firewalls, address translation; and a room whose members are on two shards.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { Person } from '../lib/browser.mjs';
import { meeting } from '../lib/fixture.mjs';
import { blockUdp, onlyIpv6, stunServer, Translated } from '../lib/network.mjs';
import { Server, SplitServer } from '../lib/server.mjs';
import { until } from '../lib/until.mjs';

/** Runs in the page: the candidate pair that brings the video of `identity`. */
async function pathOf(identity) {
  const participant = window.chappe.room.remoteParticipants.get(identity);
  const report = await participant.getTrackPublication('camera').track.getRTCStatsReport();
  const all = new Map();
  report.forEach((entry) => all.set(entry.id, entry));
  const transport = [...all.values()].find((entry) => entry.type === 'transport');
  const pair = all.get(transport?.selectedCandidatePairId) ?? [...all.values()].find((entry) => entry.type === 'candidate-pair' && entry.selected);
  const end = ({ protocol, address, port, candidateType }) => ({ protocol, address, port, candidateType });
  return { local: end(all.get(pair.localCandidateId)), remote: end(all.get(pair.remoteCandidateId)) };
}

async function two(context, room, query = {}) {
  const ada = await (await Person.open(context.chrome, context.server, room, 'ada', query)).joined();
  const bob = await (await Person.open(context.chrome, context.server, room, 'bob', query)).joined();
  await Promise.all([ada.seesAndHears('bob'), bob.seesAndHears('ada')]);
  return { ada, bob };
}

describe('UDP is blocked', () => {
  let firewall;
  before(async () => { firewall = await blockUdp(); });
  after(() => firewall?.end());
  const context = meeting();

  for (const [label, query] of [['one PeerConnection', {}], ['two PeerConnections', { two: '1' }]]) {
    test(`two Chromium see and hear each other over ICE-TCP and ${label}`, { timeout: 120_000 }, async () => {
      const { ada, bob } = await two(context, `tcp-${query.two ?? 'one'}`, query);
      for (const [person, other] of [[ada, 'bob'], [bob, 'ada']]) {
        const path = await person.evaluate(pathOf, other);
        assert.equal(path.local.protocol, 'tcp', JSON.stringify(path));
        assert.equal(path.remote.protocol, 'tcp', JSON.stringify(path));
        assert.equal(path.remote.port, context.server.port + 1);
      }
      assert.ok((await firewall.dropped()) > 0, 'the firewall had something to drop');
      if (!query.two) await ada.screenshot('ice-tcp');
      await ada.close();
      await bob.close();
    });
  }
});

describe('UDP works, and a client asks to leave it', () => {
  const context = meeting();
  test('it joins anew, over ICE-TCP', { timeout: 120_000 }, async () => {
    const { ada, bob } = await two(context, 'forced');
    assert.equal((await bob.evaluate(pathOf, 'ada')).local.protocol, 'udp');
    await bob.evaluate(() => window.chappe.room.simulateScenario('force-tcp'));
    await until('bob gets ada over TCP', async () => (await bob.evaluate(pathOf, 'ada')).local.protocol === 'tcp');
    await Promise.all([ada.seesAndHears('bob'), bob.seesAndHears('ada')]);
    await ada.close();
    await bob.close();
  });
});

describe('the server is behind 1:1 NAT', () => {
  let network;
  before(async () => { network = await Translated.make(); });
  after(() => network?.close());
  const context = meeting({
    server: () => {
      const server = new Server({
        address: network.outer, admin: network.outer, within: network.machine.within,
        args: ['--rtc-advertise-ip', network.outer],
      });
      server.env.CHAPPE_ADMIN = `${network.inner}:${server.port + 9}`;
      return server;
    },
  });

  test('two Chromium see and hear each other by the outer address', { timeout: 120_000 }, async () => {
    const { ada, bob } = await two(context, 'translated');
    for (const [person, other] of [[ada, 'bob'], [bob, 'ada']]) {
      const path = await person.evaluate(pathOf, other);
      assert.equal(path.remote.address, network.outer, JSON.stringify(path));
      assert.equal(path.remote.candidateType, 'host', JSON.stringify(path));
      assert.equal(path.remote.protocol, 'udp', JSON.stringify(path));
    }
    await ada.close();
    await bob.close();
  });
});

describe('the server is behind 1:1 NAT and asks a STUN server for its address', () => {
  const STUN_PORT = 3478;
  let network;
  let stun;
  before(async () => {
    network = await Translated.make();
    stun = await stunServer(network.here, STUN_PORT);
  });
  after(() => {
    stun?.end();
    return network?.close();
  });
  const context = meeting({
    server: () => {
      const server = new Server({
        address: network.outer, admin: network.outer, within: network.machine.within,
        args: ['--rtc-stun-server', `${network.here}:${STUN_PORT}`],
      });
      server.env.CHAPPE_ADMIN = `${network.inner}:${server.port + 9}`;
      return server;
    },
  });

  test('two Chromium see and hear each other by the address that was found', { timeout: 120_000 }, async () => {
    const { ada, bob } = await two(context, 'found');
    for (const [person, other] of [[ada, 'bob'], [bob, 'ada']]) {
      const path = await person.evaluate(pathOf, other);
      assert.equal(path.remote.address, network.outer, JSON.stringify(path));
      assert.equal(path.remote.candidateType, 'srflx', JSON.stringify(path));
      assert.equal(path.remote.protocol, 'udp', JSON.stringify(path));
    }
    await ada.close();
    await bob.close();
  });
});

describe('there is IPv6 only', () => {
  let network;
  before(async () => { network = await onlyIpv6(); });
  after(() => network?.end());
  const context = meeting({
    browsers: ['chrome', 'firefox'],
    server: () => new Server({ address: `[${network.address}]` }),
  });

  test('a Chromium and a Firefox see and hear each other', { timeout: 180_000 }, async () => {
    const ada = await (await Person.open(context.chrome, context.server, 'six', 'ada')).joined();
    const bob = await (await Person.open(context.firefox, context.server, 'six', 'bob')).joined();
    await Promise.all([ada.seesAndHears('bob'), bob.seesAndHears('ada')]);
    for (const [person, other] of [[ada, 'bob'], [bob, 'ada']]) {
      const path = await person.evaluate(pathOf, other);
      assert.equal(path.remote.address.replace(/[[\]]/g, ''), network.address, JSON.stringify(path));
      assert.equal(path.remote.protocol, 'udp', JSON.stringify(path));
    }
    await ada.close();
    await bob.close();
  });
});

describe('a room on two shards', () => {
  const context = meeting({
    server: () => new SplitServer({ env: { CHAPPE_RTC_SHARDS: '2', CHAPPE_RTC_PLACEMENT: 'round-robin' } }),
  });

  test('three Chromium see and hear each other, mute, unsubscribe and chat', { timeout: 180_000 }, async () => {
    const people = [];
    for (const name of ['ada', 'bob', 'cleo']) {
      people.push(await (await Person.open(context.chrome, context.server, 'shards', name)).joined());
    }
    const [ada, bob, cleo] = people;
    const everybody = () => Promise.all(people.flatMap((person) =>
      people.filter((other) => other !== person).map((other) => person.seesAndHears(other.name))));
    await everybody();
    const metrics = await (await fetch(`http://127.0.0.1:${context.server.port + 8}/metrics`)).text();
    const peers = [...metrics.matchAll(/^chappe_sfu_peers\{shard="\d+"\} (\d+)/gm)].map((match) => Number(match[1]));
    assert.deepEqual(peers.sort(), [1, 2], 'members on both shards');
    await ada.screenshot('shards');

    await ada.click('#mic');
    for (const other of [bob, cleo]) {
      await other.until('ada is shown as muted', () => document.querySelector('[data-identity=ada].muted') !== null);
    }
    await ada.click('#mic');
    await Promise.all([bob.seesAndHears('ada'), cleo.seesAndHears('ada')]);

    // Who unsubscribes gets nothing more; the others do, from the same track.
    for (const person of [bob, cleo]) {
      const other = person === bob ? cleo : bob;
      const subscribe = (on) => person.evaluate((wanted) => {
        window.chappe.room.remoteParticipants.get('ada').getTrackPublication('camera').setSubscribed(wanted);
      }, on);
      await subscribe(false);
      await person.until("ada's picture is gone", () => !window.chappe.room.remoteParticipants.get('ada').getTrackPublication('camera').track);
      await other.seesAndHears('ada');
      await subscribe(true);
      await person.seesAndHears('ada');
    }

    for (const person of people) await person.click('#toggle-chat');
    for (const person of people) {
      await person.page.type('#chat-input', `Bonjour from ${person.name}`);
      await person.page.keyboard.press('Enter');
    }
    for (const person of people) {
      for (const { name } of people) {
        await person.until(`the message of ${name} arrives`, (text) => document.querySelector('.messages')?.textContent.includes(text), [`Bonjour from ${name}`]);
      }
    }
    await everybody();
    await bob.click('#leave');
    await Promise.all([ada, cleo].map((person) => person.until('bob is gone', () => window.chappe.room.remoteParticipants.size === 1)));
    for (const person of people) await person.close();
  });
});
