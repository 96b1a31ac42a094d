// The accept queue: connections that the kernel has opened and that nobody has accepted yet. Their clients may
// have sent a request already. Closing the listener resets them, and under load accepting "until there are no
// more" never ends. So: keep out new SYNs, empty the queue, then close.
//
// A client whose SYN is dropped sends it again after a second and then reaches our successor, or is refused:
// either way nothing of its request was lost. Beyond loopback, a handshake that is half done at this very
// moment can still meet a closed listener.
//
// Node has neither setsockopt nor poll. koffi, a foreign function interface, calls them in the C library.

import { once } from 'node:events';
import net from 'node:net';
import util from 'node:util';

const BACKLOG = 4096;
const MAX_TTL = 255;

/** Hands connections to an HTTP server until its accept queue is to be emptied. */
export class Listener {
  #registry;
  #tcp;
  #system;
  #closing = false;
  #filtered = false;
  #emptied = 0;

  constructor(registry, server) {
    this.#registry = registry;
    // As http would open it: half-open, or a client's FIN would end our response; and without Nagle's delay.
    this.#tcp = net.createServer({ allowHalfOpen: true, noDelay: true }, (socket) => this.#accept(socket, server));
  }

  async listen(host, port) {
    this.#system = await loadSystem(); // now, because it takes 10 ms that a shutdown does not have
    this.#tcp.listen({ host, port, backlog: BACKLOG });
    await once(this.#tcp, 'listening');
  }

  port() {
    return this.#tcp.address().port;
  }

  #accept(socket, server) {
    if (this.#closing) this.#emptied++;
    // Inherited, if the handshake ended meanwhile; TCP repeats what was dropped.
    if (this.#filtered) this.#system.setMinimumTTL(socket, 0);
    if (this.#registry.open(socket)) server.emit('connection', socket);
  }

  /**
   * Keeps out new connections, lets the event loop accept those that wait, and closes: how many were taken, and
   * whether new ones were really kept out.
   * rule: nothing-lost-in-accept-queue, new-connections-refused, port-free-after-exit
   */
  async emptyAcceptQueue() {
    this.#filtered = this.#keepOutNewConnections();
    this.#closing = true;
    // Each turn of the event loop accepts one: of those that waited, and as many again that were half-way through
    // their handshake. Where new ones get in this might go on for ever.
    for (let turn = 0; turn < 2 * BACKLOG && this.#waiting(); turn++) await eventLoopTurn();
    this.close();
    return { emptied: this.#emptied, filtered: this.#filtered };
  }

  /** Closes at once. Connections that were accepted stay open. */
  close() {
    this.#tcp.close();
  }

  /** Asks the kernel whether a connection waits in the queue. */
  #waiting() {
    return this.#system.readable(this.#tcp);
  }

  #keepOutNewConnections() {
    try {
      this.#system.setMinimumTTL(this.#tcp, MAX_TTL);
      return true;
    } catch (error) {
      console.error(`new connections get in, a connect storm may lose requests: ${error.message}`);
      return false;
    }
  }
}

function eventLoopTurn() {
  return new Promise((resolve) => setImmediate(resolve));
}

/** Binds the system calls, or stands in for them where they are not to be had. */
async function loadSystem() {
  try {
    return bindSystem((await import('koffi')).default);
  } catch (error) {
    const setMinimumTTL = () => {
      throw error;
    };
    return { setMinimumTTL, readable: () => true }; // nobody can tell
  }
}

function bindSystem(koffi) {
  const library = koffi.load(null); // the C library is part of this process
  koffi.struct('pollfd', { fd: 'int', events: 'short', revents: 'short' });
  const setsockopt = library.func('int setsockopt(int, int, int, int *, uint32_t)');
  const poll = library.func('int poll(pollfd *, unsigned long, int)');

  function setOption(socket, level, option, value) {
    if (setsockopt(descriptor(socket), level, option, [value], koffi.sizeof('int')) !== 0) {
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
      setOption(socket, IPPROTO_IP, IP_MINTTL, ttl);
      const isIPv6 = socket.address().family === 'IPv6'; // which may take IPv4, too
      if (isIPv6) setOption(socket, IPPROTO_IPV6, IPV6_MINHOPCOUNT, ttl);
    },

    readable(socket) {
      return poll([{ fd: descriptor(socket), events: POLLIN, revents: 0 }], 1, 0) > 0;
    },
  };
}

/** Not documented, but there is no other way to a socket's file descriptor. */
function descriptor(socket) {
  return socket._handle.fd;
}

const IPPROTO_IP = 0;
const IP_MINTTL = 21;
const IPPROTO_IPV6 = 41;
const IPV6_MINHOPCOUNT = 73;
const POLLIN = 1;
