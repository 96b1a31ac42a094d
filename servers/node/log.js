// The log: events on standard output, errors on standard error. It never makes anybody wait: Node writes to a pipe
// without blocking and keeps what does not fit in memory, where we let no more than so many lines wait. What comes on
// top is dropped and counted.

import { setTimeout as sleep } from 'node:timers/promises';

const LOG_QUEUE = 10_000; // lines that wait, for each stream
const FLUSH_TIMEOUT = 500; // milliseconds, for both streams together

class Stream {
  dropped = 0;
  #file;
  #sayDropped;
  #said = 0;
  #waiting = 0;

  /**
   * @param {string} name
   * @param {import('node:stream').Writable} file
   * @param {(lines: number) => string} sayDropped
   */
  constructor(name, file, sayDropped) {
    this.name = name;
    this.#file = file;
    this.#sayDropped = sayDropped;
    file.on('error', () => {}); // a reader that left is no reason to lose a request
  }

  /** Never waits. rule: log-holds-nothing */
  enqueue(line) {
    if (this.#waiting >= LOG_QUEUE) {
      this.dropped++;
      return;
    }
    if (this.dropped > this.#said) {
      this.#write(this.#sayDropped(this.dropped - this.#said));
      this.#said = this.dropped;
    }
    this.#write(line);
  }

  /** Fulfilled when all that was logged is written. */
  flush() {
    return new Promise((resolve) => this.#file.write('', resolve));
  }

  #write(line) {
    this.#waiting++;
    this.#file.write(line, () => this.#waiting--);
  }
}

/** Logs one JSON object: the event, then its fields. */
export function logEvent(event, fields) {
  stdout.enqueue(encode({ event, ...fields }));
}

/** Logs a line for people. */
export function logError(text) {
  stderr.enqueue(`${text}\n`);
}

/** Waits until all that was logged is written, but not long. */
export async function flush() {
  await Promise.race([Promise.all(streams.map((stream) => stream.flush())), sleep(FLUSH_TIMEOUT)]);
}

/** Writes names and values, in their order, as one line of JSON. */
export function encode(members) {
  return `${JSON.stringify(members)}\n`;
}

const stdout = new Stream('stdout', process.stdout, (lines) => encode({ event: 'dropped', lines }));
const stderr = new Stream('stderr', process.stderr, (lines) => `${lines} lines were dropped\n`);
export const streams = [stdout, stderr];
