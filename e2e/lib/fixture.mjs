// What a test file needs: a server and its browsers, ended whatever happens.

import assert from 'node:assert/strict';
import { after, before } from 'node:test';

import { launch } from './browser.mjs';
import { Server } from './server.mjs';

/** Starts a server and the named browsers around the tests of a file. */
export function meeting({ server = () => new Server(), browsers = ['chrome'] } = {}) {
  const context = { people: [] };
  before(async () => {
    context.server = await server().start();
    for (const kind of browsers) context[kind] = await launch(kind, context.server.url);
  }, { timeout: 60_000 });
  after(async () => {
    for (const kind of browsers) await context[kind]?.close().catch(() => {});
    const code = await context.server?.stop();
    if (code !== undefined) assert.equal(code, 0, 'the server ends with code 0 on SIGTERM');
  }, { timeout: 60_000 });
  return context;
}
