// What a browser gets over a link that is narrow, wide, and narrow again.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Person } from '../lib/browser.mjs';
import { meeting } from '../lib/fixture.mjs';
import { Link } from '../lib/link.mjs';
import { sentEncodings } from '../lib/media.mjs';
import { Server } from '../lib/server.mjs';
import { until } from '../lib/until.mjs';

// Without ICE-TCP, which would lead around the link.
const context = meeting({
  browsers: ['chrome', 'firefox'],
  server: () => new Server({ env: { CHAPPE_RTC_TCP_PORT: '0', CHAPPE_RTC_SHARDS: '1' } }),
});

/** Of everything received: the freezes that the browser itself counted, seconds. NaN where it counts none. */
const freezes = () => window.chappe.room.engine.pcManager.publisher.getStats().then((report) => {
  const counted = [...report.values()].filter((entry) => entry.type === 'inbound-rtp' && entry.kind === 'video').map((entry) => entry.totalFreezesDuration);
  return counted.length > 0 && counted.every((seconds) => typeof seconds === 'number') ? counted.reduce((sum, seconds) => sum + seconds) : NaN;
});

for (const [codec, browser] of [['vp8', 'chrome'], ['vp9', 'chrome'], ['av1', 'chrome'], ['vp8', 'firefox']]) {
  test(`${codec} to ${browser}: the picture follows the link down and up`, { timeout: 240_000 }, async (t) => {
    const link = await Link.open(context.server.address, context.server.port + 2);
    // An open socket would keep a failed test from ending.
    t.after(() => link.close());
    const room = `narrow-${codec}-${browser}`;
    const ada = await (await Person.open(context.chrome, context.server, room, 'ada', { codec, small: '0' })).joined();
    link.down.rate = 2_000;
    const bob = await (await Person.open(context[browser], context.server, room, 'bob', { camera: '0', mic: '0' }, (page) => link.lead(page))).joined();
    // A tile as wide as the window, so that only the link decides.
    await bob.page.setViewport({ width: 1280, height: 1500 });
    await bob.seesAndHears('ada');
    assert.ok(link.directions.down.passed > 50, 'media goes over the link');
    const sends = await ada.evaluate(sentEncodings);
    const names = sends.map((one) => `${one.codec} ${one.rid} ${one.mode}`).join(', ');
    // Layers within one stream, or three streams.
    if (codec === 'vp8') assert.deepEqual(sends.map((one) => one.rid).toSorted(), ['f', 'h', 'q'], names);
    else assert.match(names, new RegExp(`^video/${codec}  L3T3(_KEY)?$`, 'i'));

    const seen = [];
    // As wide, for so many pictures in a row.
    const width = (what, fits, timeout, least = 1) => {
      let from;
      return until(what, async () => {
        const { width: now, frames } = await bob.received('ada');
        seen.push(now);
        from = fits(now) ? from ?? frames : undefined;
        return from !== undefined && frames >= from + least;
      }, { timeout, every: 250 }).catch((error) => {
        throw new Error(`${error.message}; widths ${seen.slice(-40)}; ${JSON.stringify(link.directions)}\nserver:\n${context.server.log.slice(-1500)}`);
      });
    };
    await width('a large picture over 2 Mb/s', (now) => now >= 960, 60_000);
    const large = seen.at(-1);
    const before = await bob.evaluate(freezes);
    assert.ok(Number.isFinite(before), 'the browser counts freezes');
    link.down.rate = 500;
    await width('a smaller one over 500 kb/s', (now) => now < large, 20_000);
    await width('it stays small and goes on', (now) => now < large, 30_000, 60);
    await bob.screenshot(`narrow-${codec}-${browser}`);
    link.down.rate = 2_000;
    await width('the large one again', (now) => now >= large, 60_000);
    const frozen = (await bob.evaluate(freezes)) - before;
    assert.ok(frozen < 1, `${frozen.toFixed(2)} s frozen`);
    t.diagnostic(`${names}: ${frozen.toFixed(2)} s frozen`);
    await ada.close();
    await bob.close();
  });
}
