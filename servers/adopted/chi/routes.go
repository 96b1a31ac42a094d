// What the service does. Of the shutdown it knows the phase, and that endless streams end.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-chi/chi/v5"
)

const maxBytes = 64 << 20 // of a response

func routes(lifecycle *Lifecycle, inFlight *atomic.Int64) http.Handler {
	router := chi.NewRouter()
	router.Use(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w = &response{ResponseWriter: w, lifecycle: lifecycle}
			defer inFlight.Add(-1)
			if inFlight.Add(1) > maxInFlight && !strings.HasPrefix(r.URL.Path, "/health") {
				w.Header().Set("Retry-After", "1")
				sendJSON(w, http.StatusTooManyRequests, map[string]any{"error": "too many requests"})
				return
			}
			next.ServeHTTP(w, r)
		})
	})
	health(router, lifecycle)
	router.Get("/", root)
	router.Get("/slow", slow)
	router.Post("/echo", echo)
	router.Get("/bytes", bytes)
	router.Get("/stream", chunks)
	router.Get("/events", func(w http.ResponseWriter, r *http.Request) { events(w, r, lifecycle.ListenerClosed()) })
	return router
}

func adminRoutes(lifecycle *Lifecycle, inFlight *atomic.Int64) http.Handler {
	router := chi.NewRouter()
	health(router, lifecycle)
	router.Get("/metrics", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintf(w, "http_requests_in_flight %d\n", inFlight.Load())
	})
	router.HandleFunc("/prestop", func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-lifecycle.BeginLameDuck("prestop"):
			sendJSON(w, http.StatusOK, map[string]any{"phase": lifecycle.Phase().String()})
		case <-r.Context().Done():
		}
	})
	return router
}

func health(router chi.Router, lifecycle *Lifecycle) {
	router.Get("/health/live", func(w http.ResponseWriter, _ *http.Request) {
		sendJSON(w, http.StatusOK, map[string]any{"phase": lifecycle.Phase().String()})
	})
	ready := func(w http.ResponseWriter, _ *http.Request) {
		status := http.StatusOK
		if !lifecycle.IsReady() {
			status = http.StatusServiceUnavailable
		}
		sendJSON(w, status, map[string]any{"phase": lifecycle.Phase().String()})
	}
	router.Get("/health", ready)
	router.Get("/health/ready", ready)
}

// response says "Connection: close" where the service is stopping when it begins, not when its request came.
type response struct {
	http.ResponseWriter
	lifecycle *Lifecycle
	begun     bool
}

func (r *response) WriteHeader(status int) {
	r.begun = true
	r.Header().Set("X-Instance-Id", instance)
	if r.lifecycle.Stopping() {
		r.Header().Set("Connection", "close")
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *response) Write(data []byte) (int, error) {
	if !r.begun {
		r.WriteHeader(http.StatusOK)
	}
	return r.ResponseWriter.Write(data)
}

// Unwrap is for http.ResponseController.
func (r *response) Unwrap() http.ResponseWriter {
	return r.ResponseWriter
}

func root(w http.ResponseWriter, _ *http.Request) {
	sendJSON(w, http.StatusOK, map[string]any{"server": "chi"})
}

func slow(w http.ResponseWriter, r *http.Request) {
	delay := query(r, "delay", 1, 600)
	select {
	case <-time.After(time.Duration(delay * float64(time.Second))):
		sendJSON(w, http.StatusOK, map[string]any{"slept": delay})
	case <-r.Context().Done(): // the client has left
	}
}

func echo(w http.ResponseWriter, r *http.Request) {
	connection := http.NewResponseController(w)
	_ = connection.SetReadDeadline(time.Now().Add(bodyTimeout))
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	_ = connection.SetReadDeadline(time.Time{})
	w.Header().Set("Content-Type", r.Header.Get("Content-Type"))
	_, _ = w.Write(body)
}

func bytes(w http.ResponseWriter, r *http.Request) {
	size := int(query(r, "size", 1024, maxBytes))
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.Itoa(size))
	_, _ = w.Write(make([]byte, size))
}

func chunks(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain")
	for chunk := range int(query(r, "chunks", 10, 10_000)) {
		if chunk > 0 {
			time.Sleep(time.Duration(query(r, "interval", 0.1, 60) * float64(time.Second)))
		}
		_, _ = fmt.Fprintf(w, "chunk %d\n", chunk)
		_ = http.NewResponseController(w).Flush()
	}
}

func events(w http.ResponseWriter, r *http.Request, over <-chan struct{}) {
	w.Header().Set("Content-Type", "text/event-stream")
	for event := 0; ; event++ {
		_, _ = fmt.Fprintf(w, "data: %d\n\n", event)
		_ = http.NewResponseController(w).Flush()
		select {
		case <-time.After(time.Second):
		case <-over:
			return
		case <-r.Context().Done():
			return
		}
	}
}

func sendJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

// query is a number that the client asks for, within bounds.
func query(r *http.Request, name string, fallback, most float64) float64 {
	value, err := strconv.ParseFloat(r.URL.Query().Get(name), 64)
	if err != nil || !(value >= 0) { // nor NaN
		return fallback
	}
	return min(value, most)
}
