// Connections: who is connected, in which state, and how a connection ends without losing anything.

import { STATUS_CODES } from 'node:http';

/** Where a connection stands between two requests. */
export const ConnectionState = Object.freeze({
  /** Open, and no byte has come. Becomes active or closing. */
  UNUSED: 'unused',
  /** From the first byte of a request to the last of its response. Becomes idle or closing. */
  ACTIVE: 'active',
  /** Between two requests. Becomes active or closing. */
  IDLE: 'idle',
  /** Our FIN is out; what still comes is discarded. */
  CLOSING: 'closing',
});

/** What a request counts against. */
export const Limit = Object.freeze({
  IN_FLIGHT: 'in-flight',
  /** Apart, because endless ones would use up MAX_IN_FLIGHT for ever. */
  STREAMS: 'streams',
  /** A probe must get through under load. */
  NONE: 'none',
});

const CONNECTION = Symbol('connection');

/** Lets a handler find its connection. */
export function connectionOf(socket) {
  return socket[CONNECTION];
}

/** Sits beside http on a socket: it knows whether a request has begun to arrive, and it closes by FIN. */
export class Connection {
  state = ConnectionState.UNUSED;
  refused = false; // above MAX_CONNECTIONS
  inFlight = false; // a whole head has come, its response is not complete
  limit; // what the request in flight counts against
  refuseBody; // set while a handler waits for a body: fails that wait
  headDeadline;
  quietDeadline;
  keepAliveDeadline;
  lingerDeadline;
  lastLook;
  #bytesReceived = 0; // by the end of the latest whole request
  #watched = false;
  #closeDeadline;
  #waiting = []; // requests that came before the one in flight was answered
  #malformed; // the status for what came after those

  constructor(socket, registry) {
    this.socket = socket;
    this.registry = registry;
    socket[CONNECTION] = this;
    socket.on('error', () => {}); // an error is followed by 'close', and a client may leave at any time
    socket.on('close', () => registry.forget(this));
    socket.setTimeout(registry.settings.now().writeTimeout); // begins anew whenever the kernel has taken something
    // http calls this after the last response. Its own version closes, and closing a socket with unread input
    // would send RST and could destroy the response on its way (RFC 9112, 9.6).
    socket.destroySoon = () => this.halfClose();
  }

  /** Notes that a request has come whole: bytes that come from here on belong to another. */
  received() {
    this.#bytesReceived = this.socket.bytesRead;
  }

  /** Says whether another request has begun to arrive. */
  hasBegun() {
    return this.socket.bytesRead > this.#bytesReceived;
  }

