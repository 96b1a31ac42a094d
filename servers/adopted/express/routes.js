// What the service does. Of the shutdown it knows the phase, and that endless streams end.

import { setTimeout as sleep } from 'node:timers/promises';
import express, { Router } from 'express';
import { phaseName } from './lifecycle.js';

const MAX_BYTES = 64 << 20; // of a response

export function health(lifecycle) {
  const phase = () => ({ phase: phaseName(lifecycle.phase()) });
  return Router()
    .get('/health/live', (_request, response) => response.json(phase()))
    .get(['/health', '/health/ready'], (_request, response) => {
      response.status(lifecycle.isReady() ? 200 : 503).json(phase());
    });
}

export function adminRoutes(lifecycle, inFlight) {
  return Router()
    .use(health(lifecycle))
    .get('/metrics', (_request, response) => {
      response.type('text/plain').send(`http_requests_in_flight ${inFlight()}\n`);
    })
    .all('/prestop', async (_request, response) => {
      await lifecycle.beginLameDuck('prestop');
      response.json({ phase: phaseName(lifecycle.phase()) });
    });
}

export function routes(lifecycle) {
  return Router()
    .get('/', (_request, response) => response.json({ server: 'express' }))
    .get('/slow', async (request, response) => {
      const delay = number(request, 'delay', 1, 600);
      await sleep(delay * 1000, undefined, { signal: left(response) });
      response.json({ slept: delay });
    })
    .post('/echo', express.raw({ type: () => true, limit: '1mb' }), (request, response) => {
      response.type(request.get('Content-Type') ?? 'application/octet-stream').send(request.body);
    })
    .get('/bytes', (request, response) => {
      response.type('application/octet-stream').send(Buffer.alloc(number(request, 'size', 1024, MAX_BYTES)));
    })
    .get('/stream', async (request, response) => {
      response.type('text/plain');
      const chunks = number(request, 'chunks', 10, 10_000);
      for (let chunk = 0; chunk < chunks && !response.closed; chunk++) {
        if (chunk > 0) await sleep(number(request, 'interval', 0.1, 60) * 1000);
        response.write(`chunk ${chunk}\n`);
      }
      response.end();
    })
    .get('/events', async (_request, response) => {
      response.type('text/event-stream');
      const over = AbortSignal.any([left(response), lifecycle.listenerClosed()]);
      for (let event = 0; !over.aborted; event++) {
        response.write(`data: ${event}\n\n`);
        await sleep(1000, undefined, { signal: over }).catch(() => {});
      }
      response.end();
    })
    .use((error, _request, response, next) => (response.closed ? undefined : next(error)));
}

/** What the client asks for, within bounds. */
function number(request, name, fallback, most) {
  const value = Number(request.query[name] ?? fallback);
  return value >= 0 ? Math.min(value, most) : fallback;
}

/** Is aborted when the client has gone: whoever works for it may stop. */
function left(response) {
  const gone = new AbortController();
  response.on('close', () => gone.abort());
  return gone.signal;
}
