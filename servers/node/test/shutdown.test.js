import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ask, connect, start } from './server.js';

const EVENTS = 'GET /events HTTP/1.1\r\nHost: test\r\n\r\n';

for (const signal of ['SIGTERM', 'SIGINT']) {
  test(`${signal}: what is in flight is answered, an idle connection may ask once more`, async (context) => {
    const server = await start(context, { IDLE_LINGER: '30' });
    const idle = await connect(context, server.port);
    idle.send('GET / HTTP/1.1\r\nHost: test\r\n\r\n');
    assert.match(await idle.until(/"ready"}\n/), /\r\nConnection: keep-alive\r\n/);
    const events = await connect(context, server.port);
    events.send(EVENTS);
    await events.until(/data: 0/);
    server.kill(signal);
    const { minimum_ttl: minimumTTL, lost } = await server.event('accept_queue');
    assert.equal(minimumTTL, process.platform === 'linux');
    assert.equal(lost, 0);
    assert.equal((await server.event('listener_closed')).ok, true);
    await events.until(/\r\n0\r\n\r\n/);
    await assert.rejects(connect(context, server.port), { code: 'ECONNREFUSED' });
    assert.match(await ask(context, server.adminPort, 'GET /health/live HTTP/1.1'), /^HTTP\/1.1 200 /);
    idle.send('GET / HTTP/1.1\r\nHost: test\r\n\r\n');
    assert.match(await idle.end(), /^HTTP\/1.1 200 [^]*\r\nConnection: close\r\n[^]*"draining"}\n$/);
    idle.close();
    events.close();
    assert.equal((await server.event('exit')).status, 0);
    assert.deepEqual(await server.ended(), { status: 0, stderr: '' });
  });
}

test('at the deadline the rest is cut, and the exit status says so', async (context) => {
  const server = await start(context, { DRAIN_TIMEOUT: '0.2', IDLE_LINGER: '0.1' });
  const slow = await connect(context, server.port);
  slow.send('GET /slow?delay=60 HTTP/1.1\r\nHost: test\r\n\r\n');
  const half = await connect(context, server.port);
  half.send('GET /slow');
  const metrics = await ask(context, server.adminPort, 'GET /metrics HTTP/1.1');
  assert.match(metrics, /\nhttp_connections{state="active"} [12]\n/);
  server.kill('SIGTERM');
  assert.equal((await server.event('cut')).requests, 1);
  await assert.rejects(slow.end(), { code: 'ECONNRESET' });
  assert.deepEqual(await server.ended(), { status: 1, stderr: '' });
});

test('a second signal ends the process at once', async (context) => {
  const server = await start(context, { SHUTDOWN_DELAY: '60' });
  server.kill('SIGTERM');
  await server.event('not_ready');
  server.kill('SIGINT');
  assert.equal((await server.event('exit')).status, 130);
  assert.equal((await server.ended()).status, 130);
});

test('/prestop begins one delay, which a signal continues', async (context) => {
  const server = await start(context, { SHUTDOWN_DELAY: '0.3' });
  const prestop = ask(context, server.adminPort, 'POST /prestop HTTP/1.1');
  assert.equal((await server.event('not_ready')).reason, 'prestop');
  assert.match(await ask(context, server.port, 'GET /health HTTP/1.1'), /^HTTP\/1.1 503 /);
  assert.match(await ask(context, server.port, 'GET / HTTP/1.1'), /^HTTP\/1.1 200 /);
  assert.match(await prestop, /^HTTP\/1.1 200 /);
  assert.match(await ask(context, server.adminPort, 'GET /prestop HTTP/1.1'), /^HTTP\/1.1 200 /);
  server.kill('SIGTERM');
  await server.event('listener_closed');
  assert.deepEqual(await server.ended(), { status: 0, stderr: '' });
});

test('DRAIN_POLICY=reject refuses late requests, not those in flight', async (context) => {
  const server = await start(context, { DRAIN_POLICY: 'reject', IDLE_LINGER: '30' });
  const idle = await connect(context, server.port);
  idle.send('GET / HTTP/1.1\r\nHost: test\r\n\r\n');
  await idle.until(/"ready"}\n/);
  server.kill('SIGTERM');
  await server.event('listener_closed');
  idle.send('GET / HTTP/1.1\r\nHost: test\r\n\r\n');
  assert.match(await idle.end(), /^HTTP\/1.1 503 [^]*\r\nRetry-After: 1\r\n[^]*\r\nConnection: close\r\n/);
  idle.close();
  assert.deepEqual(await server.ended(), { status: 0, stderr: '' });
});
