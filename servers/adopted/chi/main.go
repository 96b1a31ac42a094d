// A chi service on net/http, stopped by lifecycle.go. That file and log.go are links to the reference's, as they are;
// what the service does is in routes.go.
//
// Server.Shutdown closes idle connections together with the listener, and for 5 s takes a connection that has sent
// nothing for one that will: so the listener is closed before it, alone, and the unused ones beside it.
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

var instance = rand.Text()

// Read at the start: what is wrong must not show in the middle of a drain.
var (
	shutdownDelay    = seconds("SHUTDOWN_DELAY", 0)
	drainTimeout     = seconds("DRAIN_TIMEOUT", 30)
	idleLinger       = seconds("IDLE_LINGER", 1)
	headerTimeout    = seconds("HEADER_TIMEOUT", 10)
	bodyTimeout      = seconds("BODY_TIMEOUT", 30)
	keepAliveTimeout = seconds("KEEP_ALIVE_TIMEOUT", 75)
	maxInFlight      = int64(number("MAX_IN_FLIGHT", 100))
)

func main() {
	signals := NewSignals()
	signal.Ignore(syscall.SIGPIPE) // whoever reads the log may be gone before we are
	lifecycle := NewLifecycle(LogEvent, func() time.Duration { return shutdownDelay })
	var inFlight atomic.Int64
	var open sync.WaitGroup // connections
	var unused sync.Map     // those that have not sent a byte
	server := &http.Server{
		Handler:           routes(lifecycle, &inFlight),
		ErrorLog:          log.New(ErrorWriter{}, "", 0),
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       keepAliveTimeout,
		ConnState: func(connection net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				open.Add(1)
				unused.Store(connection, nil)
			case http.StateActive:
				unused.Delete(connection)
			case http.StateClosed, http.StateHijacked:
				unused.Delete(connection)
				open.Done()
			}
		},
	}
	admin := &http.Server{Handler: adminRoutes(lifecycle, &inFlight)}
	listener, adminListener := listen("HOST", "PORT", 8080), listen("ADMIN_HOST", "ADMIN_PORT", 9090)
	served, drained := make(chan struct{}), make(chan struct{})
	go func() {
		err := server.Serve(listener)
		close(served)
		if !errors.Is(err, net.ErrClosed) {
			lifecycle.Fail(err.Error())
		}
	}()
	go func() {
		if err := admin.Serve(adminListener); !errors.Is(err, http.ErrServerClosed) {
			lifecycle.Fail(err.Error())
		}
	}()
	lifecycle.Ready()
	LogEvent("listening", "port", port(listener), "admin_port", port(adminListener), "pid", os.Getpid(), "instance", instance)

	linger := func() {
		none := make(chan struct{})
		go func() {
			open.Wait()
			close(none)
		}()
		select {
		case <-none:
		case <-time.After(idleLinger):
			unused.Range(func(connection, _ any) bool {
				_ = connection.(net.Conn).Close()
				return true
			})
			_ = server.Shutdown(context.Background()) // from here on idle ones end
		}
		close(drained)
	}
	status := lifecycle.Run(signals, Steps{
		DrainTimeout: func() time.Duration { return drainTimeout },
		CloseListener: func() error {
			err := listener.Close()
			<-served // what has been accepted is known by now
			go linger()
			return err
		},
		Drained: drained,
		CutInFlight: func() int {
			cut := inFlight.Load()
			_ = server.Close()
			return int(cut)
		},
		Release: []ReleaseStep{ // the admin server behind whatever else there is to release
			{Name: "admin", Timeout: time.Second, Run: func(ctx context.Context) error {
				// A little for the answer to a /prestop, which waited for the same delay as we did.
				ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
				defer cancel()
				_ = admin.Shutdown(ctx)
				return nil
			}},
		},
		Reload: func() {},
	})
	Flush()
	os.Exit(status)
}

func listen(host, port string, fallback int) net.Listener {
	listener, err := net.Listen("tcp", net.JoinHostPort(env(host, "127.0.0.1"), env(port, strconv.Itoa(fallback))))
	if err != nil {
		exit(err)
	}
	return listener
}

func port(listener net.Listener) int {
	return listener.Addr().(*net.TCPAddr).Port
}

func seconds(variable string, fallback float64) time.Duration {
	return time.Duration(number(variable, fallback) * float64(time.Second))
}

func number(variable string, fallback float64) float64 {
	value, err := strconv.ParseFloat(env(variable, strconv.FormatFloat(fallback, 'f', -1, 64)), 64)
	if err != nil {
		exit(fmt.Errorf("%s: %w", variable, err))
	}
	return value
}

func env(name, fallback string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return fallback
}

func exit(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
