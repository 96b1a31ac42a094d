// The order in which this server stops. Copy this file: all it needs is passed in.
//
//	1 not ready         readiness fails, for good
//	2 lame-duck         for SHUTDOWN_DELAY everything is still served
//	3 listener          closes first, and resets nobody
//	4 idle connections  close last, after one more chance        }
//	5 in flight         requests finish                          } side by side
//	6 deadline          after DRAIN_TIMEOUT the rest is cut      }
//	7 workers           none yet
//	8 release           each step within its own time
//	9 exit              0 if nothing was lost, else 1
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"
)

// Phase only ever goes forward.
type Phase int

const (
	PhaseStarting Phase = iota
	PhaseReady
	PhaseLameDuck
	PhaseDraining
	PhaseReleasing
	PhaseExited
)

func (p Phase) String() string {
	return [...]string{"starting", "ready", "lame-duck", "draining", "releasing", "exited"}[p]
}

// Steps is what the sequence does, without how.
type Steps struct {
	DrainTimeout  func() time.Duration
	CloseListener func() error    // returns when the accept queue is empty and the listener closed; an error is a loss
	Drained       <-chan struct{} // closed when, after CloseListener, no connection is left
	CutInFlight   func() int      // cuts every connection, returns how many requests that cost
	Release       []ReleaseStep
	Reload        func()
}

// ReleaseStep gives back one resource.
type ReleaseStep struct {
	Name    string
	Timeout time.Duration
	Run     func(context.Context) error
}

// Lifecycle knows the phase. Any goroutine may ask; only BeginLameDuck, Fail and Run change it.
type Lifecycle struct {
	logEvent       func(event string, fields ...any) // names and values in turn, as log/slog has them
	shutdownDelay  func() time.Duration
	lameDuckOver   chan struct{}
	listenerClosed chan struct{}
	broken         chan struct{} // closed by Fail

	phase  atomic.Int32
	failed atomic.Bool
}

func NewLifecycle(logEvent func(event string, fields ...any), shutdownDelay func() time.Duration) *Lifecycle {
	return &Lifecycle{
		logEvent:       logEvent,
		shutdownDelay:  shutdownDelay,
		lameDuckOver:   make(chan struct{}),
		listenerClosed: make(chan struct{}),
		broken:         make(chan struct{}),
	}
}

func (l *Lifecycle) Phase() Phase {
	return Phase(l.phase.Load())
}

// IsReady is what the readiness probe asks. rule: readiness-fails
func (l *Lifecycle) IsReady() bool {
	return l.Phase() == PhaseReady
}

// Stopping means that responses say "Connection: close". rule: close-announced
func (l *Lifecycle) Stopping() bool {
	return l.Phase() >= PhaseLameDuck
}

// ListenerClosed is closed after step 3: endless streams end then.
func (l *Lifecycle) ListenerClosed() <-chan struct{} {
	return l.listenerClosed
}

// Ready ends the start.
func (l *Lifecycle) Ready() {
	l.advance(PhaseReady)
}

// Fail begins the shutdown without a signal, because a listener works no more. rule: broken-listener-ends-process
func (l *Lifecycle) Fail(reason string) {
	if l.failed.CompareAndSwap(false, true) {
		l.logEvent("failed", "reason", reason)
		close(l.broken)
	}
}

// Run answers signals until the process may exit, and returns its status.
func (l *Lifecycle) Run(signals Signals, steps Steps) int {
	broken, stopped := l.broken, make(chan int, 1)
	begun, signalled := false, false
	begin := func(reason string) {
		if !begun {
			begun = true
			go func() { stopped <- l.shutDown(steps, reason) }()
		}
	}
	for {
		select {
		case received := <-signals:
			number := received.(syscall.Signal)
			l.logEvent("signal", "signal", signalName(number))
			switch {
			case number == syscall.SIGHUP:
				steps.Reload()
			case !signalled: // SIGTERM and SIGINT alike. rule: int-like-term
				signalled = true
				begin("signal")
			default: // whoever asks twice wants out. rule: second-signal-exits
				return l.exit(128 + int(number))
			}
		case <-broken:
			broken = nil // has been heard
			begin("failure")
		case status := <-stopped: // the last thing finished. rule: term-ends-process, exit-is-prompt
			return l.exit(status)
		}
	}
}

