// Configuration: from the environment and CONFIG_FILE, validated before anything is opened.
package main

import (
	"bufio"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

type DrainPolicy string

const (
	DrainPolicyServe  DrainPolicy = "serve"
	DrainPolicyReject DrainPolicy = "reject"
)

// Lookup finds a variable: os.LookupEnv, or a table in tests.
type Lookup func(name string) (string, bool)

type Config struct {
	Host             netip.Addr
	Port             uint16
	AdminHost        netip.Addr
	AdminPort        uint16
	ShutdownDelay    time.Duration
	DrainTimeout     time.Duration
	IdleLinger       time.Duration
	DrainPolicy      DrainPolicy
	MaxInFlight      int
	MaxStreams       int
	MaxConnections   int
	MaxBodyBytes     int
	HeaderTimeout    time.Duration
	BodyTimeout      time.Duration
	WriteTimeout     time.Duration
	KeepAliveTimeout time.Duration
	CloseTimeout     time.Duration
}

func LoadConfig(lookup Lookup) (Config, error) {
	overrides, err := readConfigFile(lookup)
	if err != nil {
		return Config{}, err
	}
	values := reader{lookup: lookup, overrides: overrides}
	config := Config{
		Host:             values.address("HOST", "127.0.0.1"),
		Port:             uint16(values.count("PORT", 8080, 0, 65535)),
		AdminHost:        values.address("ADMIN_HOST", "127.0.0.1"),
		AdminPort:        uint16(values.count("ADMIN_PORT", 9090, 0, 65535)),
		ShutdownDelay:    values.duration("SHUTDOWN_DELAY", "0"),
		DrainTimeout:     values.duration("DRAIN_TIMEOUT", "30"),
		IdleLinger:       values.duration("IDLE_LINGER", "1"),
		DrainPolicy:      values.policy("DRAIN_POLICY", DrainPolicyServe),
		MaxInFlight:      values.count("MAX_IN_FLIGHT", 100, 1, 1_000_000),
		MaxStreams:       values.count("MAX_STREAMS", 100, 1, 1_000_000),
		MaxConnections:   values.count("MAX_CONNECTIONS", 10_000, 1, 1_000_000),
		MaxBodyBytes:     values.count("MAX_BODY_BYTES", 1<<20, 0, 1<<30),
		HeaderTimeout:    values.positive("HEADER_TIMEOUT", "10"),
		BodyTimeout:      values.positive("BODY_TIMEOUT", "30"),
		WriteTimeout:     values.positive("WRITE_TIMEOUT", "30"),
		KeepAliveTimeout: values.positive("KEEP_ALIVE_TIMEOUT", "75"),
		CloseTimeout:     values.positive("CLOSE_TIMEOUT", "0.5"),
	}
	if values.err == nil && config.IdleLinger > config.DrainTimeout {
		values.fail("IDLE_LINGER", values.text("IDLE_LINGER", "1"), "at most DRAIN_TIMEOUT")
	}
	return config, values.err
}

// differences returns the names of the variables that hold something else in the other one.
func (c Config) differences(other Config) (names []string) {
	for _, variable := range []struct {
		name    string
		differs bool
	}{
		{"HOST", c.Host != other.Host},
		{"PORT", c.Port != other.Port},
		{"ADMIN_HOST", c.AdminHost != other.AdminHost},
		{"ADMIN_PORT", c.AdminPort != other.AdminPort},
		{"SHUTDOWN_DELAY", c.ShutdownDelay != other.ShutdownDelay},
		{"DRAIN_TIMEOUT", c.DrainTimeout != other.DrainTimeout},
		{"IDLE_LINGER", c.IdleLinger != other.IdleLinger},
		{"DRAIN_POLICY", c.DrainPolicy != other.DrainPolicy},
		{"MAX_IN_FLIGHT", c.MaxInFlight != other.MaxInFlight},
		{"MAX_STREAMS", c.MaxStreams != other.MaxStreams},
		{"MAX_CONNECTIONS", c.MaxConnections != other.MaxConnections},
		{"MAX_BODY_BYTES", c.MaxBodyBytes != other.MaxBodyBytes},
		{"HEADER_TIMEOUT", c.HeaderTimeout != other.HeaderTimeout},
		{"BODY_TIMEOUT", c.BodyTimeout != other.BodyTimeout},
		{"WRITE_TIMEOUT", c.WriteTimeout != other.WriteTimeout},
		{"KEEP_ALIVE_TIMEOUT", c.KeepAliveTimeout != other.KeepAliveTimeout},
		{"CLOSE_TIMEOUT", c.CloseTimeout != other.CloseTimeout},
	} {
		if variable.differs {
			names = append(names, variable.name)
		}
	}
	return names
}

// ConfigError is one line for the operator: which variable, what it holds, what it may hold.
type ConfigError struct {
	Variable, Value, Allowed string
}

func (e *ConfigError) Error() string {
	return fmt.Sprintf("%s: %q is not allowed: expected %s", e.Variable, e.Value, e.Allowed)
}

// reader turns text into values and keeps the first error.
type reader struct {
	lookup    Lookup
	overrides map[string]string
	err       error
}

func (r *reader) text(name, fallback string) string {
	if value := r.overrides[name]; value != "" {
		return value
	}
	if value, _ := r.lookup(name); value != "" {
		return value
	}
	return fallback
}

func (r *reader) address(name, fallback string) netip.Addr {
	text := r.text(name, fallback)
	address, err := netip.ParseAddr(text)
	if err != nil {
		r.fail(name, text, "an IP address")
	}
	return address
}

func (r *reader) count(name string, fallback, low, high int) int {
	text := r.text(name, strconv.Itoa(fallback))
	value, ok := parseInteger(text, low, high)
	if !ok {
		r.fail(name, text, fmt.Sprintf("an integer from %d to %d", low, high))
	}
	return value
}

func (r *reader) duration(name, fallback string) time.Duration {
	text := r.text(name, fallback)
	value, ok := parseSeconds(text, 86400)
	if !ok {
		r.fail(name, text, "decimal seconds from 0 to 86400, like 2 or 0.5")
	}
	return value
}

func (r *reader) positive(name, fallback string) time.Duration {
	value := r.duration(name, fallback)
	if r.err == nil && value == 0 {
		r.fail(name, r.text(name, fallback), "decimal seconds above 0")
	}
	return value
}

func (r *reader) policy(name string, fallback DrainPolicy) DrainPolicy {
	text := r.text(name, string(fallback))
	policy := DrainPolicy(text)
	if policy != DrainPolicyServe && policy != DrainPolicyReject {
		r.fail(name, text, "serve or reject")
	}
	return policy
}

func (r *reader) fail(variable, value, allowed string) {
	if r.err == nil {
		r.err = &ConfigError{variable, value, allowed}
	}
}

var (
	digits  = regexp.MustCompile(`^\d+$`)
	decimal = regexp.MustCompile(`^\d+(\.\d+)?$`)
)

// parseInteger reads a decimal integer from low to high.
func parseInteger(text string, low, high int) (int, bool) {
	value, err := strconv.Atoi(text)
	return value, err == nil && digits.MatchString(text) && low <= value && value <= high
}

// parseSeconds reads decimal seconds, at most limit.
func parseSeconds(text string, limit float64) (time.Duration, bool) {
	if !decimal.MatchString(text) {
		return 0, false
	}
	seconds, err := strconv.ParseFloat(text, 64)
	if err != nil || seconds > limit {
		return 0, false
	}
	return time.Duration(seconds * float64(time.Second)), true
}

// readConfigFile reads the NAME=value lines of CONFIG_FILE, where one is named.
func readConfigFile(lookup Lookup) (map[string]string, error) {
	path, _ := lookup("CONFIG_FILE")
	if path == "" {
		return nil, nil
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, &ConfigError{"CONFIG_FILE", path, "a readable file"}
	}
	defer file.Close()
	overrides := map[string]string{}
	lines := bufio.NewScanner(file)
	for number := 1; lines.Scan(); number++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, value, found := strings.Cut(line, "=")
		if !found {
			return nil, &ConfigError{fmt.Sprintf("CONFIG_FILE %s:%d", path, number), line, "NAME=value"}
		}
		overrides[strings.TrimSpace(name)] = strings.TrimSpace(value)
	}
	if lines.Err() != nil {
		return nil, &ConfigError{"CONFIG_FILE", path, "lines of text"}
	}
	return overrides, nil
}

