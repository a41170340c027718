// What the page says of connections: marks, rings around who speaks, and the statistics panel.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Person } from '../lib/browser.mjs';
import { meeting } from '../lib/fixture.mjs';
import { Link } from '../lib/link.mjs';
import { talkingMicrophone } from '../lib/media.mjs';
import { Server } from '../lib/server.mjs';
import { until } from '../lib/until.mjs';

// Without ICE-TCP, which would lead around the link.
const context = meeting({ server: () => new Server({ env: { CHAPPE_RTC_TCP_PORT: '0', CHAPPE_RTC_SHARDS: '1' } }) });

/** The mark on somebody's tile, worst first; -1 before there is one. In the page. */
const mark = (identity) => {
  const shown = document.querySelector(`[data-identity=${identity}] .quality:not([hidden])`);
  return shown ? ['lost', 'poor', 'good', 'excellent'].indexOf(shown.dataset.quality) : -1;
};

test('who is behind a lossy link gets a worse mark, and a better one when the loss ends', { timeout: 180_000 }, async (t) => {
  const link = await Link.open(context.server.address, context.server.port + 2);
  const ada = await (await Person.open(context.chrome, context.server, 'marks', 'ada')).joined();
  const bob = await (await Person.open(context.chrome, context.server, 'marks', 'bob', {}, (page) => link.lead(page))).joined();
  await Promise.all([ada.seesAndHears('bob'), bob.seesAndHears('ada')]);
  const marks = async (person) => ({ ada: await person.evaluate(mark, 'ada'), bob: await person.evaluate(mark, 'bob') });
  await until('both have good marks', async () => {
    const [one, two] = [await marks(ada), await marks(bob)];
    return Math.min(one.ada, one.bob, two.ada, two.bob) >= 2;
  }, { timeout: 60_000 });

  // A fifth of everything: nearly all dissatisfied, by the model.
  const began = performance.now();
  link.up.loss = 0.2;
  link.down.loss = 0.2;
  for (const person of [ada, bob]) {
    await until(`${person.name} sees bob's worse mark`, async () => {
      const now = await marks(person);
      return now.bob === 1 && now.ada > now.bob;
    }, { timeout: 60_000 });
  }
  t.diagnostic(`worse after ${((performance.now() - began) / 1000).toFixed(1)} s`);
  await ada.screenshot('marks');
  link.up.loss = 0;
  link.down.loss = 0;
  await until("bob's mark is better again", async () => (await marks(ada)).bob >= 2, { timeout: 60_000 });
  await ada.close();
  await bob.close();
  link.close();
});

test('who speaks has a ring, who is silent has none', { timeout: 120_000 }, async () => {
  const ada = await (await Person.open(context.chrome, context.server, 'rings', 'ada', {}, talkingMicrophone)).joined();
  const bob = await (await Person.open(context.chrome, context.server, 'rings', 'bob', { mic: '0' })).joined();
  await bob.seesAndHears('ada');
  const ring = (identity) => {
    const tile = document.querySelector(`[data-identity=${identity}].speaking`);
    return tile !== null && getComputedStyle(tile).boxShadow !== 'none';
  };
  await bob.until('a ring around ada', ring, ['ada']);
  await bob.screenshot('rings');
  await ada.until('ada sees it too', ring, ['ada']);
  for (const person of [ada, bob]) assert.equal(await person.evaluate(ring, 'bob'), false, 'bob is silent');
  await ada.click('#mic');
  await bob.until('no ring around who is muted', (identity) => !document.querySelector(`[data-identity=${identity}].speaking`), ['ada']);
  await ada.click('#mic');
  await bob.until('and one again', ring, ['ada']);
  await ada.close();
  await bob.close();
});

test('the statistics panel tells what each track does', { timeout: 120_000 }, async (t) => {
  const ada = await (await Person.open(context.chrome, context.server, 'panel', 'ada', { small: '0' })).joined();
  const bob = await (await Person.open(context.chrome, context.server, 'panel', 'bob', { small: '0' })).joined();
  await bob.seesAndHears('ada');
  await bob.click('#toggle-stats');
  const figures = () => {
    const all = (root) => Object.fromEntries([...root.querySelectorAll('[data-figure]')].map((one) => [one.dataset.figure, one.textContent.trim()]));
    const tracks = {};
    for (const card of document.querySelectorAll('.stats .track')) {
      tracks[`${card.dataset.identity} ${card.dataset.source} ${card.dataset.direction}`] = all(card);
    }
    const path = document.querySelector('.stats .connection');
    return { path: path && { ...all(path), quality: path.dataset.quality }, downlink: document.querySelector('[data-way=downlink] [data-figure=estimate]')?.textContent.trim(), tracks };
  };
  let shown;
  await until('all figures are there', async () => {
    shown = await bob.evaluate(figures);
    const camera = shown.tracks['ada camera received'];
    const voice = shown.tracks['ada microphone received'];
    const own = shown.tracks['bob camera sent'];
    return camera && voice && own && shown.path.quality !== 'unknown' && /^of [\d.]+ [kM]b\/s$/.test(shown.downlink ?? '')
      && /^[\d.]+ ms$/.test(shown.path.rtt) && /^[\d.]+ %$/.test(shown.path['loss-down'])
      && camera.codec === 'VP8' && /^\d+×\d+$/.test(camera.size) && /^[1-9]\d* fps$/.test(camera.fps) && /^[\d.]+ [kM]b\/s$/.test(camera.rate)
      && /^[\d.]+ %$/.test(camera.loss) && /^[\d.]+ ms$/.test(camera.jitter) && /^(none|\d+ · [\d.]+ s)$/.test(camera.freezes) && /^S\d/.test(camera.layer)
      && /opus|red/i.test(voice.codec) && /^[\d.]+ %$/.test(voice.concealed)
      && /^[\d.]+ [kM]b\/s$/.test(own.rate) && own.codec === 'VP8';
  }, { timeout: 60_000, every: 500 }).catch((error) => { throw new Error(`${error.message}\nshown: ${JSON.stringify(shown, null, 1)}`); });
  t.diagnostic(JSON.stringify(shown));
  // A minute is not needed: some seconds draw a line.
  await bob.until('rates are drawn', () => document.querySelectorAll('.stats .spark .line').length >= 3);
  await bob.screenshot('statistics');
  // It closes, and opens again.
  await bob.click('#toggle-stats');
  await bob.until('the panel is closed', () => !document.querySelector('.stats'));
  await bob.click('#toggle-stats');
  await bob.until('and open again', () => document.querySelectorAll('.stats .track').length >= 3);
  await ada.close();
  await bob.close();
});
