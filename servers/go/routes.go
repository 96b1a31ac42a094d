// Routes: what the server answers, and the limits on what a client may send.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	maxHeadBytes = 16 << 10
	maxSlow      = 300 // seconds
	maxBytes     = 256 << 20
	maxChunks    = 10_000
	maxInterval  = 60 // seconds
)

// Request is what a handler gets: parsed, its body received whole.
type Request struct {
	*http.Request
	Body []byte
}

type handler func(http.ResponseWriter, *Request)

type route struct {
	method, path string
	handle       handler
	exempt       bool // from MAX_IN_FLIGHT: a probe must get through under load
}

// App is what the handlers share.
type App struct {
	Settings  *Settings
	Lifecycle *Lifecycle
	Registry  *Registry
	Instance  string
	Prestops  sync.RWMutex // held for reading by each /prestop until it is answered
}

func (a *App) Routes() []route {
	return append([]route{
		{method: "GET", path: "/", handle: a.root},
		{method: "GET", path: "/slow", handle: a.slow},
		{method: "POST", path: "/echo", handle: a.echo},
		{method: "GET", path: "/bytes", handle: a.bytes},
		{method: "GET", path: "/stream", handle: a.stream},
		{method: "GET", path: "/events", handle: a.events},
	}, a.healthRoutes()...)
}

func (a *App) AdminRoutes() []route {
	return append([]route{
		{method: "GET", path: "/metrics", handle: a.metrics, exempt: true},
		{method: "GET", path: "/prestop", handle: a.prestop, exempt: true},
		{method: "POST", path: "/prestop", handle: a.prestop, exempt: true},
	}, a.healthRoutes()...)
}

func (a *App) healthRoutes() []route {
	return []route{
		{method: "GET", path: "/health", handle: a.ready, exempt: true},
		{method: "GET", path: "/health/live", handle: a.live, exempt: true},
		{method: "GET", path: "/health/ready", handle: a.ready, exempt: true},
	}
}

// Handler serves the traffic listener: every request is counted, limited and in flight until it is answered.
func (a *App) Handler() http.Handler {
	routes := a.Routes()
	return http.HandlerFunc(func(writer http.ResponseWriter, request *http.Request) {
		response := a.respond(writer, request)
		found, reject := find(routes, request)
		admitted := a.Registry.BeginRequest(connectionOf(request), found.exempt)
		defer a.Registry.FinishRequest()
		switch {
		case a.Lifecycle.Phase() >= PhaseDraining && a.Settings.Now().DrainPolicy == DrainPolicyReject:
			response.Header().Set("Retry-After", "1")
			response.fail(http.StatusServiceUnavailable, "shutting down")
		case !admitted:
			response.Header().Set("Retry-After", "1")
			response.fail(http.StatusTooManyRequests, "too many requests in flight")
		default:
			a.dispatch(response, request, found, reject)
		}
	})
}

// AdminHandler serves the admin listener, whose requests are nobody's traffic.
func (a *App) AdminHandler() http.Handler {
	routes := a.AdminRoutes()
	return http.HandlerFunc(func(writer http.ResponseWriter, request *http.Request) {
		found, reject := find(routes, request)
		a.dispatch(a.respond(writer, request), request, found, reject)
	})
}

func (a *App) dispatch(response *response, request *http.Request, found route, reject func(*response)) {
	body, status, reason := a.readBody(response, request)
	switch {
	case reason != "":
		response.fail(status, reason)
	case reject != nil:
		reject(response)
	default:
		found.handle(response, &Request{Request: request, Body: body})
	}
}

// find returns the route of a request, or how to reject it.
func find(routes []route, request *http.Request) (route, func(*response)) {
	var allowed []string
	for _, candidate := range routes {
		if candidate.path != request.URL.Path {
			continue
		}
		if candidate.method == request.Method {
			return candidate, nil
		}
		allowed = append(allowed, candidate.method)
	}
	if allowed == nil {
		return route{}, func(r *response) { r.fail(http.StatusNotFound, "no such path") }
	}
	return route{}, func(r *response) {
		r.Header().Set("Allow", strings.Join(allowed, ", "))
		r.fail(http.StatusMethodNotAllowed, "method not allowed")
	}
}

