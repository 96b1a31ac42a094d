import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { test } from 'node:test';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { ask, connect, start } from './server.js';

const LOG = new URL('../log.js', import.meta.url);

/** Runs a script that logs; nobody reads what it writes until the test does. */
function logger(context, script) {
  const source = `import { flush, linesDropped, logError, logEvent } from '${LOG}';\n${script}`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', source], { stdio: 'pipe' });
  context.after(() => child.kill('SIGKILL'));
  return child;
}

test('where nobody reads lines are dropped, and the next that gets through is preceded by their number', async (context) => {
  const child = logger(
    context,
    `for (let line = 0; line < 15_000; line++) logEvent('line', { line, filler: 'x'.repeat(90) });
     await new Promise((resolve) => process.stdin.once('data', resolve));
     logEvent('last', linesDropped());
     await flush();
     process.exit(3);`,
  );
  await sleep(500);
  child.stdin.write('now');
  const ended = once(child, 'close');
  const lines = (await text(child.stdout)).trim().split('\n').map(JSON.parse);
  const { event, stdout, stderr } = lines.pop();
  assert.equal(event, 'last');
  assert.equal(stderr, 0);
  assert.deepEqual(lines.pop(), { event: 'dropped', lines: stdout });
  assert.equal(lines.length + stdout, 15_000);
  assert(lines.length >= 10_000);
  assert.equal((await ended)[0], 3);
});

for (const stream of ['stdout', 'stderr']) {
  test(`a reader of ${stream} that does not read, or has gone, holds up nobody`, async (context) => {
    for (const gone of [false, true]) {
      const child = logger(
        context,
        `for (let line = 0; line < 15_000; line++) { logEvent('line', { filler: 'x'.repeat(90) }); logError('x'.repeat(90)); }
         await flush();
         process.exit(3);`,
      );
      if (gone) child[stream].destroy();
      child[stream === 'stdout' ? 'stderr' : 'stdout'].resume();
      const begun = performance.now();
      const [status] = await once(child, 'exit');
      assert.equal(status, 3);
      assert(performance.now() - begun < 5000);
      child[stream].destroy();
    }
  });
}

test('a server whose output nobody reads answers and ends', async (context) => {
  const server = await start(context, { DRAIN_TIMEOUT: '2' });
  server.stopReading();
  const connection = await connect(context, server.port);
  const request = `GET / HTTP/1.1\r\nHost: test\r\nX-Request-Id: ${'x'.repeat(64)}\r\n\r\n`;
  const last = 'GET /bytes?size=0 HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n';
  connection.send(request.repeat(5000) + last);
  assert.equal((await connection.end()).match(/HTTP\/1.1 200/g).length, 5001);
  assert.match(await ask(context, server.adminPort, 'GET /health/live HTTP/1.1'), /^HTTP\/1.1 200 /);
  server.kill('SIGTERM');
  assert.equal(await server.exited(), 0);
});
