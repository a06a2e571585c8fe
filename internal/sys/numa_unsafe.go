package sys

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxNodes is how many NUMA nodes can be named: Linux's own limit.
const maxNodes = 1024

// nodeMask is a set of NUMA nodes as the kernel reads it. The length that goes
// with it is one more than its bits.
type nodeMask [maxNodes / 64]uint64

// PreferNode asks that n bytes of mapped memory at addr come from a NUMA node:
// pages that are there move, pages to come are taken from it while it has any.
// addr and n are multiples of the page size. It fails when there is no such
// node, or the process may not choose.
func PreferNode(addr uintptr, n uint64, node int) error {
	if node < 0 || node >= maxNodes {
		return fmt.Errorf("sys: NUMA node %d cannot be named, 0 to %d can: %w", node, maxNodes-1, unix.EINVAL)
	}
	var mask nodeMask
	mask[node/64] = 1 << (node % 64)
	if err := mbind(addr, n, unix.MPOL_PREFERRED, &mask, unix.MPOL_MF_MOVE); err != nil {
		return fmt.Errorf("sys: prefer NUMA node %d for %d bytes: %w", node, n, err)
	}
	return nil
}

// PreferAnyNode takes back what PreferNode asked for. Pages stay where they are.
func PreferAnyNode(addr uintptr, n uint64) error {
	if err := mbind(addr, n, unix.MPOL_DEFAULT, nil, 0); err != nil {
		return fmt.Errorf("sys: prefer no NUMA node for %d bytes: %w", n, err)
	}
	return nil
}

func mbind(addr uintptr, n uint64, mode uintptr, mask *nodeMask, flags uintptr) error {
	bits := uintptr(0)
	if mask != nil {
		bits = maxNodes + 1
	}
	_, _, errno := unix.Syscall6(unix.SYS_MBIND, addr, uintptr(n), mode, uintptr(unsafe.Pointer(mask)), bits, flags)
	if errno != 0 {
		return errno
	}
	return nil
}

// PreferredNode is the node that PreferNode asked for at addr; false when none
// was.
func PreferredNode(addr uintptr) (node int, ok bool, err error) {
	var mode int32
	var mask nodeMask
	_, _, errno := unix.Syscall6(unix.SYS_GET_MEMPOLICY, uintptr(unsafe.Pointer(&mode)), uintptr(unsafe.Pointer(&mask)),
		maxNodes+1, addr, unix.MPOL_F_ADDR, 0)
	if errno != 0 {
		return 0, false, fmt.Errorf("sys: ask which NUMA node memory prefers: %w", errno)
	}
	if mode != unix.MPOL_PREFERRED {
		return 0, false, nil
	}
	for node := range maxNodes {
		if mask[node/64]&(1<<(node%64)) != 0 {
			return node, true, nil
		}
	}
	return 0, false, nil
}

// NodeOf is the NUMA node that holds the page at addr, which is brought in if
// it is not there.
func NodeOf(addr uintptr) (int, error) {
	var node int32
	_, _, errno := unix.Syscall6(unix.SYS_GET_MEMPOLICY, uintptr(unsafe.Pointer(&node)), 0, 0, addr, unix.MPOL_F_NODE|unix.MPOL_F_ADDR, 0)
	if errno != 0 {
		return 0, fmt.Errorf("sys: ask which NUMA node holds memory: %w", errno)
	}
	return int(node), nil
}