// readBody receives the whole body, within BODY_TIMEOUT in all rather than for each read. It is what makes
// net/http answer "Expect: 100-continue". rule: stalled-body-bounded, continue-answered
func (a *App) readBody(response *response, request *http.Request) (body []byte, status int, reason string) {
	if !response.unread {
		return nil, 0, ""
	}
	settings := a.Settings.Now()
	limit := int64(settings.MaxBodyBytes)
	if request.ContentLength > limit { // before "100 Continue" invites it
		return nil, http.StatusRequestEntityTooLarge, fmt.Sprintf("a body is at most %d bytes", limit)
	}
	connection := http.NewResponseController(response)
	_ = connection.SetReadDeadline(time.Now().Add(settings.BodyTimeout))
	body, err := io.ReadAll(http.MaxBytesReader(response, request.Body, limit))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, http.StatusRequestEntityTooLarge, fmt.Sprintf("a body is at most %d bytes", limit)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, http.StatusRequestTimeout, "the body took too long"
	case err != nil:
		return nil, http.StatusBadRequest, "the body is malformed or incomplete"
	}
	_ = connection.SetReadDeadline(time.Time{})
	response.unread = false
	return body, 0, ""
}

func (a *App) root(w http.ResponseWriter, _ *Request) {
	sendJSON(w, http.StatusOK, Field{"server", "go"}, Field{"phase", a.Lifecycle.Phase().String()})
}

// slow is a request that takes its time. A client that leaves ends the wait. rule: client-gone-releases
func (a *App) slow(w http.ResponseWriter, r *Request) {
	delay, err := seconds(r, "delay", "1", maxSlow)
	if err != nil {
		fail(w, http.StatusUnprocessableEntity, err.Error())
		return
	}
	wait(r, delay)
	sendJSON(w, http.StatusOK, Field{"slept", delay.Seconds()})
}

func (a *App) echo(w http.ResponseWriter, r *Request) {
	if contentType := r.Header.Get("Content-Type"); contentType != "" {
		w.Header().Set("Content-Type", contentType)
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(r.Body)))
	_, _ = w.Write(r.Body)
}

func (a *App) bytes(w http.ResponseWriter, r *Request) {
	size, err := integer(r, "size", 1024, 0, maxBytes)
	if err != nil {
		fail(w, http.StatusUnprocessableEntity, err.Error())
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.Itoa(size))
	for block := [64 << 10]byte{}; size > 0; size -= min(size, len(block)) {
		if _, err := w.Write(block[:min(size, len(block))]); err != nil {
			return
		}
	}
}

// stream is finite: it ends by itself, and a shutdown waits for that. rule: response-untruncated
func (a *App) stream(w http.ResponseWriter, r *Request) {
	chunks, chunksErr := integer(r, "chunks", 10, 1, maxChunks)
	interval, intervalErr := seconds(r, "interval", "0.1", maxInterval)
	if err := errors.Join(chunksErr, intervalErr); err != nil {
		fail(w, http.StatusUnprocessableEntity, err.Error())
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	for number := range chunks {
		if number > 0 {
			wait(r, interval)
		}
		fmt.Fprintf(w, "chunk %d\n", number)
		_ = http.NewResponseController(w).Flush()
	}
}

// events has no end of its own: returning, when the listener closes, sends the final chunk.
// rule: endless-stream-ends
func (a *App) events(w http.ResponseWriter, r *Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for number := 0; ; number++ {
		fmt.Fprintf(w, "data: %d\n\n", number)
		_ = http.NewResponseController(w).Flush()
		select {
		case <-ticker.C:
		case <-a.Lifecycle.ListenerClosed():
			return
		case <-r.Context().Done():
			panic(http.ErrAbortHandler)
		}
	}
}

// live says that a restart would not help; a shutdown is no reason for one. rule: liveness-stays
func (a *App) live(w http.ResponseWriter, _ *Request) {
	sendJSON(w, http.StatusOK, Field{"phase", a.Lifecycle.Phase().String()})
}

func (a *App) ready(w http.ResponseWriter, _ *Request) {
	status := http.StatusOK
	if !a.Lifecycle.IsReady() {
		status = http.StatusServiceUnavailable
	}
	sendJSON(w, status, Field{"phase", a.Lifecycle.Phase().String()})
}

func (a *App) metrics(w http.ResponseWriter, _ *Request) {
	inFlight, states := a.Registry.Count()
	w.Header().Set("Content-Type", "text/plain; version=0.0.4")
	fmt.Fprintf(w, "# TYPE http_requests_in_flight gauge\nhttp_requests_in_flight %d\n", inFlight)
	fmt.Fprint(w, "# TYPE http_connections gauge\n")
	for _, state := range []ConnectionState{ConnectionUnused, ConnectionActive, ConnectionIdle} {
		fmt.Fprintf(w, "http_connections{state=%q} %d\n", state, states[state])
	}
	fmt.Fprint(w, "# TYPE lifecycle_phase gauge\n")
	fmt.Fprintf(w, "lifecycle_phase{phase=%q} 1\n", a.Lifecycle.Phase())
}

// prestop takes the server out of rotation and answers when traffic has had time to go elsewhere. It stops
// nothing: the signal comes from whoever called. rule: prestop-waits, prestop-keeps-process
func (a *App) prestop(w http.ResponseWriter, r *Request) {
	a.Prestops.RLock()
	defer a.Prestops.RUnlock()
	select {
	case <-a.Lifecycle.BeginLameDuck("prestop"): // rule: lame-duck-serves
		body := encode([]Field{{"phase", a.Lifecycle.Phase().String()}})
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		_, _ = w.Write(body)
		_ = http.NewResponseController(w).Flush() // before the unlock
	case <-r.Context().Done():
		panic(http.ErrAbortHandler)
	}
}

// wait ends the handler, without a response, where the client has left.
func wait(r *Request, delay time.Duration) {
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-r.Context().Done():
		panic(http.ErrAbortHandler)
	}
}