  /**
   * Hears of every byte, where http tells of whole heads only. A listener for 'data' takes http's parser from its
   * place beneath the socket, which costs a busy connection some 5 % of its throughput: so this is for those that
   * have been quiet for a while.
   */
  watch() {
    if (this.#watched) return;
    this.#watched = true;
    this.socket.on('data', () => this.registry.activate(this)); // after http's own listener
  }

  /** Puts a pipelined request off: http reports it as soon as it has come, in order means one after the other. */
  putOff(request) {
    this.#waiting.push(request);
    // Or a client that only sends fills our memory. http resumes after each request that it has read: not now.
    this.socket.pause();
    this.socket.resume = () => this.socket;
  }

  /** Begins the next of the requests put off; false where there is none. */
  beginNext() {
    const request = this.#waiting.shift();
    if (request === undefined) return false;
    if (this.#waiting.length === 0) {
      delete this.socket.resume;
      this.socket.resume();
    }
    request();
    return true;
  }

  /** Sends FIN after everything that was written, discards what still comes, closes. rule: idle-closed-by-fin */
  halfClose() {
    if (this.state === ConnectionState.CLOSING) return;
    this.state = ConnectionState.CLOSING;
    delete this.socket.resume;
    this.socket.removeAllListeners('data'); // it cannot be answered any more: http shall not see it
    this.socket.on('data', () => {}).resume();
    this.socket.end();
    this.#closeDeadline = setTimeout(() => this.socket.destroy(), this.registry.settings.now().closeTimeout);
  }

  /** Ends a response of which the client takes nothing, so that it does not look complete. rule: slow-reader-bounded */
  writeTimedOut() {
    if (this.inFlight && this.socket.writableLength > 0) this.socket.resetAndDestroy();
  }

  /** Answers what http's parser gave up on, after the requests that came before it. */
  rejectInput(status) {
    this.#malformed ??= status;
    if (this.refuseBody) this.refuseBody();
    else if (!this.inFlight) this.refuseMalformed();
  }

  refuseMalformed() {
    if (this.#malformed === undefined) return false;
    this.refuse(this.#malformed, STATUS_CODES[this.#malformed].toLowerCase());
    return true;
  }

  /** Answers without http, and closes. */
  refuse(status, reason, headers = '') {
    if (this.state === ConnectionState.CLOSING) return;
    this.socket.write(lastAnswer(status, reason, headers));
    this.halfClose();
  }

  /** Forgets every deadline: the socket is closed. */
  stopDeadlines() {
    clearTimeout(this.headDeadline);
    clearTimeout(this.quietDeadline);
    clearTimeout(this.keepAliveDeadline);
    clearTimeout(this.lingerDeadline);
    clearImmediate(this.lastLook);
    clearTimeout(this.#closeDeadline);
  }
}

const QUIET = 100; // milliseconds without a request, after which a connection is watched

/** Knows every open connection. */
export class Registry {
  /** Fulfilled when, after beginDrain, no connection is left. rule: load-does-not-hold-exit */
  drained;
  #reportDrained;
  #connections = new Set();
  #refused = 0; // of the connections, those above MAX_CONNECTIONS
  #inFlight = Object.fromEntries(Object.values(Limit).map((limit) => [limit, 0]));
  #handling = 0; // handlers that have not returned
  #draining = false;
  #linger; // IDLE_LINGER as it was when the drain began
  #reportAnswered; // set while somebody waits for it

  constructor(settings) {
    this.settings = settings;
    this.drained = new Promise((resolve) => {
      this.#reportDrained = resolve;
    });
  }

  /**
   * Registers a connection. False where there are too many: http shall not see it. Above twice the limit there is
   * nothing left to refuse politely.
   */
  open(socket) {
    const { maxConnections } = this.settings.now();
    if (this.#connections.size >= 2 * maxConnections) {
      socket.destroy();
      return false;
    }
    const connection = new Connection(socket, this);
    this.#connections.add(connection);
    if (this.#connections.size - this.#refused > maxConnections) {
      this.#refused++;
      connection.refused = true;
      connection.refuse(503, 'too many connections', 'Retry-After: 1\r\n');
      return false;
    }
    this.#expectHead(connection);
    return true;
  }

  /** Notes that bytes have come, and that http has seen them: had they completed a head, it would be in flight. */
  activate(connection) {
    if (connection.inFlight || connection.state === ConnectionState.ACTIVE) return;
    this.#becomeActive(connection);
    this.#expectHead(connection);
  }

  /** Counts a request whose head is complete. False above its limit. rule: overload-sheds */
  beginRequest(connection, limit) {
    this.#becomeActive(connection);
    clearTimeout(connection.headDeadline);
    connection.headDeadline = undefined;
    connection.received();
    connection.inFlight = true;
    connection.limit = limit;
    const inFlight = ++this.#inFlight[limit];
    this.#handling++;
    const { maxInFlight, maxStreams } = this.settings.now();
    if (limit === Limit.IN_FLIGHT) return inFlight <= maxInFlight;
    if (limit === Limit.STREAMS) return inFlight <= maxStreams; // rule: streams-limited-apart
    return true;
  }

  /** Is called when a response has closed: its last byte was written, or its connection is gone. */
  finishRequest(connection) {
    connection.inFlight = false;
    this.#inFlight[connection.limit]--;
    this.#checkAnswered();
    if (connection.state === ConnectionState.CLOSING) return;
    if (connection.beginNext() || connection.refuseMalformed()) return;
    connection.state = ConnectionState.IDLE;
    if (this.#draining) {
      this.#giveLastChance(connection);
    } else if (connection.quietDeadline) {
      connection.quietDeadline.refresh(); // far cheaper than a new one
    } else {
      connection.quietDeadline = setTimeout(() => this.#keepAlive(connection), QUIET);
    }
  }

  /** Is called when a handler is done: drained waits for those, too, whose connection is gone. */
  handlerReturned() {
    this.#handling--;
    this.#checkDrained();
  }

  /** Is called once, when the listener has closed: whoever is idle, or becomes idle, may ask once more. */
  beginDrain() {
    this.#draining = true;
    this.#linger = this.settings.now().idleLinger;
    for (const connection of this.#connections) {
      if (isIdle(connection)) this.#giveLastChance(connection); // rule: unused-holds-nothing
    }
    this.#checkDrained();
  }

  /**
   * Ends every connection at once and returns how many requests that cost. By RST, because a FIN can look like
   * the end of a response that has no length. rule: cut-is-visible
   */
  cutInFlight() {
    let cut = 0;
    for (const connection of this.#connections) {
      if (connection.inFlight && connection.state === ConnectionState.ACTIVE) {
        cut++;
        connection.socket.resetAndDestroy();
      } else {
        connection.socket.destroy();
      }
    }
    return cut;
  }

  /** Is called when the socket has closed. */
  forget(connection) {
    connection.state = ConnectionState.CLOSING;
    connection.stopDeadlines();
    this.#connections.delete(connection);
    if (connection.refused) this.#refused--;
    this.#checkDrained();
  }

  /** Returns the requests in flight and the connections in each state, for /metrics. */
  count() {
    const states = Object.fromEntries(Object.values(ConnectionState).map((state) => [state, 0]));
    for (const connection of this.#connections) {
      states[isIdle(connection) && connection.hasBegun() ? ConnectionState.ACTIVE : connection.state]++;
    }
    return { inFlight: this.#allInFlight(), states };
  }

  /** Fulfilled when no request is in flight. */
  answered() {
    return new Promise((resolve) => {
      this.#reportAnswered = resolve;
      this.#checkAnswered();
    });
  }

  #allInFlight() {
    return Object.values(this.#inFlight).reduce((sum, count) => sum + count);
  }

  #checkAnswered() {
    if (this.#reportAnswered && this.#allInFlight() === 0) this.#reportAnswered();
  }

  #becomeActive(connection) {
    connection.state = ConnectionState.ACTIVE;
    clearTimeout(connection.keepAliveDeadline);
    clearTimeout(connection.lingerDeadline);
    clearImmediate(connection.lastLook);
  }

  /** Bounds the whole head, however often another byte of it comes. rule: slow-head-bounded */
  #expectHead(connection) {
    connection.headDeadline ??= setTimeout(() => {
      connection.headDeadline = undefined;
      if (connection.hasBegun()) connection.refuse(408, 'the head took too long');
      else this.#closeIdle(connection);
    }, this.settings.now().headerTimeout);
  }

  /** Lets a connection that has become quiet wait for a request, but not for ever. */
  #keepAlive(connection) {
    if (!isIdle(connection) || this.#draining) return;
    connection.watch();
    const closeIdle = () => this.#closeIdle(connection);
    connection.keepAliveDeadline = setTimeout(closeIdle, this.settings.now().keepAliveTimeout - QUIET);
    if (connection.hasBegun()) this.activate(connection);
  }

  /** Gives an idle connection its last chance. rule: late-request-answered */
  #giveLastChance(connection) {
    clearTimeout(connection.keepAliveDeadline); // which may be nearer
    connection.watch();
    const closeIdle = () => this.#closeIdle(connection); // rule: idle-holds-nothing
    connection.lingerDeadline = setTimeout(closeIdle, this.#linger);
    if (connection.hasBegun()) this.activate(connection);
  }

  /**
   * Closes a connection that is idle still when everything that has come was read: timers run before sockets
   * are read, immediates after. A request that has begun to arrive is served instead.
   */
  #closeIdle(connection) {
    if (!isIdle(connection)) return;
    connection.lastLook = setImmediate(() => {
      if (connection.hasBegun()) {
        this.activate(connection); // rule: nothing-lost-on-keep-alive
      } else {
        connection.halfClose();
      }
    });
  }

  #checkDrained() {
    if (this.#draining && this.#connections.size === 0 && this.#handling === 0) this.#reportDrained();
  }
}

function isIdle({ state }) {
  return state === ConnectionState.IDLE || state === ConnectionState.UNUSED;
}

/** Takes http's reports of what it cannot make a request of; by itself it would close without lingering. */
export function follow(server) {
  server.on('timeout', (socket) => connectionOf(socket).writeTimedOut());
  server.on('clientError', (error, socket) => {
    const rejected = error.code?.startsWith('HPE_') && !socket.readableEnded;
    if (rejected) connectionOf(socket).rejectInput(REJECTIONS[error.code] ?? 400);
    else socket.destroy(); // the client has left
  });
  server.on('connect', (_request, socket) => connectionOf(socket).refuse(405, 'method not allowed'));
}

const REJECTIONS = { HPE_HEADER_OVERFLOW: 431, HPE_CHUNK_EXTENSIONS_OVERFLOW: 413 };

function lastAnswer(status, reason, headers) {
  const body = `${JSON.stringify({ error: reason })}\n`;
  return (
    `HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\nContent-Type: application/json\r\n` +
    `Content-Length: ${body.length}\r\n${headers}Connection: close\r\n\r\n${body}`
  );
}
