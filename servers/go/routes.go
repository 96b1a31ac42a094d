// Routes: what the server answers, and the limits on what a client may send.
package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
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

// RequestError ends a handler with an answer.
type RequestError struct {
	status int
	reason string
	fields []string // of the head, besides those of every one: names and values in turn
}

func (e *RequestError) Error() string {
	return e.reason
}

func requestError(status int, reason string, fields ...string) error {
	return &RequestError{status, reason, fields}
}

var (
	errShuttingDown = requestError(http.StatusServiceUnavailable, "shutting down", "Retry-After", "1")
	errOverloaded   = requestError(http.StatusTooManyRequests, "too many requests in flight", "Retry-After", "1")
	errClientLeft   = errors.New("the client has left") // nobody is there to answer
)

type route struct {
	method, path string
	handle       func(*response, *Request) error
	limit        Limit
}

// App is what the handlers share, and the handlers.
type App struct {
	settings    *Settings
	lifecycle   *Lifecycle
	registry    *Registry
	instance    string
	routes      []route
	adminRoutes []route
}

func NewApp(settings *Settings, lifecycle *Lifecycle, registry *Registry, instance string) *App {
	app := &App{settings: settings, lifecycle: lifecycle, registry: registry, instance: instance}
	app.routes, app.adminRoutes = app.Routes(), app.AdminRoutes()
	return app
}

func (a *App) Routes() []route {
	return append([]route{
		{method: "GET", path: "/", handle: a.root},
		{method: "GET", path: "/slow", handle: a.slow},
		{method: "POST", path: "/echo", handle: a.echo},
		{method: "GET", path: "/bytes", handle: a.bytes},
		{method: "GET", path: "/stream", handle: a.stream},
		{method: "GET", path: "/events", handle: a.events, limit: LimitStreams},
	}, a.healthRoutes()...)
}

func (a *App) AdminRoutes() []route {
	return append([]route{
		{method: "GET", path: "/metrics", handle: a.metrics, limit: LimitNone},
		{method: "GET", path: "/prestop", handle: a.prestop, limit: LimitNone},
		{method: "POST", path: "/prestop", handle: a.prestop, limit: LimitNone},
	}, a.healthRoutes()...)
}

func (a *App) healthRoutes() []route {
	return []route{
		{method: "GET", path: "/health", handle: a.ready, limit: LimitNone},
		{method: "GET", path: "/health/live", handle: a.live, limit: LimitNone},
		{method: "GET", path: "/health/ready", handle: a.ready, limit: LimitNone},
	}
}

// Handle serves the traffic listener: every request is counted, limited and in flight until it is answered.
func (a *App) Handle(writer http.ResponseWriter, request *http.Request) {
	found, rejection := find(a.routes, request)
	connection := connectionOf(request)
	admitted := a.registry.BeginRequest(connection, found.limit)
	defer a.registry.FinishRequest(connection)
	switch {
	case a.lifecycle.Phase() >= PhaseDraining && a.settings.Now().DrainPolicy == DrainPolicyReject:
		a.respond(writer, request).fail(errShuttingDown)
	case !admitted:
		a.respond(writer, request).fail(errOverloaded)
	default:
		a.dispatch(writer, request, found, rejection)
	}
}

// HandleAdmin serves the admin listener, whose requests are nobody's traffic.
func (a *App) HandleAdmin(writer http.ResponseWriter, request *http.Request) {
	found, rejection := find(a.adminRoutes, request)
	connection := connectionOf(request)
	connection.registry.BeginRequest(connection, found.limit)
	defer connection.registry.FinishRequest(connection)
	a.dispatch(writer, request, found, rejection)
}

func (a *App) dispatch(writer http.ResponseWriter, request *http.Request, found route, rejection error) {
	response := a.respond(writer, request)
	if rejection != nil && request.Header.Get("Expect") != "" {
		response.fail(rejection) // the body is not wanted, and so not invited
		return
	}
	body, err := a.readBody(response, request)
	switch {
	case err != nil:
	case rejection != nil:
		err = rejection
	default:
		err = found.handle(response, &Request{Request: request, Body: body})
	}
	if err != nil {
		response.fail(err)
	}
}

// readBody receives the whole body, within BODY_TIMEOUT in all rather than for each read. It is what makes
// net/http answer "Expect: 100-continue". rule: stalled-body-bounded, continue-answered
func (a *App) readBody(response *response, request *http.Request) ([]byte, error) {
	if !response.unread {
		return nil, nil
	}
	settings := a.settings.Now()
	limit := int64(settings.MaxBodyBytes)
	tooLarge := requestError(http.StatusRequestEntityTooLarge, fmt.Sprintf("a body is at most %d bytes", limit))
	if request.ContentLength > limit { // before "100 Continue" invites it
		return nil, tooLarge
	}
	connection := http.NewResponseController(response)
	_ = connection.SetReadDeadline(time.Now().Add(settings.BodyTimeout))
	body, err := io.ReadAll(http.MaxBytesReader(response, request.Body, limit))
	switch {
	case errors.As(err, new(*http.MaxBytesError)):
		return nil, tooLarge
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, requestError(http.StatusRequestTimeout, "the body took too long")
	case err != nil:
		return nil, requestError(http.StatusBadRequest, "the body is malformed or incomplete")
	}
	_ = connection.SetReadDeadline(time.Time{})
	response.unread = false
	return body, nil
}

