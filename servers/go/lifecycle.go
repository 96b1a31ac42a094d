// The order in which this server stops. Copy this file: all it needs is passed in.
//
//	1 not ready         readiness fails, for good
//	2 lame-duck         for ShutdownDelay everything is still served
//	3 listener          closes first, and resets nobody
//	4 idle connections  close last, after one more chance        }
//	5 in flight         requests finish                          } side by side
//	6 deadline          after DrainTimeout the rest is cut       }
//	7 workers           none yet
//	8 release           each step within its own time
//	9 exit              0 if nothing was lost, else 1
package main

import (
	"context"
	"fmt"
	"os"
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
	CloseListener func() []Field  // returns when the accept queue is empty and the listener closed; what to log
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

// Lifecycle knows the phase. Any goroutine may ask; only BeginLameDuck and Run change it.
type Lifecycle struct {
	logEvent       func(event string, fields ...Field)
	shutdownDelay  func() time.Duration
	lameDuckOver   chan struct{}
	listenerClosed chan struct{}

	phase atomic.Int32
}

func NewLifecycle(logEvent func(event string, fields ...Field), shutdownDelay func() time.Duration) *Lifecycle {
	return &Lifecycle{
		logEvent:       logEvent,
		shutdownDelay:  shutdownDelay,
		lameDuckOver:   make(chan struct{}),
		listenerClosed: make(chan struct{}),
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

// Run answers signals until the process may exit, and returns its status.
func (l *Lifecycle) Run(signals <-chan os.Signal, steps Steps) int {
	var stopped chan int // nil until the first signal
	for {
		select {
		case received := <-signals:
			number := received.(syscall.Signal)
			l.logEvent("signal", Field{"signal", signalName(number)})
			switch {
			case number == syscall.SIGHUP:
				steps.Reload()
			case stopped == nil: // SIGTERM and SIGINT alike. rule: int-like-term
				stopped = make(chan int, 1)
				go func() { stopped <- l.ShutDown(steps) }()
			default: // whoever asks twice wants out. rule: second-signal-exits
				return l.exit(128 + int(number))
			}
		case status := <-stopped: // the last thing finished. rule: term-ends-process
			return l.exit(status)
		}
	}
}

// ShutDown goes through the steps once and returns the exit status.
func (l *Lifecycle) ShutDown(steps Steps) int {
	lameDuckOver := l.BeginLameDuck("signal") // 1, 2
	<-lameDuckOver                            // rule: lame-duck-lasts
	l.closeListener(steps)                    // 3
	cut := l.drain(steps)                     // 4, 5, 6
	failed := l.releaseAll(steps.Release)     // 8
	return ExitStatus(cut, failed)            // 9
}

// BeginLameDuck is steps 1 and 2, begun by a signal or by /prestop. It may be called again: the delay that has
// begun goes on, no other one starts. The channel is closed when the delay is over. rule: prestop-delay-once
func (l *Lifecycle) BeginLameDuck(reason string) <-chan struct{} {
	if l.advance(PhaseLameDuck) { // never goes back. rule: readiness-latched
		l.logEvent("not_ready", Field{"reason", reason})
		time.AfterFunc(l.shutdownDelay(), func() { close(l.lameDuckOver) })
	}
	return l.lameDuckOver
}

func (l *Lifecycle) closeListener(steps Steps) {
	fields := steps.CloseListener() // before any idle connection is touched. rule: listener-closes-first
	l.advance(PhaseDraining)
	close(l.listenerClosed)
	l.logEvent("listener_closed", fields...) // whoever reads it finds the phase reached
}

// drain waits for the last connection, but not beyond the deadline, and returns the number of requests cut.
func (l *Lifecycle) drain(steps Steps) (cut int) {
	drainDeadline := time.NewTimer(steps.DrainTimeout())
	defer drainDeadline.Stop()
	select {
	case <-steps.Drained:
	case <-drainDeadline.C: // rule: deadline-bounds-drain
		if cut = steps.CutInFlight(); cut > 0 {
			l.logEvent("cut", Field{"requests", cut})
		}
		// Their handlers have seen their context end; what they use is released only after they returned.
		select {
		case <-steps.Drained:
		case <-time.After(time.Second):
			fmt.Fprintln(os.Stderr, "a handler did not return after its connection was cut")
		}
	}
	l.logEvent("drained")
	return cut
}

// releaseAll runs every step, also after one has failed or run out of time, and returns how many did.
func (l *Lifecycle) releaseAll(steps []ReleaseStep) (failed int) {
	l.advance(PhaseReleasing)
	for _, step := range steps {
		err := runWithin(step)
		if err != nil {
			failed++
			fmt.Fprintf(os.Stderr, "release of %s: %v\n", step.Name, err)
		}
		l.logEvent("released", Field{"step", step.Name}, Field{"ok", err == nil})
	}
	return failed
}

func runWithin(step ReleaseStep) error {
	ctx, cancel := context.WithTimeout(context.Background(), step.Timeout)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- step.Run(ctx) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// ExitStatus tells whoever started us whether the shutdown was clean.
func ExitStatus(cut, failed int) int {
	if cut > 0 || failed > 0 {
		return 1 // a loss is never a success. rule: cut-exit-status
	}
	return 0 // rule: clean-exit-status
}

func (l *Lifecycle) exit(status int) int {
	l.advance(PhaseExited)
	l.logEvent("exit", Field{"status", status})
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
