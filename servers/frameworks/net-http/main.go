// net/http, stopped by Server.Shutdown as its documentation shows it: without a deadline. The example there waits for
// SIGINT; a container is stopped by SIGTERM, so both are taken here.
//
// https://pkg.go.dev/net/http#example-Server.Shutdown
package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

var instance = rand.Text()

func main() {
	http.HandleFunc("GET /{$}", root)
	http.HandleFunc("GET /health", health)
	http.HandleFunc("GET /health/live", health)
	http.HandleFunc("GET /health/ready", health)
	http.HandleFunc("GET /slow", slow)
	http.HandleFunc("POST /echo", echo)
	http.HandleFunc("GET /bytes", bytes)
	http.HandleFunc("GET /stream", stream)
	http.HandleFunc("GET /events", events)
	server := http.Server{Handler: http.HandlerFunc(identify)}

	idleConnsClosed := make(chan struct{})
	go func() {
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
		<-stop

		if err := server.Shutdown(context.Background()); err != nil {
			log.Printf("HTTP server Shutdown: %v", err)
		}
		close(idleConnsClosed)
	}()

	// ListenAndServe in two steps, because with port 0 the port is known only between them.
	listener, err := net.Listen("tcp", net.JoinHostPort(env("HOST", "127.0.0.1"), env("PORT", "8080")))
	if err != nil {
		log.Fatal(err)
	}
	announce(listener)
	if err := server.Serve(listener); err != http.ErrServerClosed {
		log.Fatalf("HTTP server Serve: %v", err)
	}

	<-idleConnsClosed
}

func announce(listener net.Listener) {
	_ = json.NewEncoder(os.Stdout).Encode(struct {
		Event    string `json:"event"`
		Port     int    `json:"port"`
		PID      int    `json:"pid"`
		Instance string `json:"instance"`
	}{"listening", listener.Addr().(*net.TCPAddr).Port, os.Getpid(), instance})
}

func identify(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Instance-Id", instance)
	http.DefaultServeMux.ServeHTTP(w, r)
}

func root(w http.ResponseWriter, _ *http.Request) {
	sendJSON(w, map[string]any{"server": "net-http"})
}

func health(w http.ResponseWriter, _ *http.Request) {
	sendJSON(w, map[string]any{"status": "ok"})
}

func slow(w http.ResponseWriter, r *http.Request) {
	delay := number(r, "delay", 1)
	select {
	case <-time.After(seconds(delay)):
		sendJSON(w, map[string]any{"slept": delay})
	case <-r.Context().Done():
	}
}

func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", r.Header.Get("Content-Type"))
	_, _ = w.Write(body)
}

func bytes(w http.ResponseWriter, r *http.Request) {
	size := int(number(r, "size", 1024))
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.Itoa(size))
	_, _ = w.Write(make([]byte, size))
}

func stream(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain")
	for chunk := range int(number(r, "chunks", 10)) {
		if chunk > 0 {
			time.Sleep(seconds(number(r, "interval", 0.1)))
		}
		fmt.Fprintf(w, "chunk %d\n", chunk)
		w.(http.Flusher).Flush()
	}
}

func events(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	for event := 0; r.Context().Err() == nil; event++ {
		fmt.Fprintf(w, "data: %d\n\n", event)
		w.(http.Flusher).Flush()
		time.Sleep(time.Second)
	}
}

func sendJSON(w http.ResponseWriter, body any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(body)
}

func number(r *http.Request, name string, fallback float64) float64 {
	value, err := strconv.ParseFloat(r.URL.Query().Get(name), 64)
	if err != nil {
		return fallback
	}
	return value
}

func seconds(value float64) time.Duration {
	return time.Duration(value * float64(time.Second))
}

func env(name, fallback string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return fallback
}
