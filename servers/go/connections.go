// Connections: who is connected, in which state, and how a connection ends without losing anything.
package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

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

// Connection sits between net/http and the socket: it sees the first byte of each request, which ConnState
// reports only after the whole head, and it closes by FIN.
type Connection struct {
	*net.TCPConn
	registry *Registry

	// Guarded by registry.mu.
	state          ConnectionState
	inFlight       bool // a whole head has come, its response is not complete
	lingerDeadline *time.Timer
	closed         sync.Once
}

func (c *Connection) Read(buffer []byte) (int, error) {
	n, err := c.TCPConn.Read(buffer)
	if n > 0 && !c.registry.activate(c) {
		return 0, io.EOF // came after our FIN: it cannot be answered any more
	}
	return n, err
}

// Close is called by net/http after the last response, or when the client left. Closing a socket with unread
// input would send RST and could destroy the response on its way (RFC 9112, 9.6), so: FIN, discard, close.
func (c *Connection) Close() error {
	c.closed.Do(func() {
		c.HalfClose()
		_ = c.SetReadDeadline(time.Now().Add(c.registry.settings.Now().CloseTimeout))
		_, _ = io.Copy(io.Discard, c.TCPConn)
		_ = c.TCPConn.Close()
		c.registry.forget(c)
	})
	return nil
}

// HalfClose sends FIN after everything that was written. rule: idle-closed-by-fin
func (c *Connection) HalfClose() {
	c.registry.setClosing(c)
	_ = c.CloseWrite()
	// Wakes net/http from its wait for the next request; it then calls Close.
	_ = c.SetReadDeadline(time.Now().Add(c.registry.settings.Now().CloseTimeout))
}

// Registry knows every open connection. Its methods may be called from any goroutine.
type Registry struct {
	settings *Settings
	drained  chan struct{}

	mu          sync.Mutex
	connections map[*Connection]struct{}
	inFlight    int
	draining    bool
}

func NewRegistry(settings *Settings) *Registry {
	return &Registry{
		settings:    settings,
		drained:     make(chan struct{}),
		connections: map[*Connection]struct{}{},
	}
}

// Open registers a connection, or returns nil where there are too many.
func (r *Registry) Open(conn *net.TCPConn) *Connection {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.connections) >= r.settings.Now().MaxConnections {
		return nil
	}
	connection := &Connection{TCPConn: conn, registry: r}
	r.connections[connection] = struct{}{}
	return connection
}

// activate notes that a byte of a request has come. False after our FIN.
func (r *Registry) activate(c *Connection) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.state == ConnectionClosing {
		return false
	}
	c.state = ConnectionActive
	if c.lingerDeadline != nil {
		c.lingerDeadline.Stop()
	}
	return true
}

// BeginRequest counts a request whose head is complete. False above MaxInFlight. rule: overload-sheds
func (r *Registry) BeginRequest(c *Connection, exempt bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	c.inFlight = true
	r.inFlight++
	return exempt || r.inFlight <= r.settings.Now().MaxInFlight
}

// Follow is net/http's report of a connection: idle means that the last byte of a response was written.
func (r *Registry) Follow(conn net.Conn, state http.ConnState) {
	if state != http.StateIdle {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	c := conn.(*Connection)
	r.finishRequestLocked(c)
	if c.state == ConnectionClosing {
		return
	}
	c.state = ConnectionIdle
	if r.draining {
		r.lingerLocked(c)
	}
}

func (r *Registry) finishRequestLocked(c *Connection) {
	if c.inFlight {
		c.inFlight = false
		r.inFlight--
	}
}

// BeginDrain is called once, when the listener has closed: whoever is idle, or becomes idle, may ask once more.
func (r *Registry) BeginDrain() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.draining = true
	for c := range r.connections {
		if c.state == ConnectionIdle || c.state == ConnectionUnused { // rule: unused-holds-nothing
			r.lingerLocked(c)
		}
	}
	r.reportDrainedLocked()
}

// lingerLocked gives an idle connection its last chance. rule: late-request-answered
func (r *Registry) lingerLocked(c *Connection) {
	c.lingerDeadline = time.AfterFunc(r.settings.Now().IdleLinger, func() { // rule: idle-holds-nothing
		r.mu.Lock()
		idle := c.state == ConnectionIdle || c.state == ConnectionUnused
		if idle { // a request that has begun to arrive is served instead. rule: nothing-lost-on-keep-alive
			c.state = ConnectionClosing
		}
		r.mu.Unlock()
		if idle {
			c.HalfClose()
		}
	})
}

// CutInFlight ends every connection at once and returns how many requests that cost. By RST, because a FIN can
// look like the end of a response that has no length. rule: cut-is-visible
func (r *Registry) CutInFlight() (cut int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.connections {
		if c.inFlight && c.state == ConnectionActive {
			cut++
			_ = c.SetLinger(0)
		}
		_ = c.TCPConn.Close()
	}
	return cut
}

// Drained is closed when, after BeginDrain, no connection is left. rule: load-does-not-hold-exit
func (r *Registry) Drained() <-chan struct{} {
	return r.drained
}

func (r *Registry) setClosing(c *Connection) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c.state = ConnectionClosing
	r.finishRequestLocked(c)
}

func (r *Registry) forget(c *Connection) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.connections, c)
	r.reportDrainedLocked()
}

func (r *Registry) reportDrainedLocked() {
	if r.draining && len(r.connections) == 0 {
		select {
		case <-r.drained: // has been reported
		default:
			close(r.drained)
		}
	}
}

// Count returns the requests in flight and the connections in each state, for /metrics.
func (r *Registry) Count() (inFlight int, states map[ConnectionState]int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	states = map[ConnectionState]int{}
	for c := range r.connections {
		states[c.state]++
	}
	return r.inFlight, states
}

type connectionKey struct{}

// WithConnection lets a handler find its connection.
func WithConnection(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, connectionKey{}, conn)
}

func connectionOf(request *http.Request) *Connection {
	return request.Context().Value(connectionKey{}).(*Connection)
}

// refuse answers a connection above MaxConnections without giving it to net/http.
func refuse(conn *net.TCPConn, timeout time.Duration) {
	const answer = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: 33\r\n" +
		"Retry-After: 1\r\nConnection: close\r\n\r\n{\"error\":\"too many connections\"}\n"
	_ = conn.SetDeadline(time.Now().Add(timeout))
	_, _ = conn.Write([]byte(answer))
	_ = conn.CloseWrite()
	_, _ = io.Copy(io.Discard, conn)
	_ = conn.Close()
}
