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
// What Node does not have (socket options, netlink) koffi, a foreign function interface, calls in the C library.
// libuv accepts one connection in each turn of the event loop, tells nobody when accept fails, and where no
// descriptor is left it accepts and closes everything that waits. So this file stops accepting before that happens.

import { once } from 'node:events';
import { closeSync, fstatSync, readFileSync } from 'node:fs';
import net from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import os from 'node:os';
import util from 'node:util';
import { logError } from './log.js';

const LITTLE = os.endianness() === 'LE';
const BACKLOG = 65_535; // the kernel cuts it down to the longest queue that it allows
const MAX_TTL = 255;
const HANDSHAKE_TIMEOUT = 1000; // milliseconds, for those that are half done when the listener is to close
const ACCEPT_PAUSE = 50; // milliseconds, after an error that may pass
const MOST_EMPTIED = 2 * BACKLOG; // clients with a TTL of 255 might go on for ever
const CHECK_INTERVAL = 1000; // milliseconds between two looks at whether the listener listens still
const RESERVED = 16; // descriptors for everything that is no connection
const PERMANENT = ['EBADF', 'EINVAL', 'ENOTSOCK', 'EOPNOTSUPP']; // the listener will not work again

/**
 * What became of the accept queue.
 * @typedef {object} Emptied
 * @property {number} emptied connections taken from it
 * @property {boolean} minimumTTL whether the socket was given one
 * @property {number} halfOpen handshakes that were given up on
 * @property {number} lost connections that could not be taken
 * @property {string} [error] what went wrong
 */

/** Hands connections to an HTTP server until its accept queue is to be emptied. */
export class Listener {
  #registry;
  #server;
  #fail;
  #system;
  #tcp;
  #address;
  #descriptor; // of our own, for the same socket: what waits is safe while #tcp is closed
  #table;
  #maxDescriptor;
  #check;
  #emptying = false;
  #minimumTTL = false;
  #emptied = 0;

  /** @param {(reason: string) => void} fail is called when the listener works no more */
  constructor(registry, server, fail) {
    this.#registry = registry;
    this.#server = server;
    this.#fail = fail;
  }

