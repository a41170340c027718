// What people do in a room: mute, share, chat, come back, vanish; and what they may not do.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Person } from '../lib/browser.mjs';
import { meeting } from '../lib/fixture.mjs';
import { until } from '../lib/until.mjs';

const context = meeting();

async function pair(room, query = {}) {
  const ada = await (await Person.open(context.chrome, context.server, room, 'ada', query)).joined();
  const bob = await (await Person.open(context.chrome, context.server, room, 'bob', query)).joined();
  await Promise.all([ada.seesAndHears('bob'), bob.seesAndHears('ada')]);
  return { ada, bob };
}

test('mute and unmute are seen by the others', { timeout: 120_000 }, async () => {
  const { ada, bob } = await pair('mute');
  await ada.click('#mic');
  await bob.until('ada is shown as muted', () => document.querySelector('[data-identity=ada].muted') !== null);
  await ada.click('#mic');
  await bob.until('ada is shown as unmuted', () => document.querySelector('[data-identity=ada]:not(.muted)') !== null);
  await ada.click('#camera');
  await bob.until("ada's camera is off", () => document.querySelector('[data-identity=ada]').dataset.state !== 'video');
  await ada.click('#camera');
  await bob.seesAndHears('ada');
  await ada.close();
  await bob.close();
});

test('chat reaches everybody', { timeout: 120_000 }, async () => {
  const { ada, bob } = await pair('chat');
  await bob.click('#toggle-chat');
  await ada.click('#toggle-chat');
  await ada.page.type('#chat-input', 'Bonjour, Bob');
  await ada.page.keyboard.press('Enter');
  await bob.until('the message arrives', () => document.querySelector('.messages')?.textContent.includes('Bonjour, Bob'));
  await ada.close();
  await bob.close();
});

test('methods of others can be called', { timeout: 120_000 }, async () => {
  const { ada, bob } = await pair('calls');
  await ada.evaluate(() => window.chappe.room.registerRpcMethod('turn', async ({ payload, callerIdentity }) => `${callerIdentity}: ${[...payload].toReversed().join('')}`));
  const call = (method, payload) => bob.evaluate(async (of, text) => {
    const { localParticipant } = window.chappe.room;
    const asked = localParticipant.performRpc({ destinationIdentity: 'ada', method: of, payload: text });
    return asked.catch((error) => error.code);
  }, method, payload);
  assert.equal(await call('turn', 'abc'), 'bob: cba');
  assert.equal(await call('turn', 'x'.repeat(10_000)), `bob: ${'x'.repeat(10_000)}`);
  assert.equal(await call('missing', ''), 1400, 'unsupported method');
  await ada.close();
  await bob.close();
});

test('a shared screen arrives and goes', { timeout: 120_000 }, async () => {
  const { ada, bob } = await pair('screen');
  await ada.click('#screen');
  await bob.seesAndHears('ada', { audio: false, source: 'screen_share', frames: 3 });
  await bob.screenshot('screen');
  await ada.click('#screen');
  await bob.until('the screen is gone', () => !document.querySelector('[data-source=screen_share]'));
  await ada.close();
  await bob.close();
});

test('somebody who leaves can come back', { timeout: 120_000 }, async () => {
  const { ada, bob } = await pair('back');
  await bob.click('#leave');
  await ada.until('bob is gone', () => window.chappe.room.remoteParticipants.size === 0);
  await bob.close();
  const again = await (await Person.open(context.chrome, context.server, 'back', 'bob')).joined();
  await Promise.all([ada.seesAndHears('bob'), again.seesAndHears('ada')]);
  await ada.close();
  await again.close();
});

test('a tab that is killed disappears for the others', { timeout: 120_000 }, async () => {
  const { ada, bob } = await pair('killed');
  const session = await bob.page.createCDPSession();
  session.send('Page.crash').catch(() => {});
  await ada.until('bob is gone', () => window.chappe.room.remoteParticipants.size === 0, [], 60_000);
  await ada.close();
});

test('a second room sees nothing of the first', { timeout: 120_000 }, async () => {
  const { ada, bob } = await pair('first');
  const eve = await (await Person.open(context.chrome, context.server, 'second', 'eve')).joined();
  const dan = await (await Person.open(context.chrome, context.server, 'second', 'dan')).joined();
  await eve.seesAndHears('dan');
  assert.deepEqual(await eve.evaluate(() => [...window.chappe.room.remoteParticipants.keys()]), ['dan']);
  assert.deepEqual(await ada.evaluate(() => [...window.chappe.room.remoteParticipants.keys()]), ['bob']);
  for (const person of [ada, bob, eve, dan]) await person.close();
});

test('the same identity twice: the older one is told', { timeout: 120_000 }, async () => {
  const ada = await (await Person.open(context.chrome, context.server, 'twice', 'ada')).joined();
  const again = await (await Person.open(context.chrome, context.server, 'twice', 'ada')).joined();
  await ada.until('the older one reads why', () => document.querySelector('#join-error')?.textContent.includes('somewhere else'));
  assert.equal(await again.evaluate(() => window.chappe.room.state), 'connected');
  await ada.close();
  await again.close();
});

test('wrong, expired and missing tokens give a readable error', { timeout: 120_000 }, async () => {
  const expired = await context.server.token('r', 'ada', ['--valid-for', '-3600']);
  const good = await context.server.token('r', 'ada');
  const wrong = good.slice(0, -6) + (good.endsWith('AAAAAA') ? 'BBBBBB' : 'AAAAAA');
  const cases = [
    { token: expired, says: /expired/i },
    { token: wrong, says: /signature|not accept/i },
    { token: 'nonsense', says: /token/i },
  ];
  for (const { token, says } of cases) {
    const person = await Person.open(context.chrome, context.server, 'r', 'ada', { token });
    const text = await person.until('an error is shown', () => document.querySelector('#join-error')?.textContent);
    assert.match(text, says);
    await person.close();
  }
  const browserContext = await context.chrome.createBrowserContext();
  const page = await browserContext.newPage();
  await page.goto(`${context.server.url}/?room=r&name=ada&join=1`);
  const text = await until('an error is shown', () => page.evaluate(() => document.querySelector('#join-error')?.textContent));
  assert.match(text, /access token/);
  await browserContext.close();
});
