package main

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func table(values map[string]string) Lookup {
	return func(name string) (string, bool) {
		value, found := values[name]
		return value, found
	}
}

func TestDefaults(t *testing.T) {
	config, err := LoadConfig(table(map[string]string{"DRAIN_TIMEOUT": ""})) // empty counts as unset
	if err != nil {
		t.Fatal(err)
	}
	if config.Port != 8080 || config.DrainTimeout != 30*time.Second || config.CloseTimeout != 500*time.Millisecond ||
		config.DrainPolicy != DrainPolicyServe || config.MaxBodyBytes != 1<<20 {
		t.Errorf("unexpected defaults: %+v", config)
	}
}

func TestBadValues(t *testing.T) {
	for _, bad := range []struct{ name, value, says string }{
		{"HOST", "localhost", "an IP address"},
		{"PORT", "65536", "an integer from 0 to 65535"},
		{"PORT", "+1", "an integer"},
		{"ADMIN_PORT", "http", "an integer"},
		{"SHUTDOWN_DELAY", "-1", "decimal seconds"},
		{"SHUTDOWN_DELAY", "1s", "decimal seconds"},
		{"DRAIN_TIMEOUT", "86401", "decimal seconds from 0 to 86400"},
		{"DRAIN_TIMEOUT", ".5", "decimal seconds"},
		{"IDLE_LINGER", "31", "at most DRAIN_TIMEOUT"},
		{"DRAIN_POLICY", "drop", "serve or reject"},
		{"MAX_IN_FLIGHT", "0", "an integer from 1 to 1000000"},
		{"MAX_CONNECTIONS", "1000001", "an integer"},
		{"MAX_BODY_BYTES", "1.5", "an integer"},
		{"HEADER_TIMEOUT", "0", "above 0"},
		{"BODY_TIMEOUT", "0.0", "above 0"},
		{"KEEP_ALIVE_TIMEOUT", "NaN", "decimal seconds"},
		{"CLOSE_TIMEOUT", "0", "above 0"},
		{"CONFIG_FILE", "/nowhere/at/all", "a readable file"},
	} {
		_, err := LoadConfig(table(map[string]string{bad.name: bad.value}))
		var configError *ConfigError
		if !errors.As(err, &configError) {
			t.Errorf("%s=%q: no error", bad.name, bad.value)
			continue
		}
		text := err.Error()
		if !strings.Contains(text, bad.name) || !strings.Contains(text, bad.value) || !strings.Contains(text, bad.says) {
			t.Errorf("%s=%q: %s", bad.name, bad.value, text)
		}
	}
}

func TestConfigFileOverrides(t *testing.T) {
	path := configFile(t, "# a comment\n\n IDLE_LINGER = 0.25 \nMAX_IN_FLIGHT=7\n")
	config, err := LoadConfig(table(map[string]string{"CONFIG_FILE": path, "MAX_IN_FLIGHT": "9", "PORT": "1"}))
	if err != nil {
		t.Fatal(err)
	}
	if config.IdleLinger != 250*time.Millisecond || config.MaxInFlight != 7 || config.Port != 1 {
		t.Errorf("%+v", config)
	}
	write(t, path, "PORT=1\nnonsense\n")
	_, err = LoadConfig(table(map[string]string{"CONFIG_FILE": path}))
	if err == nil || !strings.Contains(err.Error(), path+":2") {
		t.Errorf("a line without = must be named: %v", err)
	}
}

func TestReload(t *testing.T) {
	path := configFile(t, "")
	lookup := table(map[string]string{"CONFIG_FILE": path})
	config, err := LoadConfig(lookup)
	if err != nil {
		t.Fatal(err)
	}
	settings := NewSettings(config, lookup)

	write(t, path, "DRAIN_POLICY=reject\nSHUTDOWN_DELAY=2\nPORT=1\n")
	changed, err := settings.Reload()
	if err != nil || !slices.Equal(changed, []string{"SHUTDOWN_DELAY", "DRAIN_POLICY"}) {
		t.Errorf("changed %v, %v", changed, err)
	}
	if now := settings.Now(); now.DrainPolicy != DrainPolicyReject || now.Port != 8080 {
		t.Errorf("%+v", now)
	}

	write(t, path, "SHUTDOWN_DELAY=3\nMAX_IN_FLIGHT=none\n")
	if _, err = settings.Reload(); err == nil {
		t.Error("a bad file was taken")
	}
	if now := settings.Now(); now.ShutdownDelay != 2*time.Second {
		t.Errorf("after a bad file the old values must stay: %+v", now)
	}
}

func configFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "server.conf")
	write(t, path, text)
	return path
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
