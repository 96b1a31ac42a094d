// Routes: what the server answers, and the limits on what a client may send.

import { DrainPolicy, parseInteger, parseSeconds } from './config.js';
import { ConnectionState, Limit, connectionOf } from './connections.js';
import { Phase, phaseName } from './lifecycle.js';
import { linesDropped, logError, logEvent } from './log.js';

export const MAX_HEAD_BYTES = 16 << 10;
const MAX_SLOW = 300; // seconds
const MAX_BYTES = 256 << 20;
const MAX_CHUNKS = 10_000;
const MAX_INTERVAL = 60; // seconds

/**
 * @typedef {import('node:http').IncomingMessage} Request
 * @typedef {import('node:http').ServerResponse} Response
 * @typedef {import('./connections.js').Connection} Connection
 */

/** Ends a handler with an answer for the client. */
class RequestError extends Error {
  constructor(status, reason, fields) {
    super(reason);
    this.status = status;
    this.reason = reason;
    this.fields = fields;
  }
}

/** Ends a handler whose client does not wait for the answer any more. */
class ClientLeft extends Error {}

const SHUTTING_DOWN = { error: new RequestError(503, 'shutting down', { 'Retry-After': '1' }) };
const OVERLOADED = { error: new RequestError(429, 'too many requests in flight', { 'Retry-After': '1' }) };

/** What is done with requests of one method for one path. */
class Route {
  /** @param {(request: Request, response: Response, body: Buffer) => void | Promise<void>} handle */
  constructor(method, path, handle, limit = Limit.IN_FLIGHT) {
    this.method = method;
    this.path = path;
    this.handle = handle;
    this.limit = limit;
  }
}

/** What the handlers share. */
export class App {
  #table;
  #adminTable;

  constructor({ settings, lifecycle, registry, instance }) {
    this.settings = settings;
    this.lifecycle = lifecycle;
    this.registry = registry;
    this.instance = instance;
    this.#table = table(this.routes());
    this.#adminTable = table(this.adminRoutes());
  }

  /** @returns {Route[]} */
  routes() {
    return [
      new Route('GET', '/', this.root),
      new Route('GET', '/slow', this.slow),
      new Route('POST', '/echo', this.echo),
      new Route('GET', '/bytes', this.bytes),
      new Route('GET', '/stream', this.stream),
      new Route('GET', '/events', this.events, Limit.STREAMS),
      ...this.#healthRoutes(),
    ];
  }

  /** @returns {Route[]} */
  adminRoutes() {
    return [
      new Route('GET', '/metrics', this.metrics, Limit.NONE),
      new Route('GET', '/prestop', this.prestop, Limit.NONE),
      new Route('POST', '/prestop', this.prestop, Limit.NONE),
      ...this.#healthRoutes(),
    ];
  }