func (a *App) root(w *response, _ *Request) error {
	w.sendJSON(http.StatusOK, "server", "go", "phase", a.lifecycle.Phase().String())
	return nil
}

// slow is a request that takes its time. A client that leaves ends the wait. rule: client-gone-releases
func (a *App) slow(w *response, r *Request) error {
	delay, err := seconds(r, "delay", "1", maxSlow)
	if err != nil {
		return err
	}
	if err := wait(r, delay); err != nil {
		return err
	}
	w.sendJSON(http.StatusOK, "slept", delay.Seconds())
	return nil
}

func (a *App) echo(w *response, r *Request) error {
	contentType := r.Header.Get("Content-Type")
	if contentType == "" {
		contentType = "application/octet-stream"
	}
	w.send(http.StatusOK, contentType, r.Body)
	return nil
}

func (a *App) bytes(w *response, r *Request) error {
	size, err := integer(r, "size", 1024, 0, maxBytes)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.Itoa(size))
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodHead {
		return nil
	}
	for block := [64 << 10]byte{}; size > 0; size -= min(size, len(block)) {
		if _, err := w.Write(block[:min(size, len(block))]); err != nil {
			return errClientLeft
		}
	}
	return nil
}

// stream is finite: it ends by itself, and a shutdown waits for that. rule: response-untruncated
func (a *App) stream(w *response, r *Request) error {
	chunks, chunksErr := integer(r, "chunks", 10, 1, maxChunks)
	interval, intervalErr := seconds(r, "interval", "0.1", maxInterval)
	if chunksErr != nil || intervalErr != nil {
		return cmp.Or(chunksErr, intervalErr)
	}
	w.Header().Set("Content-Type", "text/plain")
	w.WriteHeader(http.StatusOK)
	for number := range chunks {
		if r.Method == http.MethodHead {
			break
		}
		if number > 0 {
			if err := wait(r, interval); err != nil {
				return err
			}
		}
		fmt.Fprintf(w, "chunk %d\n", number)
		w.flush()
	}
	return nil
}

// events has no end of its own: returning, when the listener closes, sends the final chunk.
// rule: endless-stream-ends
func (a *App) events(w *response, r *Request) error {
	w.Header().Set("Content-Type", "text/event-stream")
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for number := 0; ; number++ {
		fmt.Fprintf(w, "data: %d\n\n", number)
		w.flush()
		select {
		case <-ticker.C:
		case <-a.lifecycle.ListenerClosed():
			return nil
		case <-r.Context().Done():
			return errClientLeft
		}
	}
}

// live says that a restart would not help; a shutdown is no reason for one. rule: liveness-stays
func (a *App) live(w *response, _ *Request) error {
	w.sendJSON(http.StatusOK, "phase", a.lifecycle.Phase().String())
	return nil
}

func (a *App) ready(w *response, _ *Request) error {
	status := http.StatusOK
	if !a.lifecycle.IsReady() {
		status = http.StatusServiceUnavailable
	}
	w.sendJSON(status, "phase", a.lifecycle.Phase().String())
	return nil
}

func (a *App) metrics(w *response, _ *Request) error {
	inFlight, states := a.registry.Count()
	text := fmt.Appendf(nil, "# TYPE http_requests_in_flight gauge\nhttp_requests_in_flight %d\n", inFlight)
	text = append(text, "# TYPE http_connections gauge\n"...)
	for _, state := range []ConnectionState{ConnectionUnused, ConnectionActive, ConnectionIdle} {
		text = fmt.Appendf(text, "http_connections{state=%q} %d\n", state, states[state])
	}
	text = append(text, "# TYPE lifecycle_phase gauge\n"...)
	text = fmt.Appendf(text, "lifecycle_phase{phase=%q} 1\n", a.lifecycle.Phase())
	text = append(text, "# TYPE log_lines_dropped_total counter\n"...)
	for _, stream := range []*stream{stdout, stderr} {
		text = fmt.Appendf(text, "log_lines_dropped_total{stream=%q} %d\n", stream.name, stream.dropped.Load())
	}
	w.send(http.StatusOK, "text/plain; version=0.0.4", text)
	return nil
}

