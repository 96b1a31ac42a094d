// Routes: what the server answers, and the limits on what a client may send.

import { pipeline } from 'node:stream/promises';
import { DrainPolicy, parseInteger, parseSeconds } from './config.js';
import { ConnectionState, connectionOf } from './connections.js';
import { Phase, phaseName } from './lifecycle.js';
import { logError, logEvent } from './log.js';

export const MAX_HEAD_BYTES = 16 << 10;
const MAX_SLOW = 300; // seconds
const MAX_BYTES = 256 << 20;
const MAX_CHUNKS = 10_000;
const MAX_INTERVAL = 60; // seconds

/**
 * @typedef {import('node:http').IncomingMessage} Request
 * @typedef {import('node:http').ServerResponse} Response
 * @typedef {object} Route
 * @property {string} method
 * @property {string} path
 * @property {(request: Request, response: Response, body: Buffer) => void | Promise<void>} handle
 * @property {boolean} [exempt] from MAX_IN_FLIGHT: a probe must get through under load
 */

/** What the handlers share. */
export class App {
  constructor({ settings, lifecycle, registry, instance }) {
    this.settings = settings;
    this.lifecycle = lifecycle;
    this.registry = registry;
    this.instance = instance;
    /** One for each /prestop that is not answered yet. @type {Set<Promise<void>>} */
    this.prestops = new Set();
  }

  /** @returns {Route[]} */
  routes() {
    return [
      { method: 'GET', path: '/', handle: this.root },
      { method: 'GET', path: '/slow', handle: this.slow },
      { method: 'POST', path: '/echo', handle: this.echo },
      { method: 'GET', path: '/bytes', handle: this.bytes },
      { method: 'GET', path: '/stream', handle: this.stream },
      { method: 'GET', path: '/events', handle: this.events },
      ...this.#healthRoutes(),
    ];
  }

  /** @returns {Route[]} */
  adminRoutes() {
    return [
      { method: 'GET', path: '/metrics', handle: this.metrics, exempt: true },
      { method: 'GET', path: '/prestop', handle: this.prestop, exempt: true },
      { method: 'POST', path: '/prestop', handle: this.prestop, exempt: true },
      ...this.#healthRoutes(),
    ];
  }

