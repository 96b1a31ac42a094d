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
	"fmt"
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
	// From here on a signal waits in the channel instead of killing us. rule: startup-signal-ends-process
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	signal.Ignore(syscall.SIGPIPE) // whoever read our log may be gone before we are

	config, err := LoadConfig(os.LookupEnv)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	settings := NewSettings(config, os.LookupEnv)
	registry := NewRegistry(settings)
	lifecycle := NewLifecycle(LogEvent, func() time.Duration { return settings.Now().ShutdownDelay })

	tcp, err := listen(config.Host, config.Port)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	admin, err := listen(config.AdminHost, config.AdminPort)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}

	listener := NewListener(tcp, registry)
	app := &App{Settings: settings, Lifecycle: lifecycle, Registry: registry, Instance: newInstance()}
	server := newServer(config, app.Handler())
	server.ConnState = registry.Follow
	server.ConnContext = WithConnection
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(listener) // returns, and closes the listener, once the accept queue is empty
	}()
	adminServer := newServer(config, app.AdminHandler())
	adminServer.ReadHeaderTimeout = config.HeaderTimeout
	go func() { _ = adminServer.Serve(admin) }()

	lifecycle.Ready()
	LogEvent("listening", Field{"port", port(tcp)}, Field{"admin_port", port(admin)},
		Field{"pid", os.Getpid()}, Field{"instance", app.Instance})

	return lifecycle.Run(signals, Steps{
		DrainTimeout: func() time.Duration { return settings.Now().DrainTimeout },
		CloseListener: func() []Field {
			emptied, filtered := listener.EmptyAcceptQueue(served)
			registry.BeginDrain()
			return []Field{{"emptied", emptied}, {"filtered", filtered}}
		},
		Drained:     registry.Drained(),
		CutInFlight: registry.CutInFlight,
		// The admin listener answers liveness to the end, so it is released last.
		Release: []ReleaseStep{{Name: "admin", Timeout: time.Second, Run: func(context.Context) error {
			app.Prestops.Lock() // until those that waited for the same delay as we did have their answer
			return adminServer.Close()
		}}},
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

func newServer(config Config, handler http.Handler) *http.Server {
	return &http.Server{
		Handler:                      handler,
		IdleTimeout:                  config.KeepAliveTimeout,
		MaxHeaderBytes:               maxHeadBytes - 4096, // net/http adds as much
		DisableGeneralOptionsHandler: true,                // "OPTIONS *" is ours to answer too
	}
}

func reload(settings *Settings) {
	changed, err := settings.Reload() // rule: hup-keeps-serving
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		LogEvent("reload_failed", Field{"reason", err.Error()})
		return
	}
	LogEvent("reloaded", Field{"changed", changed})
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
