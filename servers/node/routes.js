// Routes: what the server answers, and the limits on what a client may send.

import { pipeline } from 'node:stream/promises';
import { DrainPolicy, parseInteger, parseSeconds } from './config.js';
import { ConnectionState, connectionOf, Limit } from './connections.js';
import { Phase, phaseName } from './lifecycle.js';
import { encode, logError, logEvent, streams } from './log.js';

export const MAX_HEAD_BYTES = 16 << 10;
const MAX_SLOW = 300; // seconds
const MAX_BYTES = 256 << 20;
const MAX_CHUNKS = 10_000;
const MAX_INTERVAL = 60; // seconds

/** Ends a handler with an answer. */
class RequestError extends Error {
  constructor(status, reason, fields) {
    super(reason);
    this.status = status;
    this.fields = fields;
  }
}

/**
 * @typedef {import('node:http').IncomingMessage} Request
 * @typedef {import('node:http').ServerResponse} Response
 * @typedef {object} Route
 * @property {string} method
 * @property {string} path
 * @property {(request: Request, response: Response, body: Buffer) => void | Promise<void>} handle
 * @property {string} [limit] what its requests count against, if not MAX_IN_FLIGHT
 */

/** What the handlers share, and the handlers. */
export class App {
  constructor({ settings, lifecycle, registry, instance }) {
    this.settings = settings;
    this.lifecycle = lifecycle;
    this.registry = registry;
    this.instance = instance;
  }

  /** @returns {Route[]} */
  routes() {
    return [
      { method: 'GET', path: '/', handle: this.root },
      { method: 'GET', path: '/slow', handle: this.slow },
      { method: 'POST', path: '/echo', handle: this.echo },
      { method: 'GET', path: '/bytes', handle: this.bytes },
      { method: 'GET', path: '/stream', handle: this.stream },
      { method: 'GET', path: '/events', handle: this.events, limit: Limit.STREAMS },
      ...this.#healthRoutes(),
    ];
  }

  /** @returns {Route[]} */
  adminRoutes() {
    return [
      { method: 'GET', path: '/metrics', handle: this.metrics, limit: Limit.NONE },
      { method: 'GET', path: '/prestop', handle: this.prestop, limit: Limit.NONE },
      { method: 'POST', path: '/prestop', handle: this.prestop, limit: Limit.NONE },
      ...this.#healthRoutes(),
    ];
  }

