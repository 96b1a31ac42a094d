// The accept queue: connections that the kernel has opened and that nobody has accepted yet. Their clients may have
// sent a request already, and closing the listener resets them. Others are half-way through their handshake: off
// loopback that takes a round trip, and they will be there when the listener is gone. Under load accepting "until there
// are no more" never ends. So: keep out new SYNs, wait for the handshakes that have begun, empty the queue, close.
//
// A client whose SYN is dropped sends it again after a second and then reaches our successor, or is refused: either way
// nothing of its request was lost. Not kept out are clients that send with a TTL of 255, and handshakes by SYN cookie:
// these can still be reset. Where a lame-duck is longer than the withdrawal nobody comes any more, and none of this is
// needed. Not for a socket that another process listens on, too: that one stays open, and so does its queue.
package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	maxTTL           = 255
	handshakeTimeout = time.Second           // for those that are half done when the listener is to close
	acceptPause      = 50 * time.Millisecond // after an error that may pass
	mostEmptied      = 2 * 65535             // clients with a TTL of 255 might go on for ever
)

// The listener will not work again.
var permanent = []syscall.Errno{syscall.EBADF, syscall.EINVAL, syscall.ENOTSOCK, syscall.EOPNOTSUPP}

// Emptied is what became of the accept queue.
type Emptied struct {
	Emptied    int  // connections taken
	MinimumTTL bool // whether the socket was given one
	HalfOpen   int  // handshakes that were given up on
	Lost       int  // connections that could not be taken
	err        error
}

// Listener hands connections to net/http until its accept queue is to be emptied.
type Listener struct {
	*net.TCPListener
	registry *Registry
	served   chan struct{} // closed when net/http has stopped accepting
	closing  atomic.Bool
	deadline time.Time // for handshakes; set before closing
	result   Emptied   // written by Accept, read when served is closed
	table    *socketTable
}

// NewListener wraps a listener that no other process shares. Go asks for the longest queue that the system allows.
func NewListener(listener *net.TCPListener, registry *Registry) *Listener {
	table := newSocketTable(listener)
	return &Listener{TCPListener: listener, registry: registry, served: make(chan struct{}), table: table}
}

// Serve hands connections to net/http until the listener closes; fail hears of an end that nobody asked for.
func (l *Listener) Serve(server *http.Server, fail func(reason string)) {
	err := server.Serve(l)
	close(l.served)
	if !l.closing.Load() && !errors.Is(err, net.ErrClosed) {
		fail(err.Error())
	}
}

// Accept is called by net/http's loop. Once closing it fails only when the queue is empty and the listener closed.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		if l.closing.Load() && !l.mayGoOn() {
			l.lose(errors.New("others kept coming"))
			_ = l.Close()
			return nil, net.ErrClosed
		}
		conn, err := l.AcceptTCP()
		switch {
		case err == nil:
			if l.closing.Load() {
				l.result.Emptied++
				_ = setMinimumTTL(conn, 0) // inherited, if the handshake ended meanwhile; TCP repeats what was dropped
				l.wakeAccept()
			}
			connection, admitted := l.registry.Open(conn)
			if admitted {
				return connection, nil
			}
			if connection != nil {
				go connection.refuse()
			}
		case l.closing.Load():
			if !l.goesOn(err) {
				_ = l.Close()
				return nil, net.ErrClosed
			}
		case errors.Is(err, net.ErrClosed) || isPermanent(err):
			return nil, err
		case !hasLeft(err): // out of descriptors or memory: what waits in the queue is safe there
			LogError("cannot accept: " + err.Error())
			time.Sleep(acceptPause)
		}
	}
}

// EmptyAcceptQueue keeps out new connections, lets Accept take those that wait and those that are half-way through
// their handshake, and returns when the listener is closed.
// rule: nothing-lost-in-accept-queue, new-connections-refused, port-free-after-exit
func (l *Listener) EmptyAcceptQueue() Emptied {
	l.deadline = time.Now().Add(handshakeTimeout)
	l.result.MinimumTTL = true
	if err := setMinimumTTL(l, maxTTL); err != nil {
		l.result.MinimumTTL = false
		LogError("new connections get in, a connect storm may lose requests: " + err.Error())
	}
	l.closing.Store(true)
	l.wakeAccept()
	<-l.served
	l.checkGone()
	return l.result
}

// mayGoOn: where new ones get in, not beyond the deadline.
func (l *Listener) mayGoOn() bool {
	return l.result.Emptied < mostEmptied && (l.result.MinimumTTL || time.Now().Before(l.deadline))
}

// goesOn says whether to accept again after this error, which is all that a queue has to say that is empty.
func (l *Listener) goesOn(err error) bool {
	over := !time.Now().Before(l.deadline)
	switch {
	case hasLeft(err):
		return true
	case !errors.Is(err, os.ErrDeadlineExceeded):
		if over || isPermanent(err) {
			l.lose(err)
			return false
		}
		time.Sleep(acceptPause) // those that wait are safe as long as the listener is open
		return true
	}
	// First the handshakes, then the queue: one that ends in between is in the queue by then.
	err = l.table.look()
	l.result.HalfOpen = l.table.halfOpen
	switch {
	case waiting(l):
		l.wakeAccept()
		return true
	case err != nil:
		LogError("handshakes that are half done may be lost: " + err.Error())
		return false
	case l.table.halfOpen == 0 || over:
		return false
	}
	_ = l.SetDeadline(l.deadline) // the kernel tells when one has ended
	return true
}

// lose counts those that still wait, and cannot be taken.
func (l *Listener) lose(err error) {
	_ = l.table.look()
	l.result.Lost = max(1, l.table.waiting)
	l.result.err = fmt.Errorf("%d connections in the accept queue are lost: %w", l.result.Lost, err)
	LogError(l.result.err.Error())
}

// checkGone notices another process that listens on the same socket.
func (l *Listener) checkGone() {
	if l.table.look() == nil && l.table.listening && l.result.err == nil {
		l.result.err = fmt.Errorf("another process listens on the same socket, and the minimum TTL of %d now keeps out its"+
			" clients: leave a shared socket alone, it needs none of this", maxTTL)
		LogError(l.result.err.Error())
	}
}

// wakeAccept ends a blocked accept. The deadline must lie ahead: one that has passed fails before accept(2).
func (l *Listener) wakeAccept() {
	_ = l.SetDeadline(time.Now().Add(time.Millisecond))
}

// hasLeft: the client is gone before it was accepted.
func hasLeft(err error) bool {
	return errors.Is(err, syscall.ECONNABORTED) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPROTO)
}

func isPermanent(err error) bool {
	for _, number := range permanent {
		if errors.Is(err, number) {
			return true
		}
	}
	return false
}

// waiting asks the kernel whether a connection waits in the queue of a listener, or input in that of a connection.
func waiting(socket syscall.Conn) bool {
	ready := 0
	err := control(socket, func(fd int) {
		ready, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	})
	return err == nil && ready > 0
}

func control(socket syscall.Conn, use func(fd int)) error {
	raw, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Control(func(fd uintptr) { use(int(fd)) })
}
