// Express, stopped by lifecycle.js. That file and log.js are links to the reference's, as they are; what the service
// does is in routes.js.
//
// `server.close()` would close idle connections together with the listener, and cut responses that are still being
// flushed. So the listener is closed alone, and each connection when it is idle: that is what the map is for.

import { randomBytes } from 'node:crypto';
import { createServer } from 'node:http';
import { Server } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import express from 'express';
import { Lifecycle, Signals } from './lifecycle.js';
import { flush, logEvent } from './log.js';
import { adminRoutes, health, routes } from './routes.js';

// Read at the start: what is wrong must not show in the middle of a drain. Time-outs are in milliseconds.
const shutdownDelay = seconds('SHUTDOWN_DELAY', 0);
const drainTimeout = seconds('DRAIN_TIMEOUT', 30);
const idleLinger = seconds('IDLE_LINGER', 1);
const bodyTimeout = seconds('BODY_TIMEOUT', 30);
const maxInFlight = number('MAX_IN_FLIGHT', 100);

const signals = new Signals('SIGTERM', 'SIGINT', 'SIGHUP');
const lifecycle = new Lifecycle(logEvent, () => shutdownDelay);
const instance = randomBytes(8).toString('hex');
const connections = new Map(); // each with the number of its requests in flight
let lingers = true;

const inFlight = () => [...connections.values()].reduce((sum, requests) => sum + requests, 0);
const endIfIdle = (socket) => !lingers && connections.get(socket) === 0 && socket.destroySoon();

const app = express();
app.use((request, response, next) => {
  const { socket } = request;
  connections.set(socket, connections.get(socket) + 1);
  response.on('close', () => {
    if (!connections.has(socket)) return;
    connections.set(socket, connections.get(socket) - 1);
    endIfIdle(socket);
  });
  next();
});
app.use(announce);
app.use(health(lifecycle));
app.use((_request, response, next) => {
  if (inFlight() <= maxInFlight) return next();
  response.status(429).set('Retry-After', '1').json({ error: 'too many requests' });
});
app.use(routes(lifecycle));
const timeouts = {
  connectionsCheckingInterval: 500, // for the next two
  headersTimeout: Math.min(seconds('HEADER_TIMEOUT', 10), bodyTimeout),
  requestTimeout: bodyTimeout, // Node.js counts the head in
  keepAliveTimeout: seconds('KEEP_ALIVE_TIMEOUT', 75), // longer than the client's, or it loses the race
};
const server = createServer(timeouts, app);
server.on('error', (error) => lifecycle.fail(error.message));
server.on('connection', (socket) => {
  connections.set(socket, 0);
  socket.on('close', () => connections.delete(socket));
});
const drained = new Promise((resolve) => {
  server.on('close', resolve); // the listener is closed and no connection left
});
const admin = createServer(express().use(announce, adminRoutes(lifecycle, inFlight)));

await listen(server, process.env.PORT || 8080, process.env.HOST);
await listen(admin, process.env.ADMIN_PORT || 9090, process.env.ADMIN_HOST);
lifecycle.ready();
logEvent('listening', { port: server.address().port, admin_port: admin.address().port, pid: process.pid, instance });
const status = await lifecycle.run(signals, {
  drainTimeout: () => drainTimeout,
  closeListener: async () => {
    Server.prototype.close.call(server); // that of node:net knows nothing of idle connections
    setTimeout(() => {
      lingers = false;
      [...connections.keys()].forEach(endIfIdle);
    }, idleLinger);
  },
  drained,
  cutInFlight: () => {
    const cut = inFlight();
    server.closeAllConnections();
    return cut;
  },
  release: [{ name: 'admin', timeout: 1000, run: closeAdmin }], // behind whatever else there is to release
  reload: () => {},
});
await flush();
process.exit(status);

/** Says "Connection: close" where the service is stopping when the response begins, not when its request came. */
function announce(_request, response, next) {
  response.set('X-Instance-Id', instance);
  const { writeHead } = response;
  response.writeHead = (...head) => {
    if (lifecycle.stopping()) response.set('Connection', 'close');
    return writeHead.apply(response, head);
  };
  next();
}

/** Waits a little for the answer to a /prestop, which waited for the same delay as we did. */
function closeAdmin() {
  return Promise.race([new Promise((resolve) => admin.close(resolve)), sleep(500)]);
}

function seconds(variable, fallback) {
  return number(variable, fallback) * 1000;
}

function number(variable, fallback) {
  const value = Number(process.env[variable] || fallback);
  if (!(value >= 0)) throw new Error(`${variable}: ${process.env[variable]} is no number of 0 or more`);
  return value;
}

function listen(server, port, host) {
  return new Promise((resolve, reject) => {
    server.once('error', reject).listen(Number(port), host || '127.0.0.1', resolve);
  });
}