  #healthRoutes() {
    return [
      { method: 'GET', path: '/health', handle: this.ready, exempt: true },
      { method: 'GET', path: '/health/live', handle: this.live, exempt: true },
      { method: 'GET', path: '/health/ready', handle: this.ready, exempt: true },
    ];
  }

  /** Serves the traffic listener: every request is counted, limited and in flight until it is answered. */
  handler() {
    const routes = table(this.routes());
    return inOrder((request, response, connection) => {
      const route = find(routes, request);
      const admitted = connection.registry.beginRequest(connection, route.exempt);
      const { drainPolicy } = this.settings.now();
      if (this.lifecycle.phase() >= Phase.DRAINING && drainPolicy === DrainPolicy.REJECT) {
        this.#dispatch(request, response, connection, SHUTTING_DOWN);
      } else {
        this.#dispatch(request, response, connection, admitted ? route : OVERLOADED);
      }
    });
  }

  /** Serves the admin listener, whose requests are nobody's traffic. */
  adminHandler() {
    const routes = table(this.adminRoutes());
    return inOrder((request, response, connection) => {
      connection.registry.beginRequest(connection, true);
      this.#dispatch(request, response, connection, find(routes, request));
    });
  }

  async #dispatch(request, response, connection, route) {
    try {
      const body = hasBody(request) && !route.bodyUnread ? await this.#readBody(request, response) : NO_BODY;
      if (route.handle) {
        const handled = route.handle.call(this, request, response, body);
        if (handled) await handled; // most are done: waiting for nothing would still cost a turn
      } else {
        this.#fail(response, route.status, route.reason, route.headers);
      }
    } catch (error) {
      if (response.destroyed) return; // the client has left, and its handler with it
      if (error instanceof Refusal) {
        this.#fail(response, error.status, error.message);
      } else {
        logError(error.stack);
        if (response.headersSent) response.destroy();
        else this.#fail(response, 500, 'internal error');
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
    if (Number(request.headers['content-length']) > maxBodyBytes) throw new Refusal(413, tooLarge);
    return new Promise((resolve, reject) => {
      const chunks = [];
      let size = 0;
      const fail = (status, reason) => {
        settle();
        reject(new Refusal(status, reason));
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
      if (request.headers.expect?.toLowerCase() === '100-continue') response.writeContinue();
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
    const contentType = request.headers['content-type'];
    const headers = { 'Content-Length': body.length };
    if (contentType !== undefined) headers['Content-Type'] = contentType;
    this.#begin(response, 200, headers);
    response.end(body);
  }

  async bytes(request, response) {
    const size = integer(request, 'size', 1024, 0, MAX_BYTES);
    this.#begin(response, 200, { 'Content-Type': 'application/octet-stream', 'Content-Length': size });
    await pipeline(zeros(size), response); // waits for a slow reader rather than filling our memory
  }

  /** Is finite: it ends by itself, and a shutdown waits for that. rule: response-untruncated */
  async stream(request, response) {
    const chunks = integer(request, 'chunks', 10, 1, MAX_CHUNKS);
    const interval = seconds(request, 'interval', '0.1', MAX_INTERVAL);
    this.#begin(response, 200, { 'Content-Type': 'text/plain' });
    await pipeline(async function* () {
      for (let number = 0; number < chunks; number++) {
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
    this.#begin(response, 200, { 'Content-Type': 'text/event-stream' });
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
    lines.push('# TYPE lifecycle_phase gauge', `lifecycle_phase{phase="${phaseName(this.lifecycle.phase())}"} 1`, '');
    this.#send(response, 200, 'text/plain; version=0.0.4', lines.join('\n'));
  }

  /**
   * Takes the server out of rotation and answers when traffic has had time to go elsewhere. It stops nothing:
   * the signal comes from whoever called. rule: prestop-waits, prestop-keeps-process
   */
  async prestop(_request, response) {
    const answered = new Promise((resolve) => response.on('close', resolve));
    this.prestops.add(answered);
    await this.lifecycle.beginLameDuck('prestop'); // rule: lame-duck-serves
    this.#sendJSON(response, 200, { phase: phaseName(this.lifecycle.phase()) });
    await answered;
    this.prestops.delete(answered);
  }

  /**
   * Writes a head, with what belongs to every one, at the last moment: the phase may have changed since the
   * request came. rule: in-flight-answered
   */
  #begin(response, status, headers) {
    headers['X-Instance-Id'] = this.instance;
    // After it http closes, and what was pipelined behind it is not answered. rule: pipelined-in-order
    if (this.lifecycle.stopping()) headers.Connection = 'close';
    const id = response.req.headers['x-request-id'];
    if (id !== undefined && status < 400 && REQUEST_ID.test(id)) logEvent('executed', { request_id: id });
    response.writeHead(status, headers);
  }

  #fail(response, status, reason, headers) {
    const unread = hasBody(response.req) && !response.req.complete;
    const close = unread ? { Connection: 'close' } : undefined; // what is left of the body is no request
    this.#sendJSON(response, status, { error: reason }, { ...headers, ...close });
  }

  #sendJSON(response, status, value, headers) {
    this.#send(response, status, 'application/json', `${JSON.stringify(value)}\n`, headers);
  }

  #send(response, status, contentType, text, headers = {}) {
    headers['Content-Type'] = contentType;
    headers['Content-Length'] = Buffer.byteLength(text);
    this.#begin(response, status, headers);
    response.end(text);
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

/** Returns the route of a request, or how to reject it. */
function find(routes, request) {
  const methods = routes.get(pathOf(request));
  if (methods === undefined) return { status: 404, reason: 'no such path' };
  const route = methods.get(request.method);
  if (route !== undefined) return route;
  return { status: 405, reason: 'method not allowed', headers: { Allow: [...methods.keys()].join(', ') } };
}

const SHUTTING_DOWN = { status: 503, reason: 'shutting down', headers: { 'Retry-After': '1' }, bodyUnread: true };
const OVERLOADED = {
  status: 429,
  reason: 'too many requests in flight',
  headers: { 'Retry-After': '1' },
  bodyUnread: true,
};

function pathOf({ url }) {
  const path = url.startsWith('/') ? url : url.replace(/^https?:\/\/[^/?]*/i, ''); // absolute: RFC 9112, 3.2.2
  const query = path.indexOf('?');
  return (query < 0 ? path : path.slice(0, query)) || '/';
}

function queryOf({ url }) {
  const query = url.indexOf('?');
  return new URLSearchParams(query < 0 ? '' : url.slice(query + 1));
}

function hasBody({ headers }) {
  return headers['transfer-encoding'] !== undefined || (headers['content-length'] ?? '0') !== '0';
}

const NO_BODY = Buffer.alloc(0);

/** Ends a handler with an error for the client. */
class Refusal extends Error {
  constructor(status, reason) {
    super(reason);
    this.status = status;
  }
}

/** Waits, but not beyond the end where one is given; throws where the client has left. */
function wait(response, milliseconds, ended) {
  return new Promise((resolve, reject) => {
    if (response.destroyed) throw new Error('the client has left'); // 'close' comes only once
    const timer = setTimeout(() => settle(resolve), milliseconds);
    const over = () => settle(resolve);
    const gone = () => settle(reject, new Error('the client has left'));
    const settle = (outcome, error) => {
      clearTimeout(timer);
      ended?.removeEventListener('abort', over);
      response.off('close', gone);
      outcome(error);
    };
    ended?.addEventListener('abort', over);
    response.on('close', gone);
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
  throw new Refusal(422, `${name}: ${JSON.stringify(text)} is not decimal seconds from 0 to ${limit}`);
}

function integer(request, name, fallback, low, high) {
  const text = queryOf(request).get(name) || String(fallback);
  const value = parseInteger(text, low, high);
  if (value !== undefined) return value;
  throw new Refusal(422, `${name}: ${JSON.stringify(text)} is not an integer from ${low} to ${high}`);
}

const REQUEST_ID = /^[A-Za-z0-9._-]{1,64}$/;
