package main

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// setMinimumTTL has the kernel drop segments whose TTL is less (RFC 5082), for which no privilege is needed. 255 keeps
// out whoever sends with 64 or 128, as systems do, but not a client on the same link that sends with 255.
func setMinimumTTL(socket syscall.Conn, ttl int) (err error) {
	controlErr := control(socket, func(fd int) {
		domain, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MINTTL, ttl)
		if err == nil && domain == unix.AF_INET6 { // which may take IPv4, too
			err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MINHOPCOUNT, ttl)
		}
	})
	return errors.Join(controlErr, err)
}
