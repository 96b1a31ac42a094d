// The order in which this server stops. Copy this file: all it needs is passed in.
//
//   1 not ready         readiness fails, for good
//   2 lame-duck         for SHUTDOWN_DELAY everything is still served
//   3 listener          closes first, and resets nobody
//   4 idle connections  close last, after one more chance        }
//   5 in flight         requests finish                          } side by side
//   6 deadline          after DRAIN_TIMEOUT the rest is cut      }
//   7 workers           none yet
//   8 release           each step within its own time
//   9 exit              0 if nothing was lost, else 1

import { setMaxListeners } from 'node:events';
import { constants } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';

/** Only ever goes forward. */
export const Phase = Object.freeze({ STARTING: 0, READY: 1, LAME_DUCK: 2, DRAINING: 3, RELEASING: 4, EXITED: 5 });

/** @returns {string} a phase as logs and answers name it */
export function phaseName(phase) {
  return ['starting', 'ready', 'lame-duck', 'draining', 'releasing', 'exited'][phase];
}

/**
 * What the sequence does, without how.
 * @typedef {object} Steps
 * @property {() => number} drainTimeout in milliseconds; read when the listener has closed
 * @property {() => Promise<void>} closeListener fulfilled when the accept queue is empty and the listener closed;
 *   rejected where that cost a connection: the shutdown goes on, but its status is 1
 * @property {Promise<void>} drained fulfilled when, after closeListener, no connection is left
 * @property {() => number} cutInFlight cuts every connection, returns how many requests that cost
 * @property {ReleaseStep[]} release
 * @property {() => void} reload
 */

/**
 * Gives back one resource; the timeout is in milliseconds.
 * @typedef {{ name: string, timeout: number, run: (ended: AbortSignal) => void | Promise<void> }} ReleaseStep
 */