// prestop takes the server out of rotation and answers when traffic has had time to go elsewhere. It stops
// nothing: the signal comes from whoever called. rule: prestop-waits, prestop-keeps-process
func (a *App) prestop(w *response, r *Request) error {
	select {
	case <-a.lifecycle.BeginLameDuck("prestop"): // rule: lame-duck-serves
		w.sendJSON(http.StatusOK, "phase", a.lifecycle.Phase().String())
		return nil
	case <-r.Context().Done():
		return errClientLeft
	}
}

// wait ends the handler where the client has left.
func wait(r *Request, delay time.Duration) error {
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-r.Context().Done():
		return errClientLeft
	}
}

// response adds what belongs to every head.
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

// WriteHeader sends a head, with what belongs to every one at the last moment: the phase may have changed since the
// request came.
func (r *response) WriteHeader(status int) {
	r.begun = true
	r.Header().Set("X-Instance-Id", r.app.instance)
	// net/http hides whether a chunked request had a Content-Length, too, after which a connection must not be used
	// again (RFC 9112, 6.1), and reads no coding in HTTP/1.0.
	// It reads no further request once Connection is close. rule: pipelined-in-order
	if r.app.lifecycle.Stopping() || r.request.TransferEncoding != nil || !r.request.ProtoAtLeast(1, 1) {
		r.Header().Set("Connection", "close")
	}
	ids := r.request.Header.Values("X-Request-Id")
	if status < 400 && len(ids) == 1 && requestID.MatchString(ids[0]) {
		LogEvent("executed", "request_id", ids[0])
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

func (r *response) flush() {
	_ = http.NewResponseController(r).Flush()
}

func (r *response) send(status int, contentType string, body []byte) {
	r.Header().Set("Content-Type", contentType)
	r.Header().Set("Content-Length", strconv.Itoa(len(body)))
	r.WriteHeader(status)
	_, _ = r.Write(body) // of HEAD net/http drops it
}

func (r *response) sendJSON(status int, fields ...any) {
	r.send(status, "application/json", encode(fields))
}

// fail answers with what ended the handler. Where nobody is left, or a response has begun, it must not look complete.
func (r *response) fail(err error) {
	var rejection *RequestError
	if !errors.As(err, &rejection) || r.begun {
		panic(http.ErrAbortHandler)
	}
	if r.unread { // net/http would wait for the rest, also after the response: Close discards it
		r.Header().Set("Connection", "close")
		_ = http.NewResponseController(r).SetReadDeadline(time.Now())
	}
	for i := 0; i+1 < len(rejection.fields); i += 2 {
		r.Header().Set(rejection.fields[i], rejection.fields[i+1])
	}
	r.sendJSON(rejection.status, "error", rejection.reason)
}

// find returns the route of a request, or how to reject it. HEAD is answered wherever GET is, but where a client would
// wait for ever.
func find(routes []route, request *http.Request) (route, error) {
	var allowed []string
	path := request.URL.Path
	if path == "" && request.URL.Host != "" {
		path = "/" // the absolute form may have none
	}
	for _, candidate := range routes {
		if candidate.path != path {
			continue
		}
		hasHead := candidate.method == http.MethodGet && candidate.limit != LimitStreams
		if candidate.method == request.Method || hasHead && request.Method == http.MethodHead {
			return candidate, nil
		}
		allowed = append(allowed, candidate.method)
		if hasHead {
			allowed = append(allowed, http.MethodHead)
		}
	}
	if allowed == nil {
		return route{}, requestError(http.StatusNotFound, "no such path")
	}
	return route{}, requestError(http.StatusMethodNotAllowed, "method not allowed", "Allow", strings.Join(allowed, ", "))
}

// parameter is a value of the query, or the fallback. What is malformed net/http would leave out.
func parameter(r *Request, name, fallback string) (string, error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return "", requestError(http.StatusBadRequest, "the query is malformed")
	}
	return cmp.Or(query.Get(name), fallback), nil
}

func seconds(r *Request, name, fallback string, limit float64) (time.Duration, error) {
	text, err := parameter(r, name, fallback)
	if err != nil {
		return 0, err
	}
	value, ok := parseSeconds(text, limit)
	if !ok {
		reason := fmt.Sprintf("%s: %q is not decimal seconds from 0 to %g", name, text, limit)
		return 0, requestError(http.StatusUnprocessableEntity, reason)
	}
	return value, nil
}

func integer(r *Request, name string, fallback, low, high int) (int, error) {
	text, err := parameter(r, name, strconv.Itoa(fallback))
	if err != nil {
		return 0, err
	}
	value, ok := parseInteger(text, low, high)
	if !ok {
		reason := fmt.Sprintf("%s: %q is not an integer from %d to %d", name, text, low, high)
		return 0, requestError(http.StatusUnprocessableEntity, reason)
	}
	return value, nil
}

var requestID = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)
