// The load tester beside one real Chromium in the same room: what it reports has to be what getStats counts. And its HTML page.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { promisify } from 'node:util';

import { Person, artifacts } from '../lib/browser.mjs';
import { meeting } from '../lib/fixture.mjs';
import { until } from '../lib/until.mjs';

const run = promisify(execFile);
const context = meeting();
const bin = process.env.CHAPPE_BIN ?? new URL('../../target/debug/', import.meta.url).pathname;

/** Length of the measured window, ms: some loops of the media, so that a keyframe more or less counts little. */
const WINDOW = 12_000;
/** Before the tester counts, ms: Chromium, who sees its publisher, waits for as long, so that its window lies within the tester's. */
const WARMUP = 10_000;
/** The authentication tag of SRTP with AES-GCM, which getStats does not count. */
const TAG = 16;

/** Runs in the page: what is received of one participant so far, by kind. */
async function receivedOf(identity) {
  const sums = {};
  const participant = window.chappe.room.remoteParticipants.get(identity);
  for (const publication of participant?.trackPublications.values() ?? []) {
    const report = await publication.track?.getRTCStatsReport?.();
    report?.forEach((entry) => {
      if (entry.type !== 'inbound-rtp') return;
      sums[entry.kind] = {
        at: entry.timestamp,
        packets: entry.packetsReceived,
        bytes: entry.bytesReceived,
        frames: entry.framesReceived ?? 0,
        decoded: entry.framesDecoded ?? 0,
      };
    });
  }
  return sums;
}

for (const codec of ['vp8', 'h264']) {
  test(`the tester and Chromium count the same of ${codec}`, { timeout: 180_000 }, async () => {
    const folder = mkdtempSync(join(tmpdir(), 'chappe-swarm-'));
    const prefix = `swarm-${codec}`;
    const set = [`room_prefix=${prefix}`, `video_codec=${codec}`, 'publishers=1', 'subscribers=1', 'layers=1',
      `warmup=${WARMUP / 1000}s`,
      // Longer than Chromium takes on any machine: the tester is told when to end.
      'duration=120s', 'bandwidth_feedback=false'];
    const html = join(folder, 'report.html');
    const tester = run(`${bin}/chappe-loadtest`, [
      'run', 'livestream', '--json', '--html', html, '--url', context.server.url, '--api-key', 'testkey',
      '--api-secret', 'a-secret-for-tests-of-thirty-two-bytes-and-more', ...set.flatMap((field) => ['--set', field]),
    ], { maxBuffer: 1 << 24 });
    tester.catch(() => {});
    try {
      // In the same room, watching.
      const ada = await Person.open(context.chrome, context.server, `${prefix}-0`, 'ada', { camera: '0', mic: '0' });
      await ada.joined();
      const publisher = 'load-0-0';
      await until('Chromium decodes', async () => (await ada.evaluate(receivedOf, publisher)).video?.decoded > 60, { timeout: 60_000 });
      await new Promise((resolve) => setTimeout(resolve, WARMUP));
      const before = await ada.evaluate(receivedOf, publisher);
      await new Promise((resolve) => setTimeout(resolve, WINDOW));
      const after = await ada.evaluate(receivedOf, publisher);
      await ada.screenshot(`swarm-${codec}`);
      tester.child.kill('SIGINT');
      await ada.close();

      const report = JSON.parse((await tester).stdout);
      assert.equal(report.clients.joined, 2, JSON.stringify(report.clients));
      const { figures } = report;
      const rate = (kind, name) => (after[kind][name] - before[kind][name]) * 1000 / (after[kind].at - before[kind].at);
      const kbps = (kind) => (rate(kind, 'bytes') + TAG * rate(kind, 'packets')) * 8 / 1000;
      const packets = (figures.packets_received - figures.repair_packets_received) / report.window_seconds;
      for (const [what, theirs, ours] of [
        ['packets a second', rate('audio', 'packets') + rate('video', 'packets'), packets],
        // Without headers: clients agree on different extensions.
        ['kb/s of payload', kbps('audio') + kbps('video'), figures.received_payload_kbps],
        ['frames a second', rate('video', 'frames'), figures.frames_received / report.window_seconds],
      ]) {
        console.log(`${codec}, ${what}: Chromium ${theirs.toFixed(2)}, the tester ${ours.toFixed(2)}`);
        assert.ok(Math.abs(ours / theirs - 1) < 0.05, `${what}: Chromium ${theirs}, the tester ${ours}`);
      }

      // The page stands alone: no script, nothing from elsewhere, and nothing wider than the window.
      const page = await context.chrome.newPage();
      const asked = [];
      page.on('request', (request) => asked.push(request.url()));
      for (const [width, scheme] of [[1280, 'light'], [390, 'dark']]) {
        await page.setViewport({ width, height: 900 });
        await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: scheme }]);
        await page.goto(pathToFileURL(html).href, { waitUntil: 'load' });
        const seen = await page.evaluate(() => ({
          title: document.title,
          plots: document.querySelectorAll('svg polyline').length,
          overflow: document.documentElement.scrollWidth - window.innerWidth,
        }));
        assert.equal(seen.title, 'livestream · load test');
        assert.ok(seen.plots >= 6, `${seen.plots} lines in the plots`);
        assert.ok(seen.overflow <= 0, `${seen.overflow} px wider than a window of ${width}`);
        await page.screenshot({ path: `${artifacts}report-${codec}-${width}.png`, fullPage: true });
      }
      assert.ok(asked.every((url) => url.startsWith('file:')), asked.join(', '));
      await page.close();
    } finally {
      tester.child.kill('SIGKILL');
      rmSync(folder, { recursive: true, force: true });
    }
  });
}
