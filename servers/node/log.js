// The log: events on standard output, errors on standard error. It never makes anybody wait: what a full pipe does not
// take waits in memory, and what does not fit there is dropped and counted.
//
// Node writes to a pipe or a socket without blocking (and undoes O_NONBLOCK at the end, because the other end of
// our descriptor belongs to others, too), and to a file at once.

/** So many lines wait for each stream; what comes on top is dropped. */
const LOG_QUEUE = 10_000;

/** In milliseconds, for both streams together. */
const FLUSH_TIMEOUT = 500;

/** One stream and the lines that wait for it. */
class Stream {
  dropped = 0; // since the start
  #unreported = 0; // of those, since the last line that got through
  #waiting = 0;
  #written; // called when nothing waits any more
  #stream;
  #report;

  /** @param {(lines: number) => string} report the line that says how many were dropped before it */
  constructor(stream, report) {
    this.#stream = stream;
    this.#report = report;
    stream.on('error', () => {}); // a reader that has gone is no reason to lose a request
  }

  write(line) {
    if (this.#waiting >= LOG_QUEUE) {
      this.#drop(1);
      return;
    }
    if (this.#unreported > 0) {
      line = `${this.#report(this.#unreported)}\n${line}`;
      this.#unreported = 0;
    }
    this.#waiting++;
    this.#stream.write(`${line}\n`, (error) => this.#settle(error));
  }

  /** Is fulfilled when every line is written. */
  flushed() {
    return new Promise((resolve) => {
      this.#written = resolve;
      if (this.#waiting === 0) resolve();
    });
  }

  #settle(error) {
    this.#waiting--;
    if (error) this.#drop(1);
    if (this.#waiting === 0) this.#written?.();
  }

  #drop(lines) {
    this.dropped += lines;
    this.#unreported += lines;
  }
}

const stdout = new Stream(process.stdout, (lines) => JSON.stringify({ event: 'dropped', lines }));
const stderr = new Stream(process.stderr, (lines) => `${lines} lines were dropped`);

/** Writes one JSON line to standard output, and never waits. rule: log-holds-nothing */
export function logEvent(event, fields) {
  stdout.write(JSON.stringify({ event, ...fields }));
}

/** Writes a line for the operator to standard error. */
export function logError(text) {
  stderr.write(text);
}

/** @returns {{ stdout: number, stderr: number }} how many lines were dropped, for /metrics */
export function linesDropped() {
  return { stdout: stdout.dropped, stderr: stderr.dropped };
}

/** Waits until everything is written, but not for a reader that does not come. */
export async function flush() {
  let deadline;
  const late = new Promise((resolve) => {
    deadline = setTimeout(resolve, FLUSH_TIMEOUT);
  });
  await Promise.race([Promise.all([stdout.flushed(), stderr.flushed()]), late]);
  clearTimeout(deadline);
}
