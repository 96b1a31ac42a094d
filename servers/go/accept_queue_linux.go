package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	mostAtOnce  = 32768 // bytes that the kernel sends in one part
	synRecv     = 3     // of linux/tcp.h
	listenState = 10
)

// socketTable is what the kernel tells of the port of a listener, asked as ss asks (sock_diag(7)). /proc/net/tcp says
// the same, but takes far longer to read on a machine with much memory. The netlink socket stays open, because there
// may be no descriptor left when it is needed.
type socketTable struct {
	halfOpen  int  // handshakes that have begun and not ended
	waiting   int  // connections in the accept queue
	listening bool // whether the socket is there, in whatever process
	families  []byte
	port      int
	inode     uint32
	netlink   int
	err       error
}

func newSocketTable(listener *net.TCPListener) *socketTable {
	table := &socketTable{families: []byte{unix.AF_INET}, port: port(listener)}
	_ = control(listener, func(fd int) {
		if domain, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN); domain == unix.AF_INET6 {
			table.families = append(table.families, unix.AF_INET6) // which may take IPv4, too
		}
		stat := unix.Stat_t{}
		_ = unix.Fstat(fd, &stat)
		table.inode = uint32(stat.Ino)
	})
	table.netlink, table.err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	return table
}

func (t *socketTable) look() error {
	if t.err != nil {
		return t.err
	}
	t.halfOpen, t.waiting, t.listening = 0, 0, false
	native, states := binary.NativeEndian, uint32(1<<synRecv|1<<listenState)
	for _, family := range t.families {
		query := native.AppendUint32(nil, 72)
		query = native.AppendUint16(query, unix.SOCK_DIAG_BY_FAMILY)
		query = native.AppendUint16(query, unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
		query = append(query, 0, 0, 0, 0, 0, 0, 0, 0, family, unix.IPPROTO_TCP, 0, 0)
		query = native.AppendUint32(query, states)
		query = binary.BigEndian.AppendUint16(query, uint16(t.port))
		query = append(query, make([]byte, 46)...)
		if err := unix.Send(t.netlink, query, 0); err != nil {
			return err
		}
		messages := make([]byte, mostAtOnce)
		for more := true; more; {
			length, _, err := unix.Recvfrom(t.netlink, messages, 0)
			if err != nil {
				return err
			}
			if more, err = t.read(messages[:length]); err != nil {
				return err
			}
		}
	}
	return nil
}

// read reads what came at once, and returns whether there is more to come.
func (t *socketTable) read(messages []byte) (bool, error) {
	native := binary.NativeEndian
	for len(messages) > 0 {
		switch native.Uint16(messages[4:]) {
		case unix.NLMSG_DONE:
			return false, nil
		case unix.NLMSG_ERROR:
			code := syscall.Errno(-int32(native.Uint32(messages[16:])))
			return false, fmt.Errorf("the kernel tells nothing of its sockets: %w", code)
		}
		state, waiting, inode := messages[17], native.Uint32(messages[72:]), native.Uint32(messages[84:])
		if state == synRecv {
			t.halfOpen++
		} else if inode == t.inode {
			t.waiting, t.listening = int(waiting), true
		}
		messages = messages[native.Uint32(messages):]
	}
	return true, nil
}

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
