// Express, stopped as its documentation shows it: `server.close()` on SIGTERM, which stops listening, closes idle
// connections and lets requests in flight finish; the process ends when nothing is left to do.
//
// https://expressjs.com/en/advanced/healthcheck-graceful-shutdown.html

import express from 'express';
import { announce, instance } from '../announce.js';
import { setTimeout as sleep } from 'node:timers/promises';

const app = express();

app.use((_request, response, next) => {
  response.set('X-Instance-Id', instance);
  next();
});

app.get('/', (_request, response) => response.json({ server: 'express' }));

app.get(['/health', '/health/live', '/health/ready'], (_request, response) => response.json({ status: 'ok' }));

app.get('/slow', async (request, response) => {
  const delay = Number(request.query.delay ?? 1);
  await sleep(delay * 1000);
  response.json({ slept: delay });
});

app.post('/echo', express.raw({ type: () => true, limit: '1mb' }), (request, response) => {
  response.type(request.get('Content-Type') ?? 'application/octet-stream').send(request.body);
});

app.get('/bytes', (request, response) => {
  response.type('application/octet-stream').send(Buffer.alloc(Number(request.query.size ?? 1024)));
});

app.get('/stream', async (request, response) => {
  response.type('text/plain');
  const chunks = Number(request.query.chunks ?? 10);
  for (let chunk = 0; chunk < chunks; chunk++) {
    if (chunk > 0) await sleep(Number(request.query.interval ?? 0.1) * 1000);
    response.write(`chunk ${chunk}\n`);
  }
  response.end();
});

app.get('/events', async (_request, response) => {
  response.type('text/event-stream');
  for (let event = 0; !response.closed; event++) {
    response.write(`data: ${event}\n\n`);
    await sleep(1000);
  }
});

const server = app.listen(Number(process.env.PORT || 8080), process.env.HOST || '127.0.0.1', (error) => {
  if (error) throw error;
  announce(server.address().port);
});

process.on('SIGTERM', () => {
  console.error('SIGTERM signal received: closing HTTP server');
  server.close(() => {
    console.error('HTTP server closed');
  });
});
