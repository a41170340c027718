// A narrow link in user space: a UDP relay between one browser and the node, with a rate, a queue, delay and loss.

import { createSocket } from 'node:dgram';

/** One direction: drops at the end of its queue, then delays. */
class Direction {
  busyUntil = 0;
  passed = 0;
  dropped = 0;

  constructor(settings) {
    this.settings = settings;
  }

  send(bytes, deliver) {
    const { rate, queue, delay, loss, loses } = this.settings;
    const now = performance.now();
    const begins = Math.max(this.busyUntil, now);
    if (begins - now > queue || Math.random() < loss || loses?.(bytes)) {
      this.dropped += 1;
      return;
    }
    // With IP and UDP; bits per millisecond are kb/s.
    this.busyUntil = begins + (rate ? ((bytes.length + 28) * 8) / rate : 0);
    this.passed += 1;
    const wait = this.busyUntil + delay - now;
    if (wait < 1) deliver(bytes);
    else setTimeout(() => deliver(bytes), wait);
  }
}

/**
 * `down` is the way to the browser, `up` the way from it: `{ rate: kb/s, queue: ms, delay: ms, loss: 0..1, loses }`; the last is
 * asked for each datagram whether it is lost. They may be changed while packets flow.
 */
export class Link {
  down = { rate: 0, queue: 300, delay: 10, loss: 0 };
  up = { rate: 0, queue: 300, delay: 10, loss: 0 };
  #sockets = [];

  /** Relays to the node's UDP port at `address`. */
  static async open(address, port) {
    const link = new Link();
    link.node = { address, port };
    link.directions = { down: new Direction(link.down), up: new Direction(link.up) };
    const front = createSocket('udp4');
    link.#sockets.push(front);
    const flows = new Map();
    front.on('message', (bytes, from) => {
      const key = `${from.address}:${from.port}`;
      let back = flows.get(key);
      if (!back) {
        // A socket for each of the browser's, so that the node sees as many paths as there are.
        back = createSocket('udp4');
        link.#sockets.push(back);
        flows.set(key, back);
        back.bind(0, address);
        back.on('message', (answer) => link.directions.down.send(answer, (out) => link.#give(front, out, from)));
      }
      link.directions.up.send(bytes, (out) => link.#give(back, out, link.node));
    });
    await new Promise((resolve) => { front.bind(0, address, resolve); });
    link.port = front.address().port;
    return link;
  }

  #give(socket, bytes, to) {
    if (!this.closed) socket.send(bytes, to.port, to.address, () => {});
  }

  /** Before a page loads: the node's UDP candidates lead over this link. */
  async lead(page) {
    await page.evaluateOnNewDocument((address, from, to) => {
      const over = (text) => text?.replaceAll(`${address} ${from} `, `${address} ${to} `);
      const { prototype } = window.RTCPeerConnection;
      const { addIceCandidate, setRemoteDescription } = prototype;
      prototype.addIceCandidate = function add(candidate) {
        const text = candidate?.candidate;
        return addIceCandidate.call(this, text ? { ...candidate, candidate: over(text), sdpMid: candidate.sdpMid, sdpMLineIndex: candidate.sdpMLineIndex } : candidate);
      };
      prototype.setRemoteDescription = function set(description) {
        return setRemoteDescription.call(this, { type: description.type, sdp: over(description.sdp) });
      };
    }, this.node.address, this.node.port, this.port);
  }

  close() {
    this.closed = true;
    for (const socket of this.#sockets) socket.close();
  }
}