  async listen(host, port) {
    this.#system = await loadSystem(); // now, because it takes 10 ms that a shutdown does not have
    this.#maxDescriptor = maxDescriptors() - RESERVED;
    await this.#accept({ host, port, backlog: BACKLOG });
    this.#address = this.#tcp.address();
    this.#descriptor = this.#system.duplicate(descriptor(this.#tcp));
    this.#table = new SocketTable(this.#system, this.#address, fstatSync(descriptor(this.#tcp)).ino);
    this.#check = setInterval(() => {
      if (!this.#system.isListening(this.#descriptor)) this.#giveUp('the socket listens no more');
    }, CHECK_INTERVAL).unref(); // libuv would try again for ever, and say nothing
  }

  port() {
    return this.#address.port;
  }

  /**
   * Keeps out new connections, takes those that wait and those that are on their way, and closes.
   * rule: nothing-lost-in-accept-queue, new-connections-refused, port-free-after-exit
   * @returns {Promise<Emptied>}
   */
  async emptyAcceptQueue() {
    const deadline = performance.now() + HANDSHAKE_TIMEOUT;
    this.#minimumTTL = this.#setMinimumTTL(this.#descriptor, MAX_TTL);
    this.#emptying = true;
    let halfOpen;
    let lost;
    try {
      halfOpen = await this.#awaitHandshakes(deadline);
      lost = await this.#acceptRest(deadline);
    } finally {
      this.close();
    }
    const error = lost > 0 ? `${lost} connections in the accept queue are lost` : this.#checkGone();
    if (error) logError(error);
    return { emptied: this.#emptied, minimumTTL: this.#minimumTTL, halfOpen, lost, error };
  }

  /** Accepts what comes until no handshake is half done, and returns how many are given up on. */
  async #awaitHandshakes(deadline) {
    for (;;) {
      await this.#acceptAll();
      const halfOpen = this.#halfOpen();
      if (halfOpen === 0 || performance.now() >= deadline) return halfOpen;
      await this.#connection(deadline);
    }
  }

  /**
   * Empties the queue once more, after the look that found no handshake: one may have ended just before it. Returns
   * how many wait still, because accept fails: they are safe only until we close.
   */
  async #acceptRest(deadline) {
    for (;;) {
      const before = this.#emptied;
      await this.#acceptAll();
      const waiting = this.#waiting();
      if (waiting === 0 || performance.now() >= deadline) return waiting;
      if (this.#emptied === before) await sleep(ACCEPT_PAUSE);
    }
  }

  /** Closes at once. Connections that were accepted stay open. */
  close() {
    clearInterval(this.#check);
    this.#tcp.close();
    if (this.#descriptor !== undefined) closeSync(this.#descriptor);
    this.#descriptor = undefined;
  }

  /** Begins to accept. */
  async #accept(options) {
    // As http would open it: half-open, or a client's FIN would end our response; and without Nagle's delay.
    this.#tcp = net.createServer({ allowHalfOpen: true, noDelay: true }, (socket) => this.#open(socket));
    this.#tcp.listen(options);
    await once(this.#tcp, 'listening');
    this.#tcp.on('error', (error) => {
      if (PERMANENT.includes(error.code)) this.#giveUp(error.message);
      else this.#pause(error.message);
    });
  }

  #open(socket) {
    const number = descriptor(socket);
    if (this.#emptying) this.#emptied++;
    // Inherited, if the handshake ended meanwhile; TCP repeats what was dropped.
    if (this.#minimumTTL) this.#setMinimumTTL(number, 0);
    if (this.#registry.open(socket)) this.#server.emit('connection', socket);
    if (number >= this.#maxDescriptor) this.#pause('no descriptor is left');
  }

  /** Lets connections wait in the queue for a moment. */
  #pause(reason) {
    if (this.#descriptor === undefined) return;
    logError(`cannot accept: ${reason}`);
    this.#tcp.close();
    setTimeout(() => this.#resume(), ACCEPT_PAUSE);
  }

  #resume() {
    if (this.#descriptor === undefined) return;
    const fd = this.#system.duplicate(this.#descriptor);
    const next = this.#system.duplicate(this.#descriptor); // what the next connection would get
    closeSync(next);
    if (next < this.#maxDescriptor) {
      this.#accept({ fd, backlog: BACKLOG }).catch((error) => this.#giveUp(error.message));
    } else {
      closeSync(fd);
      setTimeout(() => this.#resume(), ACCEPT_PAUSE);
    }
  }

  #giveUp(reason) {
    clearInterval(this.#check);
    this.#tcp.close();
    this.#fail(`port ${this.#address.port}: ${reason}`);
  }

  #setMinimumTTL(number, ttl) {
    try {
      this.#system.setMinimumTTL(number, this.#address.family === 'IPv6', ttl);
      return true;
    } catch (error) {
      logError(`new connections get in, a connect storm may lose requests: ${error.message}`);
      return false;
    }
  }

  /** Lets the event loop accept until a whole turn of it has found the queue empty. */
  async #acceptAll() {
    await eventLoopTurn(); // the one that runs already may have looked for connections before we came
    for (let before = -1; before !== this.#emptied && this.#emptied < MOST_EMPTIED;) {
      before = this.#emptied;
      await eventLoopTurn();
    }
  }

  /** Waits for a connection, but not beyond the deadline. */
  async #connection(deadline) {
    const signal = AbortSignal.timeout(Math.max(0, Math.ceil(deadline - performance.now())));
    await once(this.#tcp, 'connection', { signal }).catch(() => {});
  }

  /** Counts the handshakes that are half done. */
  #halfOpen() {
    try {
      return this.#table.look().halfOpen;
    } catch (error) {
      logError(`handshakes that are half done may be lost: ${error.message}`);
      return 0;
    }
  }

  /** Counts the connections that wait in the queue. */
  #waiting() {
    try {
      return this.#table.look().waiting;
    } catch {
      return 0; // #halfOpen has said so
    }
  }

  /** Notices another process that listens on the same socket. */
  #checkGone() {
    try {
      if (!this.#table.look().listening) return undefined;
    } catch {
      return undefined; // #halfOpen has said so
    }
    return (
      `another process listens on the same socket, and the minimum TTL of ${MAX_TTL} now keeps out its clients: ` +
      'leave a shared socket alone, it needs none of this'
    );
  }
}

/**
 * What the kernel tells of the port of a listener, asked as ss asks (sock_diag(7)). /proc/net/tcp says the same, but
 * takes far longer to read on a machine with much memory. The netlink socket stays open, because there may be no
 * descriptor left when it is needed.
 */
class SocketTable {
  halfOpen = 0; // handshakes that have begun and not ended
  waiting = 0; // connections in the accept queue
  listening = false; // whether the socket is there, in whatever process
  #system;
  #families;
  #port;
  #inode;
  #netlink;

  constructor(system, { family, port }, inode) {
    this.#system = system;
    this.#families = family === 'IPv6' ? [AF_INET, AF_INET6] : [AF_INET]; // the former may take IPv4, too
    this.#port = port;
    this.#inode = inode;
    this.#netlink = system.openNetlink();
  }

