//go:build !linux

package main

import (
	"errors"
	"net"
	"syscall"
)

type socketTable struct {
	halfOpen  int
	waiting   int
	listening bool
}

func newSocketTable(*net.TCPListener) *socketTable {
	return &socketTable{}
}

func (t *socketTable) look() error {
	return errors.New("the kernel tells nothing of its sockets")
}

func setMinimumTTL(syscall.Conn, int) error {
	return errors.New("IP_MINTTL is known to do this on Linux only")
}
