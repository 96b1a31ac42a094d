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

/** What a request in flight counts against: how many there may be, by the configuration. */
export const Limit = Object.freeze({
  IN_FLIGHT: (config) => config.maxInFlight,
  /** Endless streams: they would use up MAX_IN_FLIGHT for ever. rule: streams-limited-apart */
  STREAMS: (config) => config.maxStreams,
  /** A probe must get through under load. */
  NONE: () => Infinity,
});

const CONNECTION = Symbol('connection');

/** Lets a handler find its connection. */
export function connectionOf(socket) {
  return socket[CONNECTION];
}

const MAX_PIPELINED = 64; // requests that may wait for the one in flight before we stop reading

/** Sits beside http on a socket: it knows whether a request has begun to arrive, and it closes by FIN. */
export class Connection {
  state = ConnectionState.UNUSED;
  refused = false; // above MAX_CONNECTIONS
  limit; // what the request in flight counts against; undefined where none is: no whole head, or all is answered
  refuseBody; // set while a handler waits for a body: fails that wait
  headDeadline;
  quietDeadline;
  keepAliveDeadline;
  lingerDeadline;
  lastLook;
  #bytesReceived = 0; // by the end of the latest whole request
  #watched = false;
  #writeDeadline;
  #closeDeadline;
  #waiting = []; // requests that came before the one in flight was answered
  #held = false; // nothing is read, because too many of those wait
  #malformed; // the status for what came after those

  constructor(socket, registry) {
    this.socket = socket;
    this.registry = registry;
    socket[CONNECTION] = this;
    socket.on('error', () => {}); // an error is followed by 'close', and a client may leave at any time
    socket.on('close', () => registry.forget(this));
    // http calls this after the last response. Its own version closes, and closing a socket with unread input
    // would send RST and could destroy the response on its way (RFC 9112, 9.6).
    socket.destroySoon = () => this.halfClose();
  }

