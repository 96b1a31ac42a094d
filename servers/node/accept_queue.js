// The accept queue: connections that the kernel has opened and that nobody has accepted yet. Their clients may
// have sent a request already. Closing the listener resets them, and whoever is half-way through the handshake.
// Under load accepting "until there are no more" never ends. So: keep out new SYNs, wait for the handshakes that
// are half done, empty the queue, close.
//
// A client whose SYN is dropped sends it again after a second and then reaches our successor, or is refused:
// either way nothing of its request was lost. This holds on Linux. A client that sends with a TTL of 255 is not
// kept out: under a load of those somebody is always half-way. With SYN cookies there is no handshake to wait
// for. On other systems the queue is emptied and the listener closed, no more.
//
// What Node does not have (socket options, the kernel's list of sockets) koffi calls in the C library, a foreign function interface. libuv
// accepts one connection in each turn of the event loop, tells nobody when accept fails, and where no descriptor
// is left it accepts and closes everything that waits. So this file stops accepting before that happens.

import { once } from 'node:events';
import { closeSync, fstatSync, readFileSync } from 'node:fs';
import net from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import util from 'node:util';
import { logError } from './log.js';

const BACKLOG = 65_535; // the kernel caps it at net.core.somaxconn
const MAX_EMPTIED = 2 * BACKLOG; // where new ones get in, the queue is never empty
const MAX_TTL = 255;
const HANDSHAKE_TIMEOUT = 1000; // milliseconds, from the minimum TTL on
const RETRY_DELAY = 50; // milliseconds, after an accept that failed
const CHECK_INTERVAL = 1000; // milliseconds between two looks at whether the listener listens still
const RESERVED = 16; // descriptors for everything that is no connection
const BROKEN = ['EBADF', 'EINVAL', 'ENOTSOCK', 'EOPNOTSUPP']; // of an accept: it will not get better

/**
 * What became of the accept queue.
 * @typedef {object} Emptied
 * @property {number} emptied connections taken from it
 * @property {boolean} minimumTTL whether the socket was given one
 * @property {number} halfOpen handshakes that were given up on
 * @property {number} lost connections that could not be taken
 * @property {boolean} shared whether another process listens on the same socket
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
  #inode;
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
    this.#inode = fstatSync(descriptor(this.#tcp)).ino;
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
    if (lost > 0) logError(`${lost} connections could not be accepted and are lost`);
    return { emptied: this.#emptied, minimumTTL: this.#minimumTTL, halfOpen, lost, shared: this.#isShared() };
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
      if (this.#emptied === before) await sleep(RETRY_DELAY);
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
      if (BROKEN.includes(error.code)) this.#giveUp(error.message);
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
    setTimeout(() => this.#resume(), RETRY_DELAY);
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
      setTimeout(() => this.#resume(), RETRY_DELAY);
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
      logError(`the minimum TTL cannot be set to ${ttl}: ${error.message}`);
      return false;
    }
  }

  /** Lets the event loop accept until a whole turn of it has found the queue empty. */
  async #acceptAll() {
    await eventLoopTurn(); // the one that runs already may have looked for connections before we came
    for (let before = -1; before !== this.#emptied && this.#emptied < MAX_EMPTIED;) {
      before = this.#emptied;
      await eventLoopTurn();
    }
  }

  /** Waits for a connection, but not beyond the deadline. */
  async #connection(deadline) {
    const signal = AbortSignal.timeout(Math.max(0, Math.ceil(deadline - performance.now())));
    await once(this.#tcp, 'connection', { signal }).catch(() => {});
  }

  /** Counts the handshakes that are half done. An IPv6 listener takes IPv4, too. */
  #halfOpen() {
    const families = this.#address.family === 'IPv6' ? ['IPv4', 'IPv6'] : ['IPv4'];
    try {
      return families.flatMap((family) => this.#system.sockets(family, SYN_RECV, this.#address.port)).length;
    } catch (error) {
      logError(`handshakes that are half done are not waited for: ${error.message}`);
      return 0;
    }
  }

  /** Counts the connections that wait in the queue. */
  #waiting() {
    return this.#listening()?.waiting ?? 0;
  }

  #isShared() {
    if (!this.#minimumTTL || this.#listening() === undefined) return false;
    logError(
      'another process listens on this socket: the minimum TTL keeps out its clients; set IP_MINTTL to 0 there, ' +
        'or open a socket of its own',
    );
    return true;
  }

  /** Finds the socket among those that listen. */
  #listening() {
    try {
      const sockets = this.#system.sockets(this.#address.family, LISTEN, this.#address.port);
      return sockets.find(({ inode }) => inode === this.#inode);
    } catch {
      return undefined; // #halfOpen has said so
    }
  }
}

