package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The tests run this very binary as the server, so that signals and exit statuses are real.
func TestMain(m *testing.M) {
	if os.Getenv("RUN_AS_SERVER") != "" {
		os.Exit(run())
	}
	os.Exit(m.Run())
}

const patience = 10 * time.Second // a failing test's; a passing one waits for events

type child struct {
	t           *testing.T
	command     *exec.Cmd
	port, admin int
	events      chan map[string]any
	stderr      strings.Builder
	seen        []string
}

func command(environment ...string) *exec.Cmd {
	command := exec.Command(os.Args[0])
	command.Env = append(os.Environ(), "RUN_AS_SERVER=1", "PORT=0", "ADMIN_PORT=0")
	command.Env = append(command.Env, environment...)
	return command
}

func start(t *testing.T, environment ...string) *child {
	t.Helper()
	c := &child{t: t, command: command(environment...), events: make(chan map[string]any, 1000)}
	c.command.Stderr = &c.stderr
	stdout, err := c.command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.command.Process.Kill() })
	go func() {
		defer close(c.events)
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			event := map[string]any{}
			if err := json.Unmarshal(lines.Bytes(), &event); err != nil {
				t.Errorf("not JSON: %s", lines.Text())
			}
			c.events <- event
		}
	}()
	listening := c.await("listening")
	c.port, c.admin = int(listening["port"].(float64)), int(listening["admin_port"].(float64))
	return c
}

// await returns the next event of that name.
func (c *child) await(name string) map[string]any {
	c.t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case event, open := <-c.events:
			if !open {
				c.t.Fatalf("the process ended before %q, after %v, saying %s", name, c.seen, &c.stderr)
			}
			c.seen = append(c.seen, event["event"].(string))
			if event["event"] == name {
				return event
			}
		case <-timeout:
			c.t.Fatalf("no event %q after %v", name, c.seen)
		}
	}
}

func (c *child) signal(signal syscall.Signal) {
	c.t.Helper()
	if err := c.command.Process.Signal(signal); err != nil {
		c.t.Fatal(err)
	}
}

// ends reads the events to the last, and checks the status in it and the one of the process.
func (c *child) ends(status int) {
	c.t.Helper()
	if exit := c.await("exit"); int(exit["status"].(float64)) != status {
		c.t.Errorf("exit event %v, expected %d, after %v", exit, status, c.seen)
	}
	if event, more := <-c.events; more {
		c.t.Errorf("%v after exit", event)
	}
	_ = c.command.Wait()
	if code := c.command.ProcessState.ExitCode(); code != status {
		c.t.Errorf("exit status %d, expected %d: %s", code, status, &c.stderr)
	}
}

func (c *child) dial(port int) *client {
	c.t.Helper()
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return &client{c.t, conn, bufio.NewReader(conn)}
}

// busy opens a request and returns when the server counts it as in flight.
func (c *child) busy(path string) *client {
	c.t.Helper()
	client := c.dial(c.port)
	client.send("GET " + path + " HTTP/1.1\r\nHost: x\r\n\r\n")
	for begun := time.Now(); time.Since(begun) < patience; time.Sleep(5 * time.Millisecond) {
		metrics := c.dial(c.admin)
		metrics.send("GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		if _, text := metrics.response(); strings.Contains(text, "http_requests_in_flight 1\n") {
			return client
		}
	}
	c.t.Fatal("the request did not come to be in flight")
	return nil
}

type client struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
}

func (c *client) send(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c.conn, text); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) response() (*http.Response, string) {
	c.t.Helper()
	response, err := http.ReadResponse(c.in, nil)
	if err != nil {
		c.t.Fatalf("no response: %v", err)
	}
	body, err := io.ReadAll(response.Body)
	if err != nil {
		c.t.Fatalf("a response cut short: %v", err)
	}
	return response, string(body)
}

func (c *client) expect(status int) *http.Response {
	c.t.Helper()
	response, body := c.response()
	if response.StatusCode != status {
		c.t.Errorf("%d %s, expected %d", response.StatusCode, body, status)
	}
	return response
}

// expectFIN fails on a reset and on any further byte.
func (c *client) expectFIN() {
	c.t.Helper()
	if data, err := io.ReadAll(c.in); err != nil || len(data) > 0 {
		c.t.Errorf("%q, %v, expected FIN", data, err)
	}
}