/** Knows the phase. Anybody may ask, or call fail and beginLameDuck; run is for main. */
export class Lifecycle {
  #logEvent;
  #shutdownDelay;
  #phase = Phase.STARTING;
  #lameDuckOver;
  #listenerClosed = new AbortController();
  #failed = false;
  #stop; // called with the reason that not_ready has
  #stopped = new Promise((resolve) => {
    this.#stop = resolve;
  });

  /**
   * @param {(event: string, fields?: object) => void} logEvent
   * @param {() => number} shutdownDelay in milliseconds; read when the delay begins
   */
  constructor(logEvent, shutdownDelay) {
    this.#logEvent = logEvent;
    this.#shutdownDelay = shutdownDelay;
    setMaxListeners(0, this.#listenerClosed.signal); // one for each endless stream
  }

  /** @returns {number} one of Phase */
  phase() {
    return this.#phase;
  }

  /** What the readiness probe asks. rule: readiness-fails */
  isReady() {
    return this.#phase === Phase.READY;
  }

  /** Means that responses say "Connection: close". rule: close-announced */
  stopping() {
    return this.#phase >= Phase.LAME_DUCK;
  }

  /**
   * Is aborted after step 3: endless streams end then. A signal and no promise, because a promise keeps whoever
   * waited for it until it is settled, also those that have long gone.
   */
  listenerClosed() {
    return this.#listenerClosed.signal;
  }

  /** Ends the start. */
  ready() {
    this.#advance(Phase.READY);
  }

  /**
   * Begins the shutdown without a signal, once, because the server works no more: it ends with status 1.
   * rule: broken-listener-ends-process
   */
  fail(reason) {
    if (this.#failed) return;
    this.#failed = true;
    this.#logEvent('failed', { reason });
    this.#stop('failure');
  }

  /**
   * Answers signals until the process may exit, and returns its status.
   * @param {Signals} signals
   * @param {Steps} steps
   * @returns {Promise<number>}
   */
  run(signals, steps) {
    return new Promise((resolve, reject) => {
      let asked = false;
      signals.receive((signal) => {
        this.#logEvent('signal', { signal });
        if (signal === 'SIGHUP') {
          steps.reload();
        } else if (!asked) {
          asked = true;
          this.#stop('signal'); // SIGTERM and SIGINT alike. rule: int-like-term
        } else {
          resolve(this.#exit(128 + constants.signals[signal])); // who asks twice wants out. rule: second-signal-exits
        }
      });
      this.#stopped
        .then((reason) => this.#shutDown(steps, reason))
        .then((status) => resolve(this.#exit(status))) // the last thing finished. rule: term-ends-process, exit-is-prompt
        .catch(reject);
    });
  }

  /** Goes through the steps once and returns the exit status. */
  async #shutDown(steps, reason) {
    const lameDuckOver = this.beginLameDuck(reason); // 1
    await lameDuckOver; // 2. rule: lame-duck-lasts
    let failed = await this.#closeListener(steps); // 3
    const drained = await this.#drain(steps); // 4, 5, 6
    failed += drained.failed;
    failed += await this.#releaseAll(steps.release); // 8
    if (this.#failed) failed++;
    return exitStatus(drained.cut, failed); // 9
  }

  /**
   * Is steps 1 and 2, begun by a signal or by /prestop. It may be called again: the delay that has begun goes on,
   * no other one starts. The promise is fulfilled when the delay is over. rule: prestop-delay-once
   */
  beginLameDuck(reason) {
    // Never goes back. rule: readiness-latched
    if (this.#advance(Phase.LAME_DUCK)) {
      this.#lameDuckOver = sleep(this.#shutdownDelay());
      this.#logEvent('not_ready', { reason });
    }
    return this.#lameDuckOver;
  }

  /** Returns 1 where that failed, else 0. */
  async #closeListener(steps) {
    const error = await errorOf(steps.closeListener); // before any idle connection. rule: listener-closes-first
    this.#advance(Phase.DRAINING);
    this.#listenerClosed.abort();
    this.#logEvent('listener_closed', outcome(error)); // whoever reads it finds the phase reached
    return error ? 1 : 0;
  }

  /** Waits for the last connection, but not beyond the deadline; tells how many requests were cut. */
  async #drain(steps) {
    let cut = 0;
    let ok = true;
    const drainDeadline = steps.drainTimeout();
    // rule: in-flight-answered, deadline-bounds-drain
    if (!(await within(drainDeadline, steps.drained))) {
      cut = steps.cutInFlight();
      if (cut > 0) this.#logEvent('cut', { requests: cut });
      // Their handlers have seen their response close; what they use is released only after they returned.
      ok = await within(1000, steps.drained);
    }
    this.#logEvent('drained', { ok });
    return { cut, failed: ok ? 0 : 1 };
  }

  /** Runs every step, also after one has failed or run out of time, and returns how many did. */
  async #releaseAll(steps) {
    this.#advance(Phase.RELEASING);
    let failed = 0;
    for (const step of steps) {
      const error = await errorOf(() => runWithin(step));
      if (error) failed++;
      this.#logEvent('released', { step: step.name, ...outcome(error) });
    }
    return failed;
  }

  /** Is the end for whoever comes first: the last step, or a second signal. */
  #exit(status) {
    if (this.#advance(Phase.EXITED)) this.#logEvent('exit', { status });
    return status;
  }

  /** Moves to a later phase; false where that one has been reached already. */
  #advance(to) {
    if (to <= this.#phase) return false;
    this.#phase = to;
    return true;
  }
}

/** Runs a step; what it still does after its time-out is nobody's concern any more. */
async function runWithin(step) {
  const ended = new AbortController();
  const run = (async () => step.run(ended.signal))();
  if (await within(step.timeout, run)) return;
  ended.abort();
  throw new Error(`not done within ${step.timeout} ms`);
}

/** Tells whoever started us whether the shutdown was clean. */
function exitStatus(cut, failed) {
  if (cut > 0 || failed > 0) return 1; // a loss is never a success. rule: cut-exit-status
  return 0; // rule: clean-exit-status
}

/** Waits for a promise, but not longer, in milliseconds: false where the time ran out. */
async function within(timeout, promise) {
  let deadline;
  const late = new Promise((resolve) => {
    deadline = setTimeout(resolve, timeout, false);
  });
  try {
    return await Promise.race([promise.then(() => true), late]);
  } finally {
    clearTimeout(deadline);
  }
}

/** Returns what went wrong; undefined where nothing did. */
async function errorOf(work) {
  try {
    await work();
    return undefined;
  } catch (error) {
    return error;
  }
}

function outcome(error) {
  return error ? { ok: false, error: error.message } : { ok: true };
}

/** Keeps the signals that come until somebody receives them; they kill nobody from the moment it is made. */
export class Signals {
  #waiting = [];
  #receiver = (signal) => this.#waiting.push(signal);

  /** @param {...string} names like 'SIGTERM' */
  constructor(...names) {
    for (const name of names) process.on(name, (signal) => this.#receiver(signal));
  }

  /** @param {(signal: string) => void} receiver is called for each, at once for those that waited */
  receive(receiver) {
    this.#receiver = receiver;
    this.#waiting.splice(0).forEach(receiver);
  }
}
