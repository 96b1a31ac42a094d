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

/** @param {number} phase one of Phase */
export function phaseName(phase) {
  return ['starting', 'ready', 'lame-duck', 'draining', 'releasing', 'exited'][phase];
}

/**
 * What the sequence does, without how.
 * @typedef {object} Steps
 * @property {() => number} drainTimeout in milliseconds, like every duration
 * @property {() => Promise<void>} closeListener done when the accept queue is empty and the listener closed; rejected
 *   where that lost somebody
 * @property {Promise<void>} drained fulfilled when, after closeListener, no connection is left
 * @property {() => number} cutInFlight cuts every connection, returns how many requests that cost
 * @property {ReleaseStep[]} release
 * @property {() => void} reload
 */

/**
 * Gives back one resource.
 * @typedef {{ name: string, timeout: number, run: (ended: AbortSignal) => void | Promise<void> }} ReleaseStep
 */

/** Knows the phase. Anybody may ask; only beginLameDuck, fail and run change it. */
export class Lifecycle {
  #logEvent;
  #shutdownDelay;
  #lameDuckOver;
  #listenerClosed = new AbortController();
  #phase = Phase.STARTING;
  #failed = false;
  /** Begins the shutdown without a signal; set by run. @type {(() => void) | undefined} */
  #whenFailed;

  /**
   * @param {(event: string, fields?: object) => void} logEvent
   * @param {() => number} shutdownDelay
   */
  constructor(logEvent, shutdownDelay) {
    this.#logEvent = logEvent;
    this.#shutdownDelay = shutdownDelay;
    setMaxListeners(0, this.#listenerClosed.signal); // one for each endless stream
  }

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

  /** Begins the shutdown without a signal, because a listener works no more. rule: broken-listener-ends-process */
  fail(reason) {
    if (this.#failed) return;
    this.#failed = true;
    this.#logEvent('failed', { reason });
    this.#whenFailed?.();
  }

  /**
   * Answers signals until the process may exit, and returns its status.
   * @param {Signals} signals
   * @param {Steps} steps
   * @returns {Promise<number>}
   */
  run(signals, steps) {
    return new Promise((resolve, reject) => {
      let begun = false;
      let signalled = false;
      const begin = (reason) => {
        if (begun) return;
        begun = true;
        const stopped = this.#shutDown(steps, reason);
        // The last thing finished. rule: term-ends-process
        stopped.then((status) => resolve(this.#exit(status))).catch(reject);
      };
      this.#whenFailed = () => begin('failure');
      if (this.#failed) begin('failure');
      signals.receive((signal) => {
        this.#logEvent('signal', { signal });
        if (signal === 'SIGHUP') {
          steps.reload();
        } else if (!signalled) {
          signalled = true; // SIGTERM and SIGINT alike. rule: int-like-term
          begin('signal');
        } else {
          // Whoever asks twice wants out. rule: second-signal-exits
          resolve(this.#exit(128 + constants.signals[signal]));
        }
      });
    });
  }

  /** Goes through the steps once and returns the exit status. */
  async #shutDown(steps, reason) {
    const lameDuckOver = this.beginLameDuck(reason); // 1, 2
    await lameDuckOver; // rule: lame-duck-lasts
    const unclosed = await this.#closeListener(steps); // 3
    const { cut, stuck } = await this.#drain(steps); // 4, 5, 6
    const unreleased = await this.#releaseAll(steps.release); // 8
    return exitStatus(cut, unclosed + stuck + unreleased + Number(this.#failed)); // 9
  }

  /**
   * Is steps 1 and 2, begun by a signal or by /prestop. It may be called again: the delay that has begun goes on,
   * no other one starts. The promise is fulfilled when the delay is over. rule: prestop-delay-once
   */
  beginLameDuck(reason) {
    // Never goes back. rule: readiness-latched
    if (this.#advance(Phase.LAME_DUCK)) {
      this.#logEvent('not_ready', { reason });
      this.#lameDuckOver = sleep(this.#shutdownDelay());
    }
    return this.#lameDuckOver;
  }

  /** Returns how many steps failed: connections that were lost are a loss, though the listener is closed. */
  async #closeListener(steps) {
    const error = await failure(steps.closeListener()); // before any idle connection. rule: listener-closes-first
    this.#advance(Phase.DRAINING);
    this.#listenerClosed.abort();
    return this.#report('listener_closed', error); // whoever reads it finds the phase reached
  }

  /**
   * Waits for the last connection, but not beyond the deadline; returns the number of requests cut, and whether a
   * handler is stuck.
   */
  async #drain(steps) {
    let cut = 0;
    let stuck = 0;
    const drainDeadline = steps.drainTimeout();
    // rule: in-flight-answered, deadline-bounds-drain
    if (!(await within(drainDeadline, steps.drained))) {
      cut = steps.cutInFlight();
      if (cut > 0) this.#logEvent('cut', { requests: cut });
      // Their handlers have seen their response close; what they use is released only after they returned.
      if (!(await within(1000, steps.drained))) stuck = 1;
    }
    this.#logEvent('drained', { ok: stuck === 0 });
    return { cut, stuck };
  }

  /** Runs every step, also after one has failed or run out of time, and returns how many did. */
  async #releaseAll(steps) {
    this.#advance(Phase.RELEASING);
    let failed = 0;
    for (const step of steps) {
      failed += this.#report('released', await failure(runWithin(step)), { step: step.name });
    }
    return failed;
  }

  /** Logs how a step ended, and returns how many failed: one, or none. */
  #report(event, error, fields) {
    const reason = error && { error: error.message };
    this.#logEvent(event, { ...fields, ok: error === undefined, ...reason });
    return error === undefined ? 0 : 1;
  }

  #exit(status) {
    this.#advance(Phase.EXITED);
    this.#logEvent('exit', { status });
    return status;
  }

  /** Moves to a later phase; returns false where that phase has been reached already. */
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

/** The reason for which a promise is rejected; undefined where it is fulfilled. */
async function failure(promise) {
  try {
    await promise;
    return undefined;
  } catch (error) {
    return error;
  }
}

/** Waits for a promise, but not longer: false where the time ran out. */
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

/** Replaces the default actions from the moment it is made, and keeps what comes until somebody receives. */
export class Signals {
  #waiting = [];
  #receiver = (signal) => this.#waiting.push(signal);

  constructor(...names) {
    for (const name of names) process.on(name, (signal) => this.#receiver(signal));
  }

  receive(receiver) {
    this.#receiver = receiver;
    this.#waiting.splice(0).forEach(receiver);
  }
}
