package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
)

// Each testpmd takes its memory in 2 MiB pages before it starts.
const (
	testpmdMegabytes = 512
	hugePageSize     = "2M"
	freePagesFile    = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages"
)

// machine is what the needs were found to be met with.
type machine struct {
	testpmd  string
	stdbuf   string
	vhostnet string // empty when it is not asked for
	bare     string // the same
	hugeDir  string
	ovs      ovsPrograms // none when it is not asked for
}

// inspectMachine looks for everything a run needs and, when something is
// missing, names all of it with what to do. It changes nothing, except that it
// removes the files of dead runs.
func inspectMachine(o options) (machine, error) {
	var m machine
	var missing []error
	need := func(err error) {
		if err != nil {
			missing = append(missing, err)
		}
	}
	var err error
	m.testpmd, err = exec.LookPath(o.testpmd)
	if err != nil {
		need(fmt.Errorf("%s was not found: install the packages dpdk and dpdk-dev, or name it with -testpmd", o.testpmd))
	}
	m.stdbuf, err = exec.LookPath("stdbuf")
	if err != nil {
		need(errors.New("stdbuf was not found: install the package coreutils"))
	}
	for _, name := range o.backends {
		kind, binary, own := strings.Cut(name, "=")
		if own {
			_, err = exec.LookPath(binary)
			need(err)
			continue
		}
		switch kind {
		case ovsBackend:
			m.ovs, err = findOVS(o.ovs)
			need(err)
		case vhostnetBackend:
			m.vhostnet, err = exec.LookPath(o.vhostnet)
			if err != nil {
				need(fmt.Errorf("%s was not found: run make build, or name it with -vhostnet", o.vhostnet))
			}
		case bareBackend, ringsBackend:
			m.bare, err = exec.LookPath(o.bare)
			if err != nil {
				need(fmt.Errorf("%s was not found: go build -o bin/bare ./bench/bare, or name it with -bare", o.bare))
			}
		}
	}
	need(checkCores(o))
	mounts, err := os.ReadFile("/proc/self/mounts")
	need(err)
	m.hugeDir, err = hugeMount(string(mounts))
	need(err)
	if m.hugeDir != "" && syscall.Access(m.hugeDir, 2) != nil {
		need(fmt.Errorf("%s is not writable for this user: run as root", m.hugeDir))
	}
	removeStale(os.TempDir())
	if m.hugeDir != "" {
		removeStale(m.hugeDir)
	}
	free, err := os.ReadFile(freePagesFile)
	need(err)
	need(checkFreePages(string(free), o.megabytes()))
	if len(missing) > 0 {
		return m, fmt.Errorf("this machine lacks what the run needs:\n%w", errors.Join(missing...))
	}
	return m, nil
}

// megabytes is how much the programs that run at the same time take in huge pages.
func (o *options) megabytes() int {
	most, sum := 0, 0
	for _, name := range o.backends {
		n := testpmdMegabytes // the front-end's
		switch name {
		case dpdkBackend:
			n += testpmdMegabytes
		case ovsBackend:
			n += ovsMegabytes
		}
		most, sum = max(most, n), sum+n
	}
	if o.windows > 0 {
		return sum
	}
	return most
}

func checkCores(o options) error {
	if last := max(o.frontCore, o.backCore); last >= runtime.NumCPU() {
		return fmt.Errorf("core %d was asked for and this process may use %d: the front-end and the back-end need a core each", last, runtime.NumCPU())
	}
	return nil
}

// hugeMount finds a hugetlbfs with 2 MiB pages in the text of a mounts file.
func hugeMount(mounts string) (string, error) {
	for line := range strings.Lines(mounts) {
		f := strings.Fields(line)
		if len(f) < 4 || f[2] != "hugetlbfs" {
			continue
		}
		for option := range strings.SplitSeq(f[3], ",") {
			if option == "pagesize="+hugePageSize {
				return f[1], nil
			}
		}
	}
	return "", errors.New("no hugetlbfs with 2 MiB pages is mounted: mkdir -p /dev/hugepages && mount -t hugetlbfs none /dev/hugepages")
}

// checkFreePages compares the kernel's count of free 2 MiB pages with so many
// megabytes.
func checkFreePages(text string, megabytes int) error {
	free, err := strconv.Atoi(strings.TrimSpace(text))
	if err != nil {
		return fmt.Errorf("%s holds %q, not a number", freePagesFile, text)
	}
	if wanted := megabytes / 2; free < wanted {
		return fmt.Errorf("%d huge pages of 2 MiB are free and %d are needed: sysctl vm.nr_hugepages=%d (or end what holds them)", free, wanted, max(1024, wanted*2))
	}
	return nil
}

// namePrefix begins every name this program leaves in shared places; the
// process id follows, so that a later run can tell a dead run's files.
const namePrefix = "vhostnet-bench-"

// removeStale removes from a directory what runs left that were killed before
// they could tidy up: the memory of huge page files would stay taken.
func removeStale(dir string) {
	names, err := filepath.Glob(filepath.Join(dir, namePrefix+"*"))
	if err != nil {
		return // only a malformed pattern fails
	}
	for _, name := range names {
		rest := strings.TrimPrefix(filepath.Base(name), namePrefix)
		pid, err := strconv.Atoi(rest[:max(strings.IndexByte(rest, '-'), 0)])
		if err == nil && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			_ = os.RemoveAll(name) // what stays is in nobody's way but the free pages', which are counted next
		}
	}
}
