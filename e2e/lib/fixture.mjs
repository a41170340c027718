// What a test file needs: a server and its browsers, ended whatever happens.

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
    context.exitCode = await context.server?.stop();
  }, { timeout: 60_000 });
  return context;
}