  #healthRoutes() {
    return [
      { method: 'GET', path: '/health', handle: this.ready, limit: Limit.NONE },
      { method: 'GET', path: '/health/live', handle: this.live, limit: Limit.NONE },
      { method: 'GET', path: '/health/ready', handle: this.ready, limit: Limit.NONE },
    ];
  }

  /** Serves the traffic listener: every request is counted, limited and in flight until it is answered. */
  handler() {
    const routes = table(this.routes());
    return inOrder((request, response, connection) => this.#handle(routes, request, response, connection));
  }

  /** Serves the admin listener, whose requests are nobody's traffic. */
  adminHandler() {
    const routes = table(this.adminRoutes());
    return inOrder((request, response, connection) => this.#handleAdmin(routes, request, response, connection));
  }

  #handle(routes, request, response, connection) {
    const route = find(routes, request);
    const admitted = connection.registry.beginRequest(connection, route.limit ?? Limit.IN_FLIGHT);
    const reject = this.settings.now().drainPolicy === DrainPolicy.REJECT;
    if (reject && this.lifecycle.phase() >= Phase.DRAINING) {
      this.#dispatch(request, response, connection, SHUTTING_DOWN);
    } else {
      this.#dispatch(request, response, connection, admitted ? route : OVERLOADED);
    }
  }

  #handleAdmin(routes, request, response, connection) {
    connection.registry.beginRequest(connection, Limit.NONE);
    this.#dispatch(request, response, connection, find(routes, request));
  }

  async #dispatch(request, response, connection, route) {
    try {
      const body = hasBody(request) && !route.bodyUnread ? await this.#readBody(request, response) : NO_BODY;
      if (route.error) throw route.error;
      const handled = route.handle.call(this, request, response, body);
      if (handled) await handled; // most are done: waiting for nothing would still cost a turn
    } catch (error) {
      if (response.destroyed || error === CLIENT_LEFT) {
        response.destroy(); // nobody is there to answer
      } else if (error instanceof RequestError) {
        this.#fail(response, error);
      } else {
        logError(error.stack);
        if (response.headersSent) response.destroy();
        else this.#fail(response, new RequestError(500, 'internal error'));
      }
    } finally {
      connection.registry.handlerReturned();
    }
  }

  /**
   * Receives the whole body, within BODY_TIMEOUT in all rather than for each read. It invites the body of a
   * request with "Expect: 100-continue". rule: stalled-body-bounded, continue-answered
   */
  #readBody(request, response) {
    const { maxBodyBytes, bodyTimeout } = this.settings.now();
    const connection = connectionOf(request.socket);
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
      connection.refuseBody = () => fail(400, 'the body is malformed');
      request.on('data', receive);
      request.on('error', () => fail(400, 'the body is incomplete'));
      request.on('end', () => {
        settle();
        connection.received();
        resolve(Buffer.concat(chunks, size));
      });
      const invited = request.headers.expect?.toLowerCase() === '100-continue' && request.httpVersionMinor > 0;
      if (invited) response.writeContinue();
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
    this.#send(response, 200, request.headers['content-type'] ?? 'application/octet-stream', body);
  }

  async bytes(request, response) {
    const size = integer(request, 'size', 1024, 0, MAX_BYTES);
    this.#sendHead(response, 200, { 'Content-Type': 'application/octet-stream', 'Content-Length': size });
    // Waits for a slow reader rather than filling our memory.
    await pipeline(zeros(request.method === 'HEAD' ? 0 : size), response);
  }

  /** Is finite: it ends by itself, and a shutdown waits for that. rule: response-untruncated */
  async stream(request, response) {
    const chunks = integer(request, 'chunks', 10, 1, MAX_CHUNKS);
    const interval = seconds(request, 'interval', '0.1', MAX_INTERVAL);
    this.#sendHead(response, 200, { 'Content-Type': 'text/plain' });
    await pipeline(async function* () {
      for (let number = 0; number < (request.method === 'HEAD' ? 0 : chunks); number++) {
        if (number > 0) await wait(response, interval);
        yield `chunk ${number}\n`;
      }
    }, response);
  }

  /**
   * Has no end of its own: returning, when the listener closes, sends the final chunk.
   * rule: endless-stream-ends
   */
  async events(_request, response) {
    const listenerClosed = this.lifecycle.listenerClosed();
    this.#sendHead(response, 200, { 'Content-Type': 'text/event-stream' });
    await pipeline(async function* () {
      for (let number = 0; !listenerClosed.aborted; number++) {
        yield `data: ${number}\n\n`;
        await wait(response, 1000, listenerClosed);
      }
    }, response);
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
    for (const { name, dropped } of streams) lines.push(`log_lines_dropped_total{stream="${name}"} ${dropped}`);
    this.#send(response, 200, 'text/plain; version=0.0.4', `${lines.join('\n')}\n`);
  }

  /**
   * Takes the server out of rotation and answers when traffic has had time to go elsewhere. It stops nothing:
   * the signal comes from whoever called. rule: prestop-waits, prestop-keeps-process
   */
  async prestop(_request, response) {
    await leftOr(response, this.lifecycle.beginLameDuck('prestop')); // rule: lame-duck-serves
    this.#sendJSON(response, 200, { phase: phaseName(this.lifecycle.phase()) });
  }

  /**
   * Writes a head, with what belongs to every one, at the last moment: the phase may have changed since the request
   * came.
   */
  #sendHead(response, status, fields) {
    fields['X-Instance-Id'] = this.instance;
    // After it http closes, and what was pipelined behind it is not answered. rule: pipelined-in-order
    if (this.lifecycle.stopping()) fields.Connection = 'close';
    const id = response.req.headers['x-request-id']; // of two http makes a list, which is none
    if (id !== undefined && status < 400 && REQUEST_ID.test(id)) logEvent('executed', { request_id: id });
    response.writeHead(status, fields);
  }

  #fail(response, { status, message, fields }) {
    const { req } = response;
    // What is left of a body is no request, nor is what follows a head that may be read in two ways.
    const close = (hasBody(req) && !req.complete) || [400, 501, 505].includes(status);
    this.#sendJSON(response, status, { error: message }, { ...fields, ...(close && { Connection: 'close' }) });
  }

  #sendJSON(response, status, members, fields) {
    this.#send(response, status, 'application/json', encode(members), fields);
  }

  #send(response, status, contentType, body, fields = {}) {
    fields['Content-Type'] = contentType;
    fields['Content-Length'] = Buffer.byteLength(body);
    this.#sendHead(response, status, fields);
    response.end(body);
  }
}

