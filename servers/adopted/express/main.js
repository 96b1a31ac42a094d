// Express, stopped by lifecycle.js: that of ../../node, as it is.

import { randomBytes } from 'node:crypto';
import { createServer } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import express from 'express';
import { Lifecycle, Signals } from '../../node/lifecycle.js';

const instance = randomBytes(8).toString('hex');
const milliseconds = (variable, fallback) => Number(process.env[variable] || fallback) * 1000;
const logEvent = (event, fields) => console.log(JSON.stringify({ event, ...fields }));

const signals = new Signals('SIGTERM', 'SIGINT', 'SIGHUP');
const lifecycle = new Lifecycle(logEvent, () => milliseconds('SHUTDOWN_DELAY', '0'));
let inFlight = 0;

const app = express();

app.use((_request, response, next) => {
  inFlight++;
  response.on('close', () => inFlight--);
  response.set('X-Instance-Id', instance);
  const { writeHead } = response;
  response.writeHead = (...head) => {
    if (lifecycle.stopping()) response.set('Connection', 'close'); // by now, and not when the request came
    return writeHead.apply(response, head);
  };
  next();
});

app.get('/', (_request, response) => response.json({ server: 'express' }));

app.get('/health/live', (_request, response) => response.json({ phase: lifecycle.phase() }));

app.get('/health/ready', (_request, response) => {
  response.status(lifecycle.isReady() ? 200 : 503).json({ phase: lifecycle.phase() });
});

app.get('/slow', async (request, response) => {
  const delay = Number(request.query.delay ?? 1);
  await sleep(delay * 1000);
  response.json({ slept: delay });
});

const server = createServer(app);
server.on('error', (error) => lifecycle.fail(error.message));
const drained = new Promise((resolve) => {
  server.on('close', resolve);
});

server.listen(Number(process.env.PORT || 8080), process.env.HOST || '127.0.0.1', async () => {
  lifecycle.ready();
  logEvent('listening', { port: server.address().port, pid: process.pid, instance });
  const status = await lifecycle.run(signals, {
    drainTimeout: () => milliseconds('DRAIN_TIMEOUT', '30'),
    // Stops listening and, since Node.js 19, closes idle connections in the same moment.
    closeListener: async () => void server.close(),
    drained,
    cutInFlight: () => {
      const cut = inFlight;
      server.closeAllConnections();
      return cut;
    },
    release: [], // a database pool would be closed here
    reload: () => {},
  });
  process.exit(status);
});