func TestBadConfigurationEndsWith2(t *testing.T) {
	output, err := command("MAX_IN_FLIGHT=many").CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 2 {
		t.Errorf("%v, expected exit status 2", err)
	}
	if text := string(output); strings.Count(text, "\n") != 1 || !strings.Contains(text, `MAX_IN_FLIGHT: "many"`) {
		t.Errorf("expected one line that names variable and value: %s", text)
	}
}

func TestLimits(t *testing.T) {
	server := start(t, "MAX_BODY_BYTES=10", "BODY_TIMEOUT=0.2")
	for _, test := range []struct {
		name, request string
		status        int
		closes        bool
	}{
		{"404", "GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n", 404, false},
		{"404 on the traffic port", "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", 404, false},
		{"405", "DELETE /echo HTTP/1.1\r\nHost: x\r\n\r\n", 405, false},
		{"422", "GET /slow?delay=soon HTTP/1.1\r\nHost: x\r\n\r\n", 422, false},
		{"422 above the limit", "GET /bytes?size=268435457 HTTP/1.1\r\nHost: x\r\n\r\n", 422, false},
		{"413 as declared", "POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 11\r\n\r\n", 413, true},
		{"413 as sent", "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n01234567890\r\n", 413, true},
		{"408", "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhell", 408, true},
		{"431", "GET / HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", maxHeadBytes) + "\r\n\r\n", 431, true},
		{"400", "GET / HTTP/1.1\r\n\r\n", 400, true},
		{"a head just below the limit", "GET / HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", maxHeadBytes-100) + "\r\n\r\n", 200, false},
		{"a body at the limit", "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n0123456789", 200, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			client := server.dial(server.port)
			client.t = t
			client.send(test.request)
			response := client.expect(test.status)
			if test.status == 405 && response.Header.Get("Allow") != "POST" {
				t.Error("405 without Allow")
			}
			if response.Close != test.closes {
				t.Errorf("Connection: close is %v", response.Close)
			}
			if test.closes {
				client.expectFIN()
			} else {
				client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
				client.expect(200)
			}
		})
	}
	server.signal(syscall.SIGTERM)
	server.ends(0)
}

