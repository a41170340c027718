// The real server binaries, started with real settings.

import { spawn, execFile } from 'node:child_process';
import { promisify } from 'node:util';

import { until } from './until.mjs';

const run = promisify(execFile);
const KEY = 'testkey';
const SECRET = 'a-secret-for-tests-of-thirty-two-bytes-and-more';

/** Folder of the built binaries. */
const bin = process.env.CHAPPE_BIN ?? new URL('../../target/debug/', import.meta.url).pathname;

let nextPort = 17_000;

export class Server {
  /** `within`: a command that runs the server elsewhere, for example in a network namespace, where `admin` is its host. */
  constructor({ args = [], env = {}, address = process.env.CHAPPE_E2E_ADDRESS ?? '127.0.0.1', scheme = 'http', within = [], admin = '127.0.0.1' } = {}) {
    this.address = address;
    this.scheme = scheme;
    this.within = within;
    this.adminHost = admin;
    this.port = nextPort;
    nextPort += 20;
    this.args = args;
    this.env = env;
    this.log = '';
  }

  get url() {
    return `${this.scheme}://${this.address}:${this.port}`;
  }

  get admin() {
    return `http://${this.adminHost}:${this.port + 9}`;
  }

  environment() {
    return {
      PATH: process.env.PATH,
      CHAPPE_KEYS: `${KEY}:${SECRET}`,
      CHAPPE_PORT: String(this.port),
      CHAPPE_ADMIN: `127.0.0.1:${this.port + 9}`,
      CHAPPE_RTC_TCP_PORT: String(this.port + 1),
      CHAPPE_RTC_UDP_PORT: String(this.port + 2),
      CHAPPE_LOG: process.env.CHAPPE_LOG ?? 'info',
      RUST_BACKTRACE: '1',
      ...this.env,
    };
  }

  spawn(program, args) {
    const [command, ...rest] = [...this.within, `${bin}/${program}`, ...args];
    const child = spawn(command, rest, { env: this.environment(), stdio: ['ignore', 'pipe', 'pipe'] });
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding('utf8');
      stream.on('data', (text) => {
        this.log = (this.log + text).slice(-200_000);
        if (process.env.CHAPPE_E2E_VERBOSE) process.stderr.write(text);
      });
    }
    child.exited = new Promise((resolve) => child.on('exit', (code, signal) => resolve({ code, signal })));
    child.on('error', (error) => {
      this.log += `${program}: ${error.message}\n`;
    });
    return child;
  }

  async start() {
    this.child = this.spawn('chappe', this.args);
    await this.ready();
    return this;
  }

  async ready() {
    try {
      await until('the server is ready', async () => (await fetch(`${this.admin}/readyz`)).ok, { timeout: 20_000 });
    } catch (error) {
      throw new Error(`${error.message}\nserver said:\n${this.log.slice(-4000)}`);
    }
  }

  /** An access token, made by the real command. */
  async token(room, identity, more = []) {
    const { stdout } = await run(`${bin}/chappe`, ['token', '--room', room, '--identity', identity, ...more], { env: this.environment() });
    return stdout.trim();
  }

  /** The meeting page's address for one participant. */
  async page(room, identity, query = {}) {
    const token = query.token ?? (await this.token(room, identity));
    const all = new URLSearchParams({ room, name: identity, token, join: '1', small: '1', ...query });
    return `${this.url}/?${all}`;
  }

  async metrics() {
    return (await fetch(`${this.admin}/metrics`)).text();
  }

  /** SIGTERM; resolves with the exit code. */
  async stop() {
    if (!this.child || this.child.exitCode !== null) return undefined;
    this.child.kill('SIGTERM');
    const timer = setTimeout(() => this.child.kill('SIGKILL'), 20_000);
    const { code } = await this.child.exited;
    clearTimeout(timer);
    return code;
  }
}

/** Control plane and media node as two processes. */
export class SplitServer extends Server {
  environment() {
    return { ...super.environment(), CHAPPE_NODE_SECRET: 'the-node-secret-of-thirty-two-bytes-and-more' };
  }

  async start() {
    this.node = this.spawn('chappe-sfu', [
      '--listen', `127.0.0.1:${this.port + 3}`,
      '--admin', `127.0.0.1:${this.port + 8}`,
    ]);
    await until('the node is ready', async () => (await fetch(`http://127.0.0.1:${this.port + 8}/readyz`)).ok, { timeout: 20_000 });
    await this.startControl();
    return this;
  }

  async startControl() {
    this.child = this.spawn('chappe', ['control', '--node', `http://127.0.0.1:${this.port + 3}`]);
    await this.ready();
  }

  /** Ends the control plane without any goodbye. */
  async killControl() {
    this.child.kill('SIGKILL');
    await this.child.exited;
  }

  async stop() {
    const code = await super.stop();
    this.node?.kill('SIGTERM');
    await this.node?.exited;
    return code;
  }
}
