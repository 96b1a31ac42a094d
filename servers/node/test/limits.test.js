import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { ask, connect, start } from './server.js';

const CLOSE = /\r\nConnection: close\r\n/;

describe('requests', () => {
  const cases = [
    ['GET /nowhere HTTP/1.1', '', 404],
    ['PUT /echo HTTP/1.1\r\nContent-Length: 1', 'x', 405, /\r\nAllow: POST\r\n/],
    ['GET /slow?delay=soon HTTP/1.1', '', 422],
    ['GET /slow?delay=301 HTTP/1.1', '', 422],
    ['GET /bytes?size=-1 HTTP/1.1', '', 422],
    ['GET /stream?chunks=0 HTTP/1.1', '', 422],
    ['POST /echo HTTP/1.1\r\nContent-Length: 11', '', 413],
    ['POST /echo HTTP/1.1\r\nContent-Length: 11\r\nExpect: 100-continue', '', 413],
    ['POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked', 'b\r\nhello world\r\n', 413],
    ['POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked', 'zz\r\n', 400],
    [`GET / HTTP/1.1\r\nX-Large: ${'x'.repeat(20_000)}`, '', 431],
    ['NONSENSE', '', 400],
    ['CONNECT test:80 HTTP/1.1', '', 501, CLOSE],
    ['POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked', '5\r\nhello\r\n0\r\n\r\n', 200, /\r\n\r\nhello$/],
    ['GET http://test/bytes?size=2 HTTP/1.1', '', 200, /\r\n\r\n\0\0$/],
    ['HEAD /bytes?size=2 HTTP/1.1', '', 200, /\r\nContent-Length: 2\r\n[^]*\r\n\r\n$/],
    ['HEAD /events HTTP/1.1', '', 405, /\r\nAllow: GET\r\n/],
    ['DELETE / HTTP/1.1', '', 405, /\r\nAllow: GET, HEAD\r\n/],
    ['GET / HTTP/1.1\r\nHost: twice', '', 400, CLOSE],
    ['GET /%73low?del%61y=0 HTTP/1.1', '', 200],
    ['GET /%zz HTTP/1.1', '', 400],
    ['GET / HTTP/0.9', '', 505, CLOSE],
    ['GET / HTTP/2.0', '', 505, CLOSE],
    ['POST /echo HTTP/1.1\r\nTransfer-Encoding: gzip, chunked', '0\r\n\r\n', 501, CLOSE],
    ['POST /echo HTTP/1.0\r\nTransfer-Encoding: chunked', '0\r\n\r\n', 400, CLOSE],
    ['POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5', '0\r\n\r\n', 400, CLOSE],
    ['POST /nowhere HTTP/1.1\r\nContent-Length: 1\r\nExpect: 100-continue', '', 404, CLOSE],
    ['POST /echo HTTP/1.0\r\nContent-Length: 1\r\nExpect: 100-continue', 'x', 200, /\r\n\r\nx$/],
    [`POST /echo HTTP/1.1\r\nContent-Length: 1\r\n${'a:\r\n'.repeat(2000)}a:`, 'x', 200, /\r\n\r\nx$/],
  ];
  for (const [head, body, status, pattern = /./] of cases) {
    test(`${JSON.stringify(head.slice(0, 60))} gets ${status}`, async (context) => {
      const server = await start(context, { MAX_BODY_BYTES: '10' });
      const response = await ask(context, server.port, head, body);
      assert.match(response, new RegExp(`^HTTP/1.1 ${status} `));
      assert.match(response, pattern);
    });
  }
});

test('a body is invited only when it is wanted', async (context) => {
  const server = await start(context);
  const connection = await connect(context, server.port);
  connection.send('POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n');
  assert.match(await connection.until(/\r\n\r\n/), /^HTTP\/1.1 100 /);
  connection.send('hello');
  assert.match(await connection.until(/hello/), /^HTTP\/1.1 200 /);
});

