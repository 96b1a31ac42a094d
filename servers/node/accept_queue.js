// The accept queue: connections that the kernel has opened and that nobody has accepted yet. Their clients may have sent
// a request already, and closing the listener resets them. Others are half-way through their handshake: off loopback
// that takes a round trip, and they will be there when the listener is gone. Under load accepting "until there are no
// more" never ends. So: keep out new SYNs, wait for the handshakes that have begun, empty the queue, close.
//
// A client whose SYN is dropped sends it again after a second and then reaches our successor, or is refused: either way
// nothing of its request was lost. Not kept out are clients that send with a TTL of 255, and handshakes by SYN cookie:
// these can still be reset. Where a lame-duck is longer than the withdrawal nobody comes any more, and none of this is
// needed. Not for a socket that another process listens on, too: that one stays open, and so does its queue.
//
// Node has neither setsockopt nor getsockopt. koffi, a foreign function interface, calls them in the C library.

import { once } from 'node:events';
import { existsSync, fstatSync, openSync, readSync } from 'node:fs';
import net from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import util from 'node:util';
import { logError } from './log.js';

const BACKLOG = 65535; // the kernel cuts it down to the longest queue that it allows
const MAX_TTL = 255;
const HANDSHAKE_TIMEOUT = 1000; // milliseconds, for those that are half done when the listener is to close
const MOST_EMPTIED = 2 * BACKLOG; // clients with a TTL of 255 might go on for ever
const WATCH = 1000; // milliseconds between two looks at whether the listener still works

/**
 * What became of the accept queue.
 * @typedef {object} Emptied
 * @property {number} emptied connections taken
 * @property {boolean} minimumTTL whether the socket was given one
 * @property {number} halfOpen handshakes that were given up on
 * @property {number} lost connections that could not be taken
 * @property {Error} [error]
 */

/** Hands connections to an HTTP server until its accept queue is to be emptied. */
export class Listener {
  #registry;
  #tcp;
  #port;
  #table;
  #system;
  #watch;
  #accepted = 0;
  /** While the queue is emptied. @type {Emptied | undefined} */
  #emptied;

  constructor(registry, server) {
    this.#registry = registry;
    // As http would open it: half-open, or a client's FIN would end our response; and without Nagle's delay.
    this.#tcp = net.createServer({ allowHalfOpen: true, noDelay: true }, (socket) => this.#accept(socket, server));
  }

  /** @param {(reason: string) => void} fail hears that the listener works no more */
  async listen(host, port, fail) {
    this.#system = await loadSystem(); // now, because it takes 10 ms that a shutdown does not have
    this.#tcp.listen({ host, port, backlog: BACKLOG });
    await once(this.#tcp, 'listening');
    this.#port = this.#tcp.address().port;
    this.#table = new SocketTable(this.#port, this.#tcp._handle.fd); // not documented, but there is no other way to it
    this.#tcp.on('error', (error) => logError(`cannot accept: ${error.message}`)); // what waits in the queue is safe
    // Of an accept(2) that fails for good Node tells nobody: it tries again and again.
    this.#watch = setInterval(() => {
      if (!this.#tcp.listening || this.#system.listens(this.#tcp)) return;
      this.close();
      fail('cannot accept: the listener does not listen any more');
    }, WATCH).unref();
  }

  port() {
    return this.#port;
  }

  #accept(socket, server) {
    this.#accepted++;
    // Inherited, if the handshake ended meanwhile; TCP repeats what was dropped.
    if (this.#emptied?.minimumTTL) this.#system.setMinimumTTL(socket, 0);
    if (this.#registry.open(socket)) server.emit('connection', socket);
  }

  /**
   * Keeps out new connections, lets the event loop accept those that wait and those that are half-way through their
   * handshake, and closes.
   * rule: nothing-lost-in-accept-queue, new-connections-refused, port-free-after-exit
   */
  async emptyAcceptQueue() {
    const deadline = performance.now() + HANDSHAKE_TIMEOUT;
    const before = this.#accepted;
    const emptied = { emptied: 0, minimumTTL: false, halfOpen: 0, lost: 0 };
    this.#emptied = emptied; // first: whoever inherits the minimum TTL is then seen to
    try {
      this.#system.setMinimumTTL(this.#tcp, MAX_TTL);
      emptied.minimumTTL = true;
    } catch (error) {
      logError(`new connections get in, a connect storm may lose requests: ${error.message}`);
    }
    // Where new ones get in, not beyond the deadline.
    const goesOn = () => this.#accepted - before < MOST_EMPTIED && (emptied.minimumTTL || performance.now() < deadline);
    await this.#acceptAll(goesOn);
    while (this.#look().halfOpen > 0 && performance.now() < deadline && goesOn()) {
      await this.#anotherAccepted(deadline - performance.now());
      await this.#acceptAll(goesOn);
    }
    // Once more, after the look: a handshake that ended in between is in the queue by now.
    await this.#acceptAll(goesOn);
    emptied.halfOpen = this.#look().halfOpen;
    emptied.emptied = this.#accepted - before;
    this.#closeEmptied(emptied);
    return emptied;
  }

  /** Closes at once. Connections that were accepted stay open. */
  close() {
    clearInterval(this.#watch);
    this.#tcp.close();
  }

  /**
   * Lets the event loop accept, one in each turn, until the kernel says that the queue is empty. Out of descriptors Node
   * accepts and closes without a word: who was in the queue and did not come to us is lost.
   */
  async #acceptAll(goesOn) {
    for (let waiting = this.#look().waiting; waiting > 0; waiting = this.#look().waiting) {
      if (!goesOn()) {
        this.#emptied.lost = waiting;
        return;
      }
      const expected = this.#accepted + waiting;
      for (let turn = 0; turn < waiting && this.#accepted < expected; turn++) await eventLoopTurn();
      const left = this.#look().waiting;
      if (left === 0) this.#emptied.lost += Math.max(0, expected - this.#accepted);
    }
  }

  /** The kernel tells when a handshake has ended. */
  async #anotherAccepted(timeout) {
    const cancelled = new AbortController();
    const { signal } = cancelled;
    const either = [once(this.#tcp, 'connection', { signal }), sleep(timeout, undefined, { signal })];
    await Promise.race(either.map((promise) => promise.catch(() => {})));
    cancelled.abort();
  }

  #closeEmptied(emptied) {
    this.close();
    if (emptied.lost > 0) {
      emptied.error = new Error(
        `${emptied.lost} connections in the accept queue are lost: no descriptors are left, or others kept coming`,
      );
    } else if (this.#look().listening) {
      emptied.error = new Error(
        `another process listens on the same socket, and its minimum TTL of ${MAX_TTL} now keeps out its clients: ` +
          'leave a shared socket alone, it needs none of this',
      );
    }
    if (emptied.error) logError(emptied.error.message);
  }

  #look() {
    return this.#table.look();
  }
}

function eventLoopTurn() {
  return new Promise((resolve) => setImmediate(resolve));
}

const LISTEN = '0A';
const HALF_OPEN = '03';

/**
 * What the kernel lists for the port of a listener, from /proc/net/tcp and tcp6: a socket for IPv6 may take IPv4, too
 * (proc_pid_net(5)). The files stay open, because there may be no descriptor left when they are needed.
 */
class SocketTable {
  #suffix;
  #inode;
  #files = [];