  #healthRoutes() {
    return [
      new Route('GET', '/health', this.ready, Limit.NONE),
      new Route('GET', '/health/live', this.live, Limit.NONE),
      new Route('GET', '/health/ready', this.ready, Limit.NONE),
    ];
  }

  /** Answers a request on the traffic listener. */
  handle(request, response, connection) {
    const route = find(this.#table, request);
    const admitted = connection.registry.beginRequest(connection, route.limit);
    if (this.lifecycle.phase() >= Phase.DRAINING && this.settings.now().drainPolicy === DrainPolicy.REJECT) {
      this.#dispatch(request, response, connection, SHUTTING_DOWN);
    } else {
      this.#dispatch(request, response, connection, admitted ? route : OVERLOADED);
    }
  }

  /** Answers a request on the admin listener. */
  handleAdmin(request, response, connection) {
    const route = find(this.#adminTable, request);
    connection.registry.beginRequest(connection, Limit.NONE);
    this.#dispatch(request, response, connection, route);
  }

  async #dispatch(request, response, connection, route) {
    try {
      if (route.error) throw route.error; // before its body is invited
      const body = hasBody(request) ? await this.#readBody(request, response, connection) : NO_BODY;
      const handled = route.handle.call(this, request, response, body);
      if (handled) await handled; // most are done: waiting for nothing would still cost a turn
    } catch (error) {
      if (error instanceof RequestError && !response.destroyed) {
        this.#fail(response, error);
      } else if (error instanceof ClientLeft || response.destroyed) {
        abandon(response, connection);
      } else {
        logError(error.stack);
        if (response.headersSent) abandon(response, connection);
        else this.#fail(response, new RequestError(500, 'internal error'));
      }
    } finally {
      connection.boundWrites();
      connection.registry.handlerReturned();
    }
  }

  /**
   * Receives the whole body, within BODY_TIMEOUT in all rather than for each read. It invites the body of a
   * request with "Expect: 100-continue". rule: stalled-body-bounded, continue-answered
   */
  #readBody(request, response, connection) {
    const { maxBodyBytes, bodyTimeout } = this.settings.now();
    const tooLarge = `a body is at most ${maxBodyBytes} bytes`;
    if (Number(request.headers['content-length']) > maxBodyBytes) throw new RequestError(413, tooLarge);
    return new Promise((resolve, reject) => {
      const chunks = [];
      let size = 0;
      const fail = (status, reason) => {
        settle();
        reject(new RequestError(status, reason));
      };
      const bodyDeadline = setTimeout(() => fail(408, 'the body took too long'), bodyTimeout);
      const settle = () => {
        clearTimeout(bodyDeadline);
        connection.refuseBody = undefined;
        request.off('data', receive).resume();
      };
      const receive = (chunk) => {
        size += chunk.length;
        if (size > maxBodyBytes) fail(413, tooLarge);
        else chunks.push(chunk);
      };
      connection.refuseBody = () => {
        if (!request.complete) fail(400, 'the body is malformed or incomplete'); // or what follows it is
      };
      request.on('data', receive);
      request.on('error', () => fail(400, 'the body is malformed or incomplete'));
      request.on('end', () => {
        settle();
        connection.received();
        resolve(Buffer.concat(chunks, size));
      });
      if (expectsContinue(request)) response.writeContinue();
    });
  }

  root(_request, response) {
    this.#sendJSON(response, 200, { server: 'node', phase: phaseName(this.lifecycle.phase()) });
  }

  /** A request that takes its time. A client that leaves ends the wait. rule: client-gone-releases */
  async slow(request, response) {
    const delay = seconds(request, 'delay', '1', MAX_SLOW);
    await wait(response, delay);
    this.#sendJSON(response, 200, { slept: delay / 1000 });
  }

  echo(request, response, body) {
    const contentType = request.headers['content-type'] ?? 'application/octet-stream';
    this.#sendHead(response, 200, { 'Content-Type': contentType, 'Content-Length': body.length });
    response.end(body);
  }

  async bytes(request, response) {
    const size = integer(request, 'size', 1024, 0, MAX_BYTES);
    this.#sendHead(response, 200, { 'Content-Type': 'application/octet-stream', 'Content-Length': size });
    await this.#sendChunks(response, zeros(size));
  }

  /** Is finite: it ends by itself, and a shutdown waits for that. rule: response-untruncated */
  async stream(request, response) {
    const chunks = integer(request, 'chunks', 10, 1, MAX_CHUNKS);
    const interval = seconds(request, 'interval', '0.1', MAX_INTERVAL);
    this.#sendHead(response, 200, { 'Content-Type': 'text/plain' });
    const numbered = async function* () {
      for (let number = 0; number < chunks; number++) {
        if (number > 0) await wait(response, interval);
        yield `chunk ${number}\n`;
      }
    };
    await this.#sendChunks(response, numbered());
  }

  /**
   * Has no end of its own: returning, when the listener closes, sends the final chunk.
   * rule: endless-stream-ends
   */
  async events(_request, response) {
    const listenerClosed = this.lifecycle.listenerClosed();
    this.#sendHead(response, 200, { 'Content-Type': 'text/event-stream' });
    const numbered = async function* () {
      for (let number = 0; !listenerClosed.aborted; number++) {
        yield `data: ${number}\n\n`;
        await wait(response, 1000, listenerClosed);
      }
    };
    await this.#sendChunks(response, numbered());
  }

  /** Says that a restart would not help; a shutdown is no reason for one. rule: liveness-stays */
  live(_request, response) {
    this.#sendJSON(response, 200, { phase: phaseName(this.lifecycle.phase()) });
  }

  ready(_request, response) {
    const status = this.lifecycle.isReady() ? 200 : 503;
    this.#sendJSON(response, status, { phase: phaseName(this.lifecycle.phase()) });
  }

  metrics(_request, response) {
    const { inFlight, states } = this.registry.count();
    const lines = ['# TYPE http_requests_in_flight gauge', `http_requests_in_flight ${inFlight}`];
    lines.push('# TYPE http_connections gauge');
    for (const state of [ConnectionState.UNUSED, ConnectionState.ACTIVE, ConnectionState.IDLE]) {
      lines.push(`http_connections{state="${state}"} ${states[state]}`);
    }
    lines.push('# TYPE lifecycle_phase gauge', `lifecycle_phase{phase="${phaseName(this.lifecycle.phase())}"} 1`);
    lines.push('# TYPE log_lines_dropped_total counter');
    for (const [stream, dropped] of Object.entries(linesDropped())) {
      lines.push(`log_lines_dropped_total{stream="${stream}"} ${dropped}`);
    }
    this.#send(response, 200, 'text/plain; version=0.0.4', `${lines.join('\n')}\n`);
  }

  /**
   * Takes the server out of rotation and answers when traffic has had time to go elsewhere. It stops nothing:
   * the signal comes from whoever called. rule: prestop-waits, prestop-keeps-process
   */
  async prestop(_request, response) {
    await this.lifecycle.beginLameDuck('prestop'); // rule: lame-duck-serves
    this.#sendJSON(response, 200, { phase: phaseName(this.lifecycle.phase()) });
  }

  /**
   * Writes a head, with what belongs to every one, at the last moment: the phase may have changed since the
   * request came.
   */
  #sendHead(response, status, headers) {
    headers['X-Instance-Id'] = this.instance;
    // After it http closes, and what was pipelined behind it is not answered. rule: pipelined-in-order
    if (this.lifecycle.stopping()) headers.Connection = 'close';
    const id = response.req.headers['x-request-id']; // two of them are joined by a comma
    if (id !== undefined && status < 400 && REQUEST_ID.test(id)) logEvent('executed', { request_id: id });
    response.writeHead(status, headers);
  }

  /** Sends a body no faster than the client takes it: a slow reader shall not fill our memory. */
  async #sendChunks(response, chunks) {
    if (response.req.method !== 'HEAD') {
      for await (const chunk of chunks) {
        if (response.destroyed) throw new ClientLeft();
        if (!response.write(chunk)) await taken(response);
      }
    }
    response.end();
  }

  #send(response, status, contentType, text, headers = {}) {
    headers['Content-Type'] = contentType;
    headers['Content-Length'] = Buffer.byteLength(text);
    this.#sendHead(response, status, headers);
    response.end(text);
  }

  #sendJSON(response, status, value, headers) {
    this.#send(response, status, 'application/json', `${JSON.stringify(value)}\n`, headers);
  }

  #fail(response, { status, reason, fields }) {
    const unread = hasBody(response.req) && !response.req.complete;
    const close = unread ? { Connection: 'close' } : undefined; // what is left of the body is no request
    this.#sendJSON(response, status, { error: reason }, { ...fields, ...close });
  }
}

