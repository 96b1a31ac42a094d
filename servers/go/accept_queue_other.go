//go:build !linux

package main

import (
	"errors"
	"syscall"
)

func setMinimumTTL(syscall.Conn, int) error {
	return errors.New("IP_MINTTL is known to do this on Linux only")
}