  constructor(port, listener) {
    this.#suffix = `:${port.toString(16).toUpperCase().padStart(4, '0')}`;
    this.#inode = fstatSync(listener).ino;
    for (const path of ['/proc/net/tcp', '/proc/net/tcp6']) {
      if (existsSync(path)) this.#files.push(openSync(path)); // the latter is missing where IPv6 is off
    }
  }

  /**
   * Handshakes that have begun and not ended, connections in the accept queue, and whether the socket is there, in
   * whatever process. Where there is no table, nothing is known to wait.
   */
  look() {
    const table = { halfOpen: 0, waiting: 0, listening: false };
    for (const line of this.#files.flatMap((file) => readAgain(file).split('\n'))) {
      const column = line.trim().split(/ +/); // 1 local address, 3 state, 4 queues to send and to receive, 9 inode
      if (!column[1]?.endsWith(this.#suffix)) continue;
      if (column[3] === HALF_OPEN) {
        table.halfOpen++;
      } else if (column[3] === LISTEN && Number(column[9]) === this.#inode) {
        table.listening = true;
        table.waiting = Number.parseInt(column[4].split(':')[1], 16);
      }
    }
    return table;
  }
}

function readAgain(file) {
  const block = Buffer.alloc(64 << 10);
  let text = '';
  for (let size = -1; size !== 0; text += block.latin1Slice(0, size)) {
    size = readSync(file, block, 0, block.length, text.length);
  }
  return text;
}

/** Binds the system calls, or stands in for them where they are not to be had. */
async function loadSystem() {
  try {
    return bindSystem((await import('koffi')).default);
  } catch (error) {
    const setMinimumTTL = () => {
      throw error;
    };
    return { setMinimumTTL, listens: () => true }; // nobody can tell
  }
}

function bindSystem(koffi) {
  const library = koffi.load(null); // the C library is part of this process
  const setsockopt = library.func('int setsockopt(int, int, int, int *, uint32_t)');
  const getsockopt = library.func('int getsockopt(int, int, int, _Out_ int *, _Inout_ uint32_t *)');

  function setOption(socket, level, option, value) {
    if (setsockopt(socket._handle.fd, level, option, [value], koffi.sizeof('int')) !== 0) {
      throw new Error(`setsockopt: ${util.getSystemErrorName(-koffi.errno())}`);
    }
  }

  return {
    /**
     * Has the kernel drop segments whose TTL is less (RFC 5082), for which no privilege is needed. 255 keeps out
     * whoever sends with 64 or 128, as systems do, but not a client on the same link that sends with 255.
     */
    setMinimumTTL(socket, ttl) {
      if (process.platform !== 'linux') throw new Error('IP_MINTTL is known to do this on Linux only');
      if (!socket._handle) return; // it has left
      setOption(socket, IPPROTO_IP, IP_MINTTL, ttl);
      const isIPv6 = socket.address().family === 'IPv6'; // which may take IPv4, too
      if (isIPv6) setOption(socket, IPPROTO_IPV6, IPV6_MINHOPCOUNT, ttl);
    },

    listens(socket) {
      if (process.platform !== 'linux') return true; // nobody can tell
      const value = [1];
      getsockopt(socket._handle.fd, SOL_SOCKET, SO_ACCEPTCONN, value, [koffi.sizeof('int')]);
      return value[0] !== 0;
    },
  };
}

const SOL_SOCKET = 1;
const SO_ACCEPTCONN = 30;
const IPPROTO_IP = 0;
const IP_MINTTL = 21;
const IPPROTO_IPV6 = 41;
const IPV6_MINHOPCOUNT = 73;
