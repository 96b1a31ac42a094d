package main

import "golang.org/x/sys/unix"

// dropNewSYNs attaches a classic BPF program: a segment with SYN and without ACK is dropped, all others pass.
// The program sees the TCP header; its byte 13 holds the flags (RFC 9293, 3.1). Kernels of 2026 want CAP_NET_ADMIN
// for it, older ones nothing.
func dropNewSYNs(fd int) error {
	const syn, ack = 0x02, 0x10
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 13},
		{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: syn | ack},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: syn, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},          // drop
		{Code: unix.BPF_RET | unix.BPF_K, K: 0xffffffff}, // pass, whole
	}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
}