// What SIGHUP can change.
var reloadable = []string{
	"SHUTDOWN_DELAY", "DRAIN_TIMEOUT", "IDLE_LINGER", "DRAIN_POLICY", "MAX_IN_FLIGHT", "MAX_STREAMS",
}

// Settings is the configuration in force. Any goroutine may read it; SIGHUP replaces it.
type Settings struct {
	current atomic.Pointer[Config]
	lookup  Lookup
}

func NewSettings(config Config, lookup Lookup) *Settings {
	settings := &Settings{lookup: lookup}
	settings.current.Store(&config)
	return settings
}

func (s *Settings) Now() *Config {
	return s.current.Load()
}

// Reload reads the configuration again and returns the names that took effect. After an error all the old
// values stay in force.
func (s *Settings) Reload() (changed []string, err error) {
	loaded, err := LoadConfig(s.lookup)
	if err != nil {
		return nil, err
	}
	next := *s.Now()
	changed = []string{} // "none" is a list too
	for _, name := range next.differences(loaded) {
		if slices.Contains(reloadable, name) {
			changed = append(changed, name)
		} else {
			LogError(name + ": a change needs a restart")
		}
	}
	next.ShutdownDelay, next.DrainTimeout, next.IdleLinger = loaded.ShutdownDelay, loaded.DrainTimeout, loaded.IdleLinger
	next.DrainPolicy, next.MaxInFlight, next.MaxStreams = loaded.DrainPolicy, loaded.MaxInFlight, loaded.MaxStreams
	s.current.Store(&next)
	return changed, nil
}
