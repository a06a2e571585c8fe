package sys

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestTAPNames(t *testing.T) {
	for name, good := range map[string]bool{
		"tap0": true, "a-b.c_d": true, strings.Repeat("n", 15): true,
		"": false, strings.Repeat("n", 16): false, "a b": false, "a/b": false, "a:1": false, "tap%d": false, ".": false, "..": false, "a\n": false,
	} {
		if err := CheckTAPName(name); (err == nil) != good {
			t.Errorf("%q: %v", name, err)
		}
		if good {
			continue
		}
		if _, err := OpenTAP(name, 1); err == nil {
			t.Errorf("%q was opened", name)
		}
	}
	for _, queues := range []int{-1, 0, MaxTAPQueues + 1} {
		if _, err := OpenTAP("t0", queues); err == nil || !strings.Contains(err.Error(), "1 to 256 are possible") {
			t.Errorf("%d queues: %v", queues, err)
		}
	}
}

// A device is taken with as many queues as it has, and handed on as a
// descriptor; what is none of ours is refused, and its descriptor closed.
func TestTAPOpens(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a TAP device takes root")
	}
	if _, err := os.Stat(tunPath); err != nil {
		t.Skipf("TAP devices are made with %s: %v", tunPath, err)
	}
	name := fmt.Sprintf("vnt%d", os.Getpid())
	one, err := OpenTAP(name, 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenTAP(name, 1); !errors.Is(err, unix.EBUSY) || !strings.Contains(err.Error(), "another program has it") {
		t.Errorf("a device that is open: %v", err)
	}
	if _, err := OpenTAP(name, 2); !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), "as many queues") {
		t.Errorf("two queues of a device of one: %v", err)
	}
	if _, err := OpenTAP("lo", 1); err == nil {
		t.Error("an interface that is no TAP device was opened")
	}
	if n, err := one[0].Read(make([]byte, 100)); n != 0 || err != nil {
		t.Errorf("%d bytes were read of nothing, %v", n, err)
	}
	if got := one[0].Write(make([]byte, TAPHeaderLen+60)); got != TAPDown {
		t.Errorf("a frame to an interface that is down: %v", got)
	}
	CloseTAPs(one)

	two, err := OpenTAP(name, 2)
	if err != nil {
		t.Fatal(err)
	}
	dup, err := two[1].fd.Dup()
	if err != nil {
		t.Fatal(err)
	}
	CloseTAPs(two[1:])
	again, err := TAPFrom(dup)
	if err != nil || again.Name() != name {
		t.Fatalf("%v, %v", again, err)
	}
	third, err := OpenTAP(name, 1)
	if err != nil {
		t.Errorf("one queue of a device of several: %v", err)
	}
	CloseTAPs(append(third, again, two[0]))

	n, err := unix.Open(tunPath, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := attachTAP(n, name, unix.IFF_TUN|unix.IFF_NO_PI); err != nil {
		t.Fatal(err)
	}
	fd := OwnFD(n)
	if _, err := TAPFrom(fd); err == nil || !strings.Contains(err.Error(), "IFF_VNET_HDR") || fd.Num() != -1 {
		t.Errorf("a device for IP packets: %v, descriptor %d", err, fd.Num())
	}
	null, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	fd = OwnFD(null)
	if _, err := TAPFrom(fd); err == nil || fd.Num() != -1 {
		t.Errorf("/dev/null: %v, descriptor %d", err, fd.Num())
	}
}
