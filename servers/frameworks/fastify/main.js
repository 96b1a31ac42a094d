// Fastify with close-with-grace, which Fastify's own generator uses: SIGTERM and SIGINT call `close()`, a second
// signal or the end of `delay` ends the process. While it closes, Fastify answers late requests with 503
// (`return503OnClosing`) and closes idle connections (`forceCloseConnections: 'idle'`); both are its defaults.
//
// https://fastify.dev/docs/latest/Reference/Server/#close
// https://fastify.dev/docs/latest/Reference/Server/#forcecloseconnections
// https://github.com/mcollina/close-with-grace#example-with-fastify

import { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import closeWithGrace from 'close-with-grace';
import Fastify from 'fastify';
import { announce, instance } from '../announce.js';

const app = Fastify({ forceCloseConnections: 'idle' });

closeWithGrace({ delay: Number(process.env.DRAIN_TIMEOUT || 30) * 1000 }, async ({ err }) => {
  if (err) console.error(err);
  await app.close();
});

app.addHook('onRequest', async (_request, reply) => {
  reply.header('X-Instance-Id', instance);
});

app.addContentTypeParser('*', { parseAs: 'buffer' }, async (_request, body) => body);

app.get('/', async () => ({ server: 'fastify' }));
app.get('/health', health);
app.get('/health/live', health);
app.get('/health/ready', health);

app.get('/slow', async (request) => {
  const delay = Number(request.query.delay ?? 1);
  await sleep(delay * 1000);
  return { slept: delay };
});

app.post('/echo', async (request, reply) => {
  reply.type(request.headers['content-type'] ?? 'application/octet-stream');
  return request.body;
});

app.get('/bytes', async (request, reply) => {
  reply.type('application/octet-stream');
  return Buffer.alloc(Number(request.query.size ?? 1024));
});

app.get('/stream', async (request, reply) => {
  reply.type('text/plain');
  return Readable.from(chunks(Number(request.query.chunks ?? 10), Number(request.query.interval ?? 0.1)));
});

app.get('/events', async (_request, reply) => {
  reply.type('text/event-stream');
  return Readable.from(ticks());
});

await app.listen({ host: process.env.HOST || '127.0.0.1', port: Number(process.env.PORT || 8080) });
announce(app.server.address().port);

async function health() {
  return { status: 'ok' };
}

async function* chunks(count, interval) {
  for (let chunk = 0; chunk < count; chunk++) {
    if (chunk > 0) await sleep(interval * 1000);
    yield `chunk ${chunk}\n`;
  }
}

async function* ticks() {
  for (let event = 0; ; event++) {
    yield `data: ${event}\n\n`;
    await sleep(1000);
  }
}
