// Configuration: from the environment and CONFIG_FILE, validated before anything is opened.

import { readFileSync } from 'node:fs';
import { isIP } from 'node:net';
import { logError } from './log.js';

export const DrainPolicy = Object.freeze({ SERVE: 'serve', REJECT: 'reject' });

/** Every duration is in milliseconds, as timers want them. */
export class Config {
  /** @param {(name: string) => string | undefined} lookup finds a variable: in process.env, or a table in tests */
  static load(lookup) {
    const values = new Reader(lookup, readConfigFile(lookup));
    const config = new Config();
    config.host = values.address('HOST', '127.0.0.1');
    config.port = values.count('PORT', 8080, 0, 65535);
    config.adminHost = values.address('ADMIN_HOST', '127.0.0.1');
    config.adminPort = values.count('ADMIN_PORT', 9090, 0, 65535);
    config.shutdownDelay = values.duration('SHUTDOWN_DELAY', '0');
    config.drainTimeout = values.duration('DRAIN_TIMEOUT', '30');
    config.idleLinger = values.duration('IDLE_LINGER', '1');
    config.drainPolicy = values.policy('DRAIN_POLICY', DrainPolicy.SERVE);
    config.maxInFlight = values.count('MAX_IN_FLIGHT', 100, 1, 1_000_000);
    config.maxStreams = values.count('MAX_STREAMS', 100, 1, 1_000_000);
    config.maxConnections = values.count('MAX_CONNECTIONS', 10_000, 1, 1_000_000);
    config.maxBodyBytes = values.count('MAX_BODY_BYTES', 1 << 20, 0, 1 << 30);
    config.headerTimeout = values.positive('HEADER_TIMEOUT', '10');
    config.bodyTimeout = values.positive('BODY_TIMEOUT', '30');
    config.writeTimeout = values.positive('WRITE_TIMEOUT', '30');
    config.keepAliveTimeout = values.positive('KEEP_ALIVE_TIMEOUT', '75');
    config.closeTimeout = values.positive('CLOSE_TIMEOUT', '0.5');
    if (config.idleLinger > config.drainTimeout) {
      throw new ConfigError('IDLE_LINGER', values.text('IDLE_LINGER', '1'), 'at most DRAIN_TIMEOUT');
    }
    return Object.freeze(config);
  }
}

/** One line for the operator: which variable, what it holds, what it may hold. */
export class ConfigError extends Error {
  constructor(variable, value, allowed) {
    super(`${variable}: ${JSON.stringify(value)} is not allowed: expected ${allowed}`);
  }
}

/** Turns text into values, and throws at the first that is bad. */
class Reader {
  #lookup;
  #overrides;

  constructor(lookup, overrides) {
    this.#lookup = lookup;
    this.#overrides = overrides;
  }

  text(name, fallback) {
    return this.#overrides.get(name) || this.#lookup(name) || fallback;
  }

  address(name, fallback) {
    const text = this.text(name, fallback);
    if (!isIP(text)) throw new ConfigError(name, text, 'an IP address');
    return text;
  }

  count(name, fallback, low, high) {
    const text = this.text(name, String(fallback));
    const value = parseInteger(text, low, high);
    if (value === undefined) throw new ConfigError(name, text, `an integer from ${low} to ${high}`);
    return value;
  }

  duration(name, fallback) {
    const text = this.text(name, fallback);
    const value = parseSeconds(text, 86400);
    if (value === undefined) throw new ConfigError(name, text, 'decimal seconds from 0 to 86400, like 2 or 0.5');
    return value;
  }

  positive(name, fallback) {
    const value = this.duration(name, fallback);
    if (value === 0) throw new ConfigError(name, this.text(name, fallback), 'decimal seconds above 0');
    return value;
  }

  policy(name, fallback) {
    const text = this.text(name, fallback);
    if (!Object.values(DrainPolicy).includes(text)) throw new ConfigError(name, text, 'serve or reject');
    return text;
  }
}

/** Reads a decimal integer from low to high; undefined where it is none. */
export function parseInteger(text, low, high) {
  const value = Number(text);
  return /^\d+$/.test(text) && value >= low && value <= high ? value : undefined;
}

/** Reads decimal seconds, at most limit, as milliseconds; undefined where they are none. */
export function parseSeconds(text, limit) {
  const value = Number(text);
  return /^\d+(\.\d+)?$/.test(text) && value <= limit ? value * 1000 : undefined;
}

/** Reads the NAME=value lines of CONFIG_FILE, where one is named. */
function readConfigFile(lookup) {
  const overrides = new Map();
  const path = lookup('CONFIG_FILE');
  if (!path) return overrides;
  let text;
  try {
    text = readFileSync(path, 'utf8');
  } catch {
    throw new ConfigError('CONFIG_FILE', path, 'a readable file');
  }
  for (const [index, untrimmed] of text.split('\n').entries()) {
    const line = untrimmed.trim();
    if (line === '' || line.startsWith('#')) continue;
    const equals = line.indexOf('=');
    if (equals < 0) throw new ConfigError(`CONFIG_FILE ${path}:${index + 1}`, line, 'NAME=value');
    overrides.set(line.slice(0, equals).trim(), line.slice(equals + 1).trim());
  }
  return overrides;
}

const RELOADABLE = ['shutdownDelay', 'drainTimeout', 'idleLinger', 'drainPolicy', 'maxInFlight', 'maxStreams'];

/** The configuration in force. SIGHUP replaces it. */
export class Settings {
  #current;
  #lookup;

  constructor(config, lookup) {
    this.#current = config;
    this.#lookup = lookup;
  }

  now() {
    return this.#current;
  }

  /**
   * Reads the configuration again and returns the names that took effect. After an error all the old values stay
   * in force.
   */
  reload() {
    const loaded = Config.load(this.#lookup);
    const differing = Object.keys(loaded).filter((field) => loaded[field] !== this.#current[field]);
    const changed = differing.filter((field) => RELOADABLE.includes(field));
    const fixed = differing.filter((field) => !RELOADABLE.includes(field));
    for (const field of fixed) logError(`${variable(field)}: a change needs a restart`);
    const next = Object.assign(new Config(), this.#current);
    for (const field of changed) next[field] = loaded[field];
    this.#current = Object.freeze(next);
    return changed.map(variable);
  }
}

/** The variable behind a field: DRAIN_TIMEOUT for drainTimeout. */
function variable(field) {
  return field.replace(/[A-Z]/g, '_$&').toUpperCase();
}
