// Stock Chromium and Firefox ESR, driven by puppeteer-core, clicking the real page.

import { existsSync, mkdirSync } from 'node:fs';

import puppeteer from 'puppeteer-core';

import { until } from './until.mjs';

const PATHS = {
  chrome: process.env.CHAPPE_CHROMIUM ?? '/usr/bin/chromium',
  firefox: process.env.CHAPPE_FIREFOX ?? '/usr/bin/firefox-esr',
};

export const artifacts = new URL('../artifacts/', import.meta.url).pathname;
mkdirSync(artifacts, { recursive: true });

/** Starts a browser. `origin` is the page's: cameras are then given to it over plain http. `prefs` are Firefox's. */
export async function launch(kind, origin, prefs = {}) {
  const executablePath = PATHS[kind];
  if (!existsSync(executablePath)) {
    throw new Error(`${executablePath} is missing: run scripts/setup.sh, or apt-get install chromium firefox-esr`);
  }
  if (kind === 'chrome') {
    return puppeteer.launch({
      browser: 'chrome', executablePath, headless: true, acceptInsecureCerts: true, protocolTimeout: 60_000,
      args: [
        '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
        '--disable-component-update', '--disable-sync', '--use-fake-ui-for-media-stream', '--use-fake-device-for-media-stream',
        '--auto-accept-this-tab-capture', '--auto-select-desktop-capture-source=Entire screen', '--autoplay-policy=no-user-gesture-required',
        `--unsafely-treat-insecure-origin-as-secure=${origin}`, '--disable-dev-shm-usage', '--mute-audio',
        '--disable-background-timer-throttling', '--disable-renderer-backgrounding', '--disable-backgrounding-occluded-windows',
        '--window-size=1280,800',
      ],
    });
  }
  return puppeteer.launch({
    browser: 'firefox', executablePath, headless: true, acceptInsecureCerts: true, protocolTimeout: 60_000,
    extraPrefsFirefox: {
      'media.navigator.streams.fake': true, 'media.navigator.permission.disabled': true, 'media.devices.insecure.enabled': true,
      'media.getusermedia.insecure.enabled': true, 'media.autoplay.default': 0, 'media.autoplay.blocking_policy': 0,
      'network.manage-offline-status': false, 'media.peerconnection.ice.loopback': true, 'media.peerconnection.ice.obfuscate_host_addresses': false,
      'media.gmp-manager.updateEnabled': false, ...prefs,
    },
  });
}

/** One participant: a page of a browser with the meeting open. */
export class Person {
  constructor(page, name) {
    this.page = page;
    this.name = name;
    this.console = [];
    page.on('console', (message) => {
      this.console.push(`${message.type()}: ${message.text()}`);
      if (this.console.length > 300) this.console.shift();
    });
    page.on('pageerror', (error) => this.console.push(`pageerror: ${error.message}`));
  }

  static async open(browser, server, room, name, query = {}, prepare = async () => {}) {
    const context = await browser.createBrowserContext();
    const page = await context.newPage();
    await page.setViewport({ width: 1280, height: 800 });
    const person = new Person(page, name);
    person.server = server;
    await prepare(page);
    await page.goto(await server.page(room, name, query), { waitUntil: 'load' });
    return person;
  }

  /** Waits until the SDK says connected. */
  async joined(timeout = 30_000) {
    await this.until(`${this.name} is connected`, () => window.chappe?.room.state === 'connected', [], timeout);
    return this;
  }

  /** Waits until `probe` (run in the page) is truthy. */
  async until(what, probe, args = [], timeout = 30_000) {
    try {
      return await until(what, () => this.page.evaluate(probe, ...args), { timeout, every: 150 });
    } catch (error) {
      const shot = `${artifacts}failed-${this.name}-${Date.now()}.png`;
      await this.page.screenshot({ path: shot }).catch(() => {});
      throw new Error(`${error.message}\n${this.name}'s console:\n${this.console.slice(-25).join('\n')}\nserver:\n${this.server?.log.slice(-3000)}\nscreenshot: ${shot}`);
    }
  }

  evaluate(probe, ...args) {
    return this.page.evaluate(probe, ...args);
  }

  async click(selector) {
    // The page may draw the element anew between finding and clicking it.
    await until(`a click on ${selector}`, async () => {
      await this.page.waitForSelector(selector, { timeout: 15_000 });
      await this.page.click(selector);
      return true;
    }, { timeout: 15_000 });
  }

  /** What this person receives of `identity`: frames decoded, size, audio energy, codec. */
  received(identity) {
    return this.page.evaluate(receivedOf, identity);
  }

  /** Waits until video of `identity` decodes (frames rise by `frames`) and, unless told otherwise, sound has energy. */
  async seesAndHears(identity, { audio = true, frames = 10, timeout = 40_000, source = 'camera' } = {}) {
    const first = {};
    await until(`${this.name} sees${audio ? ' and hears' : ''} ${identity}`, async () => {
      const now = await this.page.evaluate(receivedOf, identity, source);
      first.frames ??= now.frames;
      first.energy ??= now.energy;
      this.last = now;
      return now.frames >= (first.frames ?? 0) + frames && now.width > 0 && (!audio || now.energy > first.energy);
    }, { timeout, every: 200 }).catch(async (error) => {
      const shot = `${artifacts}failed-${this.name}-${Date.now()}.png`;
      await this.page.screenshot({ path: shot }).catch(() => {});
      throw new Error(`${error.message}\nreceived: ${JSON.stringify(this.last)}\n${this.name}'s console:\n${this.console.slice(-25).join('\n')}\nserver:\n${this.server?.log.slice(-3000)}\nscreenshot: ${shot}`);
    });
  }

  async screenshot(name) {
    await this.page.screenshot({ path: `${artifacts}${name}.png` });
  }

  async close() {
    await this.page.browserContext().close().catch(() => {});
  }
}

/** Runs in the page: sums of what is received from one participant. */
async function receivedOf(identity, source = 'camera') {
  const room = window.chappe.room;
  const participant = room.remoteParticipants.get(identity);
  const sum = { frames: 0, width: 0, height: 0, energy: 0, codec: '', lost: 0, tracks: 0, bytes: 0 };
  if (!participant) return { ...sum, absent: true };
  for (const publication of participant.trackPublications.values()) {
    const isAudio = publication.kind === 'audio';
    if (!isAudio && publication.source !== source) continue;
    const report = await publication.track?.getRTCStatsReport?.();
    if (!report) continue;
    sum.tracks += 1;
    const codecs = new Map();
    report.forEach((entry) => { if (entry.type === 'codec') codecs.set(entry.id, entry.mimeType); });
    report.forEach((entry) => {
      if (entry.type !== 'inbound-rtp') return;
      sum.lost += entry.packetsLost ?? 0;
      sum.bytes += entry.bytesReceived ?? 0;
      if (entry.kind === 'video') {
        sum.frames += entry.framesDecoded ?? 0;
        sum.width = Math.max(sum.width, entry.frameWidth ?? 0);
        sum.height = Math.max(sum.height, entry.frameHeight ?? 0);
        sum.codec = codecs.get(entry.codecId) ?? sum.codec;
      } else {
        // Firefox counts no energy: samples stand for it that were decoded rather than made up for what did not come.
        sum.energy += entry.totalAudioEnergy ?? (entry.totalSamplesReceived - entry.concealedSamples);
      }
    });
  }
  return sum;
}
