// A server that loses no request when it is stopped.
//
// It loads its configuration, listens, and serves until SIGTERM or SIGINT. Then readiness fails, the listener
// closes without resetting anybody, idle connections get a last chance and a FIN, requests in flight finish,
// and the process ends with a status that says whether anything was lost. lifecycle.js holds that sequence;
// everything it needs is built here and passed in.

import { randomBytes } from 'node:crypto';
import http from 'node:http';
import { Listener } from './accept_queue.js';
import { Config, ConfigError, Settings } from './config.js';
import { Registry, serve } from './connections.js';
import { Lifecycle, Signals } from './lifecycle.js';
import { flush, logError, logEvent } from './log.js';
import { App, MAX_HEAD_BYTES } from './routes.js';

const status = await run();
await flush();
process.exit(status);

async function run() {
  // One process, without children, so it comes once. rule: signal-reaches-server, group-signal-drains
  // From here on a signal waits in the queue instead of killing us. rule: startup-signal-ends-process
  const signals = new Signals('SIGTERM', 'SIGINT', 'SIGHUP');

  const lookup = (name) => process.env[name];
  let config;
  try {
    config = Config.load(lookup);
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    logError(error.message);
    return 2;
  }
  const settings = new Settings(config, lookup);
  const registry = new Registry(settings);
  const adminRegistry = new Registry(settings);
  const lifecycle = new Lifecycle(logEvent, () => settings.now().shutdownDelay);

  // Node itself would write past the log, to a pipe that may be full.
  process.removeAllListeners('warning').on('warning', (warning) => logError(warning.stack));
  process.on('uncaughtException', (error) => {
    logError(error.stack);
    lifecycle.fail(`uncaught: ${error.message}`); // what it has left behind nobody knows
  });

  // The soft limit of descriptors was raised by Node, as it started.
  const app = new App({ settings, lifecycle, registry, instance: newInstance() });
  const fail = (reason) => lifecycle.fail(reason);
  const server = newServer((request, response, connection) => app.handle(request, response, connection));
  const adminServer = newServer((request, response, connection) => app.handleAdmin(request, response, connection));
  const listener = new Listener(registry, server, fail);
  const adminListener = new Listener(adminRegistry, adminServer, fail);
  try {
    await listener.listen(config.host, config.port);
    await adminListener.listen(config.adminHost, config.adminPort);
  } catch (error) {
    logError(error.message);
    return 1;
  }

  lifecycle.ready();
  logEvent('listening', {
    port: listener.port(),
    admin_port: adminListener.port(),
    pid: process.pid,
    instance: app.instance,
  });

  return lifecycle.run(signals, {
    drainTimeout: () => settings.now().drainTimeout,
    closeListener: () => closeListener(listener, registry),
    drained: registry.drained,
    cutInFlight: () => registry.cutInFlight(),
    // The admin listener answers liveness to the end, so it is released last.
    release: [
      {
        name: 'admin',
        timeout: 1000,
        run: async () => {
          adminListener.close();
          await adminRegistry.answered(); // a /prestop, or a probe, that is being answered
          adminRegistry.cutInFlight();
        },
      },
    ],
    reload: () => reload(settings),
  });
}

/**
 * An HTTP server that never listens: since Node 19 closing one also closes its idle connections, at once. It is
 * handed connections instead. Its own time-outs work only where it listens, so every deadline is ours.
 */
function newServer(handle) {
  const server = http.createServer({
    maxHeaderSize: MAX_HEAD_BYTES,
    keepAliveTimeout: 0,
    requireHostHeader: false, // App looks at Host
    joinDuplicateHeaders: true, // otherwise the second Host would not be seen
  });
  server.maxHeadersCount = 0; // the size of the head bounds them: http would silently drop those above
  server.httpAllowHalfOpen = true; // a client may close its side and still read
  serve(server, handle);
  return server;
}

async function closeListener(listener, registry) {
  const queue = await listener.emptyAcceptQueue().finally(() => registry.beginDrain());
  const { emptied, minimumTTL, halfOpen, lost, error } = queue;
  logEvent('accept_queue', { emptied, minimum_ttl: minimumTTL, half_open: halfOpen, lost });
  if (error) throw new Error(error);
}

function reload(settings) {
  try {
    logEvent('reloaded', { changed: settings.reload() }); // rule: hup-keeps-serving
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    logError(error.message);
    logEvent('reload_failed', { reason: error.message });
  }
}

/** Names this process, so that a client can tell it from its successor on the same port. */
function newInstance() {
  return randomBytes(8).toString('hex');
}
