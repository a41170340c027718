// What browsers and server agree on, by DTLS version, and that everybody is seen and heard with it.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { Person } from '../lib/browser.mjs';
import { meeting } from '../lib/fixture.mjs';
import { Server } from '../lib/server.mjs';

/** Runs in the page: DTLS version and SRTP cipher of its connection. */
async function agreed() {
  const report = await window.chappe.room.engine.pcManager.publisher.getStats();
  const { tlsVersion, srtpCipher } = [...report.values()].find((entry) => entry.type === 'transport');
  return { tlsVersion, srtpCipher };
}

// With 1.2 the server's order counts, with 1.3 the client's: Chromium then takes AES-CM, Firefox AES-128-GCM.
for (const [label, args, tlsVersion, srtpCipher] of [
  ['by default', [], 'FEFD', 'SRTP_AEAD_AES_256_GCM'],
  ['with DTLS 1.3', ['--rtc-dtls', '1.3'], 'FEFC', 'SRTP_AES128_CM_HMAC_SHA1_80'],
]) {
  describe(label, () => {
    const context = meeting({ browsers: ['chrome', 'firefox'], server: () => new Server({ args }) });
    test(`a Chromium and a Firefox see and hear each other ${label}, Chromium with ${srtpCipher}`, { timeout: 120_000 }, async () => {
      const ada = await (await Person.open(context.chrome, context.server, 'ciphers', 'ada')).joined();
      const bob = await (await Person.open(context.firefox, context.server, 'ciphers', 'bob')).joined();
      await Promise.all([ada.seesAndHears('bob'), bob.seesAndHears('ada')]);
      assert.deepEqual(await ada.evaluate(agreed), { tlsVersion, srtpCipher });
      await ada.close();
      await bob.close();
    });
  });
}
