// node:http with http-terminator: it stops listening, destroys sockets without a request, says `Connection: close`
// on what is still answered, and destroys the rest after `gracefulTerminationTimeout` (5 s by default).
//
// https://github.com/gajus/http-terminator#api

import http from 'node:http';
import { buffer } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { createHttpTerminator } from 'http-terminator';
import { announce, instance } from '../announce.js';

const routes = {
  'GET /': root,
  'GET /health': health,
  'GET /health/live': health,
  'GET /health/ready': health,
  'GET /slow': slow,
  'POST /echo': echo,
  'GET /bytes': bytes,
  'GET /stream': stream,
  'GET /events': events,
};

const server = http.createServer((request, response) => {
  const url = new URL(request.url, 'http://localhost');
  response.setHeader('X-Instance-Id', instance);
  const handle = routes[`${request.method} ${url.pathname}`] ?? notFound;
  handle(request, response, url.searchParams);
});

const terminator = createHttpTerminator({
  server,
  gracefulTerminationTimeout: Number(process.env.DRAIN_TIMEOUT || 30) * 1000,
});

server.listen(Number(process.env.PORT || 8080), process.env.HOST || '127.0.0.1', () => {
  announce(server.address().port);
});

// It does not end the process: that happens when nothing is left to do.
for (const signal of ['SIGTERM', 'SIGINT']) process.once(signal, () => terminator.terminate());

function root(_request, response) {
  sendJSON(response, { server: 'http-terminator' });
}

function health(_request, response) {
  sendJSON(response, { status: 'ok' });
}

async function slow(_request, response, query) {
  const delay = Number(query.get('delay') ?? 1);
  await sleep(delay * 1000);
  sendJSON(response, { slept: delay });
}

async function echo(request, response) {
  const body = await buffer(request);
  response.setHeader('Content-Type', request.headers['content-type'] ?? 'application/octet-stream');
  response.end(body);
}

function bytes(_request, response, query) {
  response.setHeader('Content-Type', 'application/octet-stream');
  response.end(Buffer.alloc(Number(query.get('size') ?? 1024)));
}

async function stream(_request, response, query) {
  response.setHeader('Content-Type', 'text/plain');
  const chunks = Number(query.get('chunks') ?? 10);
  for (let chunk = 0; chunk < chunks; chunk++) {
    if (chunk > 0) await sleep(Number(query.get('interval') ?? 0.1) * 1000);
    response.write(`chunk ${chunk}\n`);
  }
  response.end();
}

async function events(_request, response) {
  response.setHeader('Content-Type', 'text/event-stream');
  for (let event = 0; !response.closed; event++) {
    response.write(`data: ${event}\n\n`);
    await sleep(1000);
  }
}

function notFound(_request, response) {
  response.statusCode = 404;
  sendJSON(response, { error: 'no such path' });
}

function sendJSON(response, body) {
  response.setHeader('Content-Type', 'application/json');
  response.end(`${JSON.stringify(body)}\n`);
}
