package main

import (
	"io"
	"syscall"
	"testing"
	"time"
)

func TestStreamsHaveALimitOfTheirOwn(t *testing.T) {
	server := start(t, "MAX_IN_FLIGHT=1", "MAX_STREAMS=1")
	endless := server.busy("/events")
	other := server.dial(server.port)
	other.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	other.expect(200)
	other.send("GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
	if response := other.expect(429); response.Header.Get("Retry-After") == "" {
		t.Error("429 without Retry-After")
	}
	server.signal(syscall.SIGTERM)
	endless.expect(200)
	server.ends(0)
}

func TestAClientThatReadsNothingIsReset(t *testing.T) {
	server := start(t, "MAX_IN_FLIGHT=1", "WRITE_TIMEOUT=0.5")
	deaf := server.busy("/bytes?size=100000000")
	for begun := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		other := server.dial(server.port)
		other.send("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		if response, _ := other.response(); response.StatusCode == 200 {
			break
		}
		if time.Since(begun) > patience {
			t.Fatal("the place is not free")
		}
	}
	if _, err := io.Copy(io.Discard, deaf.in); err == nil {
		t.Error("a response that was cut looks complete")
	}
	server.signal(syscall.SIGTERM)
	server.ends(0)
}