// shutDown goes through the steps once and returns the exit status.
func (l *Lifecycle) shutDown(steps Steps, reason string) int {
	lameDuckOver := l.BeginLameDuck(reason)   // 1
	<-lameDuckOver                            // 2. rule: lame-duck-lasts
	unclosed := l.closeListener(steps)        // 3
	cut, stuck := l.drain(steps)              // 4, 5, 6
	unreleased := l.releaseAll(steps.Release) // 8
	failed := unclosed + stuck + unreleased
	if l.failed.Load() {
		failed++
	}
	return exitStatus(cut, failed) // 9
}

// BeginLameDuck is steps 1 and 2, begun by a signal or by /prestop. It may be called again: the delay that has
// begun goes on, no other one starts. The channel is closed when the delay is over. rule: prestop-delay-once
func (l *Lifecycle) BeginLameDuck(reason string) <-chan struct{} {
	if l.advance(PhaseLameDuck) { // never goes back. rule: readiness-latched
		l.logEvent("not_ready", "reason", reason)
		time.AfterFunc(l.shutdownDelay(), func() { close(l.lameDuckOver) })
	}
	return l.lameDuckOver
}

// closeListener returns how many steps failed: connections that were lost are a loss, though the listener is closed.
func (l *Lifecycle) closeListener(steps Steps) (failed int) {
	err := steps.CloseListener() // before any idle connection is touched. rule: listener-closes-first
	l.advance(PhaseDraining)
	close(l.listenerClosed)
	return l.report("listener_closed", err) // whoever reads it finds the phase reached
}

// drain waits for the last connection, but not beyond the deadline. It returns the number of requests cut, and whether
// a handler is stuck.
func (l *Lifecycle) drain(steps Steps) (cut, stuck int) {
	drainDeadline := time.NewTimer(steps.DrainTimeout())
	defer drainDeadline.Stop()
	select {
	case <-steps.Drained: // rule: in-flight-answered
	case <-drainDeadline.C: // rule: deadline-bounds-drain
		if cut = steps.CutInFlight(); cut > 0 {
			l.logEvent("cut", "requests", cut)
		}
		// Their handlers have seen their context end; what they use is released only after they returned.
		select {
		case <-steps.Drained:
		case <-time.After(time.Second):
			stuck = 1
		}
	}
	l.logEvent("drained", "ok", stuck == 0)
	return cut, stuck
}

// releaseAll runs every step, also after one has failed or run out of time, and returns how many did.
func (l *Lifecycle) releaseAll(steps []ReleaseStep) (failed int) {
	l.advance(PhaseReleasing)
	for _, step := range steps {
		failed += l.report("released", runWithin(step), "step", step.Name)
	}
	return failed
}

// report logs how a step ended, and returns how many failed: one, or none.
func (l *Lifecycle) report(event string, err error, fields ...any) (failed int) {
	fields = append(fields, "ok", err == nil)
	if err != nil {
		failed = 1
		fields = append(fields, "error", err.Error())
	}
	l.logEvent(event, fields...)
	return failed
}

func (l *Lifecycle) exit(status int) int {
	l.advance(PhaseExited)
	l.logEvent("exit", "status", status)
	return status
}

// advance moves to a later phase; it returns false where that phase has been reached already.
func (l *Lifecycle) advance(to Phase) bool {
	for {
		from := l.phase.Load()
		if int32(to) <= from {
			return false
		}
		if l.phase.CompareAndSwap(from, int32(to)) {
			return true
		}
	}
}

// runWithin runs a step; what it still does after its time-out is nobody's concern any more.
func runWithin(step ReleaseStep) error {
	ctx, cancel := context.WithTimeout(context.Background(), step.Timeout)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- step.Run(ctx) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("not done within %v", step.Timeout)
	}
}

// exitStatus tells whoever started us whether the shutdown was clean.
func exitStatus(cut, failed int) int {
	if cut > 0 || failed > 0 {
		return 1 // a loss is never a success. rule: cut-exit-status
	}
	return 0 // rule: clean-exit-status
}

// Signals replaces the default actions from the moment it is made, and keeps what comes until somebody receives.
type Signals <-chan os.Signal

func NewSignals() Signals {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	return signals
}

func signalName(number syscall.Signal) string {
	switch number {
	case syscall.SIGTERM:
		return "SIGTERM"
	case syscall.SIGINT:
		return "SIGINT"
	case syscall.SIGHUP:
		return "SIGHUP"
	default:
		return number.String()
	}
}