// response adds what belongs to every response, at the last moment: the phase may have changed since the
// request came. rule: in-flight-answered
type response struct {
	http.ResponseWriter
	app     *App
	request *http.Request
	unread  bool // the body, or part of it
	begun   bool
}

func (a *App) respond(writer http.ResponseWriter, request *http.Request) *response {
	return &response{ResponseWriter: writer, app: a, request: request, unread: request.ContentLength != 0}
}

func (r *response) WriteHeader(status int) {
	r.begun = true
	r.Header().Set("X-Instance-Id", r.app.Instance)
	if r.app.Lifecycle.Stopping() { // net/http then reads no further request. rule: pipelined-in-order
		r.Header().Set("Connection", "close")
	}
	if id := r.request.Header.Get("X-Request-Id"); id != "" && status < 400 && requestID.MatchString(id) {
		LogEvent("executed", Field{"request_id", id})
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *response) Write(data []byte) (int, error) {
	if !r.begun {
		r.WriteHeader(http.StatusOK)
	}
	return r.ResponseWriter.Write(data)
}

// Unwrap lets http.ResponseController find the connection.
func (r *response) Unwrap() http.ResponseWriter {
	return r.ResponseWriter
}

func (r *response) fail(status int, reason string) {
	if r.unread { // net/http would wait for the rest, also after the response: Close discards it
		r.Header().Set("Connection", "close")
		_ = http.NewResponseController(r).SetReadDeadline(time.Now())
	}
	fail(r, status, reason)
}

func fail(w http.ResponseWriter, status int, reason string) {
	sendJSON(w, status, Field{"error", reason})
}

func sendJSON(w http.ResponseWriter, status int, fields ...Field) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(encode(fields))
}

func seconds(r *Request, name, fallback string, limit float64) (time.Duration, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		text = fallback
	}
	value, ok := parseSeconds(text, limit)
	if !ok {
		return 0, fmt.Errorf("%s: %q is not decimal seconds from 0 to %g", name, text, limit)
	}
	return value, nil
}

func integer(r *Request, name string, fallback, low, high int) (int, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return fallback, nil
	}
	value, err := strconv.Atoi(text)
	if err != nil || !digits.MatchString(text) || value < low || value > high {
		return 0, fmt.Errorf("%s: %q is not an integer from %d to %d", name, text, low, high)
	}
	return value, nil
}

var requestID = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// Field is one member of a JSON object: of a response or of a log line.
type Field struct {
	Name  string
	Value any
}

var stdout sync.Mutex

// LogEvent writes one JSON line to standard output, at once: its reader may be waiting for it.
func LogEvent(event string, fields ...Field) {
	line := encode(append([]Field{{"event", event}}, fields...))
	stdout.Lock()
	defer stdout.Unlock()
	_, _ = os.Stdout.Write(line)
}

// encode writes the fields, in their order, as one line of JSON.
func encode(fields []Field) []byte {
	line := append(make([]byte, 0, 128), '{')
	for _, field := range fields {
		line = append(line, '"')
		line = append(line, field.Name...) // ours: nothing to escape
		line = append(line, `":`...)
		if text, ok := field.Value.(string); ok && !strings.ContainsFunc(text, needsEscape) { // the hot path
			line = append(line, '"')
			line = append(line, text...)
			line = append(line, '"')
		} else if value, err := json.Marshal(field.Value); err == nil {
			line = append(line, value...)
		} else {
			line = append(line, "null"...)
		}
		line = append(line, ',')
	}
	line[len(line)-1] = '}'
	return append(line, '\n')
}

func needsEscape(r rune) bool {
	return r < ' ' || r > '~' || r == '"' || r == '\\'
}