func TestOverloadSheds(t *testing.T) {
	server := start(t, "MAX_IN_FLIGHT=1")
	slow := server.busy("/slow?delay=2")
	other := server.dial(server.port)
	other.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if response := other.expect(429); response.Header.Get("Retry-After") == "" {
		t.Error("429 without Retry-After")
	}
	other.send("GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
	other.expect(200)
	// The body of a request that is shed may never come: it must not hold the connection.
	other.send("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n")
	other.expect(429)
	other.expectFIN()
	server.signal(syscall.SIGTERM)
	slow.expect(200)
	server.ends(0)
}

func TestTooManyConnections(t *testing.T) {
	server := start(t, "MAX_CONNECTIONS=1")
	first := server.dial(server.port)
	first.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	first.expect(200)
	second := server.dial(server.port)
	second.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	second.expect(503)
	second.expectFIN()
}

func TestInFlightFinishesAndIdleGetsFIN(t *testing.T) {
	server := start(t, "IDLE_LINGER=0.2")
	idle, unused := server.dial(server.port), server.dial(server.port)
	idle.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	idle.expect(200)
	slow := server.busy("/slow?delay=1")
	server.signal(syscall.SIGTERM)
	idle.expectFIN()
	unused.expectFIN()
	if response := slow.expect(200); !response.Close {
		t.Error("no Connection: close")
	}
	server.ends(0)
}

func TestIdleConnectionIsClosedInTime(t *testing.T) {
	server := start(t, "KEEP_ALIVE_TIMEOUT=0.5")
	client := server.dial(server.port)
	for _, delay := range []string{"0.2", "0.4", "0.7"} { // in all far longer than a connection may be idle
		client.send("GET /slow?delay=" + delay + " HTTP/1.1\r\nHost: x\r\n\r\n")
		client.expect(200)
	}
	began := time.Now()
	client.expectFIN()
	if idle := time.Since(began); idle < 450*time.Millisecond || idle > 3*time.Second {
		t.Errorf("closed after %v", idle)
	}
}

func TestLateRequestsAreAnswered(t *testing.T) {
	server := start(t, "IDLE_LINGER=5")
	late, unused, begun := server.dial(server.port), server.dial(server.port), server.dial(server.port)
	late.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	late.expect(200)
	begun.send("GET / HTTP/1.1\r\nHost: x\r\n\r\nGET /slow?delay=0")
	begun.expect(200)
	server.signal(syscall.SIGTERM)
	server.await("listener_closed")
	late.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	late.expect(200)
	unused.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	unused.expect(200)
	begun.send(" HTTP/1.1\r\nHost: x\r\n\r\n")
	begun.expect(200)
	server.ends(0)
}

func TestPipelinedRequestIsNotIdle(t *testing.T) {
	server := start(t, "IDLE_LINGER=0")
	client := server.dial(server.port)
	client.send("GET /stream?chunks=2&interval=1 HTTP/1.1\r\nHost: x\r\n\r\nGET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
	if _, err := client.in.Peek(1); err != nil { // its head did not say close
		t.Fatal(err)
	}
	server.signal(syscall.SIGTERM)
	client.expect(200)
	if response := client.expect(200); !response.Close {
		t.Error("no Connection: close")
	}
	client.expectFIN()
	server.ends(0)
}

func TestDeadlineCutsAndSaysSo(t *testing.T) {
	server := start(t, "DRAIN_TIMEOUT=0.3", "IDLE_LINGER=0")
	slow := server.busy("/slow?delay=60")
	half := server.dial(server.port)
	half.send("GET / HT") // no cut
	server.signal(syscall.SIGTERM)
	if _, err := slow.in.ReadByte(); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%v, expected a reset", err)
	}
	if cut := server.await("cut"); cut["requests"] != 1.0 {
		t.Errorf("%v", cut)
	}
	server.ends(1)
}

func TestHalfAHeadIsNoCut(t *testing.T) {
	server := start(t, "DRAIN_TIMEOUT=0.3", "IDLE_LINGER=0.1")
	half := server.dial(server.port)
	half.send("GET / HT")
	server.signal(syscall.SIGINT)
	half.expectFIN()
	server.ends(0)
}

func TestSecondSignalExits(t *testing.T) {
	server := start(t)
	server.busy("/slow?delay=60")
	server.signal(syscall.SIGTERM)
	server.await("listener_closed")
	server.signal(syscall.SIGINT)
	server.ends(128 + int(syscall.SIGINT))
}

func TestHangUpReloads(t *testing.T) {
	path := configFile(t, "")
	server := start(t, "CONFIG_FILE="+path)
	slow := server.busy("/slow?delay=2")

	write(t, path, "MAX_IN_FLIGHT=1\n")
	server.signal(syscall.SIGHUP)
	if event := server.await("reloaded"); fmt.Sprint(event["changed"]) != "[MAX_IN_FLIGHT]" {
		t.Errorf("%v", event)
	}
	other := server.dial(server.port)
	other.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	other.expect(429)

	write(t, path, "MAX_IN_FLIGHT=0\n")
	server.signal(syscall.SIGHUP)
	server.await("reload_failed")
	other.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	other.expect(429)

	server.signal(syscall.SIGTERM)
	slow.expect(200)
	server.ends(0)
}

func TestPrestopTwiceThenTerm(t *testing.T) {
	server := start(t, "SHUTDOWN_DELAY=2")
	first, second := server.dial(server.admin), server.dial(server.admin)
	first.send("GET /prestop HTTP/1.1\r\nHost: x\r\n\r\n")
	if event := server.await("not_ready"); event["reason"] != "prestop" {
		t.Errorf("%v", event)
	}
	second.send("POST /prestop HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
	probe := server.dial(server.port)
	probe.send("GET /health/ready HTTP/1.1\r\nHost: x\r\n\r\n")
	probe.expect(503)
	server.signal(syscall.SIGTERM)
	server.await("signal")
	duck := server.dial(server.port)
	duck.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if response := duck.expect(200); !response.Close {
		t.Error("no Connection: close")
	}
	first.expect(200)
	second.expect(200)
	server.ends(0)
	for _, event := range server.seen[2:] { // after listening and not_ready
		if event == "not_ready" {
			t.Error("not_ready twice: the delay must not start again")
		}
	}
}