/** Handles the requests of a connection one after the other: http reports pipelined ones as they come. */
function inOrder(handle) {
  const begin = (request, response, connection) => {
    response.on('close', responseClosed); // and not 'finish', which a response that is cut never reaches
    handle(request, response, connection);
  };
  return (request, response) => {
    const connection = connectionOf(request.socket);
    if (connection.inFlight) connection.putOff(() => begin(request, response, connection));
    else begin(request, response, connection);
  };
}

/** @this {Response} */
function responseClosed() {
  const connection = connectionOf(this.req.socket);
  connection.registry.finishRequest(connection);
}

/** Turns a list of routes into a table by path and method. */
function table(routes) {
  const paths = new Map();
  for (const route of routes) {
    paths.set(route.path, (paths.get(route.path) ?? new Map()).set(route.method, route));
  }
  return paths;
}

/**
 * Returns the route of a request, or one that rejects it. HEAD is answered wherever GET is, but where a client would
 * wait for ever.
 */
function find(routes, request) {
  const error = ambiguity(request);
  if (error) return { error, bodyUnread: true };
  const path = pathOf(request);
  if (path === undefined) return { error: new RequestError(400, 'the request target is malformed'), bodyUnread: true };
  const methods = routes.get(path);
  if (methods === undefined) return { error: new RequestError(404, 'no such path') };
  const get = methods.get('GET');
  const hasHead = get !== undefined && get.limit !== Limit.STREAMS;
  const route = methods.get(request.method) ?? (hasHead && request.method === 'HEAD' ? get : undefined);
  if (route !== undefined) return route;
  const allowed = [...methods.keys()].flatMap((method) => (method === 'GET' && hasHead ? ['GET', 'HEAD'] : method));
  return { error: new RequestError(405, 'method not allowed', { Allow: allowed.join(', ') }) };
}

/** What http takes, and a proxy may read otherwise. */
function ambiguity(request) {
  const { headers, httpVersionMajor, httpVersionMinor } = request;
  if (httpVersionMajor !== 1) return new RequestError(505, 'this is an HTTP/1.1 server');
  const hosts = request.headersDistinct.host ?? [];
  const hasHost = hosts.length === 1 && !/[\s,]/.test(hosts[0]);
  if (!hasHost && (hosts.length > 0 || httpVersionMinor > 0))
    return new RequestError(400, 'a request has one Host field');
  const coding = headers['transfer-encoding'];
  if (coding === undefined) return undefined;
  if (coding.toLowerCase() !== 'chunked') return new RequestError(501, 'a body is chunked, or has a length');
  if (httpVersionMinor === 0) return new RequestError(400, 'the length of the body is not clear'); // RFC 9112, 6.1
  return undefined;
}

const SHUTTING_DOWN = {
  error: new RequestError(503, 'shutting down', { 'Retry-After': '1' }),
  bodyUnread: true,
};
const OVERLOADED = {
  error: new RequestError(429, 'too many requests in flight', { 'Retry-After': '1' }),
  bodyUnread: true,
};

/** The decoded path; undefined where it is malformed. */
function pathOf({ url }) {
  const path = url.startsWith('/') ? url : url.replace(/^https?:\/\/[^/?]*/i, ''); // absolute: RFC 9112, 3.2.2
  const query = path.indexOf('?');
  try {
    return decodeURIComponent(query < 0 ? path : path.slice(0, query)) || '/';
  } catch {
    return undefined;
  }
}

function queryOf({ url }) {
  const query = url.indexOf('?');
  return new URLSearchParams(query < 0 ? '' : url.slice(query + 1));
}

function hasBody({ headers }) {
  return headers['transfer-encoding'] !== undefined || (headers['content-length'] ?? '0') !== '0';
}

const NO_BODY = Buffer.alloc(0);

const CLIENT_LEFT = new Error('the client has left');

/** Waits, but not beyond the end where one is given; throws where the client has left. */
function wait(response, milliseconds, ended) {
  let timer;
  let over;
  const passed = new Promise((resolve) => {
    timer = setTimeout(resolve, milliseconds);
    over = resolve;
    ended?.addEventListener('abort', over);
  });
  return leftOr(response, passed).finally(() => {
    clearTimeout(timer);
    ended?.removeEventListener('abort', over);
  });
}

/** Waits for a promise; throws where the client has left, or has closed its side, which looks the same. */
function leftOr(response, promise) {
  const { socket } = response.req;
  return new Promise((resolve, reject) => {
    const left = () => reject(CLIENT_LEFT);
    const settle = () => {
      response.off('close', left);
      socket.off('end', left);
    };
    if (response.destroyed || socket.readableEnded) left(); // neither comes twice
    response.on('close', left);
    socket.on('end', left);
    promise.then(resolve, reject).finally(settle);
  });
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
