package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"vhostnet/vhostuser/vutest"
)

// namespace makes a network namespace; the test's end removes it.
func namespace(t *testing.T) string {
	t.Helper()
	if !canTAP() {
		t.Skip("a TAP device in a network namespace takes root and /dev/net/tun")
	}
	name := fmt.Sprintf("vhostnet-cmd-%d", os.Getpid())
	ip(t, "netns", "add", name)
	t.Cleanup(func() { ip(t, "netns", "del", name) })
	return name
}

func ip(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// A VM asks the host on a TAP device for its address and is answered: frames
// pass both ways. The reload that takes the uplink away, and brings another,
// leaves the VM where it is.
func TestTAPUplink(t *testing.T) {
	ns, dir := namespace(t), t.TempDir()
	port := fmt.Sprintf("workers = 1\nport \"a\" { socket = %q }\n", filepath.Join(dir, "a"))
	file := writeFile(t, "v.hcl", port+"uplink \"tap\" \"t0\" {}\n")
	p := start(t, programOptions{netns: ns}, "run", file, "--stats", "50ms", "-o", "json")
	p.awaitLog("INFO", "uplink is open", "port=t0", "uplink=tap:t0")
	up := func(device string) {
		t.Helper()
		ip(t, "-n", ns, "addr", "add", "10.78.0.1/24", "dev", device)
		ip(t, "-n", ns, "link", "set", device, "up")
	}
	up("t0")
	p.awaitSocket(filepath.Join(dir, "a"))
	a := connect(t, filepath.Join(dir, "a"), vutest.Options{})
	askHost(t, a)
	waitFor(t, "the counts", func() bool {
		list := reports(t, p.out.lines())
		if len(list) == 0 {
			return false
		}
		t0 := list[len(list)-1]["t0"]
		return t0.Up && t0.TxFrames > 0 && t0.RxFrames > 0 && len(t0.Rings) == 0
	})

	again := func(text, words string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		p.signal(syscall.SIGHUP)
		p.awaitLog("configuration is read anew", words)
	}
	again(port, "removed=1")
	again(port+"uplink \"tap\" \"lan\" {\n device = \"t1\"\n queues = 2\n}\n", "added=1")
	up("t1")
	askHost(t, a)
	ip(t, "-n", ns, "link", "del", "t1")
	p.awaitLog("ERROR", "TAP device is gone", "port=lan", "device=t1")
	if n := p.logged("front-end disconnected"); n != 0 {
		t.Error("the VM was disconnected")
	}
	p.end()
}

// askHost asks for 10.78.0.1.
func askHost(t *testing.T, a *vutest.FrontEnd) {
	t.Helper()
	askFor(t, a, [4]byte{10, 78, 0, 9}, [4]byte{10, 78, 0, 1})
}

// askFor sends an ARP request of a VM until it is answered.
func askFor(t *testing.T, a *vutest.FrontEnd, from, to [4]byte) {
	t.Helper()
	request := frame(0, 'a')
	copy(request.Data, bytes.Repeat([]byte{0xff}, 6))
	copy(request.Data[12:], []byte{8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 0x52, 0x54, 0, 0, 0, 'a'})
	copy(request.Data[28:], from[:])
	copy(request.Data[38:], to[:])
	waitFor(t, "an answer of the host", func() bool {
		if err := a.Send(0, request); err != nil {
			t.Fatal(err)
		}
		for {
			got, err := a.Recv(0, 100*time.Millisecond)
			if err != nil {
				return false
			}
			if bytes.HasPrefix(got.Data, []byte{0x52, 0x54, 0, 0, 0, 'a'}) && bytes.Equal(got.Data[12:22], []byte{8, 6, 0, 1, 8, 0, 6, 4, 0, 2}) {
				return true
			}
		}
	})
}
