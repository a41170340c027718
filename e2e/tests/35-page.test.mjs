// The page as people use it: by keyboard alone, on a small phone, with panels open, with a screen shared.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Person } from '../lib/browser.mjs';
import { meeting } from '../lib/fixture.mjs';
import { until } from '../lib/until.mjs';

const context = meeting();

/** Presses Tab until `wanted` (run in the page) holds for what has the focus. */
async function tabTo(person, what, wanted) {
  for (let i = 0; i < 40; i++) {
    await person.page.keyboard.press('Tab');
    if (await person.evaluate(wanted)) return;
  }
  throw new Error(`Tab does not lead to ${what}`);
}

/** Runs in the page: what is cut off, or out of the window. */
function misplaced() {
  const wrong = [];
  if (document.documentElement.scrollWidth > innerWidth) wrong.push('the page scrolls sideways');
  const inside = (box, bounds) => box.left >= bounds.left - 1 && box.top >= bounds.top - 1 && box.right <= bounds.right + 1 && box.bottom <= bounds.bottom + 1;
  const grid = document.querySelector('.grid');
  const bounds = grid.getBoundingClientRect();
  for (const tile of bounds.width ? grid.querySelectorAll('.tile') : []) {
    const box = tile.getBoundingClientRect();
    if (!inside(box, bounds)) wrong.push(`${tile.dataset.identity}'s tile leaves the grid`);
    if (box.width / box.height > 1.9 && tile.dataset.source === 'camera') wrong.push(`${tile.dataset.identity} is a stripe`);
  }
  const view = { left: 0, top: 0, right: innerWidth, bottom: innerHeight };
  for (const button of document.querySelectorAll('.bar button')) {
    if (!inside(button.getBoundingClientRect(), view)) wrong.push(`#${button.id} is out of the window`);
  }
  return wrong;
}

test('a person joins, mutes, writes and leaves by keyboard alone', { timeout: 120_000 }, async () => {
  const browserContext = await context.chrome.createBrowserContext();
  const page = await browserContext.newPage();
  await page.setViewport({ width: 1280, height: 800 });
  const ada = new Person(page, 'ada');
  ada.server = context.server;
  await page.goto(`${context.server.url}/?room=keys&name=ada&small=1`, { waitUntil: 'load' });
  await ada.until('the form is there', () => document.querySelector('#join'));
  await tabTo(ada, 'the token field', () => document.activeElement?.tagName === 'INPUT');
  await page.keyboard.type(await context.server.token('keys', 'ada'));
  await page.keyboard.press('Enter');
  await ada.joined();
  const bob = await (await Person.open(context.chrome, context.server, 'keys', 'bob')).joined();
  await bob.seesAndHears('ada');

  await tabTo(ada, 'the microphone', () => document.activeElement?.id === 'mic');
  const ring = await ada.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
  assert.notEqual(ring, 'none', 'what has the focus is seen to have it');
  await page.keyboard.press('Space');
  await bob.until('ada is shown as muted', () => document.querySelector('[data-identity=ada].muted') !== null);
  await tabTo(ada, 'the chat', () => document.activeElement?.id === 'toggle-chat');
  await page.keyboard.press('Enter');
  await ada.until('the chat has the focus', () => document.activeElement?.id === 'chat-input');
  await page.keyboard.type('no mouse here');
  await page.keyboard.press('Enter');
  await bob.click('#toggle-chat');
  await bob.until('the message arrives', () => document.querySelector('.messages')?.textContent.includes('no mouse here'));
  await tabTo(ada, 'leave', () => document.activeElement?.id === 'leave');
  await page.keyboard.press('Enter');
  await bob.until('ada is gone', () => window.chappe.room.remoteParticipants.size === 0);
  await ada.close();
  await bob.close();
});

