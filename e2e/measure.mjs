// Figures for people who choose or plan: join time, CPU per forwarded packet, memory per participant.
//   node e2e/measure.mjs [joins]     (CHAPPE_BIN names the folder of the binaries; a release build by default)
// Prints one JSON object. Loopback, stock Chromium, small capture.

import { readFileSync } from 'node:fs';

process.env.CHAPPE_BIN ??= new URL('../target/release/', import.meta.url).pathname;
const { launch, Person } = await import('./lib/browser.mjs');
const { Server } = await import('./lib/server.mjs');

const joins = Number(process.argv[2] ?? 20);
const server = await new Server({ env: { CHAPPE_DEV: 'true' } }).start();
const chrome = await launch('chrome', server.url);

/** CPU seconds and resident bytes of the server. */
function usage() {
  const stat = readFileSync(`/proc/${server.child.pid}/stat`, 'utf8').replace(/^.*\) /, '').split(' ');
  const rss = Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${server.child.pid}/status`, 'utf8'))[1]) * 1024;
  return { cpu: (Number(stat[11]) + Number(stat[12])) / 100, rss };
}

async function packetsSent() {
  const text = await server.metrics();
  const match = [...text.matchAll(/^chappe_sfu_media_out_total\{[^}]*\} (\d+)/gm)];
  return match.reduce((sum, line) => sum + Number(line[1]), 0);
}

try {
  // Join to the first decoded frame: from the click (navigation with join=1) to framesDecoded > 0.
  const publisher = await (await Person.open(chrome, server, 'join', 'publisher')).joined();
  const times = [];
  for (let i = 0; i < joins; i++) {
    const person = await Person.open(chrome, server, 'join', `viewer${i}`, { mic: '0', camera: '0' });
    const time = await person.page.evaluate(async () => {
      for (;;) {
        const room = window.chappe?.room;
        const remote = room && [...room.remoteParticipants.values()].find((p) => p.identity === 'publisher');
        const track = remote && [...remote.videoTrackPublications.values()][0]?.track;
        const report = await track?.getRTCStatsReport?.();
        let frames = 0;
        report?.forEach((entry) => { if (entry.type === 'inbound-rtp') frames += entry.framesDecoded ?? 0; });
        if (frames > 0) {
          // From the WebSocket's start, as the browser's own timeline has it.
          const start = performance.getEntriesByName('chappe-join')[0]?.startTime ?? 0;
          return performance.now() - start;
        }
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
    });
    times.push(time);
    await person.close();
  }
  await publisher.close();
  times.sort((a, b) => a - b);

  const empty = usage();
  const people = [];
  for (let i = 0; i < 8; i++) {
    people.push(await (await Person.open(chrome, server, 'eight', `p${i}`, { simulcast: '0' })).joined(60_000));
  }
  await people[0].seesAndHears('p7', { timeout: 90_000 });
  const from = { ...usage(), packets: await packetsSent() };
  await new Promise((resolve) => setTimeout(resolve, 10_000));
  const to = { ...usage(), packets: await packetsSent() };
  const packets = to.packets - from.packets;
  console.log(JSON.stringify({
    join_to_first_frame_ms: { median: times[Math.floor(times.length / 2)], min: times[0], max: times.at(-1), joins },
    eight_participants: {
      forwarded_packets_per_s: packets / 10,
      server_cpu_percent_of_a_core: ((to.cpu - from.cpu) / 10) * 100,
      server_cpu_us_per_forwarded_packet: packets ? ((to.cpu - from.cpu) * 1e6) / packets : null,
      memory_per_participant_bytes: (to.rss - empty.rss) / 8,
      server_rss_bytes: to.rss,
    },
  }, null, 2));
} finally {
  await chrome.close();
  await server.stop();
}