test('a head that comes byte by byte is bounded, on a new connection and on a used one', async (context) => {
  const server = await start(context, { HEADER_TIMEOUT: '0.3' });
  for (const before of ['', 'GET / HTTP/1.1\r\nHost: test\r\n\r\n']) {
    const connection = await connect(context, server.port);
    connection.send(before);
    if (before) await connection.until(/ready"}\n/);
    const drip = setInterval(() => connection.send('G'), 50);
    context.after(() => clearInterval(drip));
    assert.match(await connection.end(), /^HTTP\/1.1 4/);
    clearInterval(drip);
  }
});

test('a body that comes byte by byte is bounded', async (context) => {
  const server = await start(context, { BODY_TIMEOUT: '0.3' });
  const connection = await connect(context, server.port);
  connection.send('POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 1000\r\n\r\n');
  const drip = setInterval(() => connection.send('x'), 50);
  context.after(() => clearInterval(drip));
  assert.match(await connection.end(), /^HTTP\/1.1 408 [^]*\r\nConnection: close\r\n/);
  clearInterval(drip);
});

test('above MAX_IN_FLIGHT a request is shed, a probe is not; endless streams have a limit of their own', async (context) => {
  const server = await start(context, { MAX_IN_FLIGHT: '1', MAX_STREAMS: '1' });
  const events = await connect(context, server.port);
  events.send('GET /events HTTP/1.1\r\nHost: test\r\n\r\n');
  await events.until(/data: 0/);
  assert.match(await ask(context, server.port, 'GET /events HTTP/1.1'), /^HTTP\/1.1 429 /);
  const slow = await connect(context, server.port);
  slow.send('GET /slow?delay=60 HTTP/1.1\r\nHost: test\r\n\r\n');
  await server.metric(/\nhttp_requests_in_flight 2\n/);
  assert.match(await ask(context, server.port, 'GET / HTTP/1.1'), /^HTTP\/1.1 429 [^]*\r\nRetry-After: 1\r\n/);
  assert.match(await ask(context, server.port, 'GET /health HTTP/1.1'), /^HTTP\/1.1 200 /);
});

test('above MAX_CONNECTIONS a connection is refused politely', async (context) => {
  const server = await start(context, { MAX_CONNECTIONS: '1' });
  const first = await connect(context, server.port);
  first.send('GET / HTTP/1.1\r\nHost: test\r\n\r\n');
  await first.until(/ready"}\n/);
  const second = await connect(context, server.port);
  const third = await connect(context, server.port);
  assert.equal(await third.end(), ''); // twice as many are too many for politeness
  assert.match(await second.end(), /^HTTP\/1.1 503 [^]*\r\nConnection: close\r\n/);
});

test('pipelined requests are answered in order, also before something that is none', async (context) => {
  const server = await start(context);
  const connection = await connect(context, server.port);
  const slow = 'GET /slow?delay=0.1 HTTP/1.1\r\nHost: test\r\n\r\n';
  connection.send(`${slow}GET / HTTP/1.1\r\nHost: test\r\n\r\nNONSENSE\r\n\r\n`);
  const statuses = (await connection.end()).match(/^HTTP\/1.1 \d+|"slept"|"server"/gm);
  assert.deepEqual(statuses, ['HTTP/1.1 200', '"slept"', 'HTTP/1.1 200', '"server"', 'HTTP/1.1 400']);
});

test('a client that leaves is no longer in flight', async (context) => {
  const server = await start(context);
  const events = await connect(context, server.port);
  events.send('GET /events HTTP/1.1\r\nHost: test\r\n\r\n');
  await events.until(/data: 0/);
  await server.metric(/\nhttp_requests_in_flight 1\n/);
  events.close();
  await server.metric(/\nhttp_requests_in_flight 0\n/);
});

test('a client that takes nothing is reset after WRITE_TIMEOUT, and is no cut', async (context) => {
  const server = await start(context, { WRITE_TIMEOUT: '0.3' });
  const deaf = await connect(context, server.port);
  deaf.send('GET /bytes?size=100000000 HTTP/1.1\r\nHost: test\r\n\r\n');
  await deaf.readable();
  await server.metric(/\nhttp_requests_in_flight 0\n/);
  assert((await deaf.end()).length < 100_000_000);
  server.kill('SIGTERM');
  assert.deepEqual(await server.ended(), { status: 0, stderr: '' });
});

test('a client that closes its side gets the whole of what is ready; while we wait it is taken to have left', async (context) => {
  const server = await start(context);
  const bytes = await connect(context, server.port);
  bytes.send('GET / HTTP/1.1\r\nHost: test\r\n\r\nGET /bytes?size=20000000 HTTP/1.1\r\nHost: test\r\n\r\n');
  bytes.sendEnd();
  const received = await bytes.end();
  assert(received.endsWith('\0'.repeat(20_000_000)), `${received.length} bytes`);
  const slow = await connect(context, server.port);
  slow.send('GET /slow?delay=60 HTTP/1.1\r\nHost: test\r\n\r\n');
  slow.sendEnd();
  assert.equal(await slow.end(), '');
});

test('a client that pipelines without end does not fill the memory, and is answered', async (context) => {
  const server = await start(context);
  const greedy = await connect(context, server.port);
  greedy.send('GET /slow?delay=1 HTTP/1.1\r\nHost: test\r\n\r\n');
  greedy.send('GET / HTTP/1.1\r\nHost: test\r\n\r\n'.repeat(100_000));
  await sleep(800);
  assert(server.memory() < 150, `${server.memory()} MB`);
  greedy.send('GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n');
  const statuses = (await greedy.end()).match(/HTTP\/1.1 200/g);
  assert.equal(statuses.length, 100_002);
  assert(server.memory() < 150, `${server.memory()} MB`);
});
