// A server that loses no request when it is stopped.
//
// It loads its configuration, listens, and serves until SIGTERM or SIGINT. Then readiness fails, the listener
// closes without resetting anybody, idle connections get a last chance and a FIN, requests in flight finish,
// and the process ends with a status that says whether anything was lost. lifecycle.go holds that sequence;
// everything it needs is built here and passed in.
package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"log"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	os.Exit(run())
}

func run() int {
	defer Flush()
	// One process, without children, so it comes once. rule: signal-reaches-server, group-signal-drains
	// From here on a signal waits to be received instead of killing us. rule: startup-signal-ends-process
	signals := NewSignals()
	signal.Ignore(syscall.SIGPIPE) // whoever read our log may be gone before we are

	config, err := LoadConfig(os.LookupEnv)
	if err != nil {
		LogError(err.Error())
		return 2
	}
	settings := NewSettings(config, os.LookupEnv)
	registry, adminRegistry := NewRegistry(settings), NewRegistry(settings)
	lifecycle := NewLifecycle(LogEvent, func() time.Duration { return settings.Now().ShutdownDelay })

	// The soft limit of descriptors is raised by the os package, before main.
	tcp, err := listen(config.Host, config.Port)
	if err != nil {
		LogError(err.Error())
		return 1
	}
	adminTCP, err := listen(config.AdminHost, config.AdminPort)
	if err != nil {
		LogError(err.Error())
		return 1
	}

	app := NewApp(settings, lifecycle, registry, newInstance())
	listener, adminListener := NewListener(tcp, registry), NewListener(adminTCP, adminRegistry)
	go listener.Serve(newServer(config, app.Handle), lifecycle.Fail)
	go adminListener.Serve(newServer(config, app.HandleAdmin), lifecycle.Fail)

	lifecycle.Ready()
	LogEvent("listening", "port", port(tcp), "admin_port", port(adminTCP), "pid", os.Getpid(),
		"instance", app.instance)

	return lifecycle.Run(signals, Steps{
		DrainTimeout: func() time.Duration { return settings.Now().DrainTimeout },
		CloseListener: func() error {
			queue := listener.EmptyAcceptQueue()
			registry.BeginDrain()
			LogEvent("accept_queue", "emptied", queue.Emptied, "minimum_ttl", queue.MinimumTTL,
				"half_open", queue.HalfOpen, "lost", queue.Lost)
			return queue.err
		},
		Drained:     registry.Drained(),
		CutInFlight: registry.CutInFlight,
		// The admin listener answers liveness to the end, so it is released last.
		Release: []ReleaseStep{
			{Name: "admin", Timeout: time.Second, Run: func(ctx context.Context) error {
				_ = adminListener.Close()
				defer adminRegistry.CutInFlight()
				select {
				case <-adminRegistry.Answered(): // a /prestop waited for the same delay as we did: its answer comes first
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			}},
		},
		Reload: func() { reload(settings) },
	})
}

func listen(host netip.Addr, port uint16) (*net.TCPListener, error) {
	config := net.ListenConfig{}
	config.SetMultipathTCP(false) // an MPTCP listener, Go's default, takes no minimum TTL
	listener, err := config.Listen(context.Background(), "tcp", netip.AddrPortFrom(host, port).String())
	if err != nil {
		return nil, err
	}
	return listener.(*net.TCPListener), nil
}

func newServer(config Config, handle http.HandlerFunc) *http.Server {
	return &http.Server{
		Handler:                      handle,
		ConnState:                    Follow,
		ConnContext:                  WithConnection,
		IdleTimeout:                  config.KeepAliveTimeout, // rule: keep-alive-outlasts-balancer
		MaxHeaderBytes:               maxHeadBytes - 4096,     // net/http adds as much
		DisableGeneralOptionsHandler: true,                    // "OPTIONS *" is ours to answer too
		ErrorLog:                     log.New(ErrorWriter{}, "", 0),
	}
}

func reload(settings *Settings) {
	changed, err := settings.Reload() // rule: hup-keeps-serving
	if err != nil {
		LogError(err.Error())
		LogEvent("reload_failed", "reason", err.Error())
		return
	}
	LogEvent("reloaded", "changed", changed)
}

func port(listener net.Listener) int {
	return listener.Addr().(*net.TCPAddr).Port
}

// newInstance names this process, so that a client can tell it from its successor on the same port.
func newInstance() string {
	id := make([]byte, 8)
	_, _ = rand.Read(id) // never fails
	return hex.EncodeToString(id)
}
