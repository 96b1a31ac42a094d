import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { Config, ConfigError, Settings } from '../config.js';
import { ask, run, start } from './server.js';

const lookup = (table) => (name) => table[name];

describe('Config.load', () => {
  test('has the defaults of the contract; an empty variable counts as unset', () => {
    const config = Config.load(lookup({ PORT: '' }));
    assert.equal(config.port, 8080);
    assert.equal(config.drainTimeout, 30_000);
    assert.equal(config.drainPolicy, 'serve');
  });

  const bad = {
    PORT: ['x', '65536', '-1', '1e3', ' 80', '0x10'],
    HOST: ['localhost', '127.0.0'],
    SHUTDOWN_DELAY: ['-1', '1e3', '.5', '5.', '86401', '1\n'],
    CLOSE_TIMEOUT: ['0', '0.0'],
    IDLE_LINGER: ['31'],
    DRAIN_POLICY: ['Serve'],
    MAX_IN_FLIGHT: ['0', '1000001'],
    CONFIG_FILE: ['/no/such/file'],
  };
  for (const [variable, values] of Object.entries(bad)) {
    for (const value of values) {
      test(`refuses ${variable}=${JSON.stringify(value)} in one line`, () => {
        assert.throws(
          () => Config.load(lookup({ [variable]: value })),
          (error) => {
            assert(error instanceof ConfigError);
            assert(error.message.includes(variable) && error.message.includes(JSON.stringify(value)), error.message);
            assert(!error.message.includes('\n'));
            return true;
          },
        );
      });
    }
  }
});

describe('CONFIG_FILE', () => {
  function file(context, content) {
    const folder = mkdtempSync(join(tmpdir(), 'config-'));
    context.after(() => rmSync(folder, { recursive: true }));
    const path = join(folder, 'server.env');
    writeFileSync(path, content);
    return path;
  }

  test('overrides the environment', (context) => {
    const path = file(context, '# comment\n\nPORT = 1234\nDRAIN_TIMEOUT=\n');
    const config = Config.load(lookup({ CONFIG_FILE: path, PORT: '80', DRAIN_TIMEOUT: '5' }));
    assert.equal(config.port, 1234);
    assert.equal(config.drainTimeout, 5000);
  });

  test('names the line that is bad', (context) => {
    const path = file(context, '# comment\nPORT\n');
    assert.throws(() => Config.load(lookup({ CONFIG_FILE: path })), /server\.env:2: "PORT" is not allowed/);
  });

  test('is read again: what may change does, a bad file changes nothing', (context) => {
    const path = file(context, '');
    const settings = new Settings(Config.load(lookup({ CONFIG_FILE: path })), lookup({ CONFIG_FILE: path }));
    writeFileSync(path, 'DRAIN_TIMEOUT=7\nMAX_IN_FLIGHT=3\n');
    assert.deepEqual(settings.reload(), ['DRAIN_TIMEOUT', 'MAX_IN_FLIGHT']);
    writeFileSync(path, 'DRAIN_TIMEOUT=8\nMAX_IN_FLIGHT=none\n');
    assert.throws(() => settings.reload(), ConfigError);
    assert.equal(settings.now().drainTimeout, 7000);
  });

  test('is read again on SIGHUP, which drops nothing', async (context) => {
    const path = file(context, '');
    const server = await start(context, { CONFIG_FILE: path, DRAIN_TIMEOUT: '20' });
    const slow = ask(context, server.port, 'GET /slow?delay=0.2 HTTP/1.1');
    writeFileSync(path, 'DRAIN_TIMEOUT=9\nMAX_BODY_BYTES=1\n');
    server.kill('SIGHUP');
    assert.deepEqual((await server.event('reloaded')).changed, ['DRAIN_TIMEOUT']);
    writeFileSync(path, 'DRAIN_TIMEOUT=x\n');
    server.kill('SIGHUP');
    assert.match((await server.event('reload_failed')).reason, /^DRAIN_TIMEOUT: "x" is not allowed/);
    assert.match(await slow, /^HTTP\/1.1 200 /);
    server.kill('SIGTERM');
    const { status, stderr } = await server.ended();
    assert.equal(status, 0);
    assert.match(stderr, /^MAX_BODY_BYTES: a change needs a restart\nDRAIN_TIMEOUT: "x" /);
  });
});

test('a bad configuration ends the process with 2 and one line', async (context) => {
  const { status, stderr } = await run(context, { IDLE_LINGER: '2', DRAIN_TIMEOUT: '1' }).ended;
  assert.equal(status, 2);
  assert.equal(stderr, 'IDLE_LINGER: "2" is not allowed: expected at most DRAIN_TIMEOUT\n');
});

test('a port that is taken ends the process with 1', async (context) => {
  const server = await start(context);
  const { status, stderr } = await run(context, { PORT: String(server.port) }).ended;
  assert.equal(status, 1);
  assert.match(stderr, /EADDRINUSE/);
});