test('the participants list, the devices and the keys', { timeout: 120_000 }, async () => {
  const ada = await (await Person.open(context.chrome, context.server, 'panels', 'ada')).joined();
  const bob = await (await Person.open(context.chrome, context.server, 'panels', 'bob')).joined();
  await Promise.all([ada.seesAndHears('bob'), bob.seesAndHears('ada')]);
  const press = (key) => ada.page.keyboard.press(key);

  await press('p');
  const listed = (names) => ada.until(`the list shows ${names.join(' and ')}`, (wanted) => (
    JSON.stringify([...document.querySelectorAll('#people li > span:first-child')].map((one) => one.textContent).sort()) === wanted
  ), [JSON.stringify(names)]);
  await listed(['ada (you)', 'bob']);
  const icons = (name) => ada.evaluate((who) => (
    [...document.querySelectorAll('#people li')].find((row) => row.textContent.startsWith(who)).querySelector('.icons').innerHTML
  ), name);
  const before = await icons('bob');
  await bob.page.keyboard.press('m');
  await ada.until('the list marks bob as muted', (was) => (
    [...document.querySelectorAll('#people li')].find((row) => row.textContent.startsWith('bob')).querySelector('.icons').innerHTML !== was
  ), [before]);
  await press('Escape');
  await ada.until('the list is closed', () => !document.querySelector('#people')?.offsetParent);

  await press('v');
  await bob.until("ada's camera is off", () => window.chappe.room.remoteParticipants.get('ada').getTrackPublication('camera').isMuted);
  await press('v');
  await bob.seesAndHears('ada');

  await ada.click('#toggle-settings');
  const other = await ada.until('another microphone can be chosen', () => {
    const select = document.querySelector('#device-audioinput');
    return [...select?.options ?? []].map((option) => option.value).find((value) => value !== select.value && value !== 'default');
  });
  await ada.page.select('#device-audioinput', other);
  await ada.until('it is the one that is sent', (id) => (
    window.chappe.room.localParticipant.getTrackPublication('microphone').track.mediaStreamTrack.getSettings().deviceId === id
  ), [other]);
  await bob.seesAndHears('ada');
  await ada.close();
  await bob.close();
});

test('everything has its place: panels, a shared screen, a phone of 320 pixels, dark', { timeout: 180_000 }, async () => {
  const people = [];
  for (const name of ['ada', 'bob', 'cleo']) people.push(await (await Person.open(context.chrome, context.server, 'places', name)).joined());
  const [ada, bob] = people;
  await ada.seesAndHears('bob');
  const placed = (what) => until(what, async () => {
    const wrong = await ada.evaluate(misplaced);
    if (wrong.length > 0) throw new Error(wrong.join('; '));
    return true;
  }, { timeout: 15_000 });
  await placed('three people');
  for (const panel of ['chat', 'people', 'stats', 'settings']) {
    await ada.click(`#toggle-${panel}`);
    await placed(`with ${panel} open`);
    await ada.click(`#toggle-${panel}`);
  }
  await bob.click('#screen');
  await ada.seesAndHears('bob', { audio: false, source: 'screen_share', frames: 3 });
  for (const [width, height] of [[1280, 800], [320, 640], [640, 360]]) {
    await ada.page.setViewport({ width, height });
    await placed(`a shared screen, ${width} wide`);
    await until(`the screen is what one looks at, ${width} wide`, async () => {
      const areas = await ada.evaluate(() => [...document.querySelectorAll('.tile')].map((tile) => tile.clientWidth * tile.clientHeight));
      assert.ok(areas[0] > 2 * Math.max(...areas.slice(1)), `areas: ${areas}`);
      return true;
    }, { timeout: 15_000 });
  }
  await bob.click('#screen');
  await ada.until('the screen is gone', () => !document.querySelector('[data-source=screen_share]'));
  await ada.page.setViewport({ width: 320, height: 640 });
  await placed('three people on a phone');
  const luminance = (color) => { const [r, g, b] = color.match(/[\d.]+/g).map(Number); return (r * 2 + g * 7 + b) / 10; };
  for (const scheme of ['light', 'dark']) {
    await ada.page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: scheme }]);
    const [paper, ink] = await ada.evaluate(() => { const style = getComputedStyle(document.body); return [style.backgroundColor, style.color]; });
    assert.equal(luminance(paper) < luminance(ink), scheme === 'dark', `${scheme}: ${ink} on ${paper}`);
    await ada.screenshot(`phone-${scheme}`);
  }
  for (const person of people) await person.close();
});
