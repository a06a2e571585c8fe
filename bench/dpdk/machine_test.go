package main

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

func TestHugeMount(t *testing.T) {
	const mounts = `proc /proc proc rw 0 0
none /mnt/big hugetlbfs rw,relatime,pagesize=1024M 0 0
none /mnt/huge hugetlbfs rw,relatime,pagesize=2M 0 0
`
	got, err := hugeMount(mounts)
	if err != nil || got != "/mnt/huge" {
		t.Errorf("got %q, %v, want /mnt/huge", got, err)
	}
	if _, err := hugeMount("proc /proc proc rw 0 0\n"); err == nil || !strings.Contains(err.Error(), "mount -t hugetlbfs") {
		t.Errorf("without a mount: %v, want an error that tells how to make one", err)
	}
}

func TestCheckFreePages(t *testing.T) {
	if err := checkFreePages("512\n", 1024); err != nil {
		t.Errorf("512 pages for two: %v", err)
	}
	if err := checkFreePages("511\n", 1024); err == nil || !strings.Contains(err.Error(), "vm.nr_hugepages=1024") {
		t.Errorf("511 pages for two: %v, want an error that tells what to set", err)
	}
	if checkFreePages("", 1) == nil {
		t.Error("an empty count was taken")
	}
}

func TestInspectMachineNamesAllThatIsMissing(t *testing.T) {
	o, err := parseOptions([]string{"-testpmd", "/nowhere/testpmd", "-vhostnet", "/nowhere/vhostnet", "-front-core", "1000000", "-backend", "vhostnet,ovs", "-ovs", "/nowhere/root"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	_, err = inspectMachine(o)
	if err == nil {
		t.Fatal("nothing was found missing")
	}
	for _, name := range []string{"/nowhere/testpmd", "/nowhere/vhostnet", "core 1000000", "/nowhere/root/usr"} {
		if !strings.Contains(err.Error(), name) {
			t.Errorf("%s is not named in:\n%v", name, err)
		}
	}
}

func TestRemoveStaleSparesTheLiving(t *testing.T) {
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	files := map[string]bool{ // whether it stays
		namePrefix + strconv.Itoa(dead.Process.Pid) + "-1-femap_0": false,
		namePrefix + strconv.Itoa(os.Getpid()) + "-1-femap_0":      true,
		namePrefix + "x-1-femap_0":                                 true,
		namePrefix + "1":                                           true,
		"rtemap_0":                                                 true,
	}
	for name := range files {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	removeStale(dir)
	for name, stays := range files {
		if _, err := os.Stat(filepath.Join(dir, name)); (err == nil) != stays {
			t.Errorf("%s: stat says %v, want it kept: %v", name, err, stays)
		}
	}
}

// TestMegabytes: programs that run at the same time need their memory at the same
// time.
func TestMegabytes(t *testing.T) {
	for args, want := range map[string]int{
		"-backend vhostnet":                      512,
		"-backend vhostnet,bare":                 512,
		"-backend vhostnet,dpdk":                 1024,
		"-backend ovs,vhostnet":                  1024,
		"-backend vhostnet,dpdk,bare -windows 1": 2048,
	} {
		o, err := parseOptions(strings.Fields(args), io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		if got := o.megabytes(); got != want {
			t.Errorf("%s: %d MiB, want %d", args, got, want)
		}
	}
}
