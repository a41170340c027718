// What tiles show decides what is sent: a smaller tile stops the larger layers at the publisher, a hidden one all of them.

import { test } from 'node:test';

import { Person } from '../lib/browser.mjs';
import { meeting } from '../lib/fixture.mjs';
import { sentByLayer } from '../lib/media.mjs';
import { until } from '../lib/until.mjs';

const context = meeting();

/** For so long none of an encoding's pictures may leave before it counts as stopped, ms. */
const QUIET = 2_500;

/** Waits until the encodings named in `flowing` send pictures and the others do not. */
async function flows(person, what, flowing, timeout = 60_000) {
  const history = [];
  await until(what, async () => {
    const at = performance.now();
    history.push({ at, layers: await person.evaluate(sentByLayer) });
    while (history.length > 1 && at - history[1].at >= QUIET) history.shift();
    const [first, now] = [history[0], history.at(-1)];
    if (at - first.at < QUIET) return false;
    const layers = Object.keys(now.layers);
    return layers.length === 3 && layers.every((rid) => (now.layers[rid].frames > first.layers[rid].frames) === flowing.includes(rid));
  }, { timeout, every: 250 }).catch((error) => {
    throw new Error(`${error.message}; sent: ${JSON.stringify([history[0], history.at(-1)])}\nserver:\n${context.server.log.slice(-1500)}`);
  });
}

test('a hidden tile stops its layers at the publisher, and shown again it has a picture', { timeout: 240_000 }, async (t) => {
  const ada = await (await Person.open(context.chrome, context.server, 'hidden', 'ada', { small: '0' })).joined();
  const bob = await (await Person.open(context.chrome, context.server, 'hidden', 'bob', { camera: '0', mic: '0' })).joined();
  await bob.page.setViewport({ width: 1280, height: 1500 });
  await bob.seesAndHears('ada');
  await flows(ada, 'all layers flow for a large tile', ['q', 'h', 'f'], 90_000);

  // A narrow window shows a small tile: the lowest layer is enough.
  let began = performance.now();
  await bob.page.setViewport({ width: 320, height: 400 });
  await flows(ada, 'the layers above the lowest stop', ['q']);
  t.diagnostic(`small: stopped after ${((performance.now() - began) / 1000).toFixed(1)} s`);
  await bob.seesAndHears('ada');

  const tile = (display) => bob.evaluate((how) => { document.querySelector('[data-identity=ada]').style.display = how; }, display);
  began = performance.now();
  await tile('none');
  await flows(ada, 'nothing is sent for a hidden tile', []);
  t.diagnostic(`hidden: stopped after ${((performance.now() - began) / 1000).toFixed(1)} s`);
  // Voices go on.
  await until('bob hears ada still', async () => {
    const first = await bob.received('ada');
    await new Promise((resolve) => setTimeout(resolve, 300));
    const now = await bob.received('ada');
    return now.energy > first.energy && now.frames === first.frames;
  });

  began = performance.now();
  await tile('');
  await bob.seesAndHears('ada', { frames: 1 });
  t.diagnostic(`shown: a picture after ${((performance.now() - began) / 1000).toFixed(1)} s`);
  await bob.page.setViewport({ width: 1280, height: 1500 });
  await flows(ada, 'all layers flow again', ['q', 'h', 'f'], 90_000);
  await until('the large picture is back', async () => (await bob.received('ada')).width === 1280, { timeout: 60_000 });
  await ada.close();
  await bob.close();
});
