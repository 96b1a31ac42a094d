import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { ask, connect, start } from './server.js';

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
    ['CONNECT test:80 HTTP/1.1', '', 405],
    ['POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked', '5\r\nhello\r\n0\r\n\r\n', 200, /\r\n\r\nhello$/],
    ['GET http://test/bytes?size=2 HTTP/1.1', '', 200, /\r\n\r\n\0\0$/],
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

test('above MAX_IN_FLIGHT a request is shed, a probe is not', async (context) => {
  const server = await start(context, { MAX_IN_FLIGHT: '1' });
  const unread = await connect(context, server.port);
  unread.send('GET /bytes?size=100000000 HTTP/1.1\r\nHost: test\r\n\r\n');
  await unread.until(/200 OK/);
  assert.match(await ask(context, server.port, 'GET / HTTP/1.1'), /^HTTP\/1.1 429 [^]*\r\nRetry-After: 1\r\n/);
  assert.match(await ask(context, server.port, 'GET /health HTTP/1.1'), /^HTTP\/1.1 200 /);
});

test('endless streams have a limit of their own', async (context) => {
  const server = await start(context, { MAX_IN_FLIGHT: '1', MAX_STREAMS: '1' });
  const events = await connect(context, server.port);
  events.send('GET /events HTTP/1.1\r\nHost: test\r\n\r\n');
  await events.until(/data: 0/);
  assert.match(await ask(context, server.port, 'GET / HTTP/1.1'), /^HTTP\/1.1 200 /);
  assert.match(await ask(context, server.port, 'GET /events HTTP/1.1'), /^HTTP\/1.1 429 [^]*\r\nRetry-After: 1\r\n/);
});

test('a client that reads nothing is reset, and its place is free', async (context) => {
  const server = await start(context, { MAX_IN_FLIGHT: '1', WRITE_TIMEOUT: '0.5' });
  const unread = await connect(context, server.port);
  unread.send('GET /bytes?size=100000000 HTTP/1.1\r\nHost: test\r\n\r\n');
  await unread.until(/200 OK/);
  while (!(await ask(context, server.port, 'GET / HTTP/1.1')).startsWith('HTTP/1.1 200 '));
  assert.ok((await unread.end().catch(() => '')).length < 100_000_000);
});

test('a client that pipelines without end does not fill the memory', async (context) => {
  const server = await start(context);
  const flood = await connect(context, server.port);
  flood.send('GET /slow?delay=60 HTTP/1.1\r\nHost: test\r\n\r\n');
  // Once our own buffer has stayed full, so have theirs.
  const requests = 'GET / HTTP/1.1\r\nHost: test\r\n\r\n'.repeat(10_000);
  for (let sent = 0; sent < 100; sent++) {
    if (!flood.send(requests)) await flood.drained();
    if (flood.unsent() > 4 * requests.length) break;
  }
  assert.match(await ask(context, server.port, 'GET / HTTP/1.1'), /^HTTP\/1.1 200 /);
  if (process.platform === 'linux') assert.ok(server.residentMegabytes() < 150, `${server.residentMegabytes()} MB`);
});

test('above MAX_CONNECTIONS a connection is refused politely', async (context) => {
  const server = await start(context, { MAX_CONNECTIONS: '1' });
  const first = await connect(context, server.port);
  first.send('GET / HTTP/1.1\r\nHost: test\r\n\r\n');
  await first.until(/ready"}\n/);
  const second = await connect(context, server.port);
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
  assert.match(await ask(context, server.adminPort, 'GET /metrics HTTP/1.1'), /\nhttp_requests_in_flight 1\n/);
  events.close();
  for (let attempt = 0; attempt < 100; attempt++) {
    const metrics = await ask(context, server.adminPort, 'GET /metrics HTTP/1.1');
    if (metrics.includes('\nhttp_requests_in_flight 0\n')) return;
  }
  assert.fail('still in flight');
});
