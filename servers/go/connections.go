// Connections: who is connected, in which state, and how a connection ends without losing anything.
package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const writeBlock = 64 << 10 // bytes under one deadline

// ConnectionState is where a connection stands between two requests.
type ConnectionState int

const (
	// ConnectionUnused: open, and no byte has come. Becomes active or closing.
	ConnectionUnused ConnectionState = iota
	// ConnectionActive: from the first byte of a request to the last of its response. Becomes idle or closing.
	ConnectionActive
	// ConnectionIdle: between two requests. Becomes active or closing.
	ConnectionIdle
	// ConnectionClosing: our FIN is out; what still comes is discarded.
	ConnectionClosing
)

func (s ConnectionState) String() string {
	return [...]string{"unused", "active", "idle", "closing"}[s]
}

// Limit is what a request counts against.
type Limit int

const (
	LimitInFlight Limit = iota
	LimitStreams        // apart, because endless ones would use up MAX_IN_FLIGHT for ever
	LimitNone           // a probe must get through under load
	limitCount
)

// Connection sits between net/http and the socket. It sees the first byte of each request, which ConnState reports
// only after the whole head, and it closes by FIN. One goroutine, net/http's, reads it and closes it: a request that
// has arrived is seen before the FIN is sent.
type Connection struct {
	*net.TCPConn
	registry *Registry
	refused  bool // above MaxConnections
	closed   sync.Once

	mu             sync.Mutex // may be taken while registry.mu is held, not the other way round
	state          ConnectionState
	limit          Limit     // that the request in flight counts against
	answered       bool      // the response is complete; net/http may hold bytes of the next request already
	room           int       // in net/http's buffer while it is empty
	inFlight       bool      // a whole head has come, its response is not complete: to cut now is a loss
	readDeadline   time.Time // in force on the socket
	headDeadline   time.Time // of the head that is arriving, else zero; in force where it does not come in one piece
	idleDeadline   time.Time // of the latest wait for a request
	idleTimer      *time.Timer
	lingerDeadline time.Time // of an idle connection, once the listener has closed, else zero
}

// Read is where net/http waits for a request. That a deadline passed says nothing about the socket: before the FIN
// the kernel is asked. rule: nothing-lost-on-keep-alive, nothing-lost-in-peace
func (c *Connection) Read(buffer []byte) (int, error) {
	c.await(len(buffer))
	for {
		n, err := c.TCPConn.Read(buffer)
		if n > 0 {
			c.activate()
		}
		if err == nil || !c.isIdle() || !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
		if !waiting(c.TCPConn) {
			c.HalfClose()
			return n, err // net/http then calls Close
		}
		_ = c.SetReadDeadline(time.Time{}) // the bytes are there: no wait
	}
}

// await notes that net/http needs more input than it has. Less room than for the first read of all means that its
// buffer holds a few bytes, after a response those of the next request.
func (c *Connection) await(room int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.room == 0 {
		c.room = room
	}
	switch {
	case c.answered && room < c.room:
		c.activateLocked()
	case c.answered:
		c.answered = false
		c.state = ConnectionIdle
	}
	if !c.headDeadline.IsZero() {
		c.setReadDeadlineLocked(c.headDeadline)
	}
	if c.registry.draining.Load() {
		c.lingerLocked()
	}
}

// activate notes that a byte of a request has come.
func (c *Connection) activate() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state != ConnectionActive {
		c.activateLocked()
	}
}

func (c *Connection) activateLocked() {
	if c.state != ConnectionUnused { // whose head has had its deadline since it was opened
		c.headDeadline = time.Now().Add(c.registry.settings.Now().HeaderTimeout)
	}
	c.state = ConnectionActive
	c.answered = false
	c.lingerDeadline = time.Time{}
}

func (c *Connection) isIdle() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state == ConnectionIdle || c.state == ConnectionUnused
}

// lingerLocked gives an idle connection its last chance: the read in which net/http waits ends at the deadline.
// rule: late-request-answered, idle-holds-nothing, unused-holds-nothing
func (c *Connection) lingerLocked() {
	if c.state != ConnectionIdle && c.state != ConnectionUnused {
		return // a request that has begun to arrive is served
	}
	if c.lingerDeadline.IsZero() {
		c.lingerDeadline = time.Now().Add(time.Duration(c.registry.linger.Load()))
	}
	c.setReadDeadlineLocked(c.lingerDeadline)
}

// closeIdle is called by a timer. To set that anew for every request would cost a busy connection some 3 % of its
// throughput: where it rings too early, it is set again.
func (c *Connection) closeIdle() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if left := time.Until(c.idleDeadline); left > 0 {
		c.idleTimer.Reset(left)
		return
	}
	c.idleTimer = nil
	if c.state == ConnectionIdle && c.lingerDeadline.IsZero() {
		c.setReadDeadlineLocked(c.idleDeadline) // has passed: ends the read in which net/http waits
	}
}

