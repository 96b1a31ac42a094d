import assert from 'node:assert/strict';
import { EventEmitter, once } from 'node:events';
import { closeSync } from 'node:fs';
import net from 'node:net';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import koffi from 'koffi';
import { Listener } from '../accept_queue.js';
import { ask, connect, start } from './server.js';

const library = koffi.load(null);
const linux = { skip: process.platform !== 'linux' };

/** Opens a listener in this process that accepts and forgets, and finds its descriptor. */
async function open(context, host) {
  const failures = new EventEmitter();
  const listener = new Listener({ open: () => false }, new EventEmitter(), (reason) => failures.emit('failed', reason));
  await listener.listen(host, 0);
  context.after(() => listener.close());
  const servers = process._getActiveHandles().filter((handle) => handle instanceof net.Server);
  const server = servers.find((candidate) => candidate.address()?.port === listener.port());
  return { listener, failures, descriptor: server._handle.fd };
}

for (const host of ['127.0.0.1', '::']) {
  test(`${host}: the queue is emptied, and nobody else listens`, linux, async (context) => {
    const { listener } = await open(context, host);
    const clients = await Promise.all(Array.from({ length: 20 }, () => connect(context, listener.port())));
    const { emptied, ...rest } = await listener.emptyAcceptQueue();
    assert(emptied <= clients.length);
    assert.deepEqual(rest, { minimumTTL: true, halfOpen: 0, lost: 0, error: undefined });
    await assert.rejects(connect(context, listener.port()), { code: 'ECONNREFUSED' });
  });

  test(`${host}: whoever listens on the same socket is noticed`, linux, async (context) => {
    const { listener, descriptor } = await open(context, host);
    const other = library.func('int dup(int)')(descriptor);
    context.after(() => closeSync(other));
    assert.match((await listener.emptyAcceptQueue()).error, /^another process listens on the same socket/);
  });
}

test('a listener that listens no more is noticed', linux, async (context) => {
  const { failures, descriptor } = await open(context, '127.0.0.1');
  library.func('int shutdown(int, int)')(descriptor, 2);
  const [reason] = await once(failures, 'failed');
  assert.match(reason, /^port \d+: the socket listens no more$/);
});

test('without a descriptor connections wait for one; those that get none are in the status', linux, async (context) => {
  const server = await start(context, {}, ['prlimit', '--nofile=80:80']);
  const clients = [];
  for (let count = 0; count < 90; count++) {
    const client = await connect(context, server.port);
    client.send('GET / HTTP/1.1\r\nHost: test\r\n\r\n');
    clients.push(client);
  }
  for (const client of clients.splice(0, 30)) client.close();
  await clients[25].until(/"ready"}\n/);
  await sleep(300); // until all the descriptors are taken again
  server.kill('SIGTERM');
  const { lost } = await server.event('accept_queue');
  assert(lost > 0);
  const error = `${lost} connections in the accept queue are lost`;
  assert.deepEqual(await server.event('listener_closed'), { event: 'listener_closed', ok: false, error });
  for (const client of clients) client.close();
  const { status, stderr } = await server.ended();
  assert.equal(status, 1);
  assert.match(stderr, /^cannot accept: no descriptor is left\n/);
});

test('a request that is in flight on the admin port is answered before it closes', async (context) => {
  const server = await start(context, { SHUTDOWN_DELAY: '0.3' });
  const prestop = ask(context, server.adminPort, 'GET /prestop HTTP/1.1');
  await server.event('not_ready');
  server.kill('SIGTERM');
  assert.match(await prestop, /^HTTP\/1.1 200 /);
  assert.deepEqual(await server.ended(), { status: 0, stderr: '' });
});
