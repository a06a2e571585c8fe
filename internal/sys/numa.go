package sys

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// MemoryNodes are the NUMA nodes of this machine that have memory, in order.
// A kernel that knows no nodes has one, 0.
func MemoryNodes() ([]int, error) {
	const path = "/sys/devices/system/node/has_memory"
	b, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		return []int{0}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("sys: read the list of NUMA nodes: %w", err)
	}
	nodes, err := parseList(strings.TrimSpace(string(b)))
	if err != nil {
		return nil, fmt.Errorf("sys: read the list of NUMA nodes from %s: %w", path, err)
	}
	return nodes, nil
}

// parseList reads the kernel's way to write sets: "0-3,8".
func parseList(s string) ([]int, error) {
	var list []int
	for part := range strings.SplitSeq(s, ",") {
		from, to, _ := strings.Cut(part, "-")
		if to == "" {
			to = from
		}
		first, err := strconv.ParseUint(from, 10, 16)
		if err != nil {
			return nil, err
		}
		last, err := strconv.ParseUint(to, 10, 16)
		if err != nil {
			return nil, err
		}
		for i := first; i <= last; i++ {
			list = append(list, int(i))
		}
	}
	return list, nil
}
