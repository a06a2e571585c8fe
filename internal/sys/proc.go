package sys

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

func procFD(n int) string { return "/proc/self/fd/" + strconv.Itoa(n) }

// fdName is what the kernel calls the file behind descriptor n.
func fdName(n int) (string, error) {
	name, err := os.Readlink(procFD(n))
	if err != nil {
		return "", fmt.Errorf("sys: ask what a descriptor is (needs /proc): %w", err)
	}
	return name, nil
}

// MaxMapCount is how many memory mappings a process may have
// (vm.max_map_count).
func MaxMapCount() (int, error) {
	const path = "/proc/sys/vm/max_map_count"
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("sys: read the limit of mappings: %w", err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0, fmt.Errorf("sys: read the limit of mappings from %s: %w", path, err)
	}
	return n, nil
}
