// The log: events on standard output, errors on standard error. It never makes anybody wait: lines go to a queue, a
// goroutine writes them, and where nobody reads what does not fit is dropped and counted.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	logQueue     = 10_000                 // lines that wait, for each stream
	flushTimeout = 500 * time.Millisecond // for both streams together
)

// entry is a line, or somebody who wants to know that all before it are written.
type entry struct {
	line    []byte
	written chan struct{}
}

// stream is a file that is written by one goroutine, which alone may have to wait for a reader.
type stream struct {
	name    string
	lines   chan entry
	dropped atomic.Int64
}

func newStream(name string, file io.Writer, sayDropped func(lines int64) []byte) *stream {
	s := &stream{name: name, lines: make(chan entry, logQueue)}
	go s.writeLines(file, sayDropped)
	return s
}

func (s *stream) enqueue(line []byte) {
	select {
	case s.lines <- entry{line: line}:
	default:
		s.dropped.Add(1)
	}
}

func (s *stream) writeLines(file io.Writer, sayDropped func(lines int64) []byte) {
	said, gone := int64(0), false
	for entry := range s.lines {
		if entry.written != nil {
			close(entry.written)
			continue
		}
		if dropped := s.dropped.Load(); dropped > said && !gone {
			_, _ = file.Write(sayDropped(dropped - said))
			said = dropped
		}
		if gone {
			s.dropped.Add(1)
		} else if _, err := file.Write(entry.line); err != nil {
			s.dropped.Add(1)
			gone = errors.Is(err, syscall.EPIPE) // a reader that left is no reason to lose a request
		}
	}
}

var (
	stdout = newStream("stdout", os.Stdout, func(lines int64) []byte { return encode([]any{"event", "dropped", "lines", lines}) })
	stderr = newStream("stderr", os.Stderr, func(lines int64) []byte { return fmt.Appendf(nil, "%d lines were dropped\n", lines) })
)

// LogEvent logs one JSON object: the event, then names and values in turn. rule: log-holds-nothing
func LogEvent(event string, fields ...any) {
	stdout.enqueue(encode(append([]any{"event", event}, fields...)))
}

// LogError logs a line for people.
func LogError(text string) {
	stderr.enqueue([]byte(strings.TrimSuffix(text, "\n") + "\n"))
}

// ErrorWriter takes what net/http has to say.
type ErrorWriter struct{}

func (ErrorWriter) Write(line []byte) (int, error) {
	LogError(string(line))
	return len(line), nil
}

// Flush waits until all that was logged is written, but not long.
func Flush() {
	deadline := time.After(flushTimeout)
	for _, stream := range []*stream{stdout, stderr} {
		written := make(chan struct{})
		select {
		case stream.lines <- entry{written: written}:
		case <-deadline:
			return
		}
		select {
		case <-written:
		case <-deadline:
			return
		}
	}
}

// encode writes names and values, in their order, as one line of JSON.
func encode(fields []any) []byte {
	line := append(make([]byte, 0, 128), '{')
	for i := 0; i+1 < len(fields); i += 2 {
		line = append(line, '"')
		line = append(line, fields[i].(string)...) // ours: nothing to escape
		line = append(line, `":`...)
		if text, ok := fields[i+1].(string); ok && !strings.ContainsFunc(text, needsEscape) { // the hot path
			line = append(line, '"')
			line = append(line, text...)
			line = append(line, '"')
		} else if value, err := json.Marshal(fields[i+1]); err == nil {
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
