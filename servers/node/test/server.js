// A real server process on ephemeral ports, and a client that shows the bytes.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import net from 'node:net';
import { createInterface } from 'node:readline';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

const MAIN = fileURLToPath(new URL('../main.js', import.meta.url));

/** Starts a server, by another command where one is given; it is killed when the test ends, should it still run. */
export async function start(test, environment = {}, prefix = []) {
  const server = run(test, environment, prefix);
  const lines = createInterface({ input: server.child.stdout })[Symbol.asyncIterator]();
  const next = async () => JSON.parse((await lines.next()).value);
  const { port, admin_port: adminPort } = await next();
  return {
    port,
    adminPort,
    kill: (signal) => server.child.kill(signal),
    /** Reads log lines up to the named event. */
    async event(name) {
      for (;;) {
        const line = await next();
        if (line.event === name) return line;
      }
    },
    /** Waits until /metrics matches. */
    async metric(pattern) {
      for (;;) {
        const metrics = await ask(test, adminPort, 'GET /metrics HTTP/1.1');
        if (pattern.test(metrics)) return;
        await sleep(20);
      }
    },
    /** Returns the resident set in MB. */
    memory: () => Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${server.child.pid}/status`, 'latin1'))[1]) >> 10,
    /** Reads standard output no more. */
    stopReading: () => server.child.stdout.pause(),
    exited: () => new Promise((resolve) => server.child.once('exit', resolve)),
    ended: () => server.ended,
  };
}

/** Runs a server that is not expected to listen. */
export function run(test, environment, prefix = []) {
  const env = { PATH: process.env.PATH, PORT: '0', ADMIN_PORT: '0', ...environment };
  const [command, ...parameters] = [...prefix, process.execPath, MAIN];
  const child = spawn(command, parameters, { env, stdio: ['ignore', 'pipe', 'pipe'] });
  test.after(() => child.kill('SIGKILL'));
  const stderr = text(child.stderr);
  const ended = once(child, 'close').then(async ([status]) => ({ status, stderr: await stderr }));
  return { child, ended };
}

/** Opens a connection that sends text and reads up to a pattern, or to the end. */
export async function connect(test, port) {
  const socket = net.connect({ port, host: '127.0.0.1', allowHalfOpen: true });
  test.after(() => socket.destroy());
  await once(socket, 'connect');
  socket.setEncoding('latin1');
  socket.on('error', () => {}); // may come before anybody reads, who then sees it all the same
  let received = '';
  return {
    send: (data) => socket.write(data),
    sendEnd: () => socket.end(),
    close: () => socket.destroy(),
    readable: () => once(socket, 'readable'),
    async until(pattern) {
      while (!pattern.test(received)) {
        const chunk = socket.read();
        if (chunk !== null) received += chunk;
        else if (socket.readableEnded) throw new Error(`ended after ${JSON.stringify(received)}`);
        else await Promise.race([once(socket, 'readable'), once(socket, 'end')]);
      }
      const [, before, after] = received.match(new RegExp(`^(.*?${pattern.source})(.*)$`, 's'));
      received = after;
      return before;
    },
    async end() {
      const chunks = [received];
      for await (const chunk of socket) chunks.push(chunk);
      return chunks.join('');
    },
  };
}

/** Asks once, on a connection of its own, and returns the whole response. */
export async function ask(test, port, head, body = '') {
  const connection = await connect(test, port);
  connection.send(`${head}\r\nHost: test\r\nConnection: close\r\n\r\n${body}`);
  return connection.end();
}