/** Turns a list of routes into a table by path and method. */
function table(routes) {
  const paths = new Map();
  for (const route of routes) {
    const methods = paths.get(route.path) ?? new Map();
    paths.set(route.path, methods.set(route.method, route));
    // Node sends no body then. An endless stream has no end to wait for.
    if (route.method === 'GET' && route.limit !== Limit.STREAMS) methods.set('HEAD', route);
  }
  return paths;
}

/** Returns the route of a request, or what stands for it: a limit and an error. */
function find(routes, request) {
  try {
    checkHead(request);
    const methods = routes.get(pathOf(request));
    if (methods === undefined) throw new RequestError(404, 'no such path');
    const route = methods.get(request.method);
    if (route !== undefined) return route;
    throw new RequestError(405, 'method not allowed', { Allow: [...methods.keys()].join(', ') });
  } catch (error) {
    return { limit: Limit.IN_FLIGHT, error };
  }
}

/** Refuses what http lets pass although its length, or who it is for, could be read in two ways. */
function checkHead({ httpVersion, headers }) {
  const refuse = (status, reason) => {
    throw new RequestError(status, reason, { Connection: 'close' });
  };
  if (httpVersion !== '1.1' && httpVersion !== '1.0') refuse(505, 'HTTP/1.1 and HTTP/1.0 are spoken');
  const { host, 'transfer-encoding': coding } = headers;
  if (host === undefined ? httpVersion === '1.1' : !HOST.test(host)) refuse(400, 'a request has one Host field');
  if (coding === undefined) return;
  if (httpVersion === '1.0') refuse(400, 'HTTP/1.0 has no Transfer-Encoding');
  if (coding.toLowerCase() !== 'chunked') refuse(501, 'the only Transfer-Encoding is chunked');
}

