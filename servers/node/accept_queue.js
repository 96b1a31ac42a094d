// The accept queue: connections that the kernel has opened and that nobody has accepted yet. Their clients may
// have sent a request already. Closing the listener resets them, and under load accepting "until there are no
// more" never ends. So: keep out new SYNs, empty the queue, then close. rule: nothing-lost-in-accept-queue
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

/** Hands connections to an HTTP server until its accept queue is to be emptied. */
export class Listener {
  #registry;
  #tcp;
  #system;
  #closing = false;
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
    if (this.#registry.open(socket)) server.emit('connection', socket);
  }

  /**
   * Keeps out new connections, lets the event loop accept those that wait, and closes: how many were taken, and
   * whether new ones were really kept out. rule: new-connections-refused, port-free-after-exit
   */
  async emptyAcceptQueue() {
    const filtered = this.#keepOutNewConnections();
    this.#closing = true;
    // Each turn of the event loop accepts one of those that wait, and no more can wait than the queue is long.
    for (let turn = 0; turn < BACKLOG && this.#waiting(); turn++) await eventLoopTurn();
    this.close();
    return { emptied: this.#emptied, filtered };
  }

  /** Closes at once. Connections that were accepted stay open. */
  close() {
    this.#tcp.close();
  }

  /** Asks the kernel whether a connection waits in the queue. */
  #waiting() {
    return this.#system.readable(this.#descriptor());
  }

  #keepOutNewConnections() {
    try {
      this.#system.dropNewSYNs(this.#descriptor());
      return true;
    } catch (error) {
      console.error(`no filter on the listener, a connect storm may lose requests: ${error.message}`);
      return false;
    }
  }

  /** Not documented, but there is no other way to a listener's file descriptor. */
  #descriptor() {
    return this.#tcp._handle.fd;
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
    const dropNewSYNs = () => {
      throw error;
    };
    return { dropNewSYNs, readable: () => true }; // nobody can tell
  }
}

function bindSystem(koffi) {
  const library = koffi.load(null); // the C library is part of this process
  koffi.struct('sock_filter', { code: 'uint16_t', jt: 'uint8_t', jf: 'uint8_t', k: 'uint32_t' });
  koffi.struct('sock_fprog', { len: 'uint16_t', filter: 'sock_filter *' });
  koffi.struct('pollfd', { fd: 'int', events: 'short', revents: 'short' });
  const setsockopt = library.func('int setsockopt(int, int, int, sock_fprog *, uint32_t)');
  const poll = library.func('int poll(pollfd *, unsigned long, int)');
  const size = koffi.sizeof('sock_fprog');

  return {
    /**
     * Attaches a classic BPF program: a segment with SYN and without ACK is dropped, all others pass. The program
     * sees the TCP header; its byte 13 holds the flags (RFC 9293, 3.1). Kernels of 2026 want CAP_NET_ADMIN for it, older
     * ones nothing.
     */
    dropNewSYNs(descriptor) {
      if (process.platform !== 'linux') throw new Error('this operating system has no SO_ATTACH_FILTER');
      const program = { len: DROP_NEW_SYNS.length, filter: DROP_NEW_SYNS };
      if (setsockopt(descriptor, SOL_SOCKET, SO_ATTACH_FILTER, program, size) !== 0) {
        throw new Error(`SO_ATTACH_FILTER: ${util.getSystemErrorName(-koffi.errno())}`);
      }
    },

    readable(descriptor) {
      return poll([{ fd: descriptor, events: POLLIN, revents: 0 }], 1, 0) > 0;
    },
  };
}

const SOL_SOCKET = 1;
const SO_ATTACH_FILTER = 26;
const POLLIN = 1;

const SYN = 0x02;
const ACK = 0x10;
const DROP_NEW_SYNS = [
  { code: 0x30, jt: 0, jf: 0, k: 13 }, // load byte 13
  { code: 0x54, jt: 0, jf: 0, k: SYN | ACK }, // mask it
  { code: 0x15, jt: 0, jf: 1, k: SYN }, // SYN alone?
  { code: 0x06, jt: 0, jf: 0, k: 0 }, // drop
  { code: 0x06, jt: 0, jf: 0, k: 0xffffffff }, // pass, whole
];
