// Networks for tests: namespaces, packet filters and address translation. run.sh gives the rights for them, and its
// namespace's end takes all of it away.

import { execFile, spawn } from 'node:child_process';
import { readlinkSync } from 'node:fs';
import { promisify } from 'node:util';

import { until } from './until.mjs';

const execute = promisify(execFile);
// Where systems keep `ip` and `nft`, and not every user's PATH looks.
const env = { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` };

async function run(command) {
  const [program, ...args] = command;
  try {
    return (await execute(program, args, { env })).stdout;
  } catch (error) {
    throw new Error(`${command.join(' ')}: ${error.stderr || error.message}`);
  }
}

/** A network namespace that is held open by a process of its own. */
export class Namespace {
  static async make() {
    const namespace = new Namespace();
    namespace.holder = spawn('unshare', ['--net', 'sleep', 'infinity'], { env, stdio: 'ignore' });
    const { pid } = namespace.holder;
    const own = readlinkSync('/proc/self/ns/net');
    await until('a network namespace', () => readlinkSync(`/proc/${pid}/ns/net`) !== own, { timeout: 5000, every: 10 });
    await namespace.run('ip', 'link', 'set', 'lo', 'up');
    return namespace;
  }

  /** Put before a command, this runs it here. */
  get within() {
    return ['nsenter', `--target=${this.holder.pid}`, '--net', '--'];
  }

  run(...command) {
    return run([...this.within, ...command]);
  }

  close() {
    this.holder.kill('SIGKILL');
  }
}

/** The namespace that the test and its browsers are in. */
export const here = { within: [], run: (...command) => run(command) };

/** Joins two namespaces by a cable; each end is `{ in, name, address }`. */
export async function cable(a, b) {
  await here.run('ip', 'link', 'add', a.name, 'type', 'veth', 'peer', 'name', b.name);
  for (const end of [a, b]) {
    if (end.in !== here) await here.run('ip', 'link', 'set', end.name, 'netns', String(end.in.holder.pid));
    await end.in.run('ip', 'address', 'add', end.address, 'dev', end.name);
    await end.in.run('ip', 'link', 'set', end.name, 'up');
  }
}

/**
 * Takes IPv4 away from this namespace, loopback apart, and gives it an IPv6 address. Resolves with what ends that.
 * The test's own fetches and the browsers' debugging ports stay on loopback.
 */
export async function onlyIpv6() {
  const address = 'fd77::1';
  const old = JSON.parse(await here.run('ip', '-json', '-4', 'address', 'show', 'dev', 'chappe0'))[0].addr_info[0];
  await here.run('ip', '-6', 'address', 'add', `${address}/64`, 'dev', 'chappe0', 'nodad');
  await here.run('ip', '-4', 'address', 'flush', 'dev', 'chappe0');
  return {
    address,
    end: async () => {
      await here.run('ip', '-6', 'address', 'del', `${address}/64`, 'dev', 'chappe0');
      await here.run('ip', 'address', 'add', `${old.local}/${old.prefixlen}`, 'dev', 'chappe0');
    },
  };
}

/** A real STUN server (coturn) in the test's own namespace; resolves once it listens. */
export async function stunServer(address, port) {
  const child = spawn('turnserver', [
    '-n', '--stun-only', '--no-auth', '--no-cli', '--no-tls', '--no-dtls', '--no-rfc5780', '--log-file', 'stdout',
    '--pidfile', '/dev/null', '--listening-ip', address, '--listening-port', String(port),
  ], { env, stdio: ['ignore', 'pipe', 'pipe'] });
  let said = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (text) => { said += text; });
  child.on('error', (error) => { said += `turnserver: ${error.message}: run scripts/setup.sh test, or apt-get install coturn`; });
  await until('the STUN server listens', async () => {
    if (child.exitCode !== null) throw new Error(said);
    return (await here.run('ss', '-Hlun', `sport = :${port}`)).includes(address);
  }, { timeout: 15_000 }).catch((error) => {
    child.kill('SIGKILL');
    throw new Error(`${error.message}\n${said}`);
  });
  return { end: () => child.kill('SIGKILL') };
}

/** UDP vanishes without a word, as behind a strict firewall. Resolves with what ends that. */
export async function blockUdp() {
  await here.run('nft', 'add table inet firewall; add chain inet firewall in { type filter hook input priority 0; }; add rule inet firewall in meta l4proto udp counter drop');
  return {
    dropped: async () => Number(/packets (\d+)/.exec(await here.run('nft', 'list', 'table', 'inet', 'firewall'))?.[1] ?? 0),
    end: () => here.run('nft', 'delete', 'table', 'inet', 'firewall'),
  };
}

/** A machine with a private address behind a translator that owns its outer one: what clouds call 1:1 NAT. */
export class Translated {
  here = '10.88.0.1';
  outer = '10.88.0.2';
  inner = '10.99.0.2';

  static async make() {
    const network = new Translated();
    network.translator = await Namespace.make();
    network.machine = await Namespace.make();
    const { translator, machine, outer, inner } = network;
    await cable({ in: here, name: 'outer0', address: `${network.here}/24` }, { in: translator, name: 'outer1', address: `${outer}/24` });
    await cable({ in: translator, name: 'inner0', address: '10.99.0.1/24' }, { in: machine, name: 'inner1', address: `${inner}/24` });
    await machine.run('ip', 'route', 'add', 'default', 'via', '10.99.0.1');
    await translator.run('sh', '-c', 'echo 1 > /proc/sys/net/ipv4/ip_forward');
    await translator.run('nft', [
      'add table ip translate',
      'add chain ip translate arriving { type nat hook prerouting priority -100; }',
      'add chain ip translate leaving { type nat hook postrouting priority 100; }',
      `add rule ip translate arriving ip daddr ${outer} dnat to ${inner}`,
      `add rule ip translate leaving ip saddr ${inner} snat to ${outer}`,
    ].join('; '));
    return network;
  }

  async close() {
    this.machine.close();
    this.translator.close();
    // A cable whose other end is gone vanishes with it.
  }
}