const HOST = /^[\w.~!$&'()*+;=:%[\]-]*$/; // no comma: two of them are joined by one

function pathOf({ url }) {
  const path = url.startsWith('/') ? url : url.replace(/^https?:\/\/[^/?]*/i, ''); // absolute: RFC 9112, 3.2.2
  const query = path.indexOf('?');
  const encoded = (query < 0 ? path : path.slice(0, query)) || '/';
  if (!encoded.includes('%')) return encoded;
  try {
    return decodeURIComponent(encoded);
  } catch {
    throw new RequestError(400, 'the path is not percent-encoded UTF-8');
  }
}

function queryOf({ url }) {
  const query = url.indexOf('?');
  return new URLSearchParams(query < 0 ? '' : url.slice(query + 1));
}

function hasBody({ headers }) {
  return headers['transfer-encoding'] !== undefined || (headers['content-length'] ?? '0') !== '0';
}

/** HTTP/1.0 knows no 100. */
function expectsContinue({ httpVersion, headers }) {
  return httpVersion === '1.1' && headers.expect?.toLowerCase() === '100-continue';
}

const NO_BODY = Buffer.alloc(0);

/**
 * Waits for milliseconds, but not beyond the end where one is given. A client that closes its side meanwhile is
 * taken for one that has left.
 */
async function wait(response, milliseconds, ended) {
  if (milliseconds === 0) return;
  const { socket } = response.req;
  if (response.destroyed || socket.readableEnded) throw new ClientLeft(); // 'close' and 'end' come only once
  await new Promise((resolve, reject) => {
    const timer = setTimeout(() => settle(resolve), milliseconds);
    const over = () => settle(resolve);
    const gone = () => settle(reject, new ClientLeft());
    const settle = (outcome, error) => {
      clearTimeout(timer);
      ended?.removeEventListener('abort', over);
      response.off('close', gone);
      socket.off('end', gone);
      outcome(error);
    };
    ended?.addEventListener('abort', over);
    response.on('close', gone);
    socket.on('end', gone);
  });
}

/** Waits until the client has taken what was written: here its FIN means nothing, for we do not wait for it. */
function taken(response) {
  connectionOf(response.req.socket).boundWrites();
  return new Promise((resolve, reject) => {
    const drained = () => settle(resolve);
    const gone = () => settle(reject, new ClientLeft());
    const settle = (outcome, error) => {
      response.off('drain', drained).off('close', gone);
      outcome(error);
    };
    response.on('drain', drained).on('close', gone);
  });
}

/** Ends a response without its end. By RST where it has begun, because a FIN could look like the end. */
function abandon(response, { socket }) {
  if (response.headersSent && !response.writableFinished) socket.resetAndDestroy();
  else socket.destroy();
}

function* zeros(size) {
  const block = Buffer.alloc(64 << 10);
  for (; size > 0; size -= block.length) yield size < block.length ? block.subarray(0, size) : block;
}

function seconds(request, name, fallback, limit) {
  const text = queryOf(request).get(name) || fallback;
  const value = parseSeconds(text, limit);
  if (value !== undefined) return value;
  throw new RequestError(422, `${name}: ${JSON.stringify(text)} is not decimal seconds from 0 to ${limit}`);
}

function integer(request, name, fallback, low, high) {
  const text = queryOf(request).get(name) || String(fallback);
  const value = parseInteger(text, low, high);
  if (value !== undefined) return value;
  throw new RequestError(422, `${name}: ${JSON.stringify(text)} is not an integer from ${low} to ${high}`);
}

const REQUEST_ID = /^[A-Za-z0-9._-]{1,64}$/;