// setReadDeadlineLocked spares the runtime what it knows: net/http sets none several times for each request.
func (c *Connection) setReadDeadlineLocked(deadline time.Time) {
	if !deadline.Equal(c.readDeadline) {
		c.readDeadline = deadline
		_ = c.TCPConn.SetReadDeadline(deadline)
	}
}

// Write sends all of it, for however long a slow reader takes, as long as it takes anything. rule: slow-reader-bounded
func (c *Connection) Write(data []byte) (written int, err error) {
	for written = c.writeAtOnce(data); written < len(data); {
		_ = c.TCPConn.SetWriteDeadline(time.Now().Add(c.registry.settings.Now().WriteTimeout))
		n, err := c.TCPConn.Write(data[written:min(len(data), written+writeBlock)])
		written += n
		switch {
		case err == nil || n > 0 && errors.Is(err, os.ErrDeadlineExceeded): // it has taken some
		case errors.Is(err, os.ErrDeadlineExceeded):
			c.reset()
			return written, err
		default:
			return written, err
		}
	}
	return written, nil
}

// writeAtOnce sends what the socket takes without a wait, which is mostly all: that needs no deadline.
func (c *Connection) writeAtOnce(data []byte) (written int) {
	if raw, err := c.SyscallConn(); err == nil {
		_ = raw.Write(func(fd uintptr) bool {
			written, _ = unix.Write(int(fd), data) // an error comes again
			return true
		})
	}
	return max(0, written)
}

// reset ends a response so that it does not look complete.
func (c *Connection) reset() {
	c.finish(ConnectionClosing)
	_ = c.SetLinger(0)
	_ = c.TCPConn.Close()
}

// SetReadDeadline is called by net/http: KeepAliveTimeout when it begins to wait, none when it has the first bytes
// of a request, perhaps out of its buffer. A head's deadline is ours: net/http would count from the fourth byte.
// rule: slow-head-bounded, half-request-holds-nothing
func (c *Connection) SetReadDeadline(deadline time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.answered && deadline.IsZero():
		c.activateLocked()
	case c.answered:
		c.idleDeadline = deadline
		if c.idleTimer == nil {
			c.idleTimer = time.AfterFunc(time.Until(deadline), c.closeIdle)
		}
		return nil
	}
	c.setReadDeadlineLocked(deadline) // await sets that of a head again where more of it has to come
	return nil
}

// CloseWrite is called by net/http where a client may still be sending; it then sleeps with the input unread.
func (c *Connection) CloseWrite() error {
	return c.Close()
}

// Close is called by net/http after the last response, or when the client left. Closing a socket with unread
// input would send RST and could destroy the response on its way (RFC 9112, 9.6), so: FIN, discard, close.
func (c *Connection) Close() error {
	c.closed.Do(func() {
		c.HalfClose()
		_, _ = io.Copy(io.Discard, c.TCPConn)
		_ = c.TCPConn.Close()
		c.registry.forget(c)
	})
	return nil
}

// HalfClose sends FIN after everything that was written. What still comes is discarded. rule: idle-closed-by-fin
func (c *Connection) HalfClose() {
	c.finish(ConnectionClosing)
	_ = c.TCPConn.CloseWrite()
	// Once, whatever still comes. rule: kept-open-holds-nothing
	_ = c.TCPConn.SetReadDeadline(time.Now().Add(c.registry.settings.Now().CloseTimeout))
}

// finish notes that nothing is owed to the client any more.
func (c *Connection) finish(state ConnectionState) {
	c.mu.Lock()
	owed := c.inFlight
	c.inFlight = false
	if state == ConnectionClosing {
		c.state = state
		if c.idleTimer != nil {
			c.idleTimer.Stop()
		}
	} else {
		c.answered = true // idle only when net/http asks for more: the next request may be in its buffer
	}
	c.mu.Unlock()
	if owed {
		c.registry.unanswered.Add(-1)
		c.registry.reportAnswered()
	}
}

// refuse answers a connection above MaxConnections without giving it to net/http.
func (c *Connection) refuse() {
	const answer = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: 33\r\n" +
		"Retry-After: 1\r\nConnection: close\r\n\r\n{\"error\":\"too many connections\"}\n"
	_ = c.SetWriteDeadline(time.Now().Add(c.registry.settings.Now().CloseTimeout))
	_, _ = c.Write([]byte(answer))
	_ = c.Close()
}