const SYN_RECV = 3;
const LISTEN = 10;

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
      sockets: unavailable,
      duplicate: () => undefined,
      isListening: () => true, // nobody can tell
    };
  }
}

function bindSystem(koffi) {
  const library = koffi.load(null); // the C library is part of this process
  const { uint8_t: u8, uint16_t: u16, uint32_t: u32 } = koffi.types;
  const header = { length: u32, type: u16, flags: u16, sequence: u32, sender: u32 };
  const bytes = (count) => koffi.array(u8, count);
  // Of linux/inet_diag.h; what is of no use here has one name together.
  const query = { family: u8, protocol: u8, extensions: u16, states: u32, port: bytes(2), others: bytes(46) };
  const found = {
    family: u8,
    state: u8,
    timer: u16,
    id: bytes(48),
    expires: u32,
    waiting: u32,
    others: bytes(8),
    inode: u32,
  };
  const Query = koffi.struct({ ...header, ...query });
  const Found = koffi.struct({ ...header, ...found });

  const setsockopt = library.func('int setsockopt(int, int, int, int *, uint32_t)');
  const getsockopt = library.func('int getsockopt(int, int, int, _Inout_ int *, _Inout_ uint32_t *)');
  const dup = library.func('int dup(int)');
  const open = library.func('int socket(int, int, int)');
  const send = library.func('send', 'intptr_t', ['int', koffi.pointer(Query), 'size_t', 'int']);
  const receive = library.func('intptr_t recv(int, void *, size_t, int)');

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

    /**
     * Asks the kernel for the TCP sockets in a state on a port, as ss does: for each its inode, and how many
     * connections wait in its queue. /proc/net/tcp says the same, but to read it takes ten times as long.
     */
    sockets(family, state, port) {
      const netlink = check(open(AF_NETLINK, SOCK_RAW, NETLINK_SOCK_DIAG), 'socket');
      try {
        const request = {
          ...{ length: koffi.sizeof(Query), type: SOCK_DIAG_BY_FAMILY, flags: REQUEST_DUMP, sequence: 0, sender: 0 },
          ...{ family: family === 'IPv6' ? AF_INET6 : AF_INET, protocol: IPPROTO_TCP, extensions: 0 },
          ...{ states: 1 << state, port: [port >> 8, port & 0xff], others: new Uint8Array(46) },
        };
        check(send(netlink, request, request.length, 0), 'send');
        const sockets = [];
        const buffer = Buffer.alloc(32 << 10);
        for (;;) {
          const end = check(receive(netlink, buffer, buffer.length, 0), 'recv');
          for (let at = 0; at < end;) {
            const message = koffi.decode(buffer, at, Found);
            if (message.type === NLMSG_DONE) return sockets;
            if (message.type === NLMSG_ERROR) throw new Error('the kernel does not tell its sockets');
            sockets.push({ waiting: message.waiting, inode: message.inode });
            at += message.length;
          }
        }
      } finally {
        closeSync(netlink);
      }
    },

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
const NETLINK_SOCK_DIAG = 4;
const SOCK_DIAG_BY_FAMILY = 20;
const REQUEST_DUMP = 0x301; // NLM_F_REQUEST | NLM_F_DUMP
const NLMSG_ERROR = 2;
const NLMSG_DONE = 3;
