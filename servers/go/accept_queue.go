// The accept queue: connections that the kernel has opened and that nobody has accepted yet. Their clients may
// have sent a request already. Closing the listener resets them, and under load accepting "until there are no
// more" never ends. So: keep out new SYNs, empty the queue, then close.
//
// A client whose SYN is dropped sends it again after a second and then reaches our successor, or is refused:
// either way nothing of its request was lost. Beyond loopback, a handshake that is half done at this very
// moment can still meet a closed listener.
package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// longestQueue is how many connections can have been waiting: Go asks for the kernel's maximum, 4096 by default.
const longestQueue = 4096

const maxTTL = 255

// Listener hands connections to net/http until its accept queue is to be emptied.
type Listener struct {
	*net.TCPListener
	registry *Registry
	closing  atomic.Bool
	emptied  atomic.Int64
}

func NewListener(listener *net.TCPListener, registry *Registry) *Listener {
	return &Listener{TCPListener: listener, registry: registry}
}

// Accept is called by net/http's loop. Once closing it fails only when the queue is empty.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		conn, err := l.AcceptTCP()
		closing := l.closing.Load()
		switch {
		case err == nil:
			if closing {
				l.emptied.Add(1)
				_ = setMinimumTTL(conn, 0) // inherited, if the handshake ended meanwhile; TCP repeats what was dropped
			}
			connection, admitted := l.registry.Open(conn)
			if admitted {
				return connection, nil
			}
			go connection.refuse()
		case closing && errors.Is(err, os.ErrDeadlineExceeded):
			// The deadline says nothing about the queue: the kernel does. Those that waited, and as many again that
			// were half-way through their handshake: where new ones get in this might go on for ever.
			if !waiting(l) || l.emptied.Load() >= 2*longestQueue {
				return nil, net.ErrClosed
			}
			l.wakeAccept()
		case closing: // out of descriptors, say: net/http would try again and again
			fmt.Fprintln(os.Stderr, "the accept queue could not be emptied:", err)
			return nil, net.ErrClosed
		default:
			return nil, err
		}
	}
}

// EmptyAcceptQueue keeps out new connections, lets Accept take those that wait, and returns when net/http has
// closed the listener: how many were taken, and whether new ones were really kept out.
// rule: nothing-lost-in-accept-queue, new-connections-refused, port-free-after-exit
func (l *Listener) EmptyAcceptQueue(served <-chan struct{}) (emptied int, filtered bool) {
	l.closing.Store(true) // first: whoever inherits the minimum TTL is then seen to
	err := setMinimumTTL(l, maxTTL)
	if err != nil {
		fmt.Fprintln(os.Stderr, "new connections get in, a connect storm may lose requests:", err)
	}
	l.wakeAccept()
	<-served
	return int(l.emptied.Load()), err == nil
}

// wakeAccept ends a blocked accept. The deadline must lie ahead: one that has passed fails before accept(2).
func (l *Listener) wakeAccept() {
	_ = l.SetDeadline(time.Now().Add(time.Millisecond))
}

// waiting asks the kernel whether a connection waits in the queue of a listener, or input in that of a connection.
func waiting(socket syscall.Conn) bool {
	ready := 0
	raw, err := socket.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) {
			ready, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		})
	}
	return err == nil && ready > 0
}