  /** Whether a whole head has come whose response is not complete. */
  inFlight() {
    return this.limit !== undefined;
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
    if (this.#waiting.length === MAX_PIPELINED) this.#hold();
  }

  /** Begins the next of the requests put off; false where there is none. */
  beginNext() {
    const request = this.#waiting.shift();
    if (request === undefined) return false;
    if (this.#waiting.length === 0 && this.#held) {
      this.#held = false;
      this.socket.resume();
    }
    request();
    return true;
  }

  /** Reads no more, or a client that only sends fills our memory. */
  #hold() {
    this.#held = true;
    this.socket.pause();
    // After each whole request http resumes, to read the next. This listener comes after http's own.
    const pauseAgain = () => (this.#held ? this.socket.pause() : this.socket.off('resume', pauseAgain));
    this.socket.on('resume', pauseAgain);
  }

  /**
   * Sends RST when the client takes nothing for WRITE_TIMEOUT although something waits for it. "Takes" means that
   * the kernel accepts more, and of that nobody tells: so it looks eight times in that while.
   */
  boundWrites() {
    const { socket } = this;
    if (this.#writeDeadline !== undefined || socket.writableLength === 0) return;
    const { writeTimeout } = this.registry.settings.now();
    let taken;
    let since;
    const look = () => {
      const now = performance.now();
      const nowTaken = socket.bytesWritten - (socket._handle?.writeQueueSize ?? 0); // nothing documented tells
      if (nowTaken !== taken) since = now;
      taken = nowTaken;
      if (socket.writableLength === 0) this.#stopBoundingWrites();
      else if (now - since >= writeTimeout) socket.resetAndDestroy(); // rule: slow-reader-bounded
    };
    look();
    this.#writeDeadline = setInterval(look, writeTimeout / 8);
  }

  #stopBoundingWrites() {
    clearInterval(this.#writeDeadline);
    this.#writeDeadline = undefined;
  }

  /** Sends FIN after everything that was written, discards what still comes, closes. rule: idle-closed-by-fin */
  halfClose() {
    if (this.state === ConnectionState.CLOSING) return;
    this.state = ConnectionState.CLOSING;
    this.socket.removeAllListeners('data'); // it cannot be answered any more: http shall not see it
    this.#held = false;
    this.socket.on('data', () => {}).resume();
    this.socket.end();
    // Once, whatever still comes. rule: kept-open-holds-nothing
    this.#closeDeadline = setTimeout(() => this.socket.destroy(), this.registry.settings.now().closeTimeout);
  }

  /** Answers what http's parser gave up on, after the requests that came before it. */
  rejectInput(status) {
    this.#malformed ??= status;
    if (this.refuseBody) this.refuseBody();
    else if (!this.inFlight()) this.refuseMalformed();
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
    this.#stopBoundingWrites();
    clearTimeout(this.#closeDeadline);
  }
}

const QUIET = 100; // milliseconds without a request, after which a connection is watched

/** Knows every open connection. */
export class Registry {
  /** Fulfilled when, after beginDrain, no connection is left. rule: load-does-not-hold-exit */
  drained;
  #reportDrained;
  #reportAnswered;
  #connections = new Set();
  #refused = 0; // of the connections, those above MAX_CONNECTIONS
  #inFlight = new Map(); // requests by limit
  #handling = 0; // handlers that have not returned
  #draining = false;
  #idleLinger; // since draining

  constructor(settings) {
    this.settings = settings;
    this.drained = new Promise((resolve) => {
      this.#reportDrained = resolve;
    });
  }

  /** Registers a connection. False where there are too many: http shall not see it. */
  open(socket) {
    const { maxConnections } = this.settings.now();
    if (this.#connections.size >= 2 * maxConnections) {
      socket.on('error', () => {}).destroy();
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
    if (connection.inFlight() || connection.state === ConnectionState.ACTIVE) return;
    this.#becomeActive(connection);
    this.#expectHead(connection);
  }

  /**
   * Counts a request whose head is complete. False where there are too many of its limit, a function that finds
   * the number in the settings. rule: overload-sheds
   */
  beginRequest(connection, limit) {
    this.#becomeActive(connection);
    clearTimeout(connection.headDeadline);
    connection.headDeadline = undefined;
    connection.received();
    connection.limit = limit;
    const inFlight = (this.#inFlight.get(limit) ?? 0) + 1;
    this.#inFlight.set(limit, inFlight);
    this.#handling++;
    return inFlight <= limit(this.settings.now());
  }

  /** Is called when a response has closed: its last byte was written, or its connection is gone. */
  finishRequest(connection) {
    this.#inFlight.set(connection.limit, this.#inFlight.get(connection.limit) - 1);
    connection.limit = undefined;
    if (this.#reportAnswered && this.#requests() === 0) this.#reportAnswered();
    if (connection.state === ConnectionState.CLOSING) return;
    if (connection.beginNext() || connection.refuseMalformed()) return;
    connection.state = ConnectionState.IDLE;
    if (this.#draining) {
      this.#linger(connection);
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

  /** Is fulfilled when no request is in flight any more. */
  answered() {
    if (this.#requests() === 0) return Promise.resolve();
    return new Promise((resolve) => {
      this.#reportAnswered = resolve;
    });
  }

  /** Is called once, when the listener has closed: whoever is idle, or becomes idle, may ask once more. */
  beginDrain() {
    this.#draining = true;
    this.#idleLinger = this.settings.now().idleLinger;
    for (const connection of this.#connections) {
      if (isIdle(connection)) this.#linger(connection); // rule: unused-holds-nothing
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
      if (connection.inFlight() && connection.state === ConnectionState.ACTIVE) {
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
    return { inFlight: this.#requests(), states };
  }

  #requests() {
    let requests = 0;
    for (const inFlight of this.#inFlight.values()) requests += inFlight;
    return requests;
  }

  #becomeActive(connection) {
    connection.state = ConnectionState.ACTIVE;
    clearTimeout(connection.keepAliveDeadline);
    clearTimeout(connection.lingerDeadline);
    clearImmediate(connection.lastLook);
  }

  /**
   * Bounds the whole head, however often another byte of it comes.
   * rule: slow-head-bounded, half-request-holds-nothing
   */
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
    // rule: keep-alive-outlasts-balancer
    const closeIdle = () => this.#closeIdle(connection);
    connection.keepAliveDeadline = setTimeout(closeIdle, this.settings.now().keepAliveTimeout - QUIET);
    if (connection.hasBegun()) this.activate(connection);
  }

  /** Gives an idle connection its last chance. rule: late-request-answered */
  #linger(connection) {
    clearTimeout(connection.keepAliveDeadline); // which may be nearer
    connection.watch();
    const closeIdle = () => this.#closeIdle(connection); // rule: idle-holds-nothing
    connection.lingerDeadline = setTimeout(closeIdle, this.#idleLinger);
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
        this.activate(connection); // rule: nothing-lost-on-keep-alive, nothing-lost-in-peace
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

/**
 * Hands the requests of an HTTP server to handle(request, response, connection), for each connection one after the
 * other, and answers what http cannot make a request of; by itself it would close without lingering.
 */
export function serve(server, handle) {
  server.on('request', (request, response) => inOrder(request, response, handle));
  // Otherwise http would invite a body before anybody wants it.
  server.on('checkContinue', (request, response) => inOrder(request, response, handle));
  server.on('checkExpectation', (request, response) => inOrder(request, response, handle));
  server.on('clientError', (error, socket) => {
    if (error.code?.startsWith('HPE_')) connectionOf(socket).rejectInput(REJECTIONS[error.code] ?? 400);
    else socket.destroy(); // the client has left
  });
  server.on('connect', (_request, socket) => connectionOf(socket).rejectInput(501));
}

function inOrder(request, response, handle) {
  const connection = connectionOf(request.socket);
  if (connection.inFlight()) connection.putOff(() => begin(request, response, connection, handle));
  else begin(request, response, connection, handle);
}

function begin(request, response, connection, handle) {
  response.on('close', responseClosed); // and not 'finish', which a response that is cut never reaches
  handle(request, response, connection);
}

/** @this {import('node:http').ServerResponse} */
function responseClosed() {
  const connection = connectionOf(this.req.socket);
  connection.registry.finishRequest(connection);
}

const REJECTIONS = { HPE_HEADER_OVERFLOW: 431, HPE_CHUNK_EXTENSIONS_OVERFLOW: 413 };

function lastAnswer(status, reason, headers) {
  const body = `${JSON.stringify({ error: reason })}\n`;
  return (
    `HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\nDate: ${new Date().toUTCString()}\r\n` +
    `Content-Type: application/json\r\nContent-Length: ${body.length}\r\n${headers}Connection: close\r\n\r\n${body}`
  );
}