// Registry knows every open connection. Its methods may be called from any goroutine.
type Registry struct {
	settings   *Settings
	drained    chan struct{}
	draining   atomic.Bool
	linger     atomic.Int64             // IdleLinger as it was when the drain began
	inFlight   [limitCount]atomic.Int64 // requests whose handler has not returned, by what limits them
	unanswered atomic.Int64             // requests whose response is not complete

	mu          sync.Mutex
	answered    chan struct{} // closed when no request is unanswered; nil until somebody asks
	connections map[*Connection]struct{}
	refused     int // of the connections, those above MaxConnections
}

func NewRegistry(settings *Settings) *Registry {
	return &Registry{
		settings:    settings,
		drained:     make(chan struct{}),
		connections: map[*Connection]struct{}{},
	}
}

// Open registers a connection. It is not admitted where there are too many: refuse it. Above twice the limit there is
// nothing left to refuse politely.
func (r *Registry) Open(conn *net.TCPConn) (c *Connection, admitted bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.connections) >= 2*r.settings.Now().MaxConnections {
		_ = conn.Close()
		return nil, false
	}
	c = &Connection{TCPConn: conn, registry: r}
	r.connections[c] = struct{}{}
	if len(r.connections)-r.refused > r.settings.Now().MaxConnections {
		r.refused++
		c.refused = true
		c.state = ConnectionClosing
		return c, false
	}
	c.headDeadline = time.Now().Add(r.settings.Now().HeaderTimeout) // await sets it
	return c, true
}

// BeginRequest counts a request whose head is complete. False above its limit. rule: overload-sheds
func (r *Registry) BeginRequest(c *Connection, limit Limit) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.headDeadline = time.Time{}
	c.setReadDeadlineLocked(time.Time{})
	c.inFlight = true
	c.limit = limit
	r.unanswered.Add(1)
	inFlight := int(r.inFlight[limit].Add(1))
	switch limit {
	case LimitInFlight:
		return inFlight <= r.settings.Now().MaxInFlight
	case LimitStreams:
		return inFlight <= r.settings.Now().MaxStreams // rule: streams-limited-apart
	default:
		return true
	}
}

// FinishRequest is called when a handler returns. The end of its response may still have to be flushed: so a client
// that has seen it finds the place free.
func (r *Registry) FinishRequest(c *Connection) {
	r.inFlight[c.limit].Add(-1)
}

// BeginDrain is called once, when the listener has closed: whoever is idle, or becomes idle, may ask once more.
func (r *Registry) BeginDrain() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.linger.Store(int64(r.settings.Now().IdleLinger))
	r.draining.Store(true)
	for c := range r.connections {
		c.mu.Lock()
		c.lingerLocked()
		c.mu.Unlock()
	}
	r.reportDrainedLocked()
}

// CutInFlight ends every connection at once and returns how many requests that cost. By RST, because a FIN can
// look like the end of a response that has no length. rule: cut-is-visible
func (r *Registry) CutInFlight() (cut int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.connections {
		c.mu.Lock()
		if c.inFlight {
			cut++
			_ = c.SetLinger(0)
		}
		_ = c.TCPConn.Close()
		c.mu.Unlock()
	}
	return cut
}

// Answered is closed when no request is in flight.
func (r *Registry) Answered() <-chan struct{} {
	r.mu.Lock()
	r.answered = make(chan struct{})
	r.mu.Unlock()
	r.reportAnswered()
	return r.answered
}

func (r *Registry) reportAnswered() {
	if r.unanswered.Load() > 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.answered != nil {
		closeOnce(r.answered)
	}
}

// Drained is closed when, after BeginDrain, no connection is left. rule: load-does-not-hold-exit
func (r *Registry) Drained() <-chan struct{} {
	return r.drained
}

func (r *Registry) forget(c *Connection) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.connections, c)
	if c.refused {
		r.refused--
	}
	r.reportDrainedLocked()
}

func (r *Registry) reportDrainedLocked() {
	if r.draining.Load() && len(r.connections) == 0 {
		closeOnce(r.drained)
	}
}

func closeOnce(latch chan struct{}) {
	select {
	case <-latch:
	default:
		close(latch)
	}
}

// Count returns the requests in flight and the connections in each state, for /metrics.
func (r *Registry) Count() (inFlight int64, states map[ConnectionState]int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	states = map[ConnectionState]int{}
	for c := range r.connections {
		c.mu.Lock()
		states[c.state]++
		c.mu.Unlock()
	}
	for limit := range r.inFlight {
		inFlight += r.inFlight[limit].Load()
	}
	return inFlight, states
}

// Follow is net/http's report of a connection: idle means that the last byte of a response was written.
func Follow(conn net.Conn, state http.ConnState) {
	if state == http.StateIdle {
		conn.(*Connection).finish(ConnectionIdle)
	}
}

type connectionKey struct{}

// WithConnection lets a handler find its connection.
func WithConnection(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, connectionKey{}, conn)
}

func connectionOf(request *http.Request) *Connection {
	return request.Context().Value(connectionKey{}).(*Connection)
}
