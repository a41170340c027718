// `chappe --dev-tls`: a page that a phone in the same network can open, with camera and without any token at hand.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Person } from '../lib/browser.mjs';
import { meeting } from '../lib/fixture.mjs';
import { Server } from '../lib/server.mjs';

// No keys: it makes its own at each start.
const context = meeting({ server: () => new Server({ args: ['--dev-tls'], scheme: 'https', env: { CHAPPE_KEYS: undefined } }) });

/** Opens the bare page and fills the form in, as a person does. */
async function joinByForm(room, name) {
  const browserContext = await context.chrome.createBrowserContext();
  const page = await browserContext.newPage();
  await page.setViewport({ width: 1280, height: 800 });
  const person = new Person(page, name);
  person.server = context.server;
  await page.goto(`${context.server.url}/`, { waitUntil: 'load' });
  await person.until('the camera is shown before joining', () => (document.querySelector('.preview video')?.videoWidth ?? 0) > 0);
  await page.type('#room', room);
  await page.type('#name', name);
  await person.screenshot(`https-form-${name}`);
  await person.click('#join');
  await person.joined();
  person.identity = await person.evaluate(() => window.chappe.room.localParticipant.identity);
  return person;
}

test('the start says where the page is for others, and that this is for development only', () => {
  const said = context.server.log;
  assert.match(said, new RegExp(`On your network +https://${context.server.address.replaceAll('.', '\\.')}:${context.server.port}/`));
  assert.match(said, /DEVELOPMENT MODE: whoever opens the page gets a token/);
  assert.match(said, /API key \S+, secret \S{32,}/);
});

test('two people join by the form over https, with cameras and without tokens of their own', { timeout: 120_000 }, async () => {
  const ada = await joinByForm('lan', 'ada');
  const where = await ada.evaluate(() => ({ protocol: location.protocol, host: location.hostname, secure: isSecureContext }));
  assert.deepEqual(where, { protocol: 'https:', host: context.server.address, secure: true });
  const bob = await joinByForm('lan', 'bob');
  await Promise.all([ada.seesAndHears(bob.identity), bob.seesAndHears(ada.identity)]);
  const names = await ada.evaluate(() => [...window.chappe.room.remoteParticipants.values()].map((one) => one.name));
  assert.deepEqual(names, ['bob']);
  await ada.screenshot('https');
  await ada.close();
  await bob.close();
});

test('two people of one name are two participants', { timeout: 120_000 }, async () => {
  const one = await joinByForm('names', 'ada');
  const other = await joinByForm('names', 'ada');
  assert.notEqual(one.identity, other.identity);
  await Promise.all([one.seesAndHears(other.identity), other.seesAndHears(one.identity)]);
  await one.close();
  await other.close();
});

test('the form says what is missing', { timeout: 60_000 }, async () => {
  const browserContext = await context.chrome.createBrowserContext();
  const page = await browserContext.newPage();
  const person = new Person(page, 'nobody');
  await page.goto(`${context.server.url}/`, { waitUntil: 'load' });
  await person.click('#join');
  await person.until('a sentence says what is missing', () => document.querySelector('#join-error')?.textContent.includes('room and your name'));
  await person.close();
});
