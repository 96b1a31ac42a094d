// A chi service on net/http, stopped by lifecycle.go: that of ../../go, as it is, by a symbolic link.
package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"context"
	"crypto/rand"

	"github.com/go-chi/chi/v5"
)

var instance = rand.Text()

func main() {
	signals := NewSignals()
	lifecycle := NewLifecycle(logEvent, func() time.Duration { return seconds("SHUTDOWN_DELAY", "0") })
	var inFlight atomic.Int64

	router := chi.NewRouter()
	router.Use(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			inFlight.Add(1)
			defer inFlight.Add(-1)
			next.ServeHTTP(&head{ResponseWriter: w, lifecycle: lifecycle}, r)
		})
	})
	router.Get("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, `{"server":"chi"}`) })
	router.Get("/health/live", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, lifecycle.Phase()) })
	router.Get("/health/ready", func(w http.ResponseWriter, _ *http.Request) {
		if !lifecycle.IsReady() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		fmt.Fprintln(w, lifecycle.Phase())
	})
	router.Get("/slow", func(w http.ResponseWriter, r *http.Request) {
		delay, _ := strconv.ParseFloat(r.URL.Query().Get("delay"), 64)
		select {
		case <-time.After(time.Duration(delay * float64(time.Second))):
			fmt.Fprintln(w, delay)
		case <-r.Context().Done(): // the client has left
		}
	})

	listener, err := net.Listen("tcp", net.JoinHostPort(env("HOST", "127.0.0.1"), env("PORT", "8080")))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	server := &http.Server{Handler: router, ReadHeaderTimeout: 10 * time.Second}
	drained := make(chan struct{})
	go func() {
		if err := server.Serve(listener); err != http.ErrServerClosed {
			lifecycle.Fail(err.Error())
		}
	}()
	lifecycle.Ready()
	logEvent("listening", "port", listener.Addr().(*net.TCPAddr).Port, "pid", os.Getpid(), "instance", instance)

	os.Exit(lifecycle.Run(signals, Steps{
		DrainTimeout: func() time.Duration { return seconds("DRAIN_TIMEOUT", "30") },
		CloseListener: func() error {
			// Closes the listener first, but idle connections right after it, and then waits for the others.
			go func() {
				_ = server.Shutdown(context.Background())
				close(drained)
			}()
			return nil
		},
		Drained: drained,
		CutInFlight: func() int {
			cut := inFlight.Load()
			_ = server.Close()
			return int(cut)
		},
		Reload: func() {},
	}))
}

// head says "Connection: close" where the service is stopping when a response begins, not when its request came.
type head struct {
	http.ResponseWriter
	lifecycle *Lifecycle
	begun     bool
}

func (h *head) WriteHeader(status int) {
	h.begun = true
	h.Header().Set("X-Instance-Id", instance)
	if h.lifecycle.Stopping() {
		h.Header().Set("Connection", "close")
	}
	h.ResponseWriter.WriteHeader(status)
}

func (h *head) Write(data []byte) (int, error) {
	if !h.begun {
		h.WriteHeader(http.StatusOK)
	}
	return h.ResponseWriter.Write(data)
}

func logEvent(event string, fields ...any) {
	line := map[string]any{"event": event}
	for i := 0; i+1 < len(fields); i += 2 {
		line[fields[i].(string)] = fields[i+1]
	}
	_ = json.NewEncoder(os.Stdout).Encode(line)
}

func seconds(variable, fallback string) time.Duration {
	value, err := strconv.ParseFloat(env(variable, fallback), 64)
	if err != nil {
		fmt.Fprintln(os.Stderr, variable+": expected decimal seconds")
		os.Exit(2)
	}
	return time.Duration(value * float64(time.Second))
}

func env(name, fallback string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return fallback
}