  look() {
    if (this.#netlink === undefined) throw new Error('the kernel tells nothing of its sockets');
    this.halfOpen = 0;
    this.waiting = 0;
    this.listening = false;
    for (const family of this.#families) {
      const query = new DataView(new ArrayBuffer(72));
      query.setUint32(0, 72, LITTLE);
      query.setUint16(4, SOCK_DIAG_BY_FAMILY, LITTLE);
      query.setUint16(6, REQUEST_DUMP, LITTLE);
      query.setUint8(16, family);
      query.setUint8(17, IPPROTO_TCP);
      query.setUint32(20, (1 << SYN_RECV) | (1 << LISTEN), LITTLE);
      query.setUint16(24, this.#port);
      this.#system.send(this.#netlink, new Uint8Array(query.buffer));
      const messages = new Uint8Array(MOST_AT_ONCE);
      let more = true;
      while (more) more = this.#read(messages.subarray(0, this.#system.receive(this.#netlink, messages)));
    }
    return this;
  }

  /** Reads what came at once, and returns whether there is more to come. */
  #read(messages) {
    const view = new DataView(messages.buffer, 0, messages.length);
    for (let at = 0; at < messages.length; at += view.getUint32(at, LITTLE)) {
      const kind = view.getUint16(at + 4, LITTLE);
      if (kind === NLMSG_DONE) return false;
      if (kind === NLMSG_ERROR) {
        const reason = util.getSystemErrorName(view.getInt32(at + 16, LITTLE));
        throw new Error(`the kernel tells nothing of its sockets: ${reason}`);
      }
      if (view.getUint8(at + 17) === SYN_RECV) {
        this.halfOpen++;
      } else if (view.getUint32(at + 84, LITTLE) === this.#inode) {
        this.waiting = view.getUint32(at + 72, LITTLE);
        this.listening = true;
      }
    }
    return true;
  }
}

function eventLoopTurn() {
  return new Promise((resolve) => setImmediate(resolve));
}

/** How many descriptors this process may have: Node has raised its soft limit to the hard one. */
function maxDescriptors() {
  try {
    return Number(/^Max open files +(\d+)/m.exec(readFileSync('/proc/self/limits', 'latin1'))[1]);
  } catch {
    return Infinity; // other systems: nobody can tell
  }
}

/** Not documented, but there is no other way to a socket's file descriptor. */
function descriptor(socket) {
  return socket._handle.fd;
}

/** Binds the system calls, or stands in for them where they are not to be had. */
async function loadSystem() {
  try {
    if (process.platform !== 'linux') throw new Error('this is known to work on Linux only');
    return bindSystem((await import('koffi')).default);
  } catch (error) {
    const unavailable = () => {
      throw error;
    };
    return {
      setMinimumTTL: unavailable,
      duplicate: () => undefined,
      openNetlink: () => undefined,
      isListening: () => true, // nobody can tell
    };
  }
}

function bindSystem(koffi) {
  const library = koffi.load(null); // the C library is part of this process
  const setsockopt = library.func('int setsockopt(int, int, int, int *, uint32_t)');
  const getsockopt = library.func('int getsockopt(int, int, int, _Inout_ int *, _Inout_ uint32_t *)');
  const dup = library.func('int dup(int)');
  const open = library.func('int socket(int, int, int)');
  const send = library.func('intptr_t send(int, const uint8_t *, size_t, int)');
  const receive = library.func('intptr_t recv(int, _Out_ uint8_t *, size_t, int)');

  function check(result, call) {
    if (result < 0) throw new Error(`${call}: ${util.getSystemErrorName(-koffi.errno())}`);
    return Number(result);
  }

  function setOption(number, level, option, value) {
    check(setsockopt(number, level, option, [value], koffi.sizeof('int')), 'setsockopt');
  }

  return {
    /**
     * Has the kernel drop segments whose TTL is less (RFC 5082), for which no privilege is needed. 255 keeps out
     * whoever sends with 64 or 128, as systems do, but not a client on the same link that sends with 255.
     */
    setMinimumTTL(number, isIPv6, ttl) {
      setOption(number, IPPROTO_IP, IP_MINTTL, ttl);
      if (isIPv6) setOption(number, IPPROTO_IPV6, IPV6_MINHOPCOUNT, ttl);
    },

    openNetlink: () => check(open(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG), 'socket'),
    send: (number, bytes) => check(send(number, bytes, bytes.length, 0), 'send'),
    receive: (number, bytes) => check(receive(number, bytes, bytes.length, 0), 'recv'),

    duplicate: (number) => check(dup(number), 'dup'),

    isListening(number) {
      const value = [1];
      check(getsockopt(number, SOL_SOCKET, SO_ACCEPTCONN, value, [koffi.sizeof('int')]), 'getsockopt');
      return value[0] !== 0;
    },
  };
}

const IPPROTO_IP = 0;
const IP_MINTTL = 21;
const IPPROTO_TCP = 6;
const IPPROTO_IPV6 = 41;
const IPV6_MINHOPCOUNT = 73;
const SOL_SOCKET = 1;
const SO_ACCEPTCONN = 30;
const AF_INET = 2;
const AF_INET6 = 10;
const AF_NETLINK = 16;
const SOCK_RAW = 3;
const SOCK_CLOEXEC = 0x80000;
const NETLINK_SOCK_DIAG = 4;
const SOCK_DIAG_BY_FAMILY = 20;
const REQUEST_DUMP = 0x301; // NLM_F_REQUEST | NLM_F_DUMP
const NLMSG_ERROR = 2;
const NLMSG_DONE = 3;
const MOST_AT_ONCE = 32768; // bytes that the kernel sends in one part
const SYN_RECV = 3;
const LISTEN = 10;
