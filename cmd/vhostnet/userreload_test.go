package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"vhostnet/vhostuser/vutest"
)

// uplinkText is an uplink with forwards.
func uplinkText(options string, list ...string) string {
	for i, f := range list {
		list[i] = fmt.Sprintf("%q", f)
	}
	return fmt.Sprintf("uplink \"user\" \"out\" {\n forward = [%s]\n %s\n}\n", strings.Join(list, ", "), options)
}

// listens reports whether somebody takes connections at an address.
func listens(at string) bool {
	c, err := net.Dial("tcp", at)
	if err == nil {
		c.Close()
	}
	return err == nil
}

// freeTCP is an address that nobody listens at.
func freeTCP(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// passes sends a frame from a to b, who may get others before it.
func passes(t *testing.T, a, b *vutest.FrontEnd) {
	t.Helper()
	want := frame('b', 'a')
	if err := a.Send(0, want); err != nil {
		t.Fatal(err)
	}
	for {
		got, err := b.Recv(0, patience)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(got.Data, want.Data) {
			return
		}
	}
}

// Ways in come and go with a reload, and the uplink stays: who has come by one that
// goes is still connected.
func TestReloadForwards(t *testing.T) {
	const taken, guest = "configuration is read anew", "/10.0.2.99:80"
	r := startReloader(t, "", "a", "b")
	ports := r.text("", "a", "b")
	first, second, third := freeTCP(t), freeTCP(t), freeTCP(t)
	r.reload(ports+uplinkText("", "tcp/"+first+guest, "tcp/"+second+guest), taken, "added=1")
	a, b := r.connect("a"), r.connect("b")
	askFor(t, a, [4]byte{10, 0, 2, 50}, [4]byte{10, 0, 2, 2})
	if !listens(first) || !listens(second) || listens(third) {
		t.Error("the ways in are not those of the file")
	}
	r.reload(ports+uplinkText("", "tcp/"+second+guest, "tcp/"+third+guest), taken, "replaced=0", "changed=1")
	if listens(first) || !listens(second) || !listens(third) {
		t.Error("the ways in are not those of the new file")
	}

	// One that cannot be had: all are as before.
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	r.reload(ports+uplinkText("", "tcp/"+first+guest, "tcp/"+busy.Addr().String()+guest), "ERROR", "is not taken", "address already in use")
	if listens(first) || !listens(second) || !listens(third) {
		t.Error("the ways in are not those of before")
	}
	// Also when another change of the file fails.
	r.reload(ports+uplinkText("", "tcp/"+first+guest)+"port \"d\" {\n socket = \"/no/such/directory/d\"\n}\n", "ERROR", "is not taken", "/no/such/directory")
	if listens(first) || !listens(second) || !listens(third) {
		t.Error("the ways in are not those of before")
	}
	passes(t, a, b)
	r.reload(ports+uplinkText("mtu = 9000", "tcp/"+third+guest), taken, "replaced=1", "changed=0")
	if r.logged("these ports are replaced", "ports=out") != 1 {
		t.Error("the log does not say what is replaced")
	}
	if n := r.logged("front-end disconnected"); n != 0 {
		t.Errorf("%d VMs were disconnected", n)
	}
	r.end()
}

// A forward moves from one network to another with one reload, also to one that is
// new, or back from one that goes; if another change of the file fails it is where
// it was.
func TestReloadMovesForward(t *testing.T) {
	const taken, guest = "configuration is read anew", "/10.0.2.99:80"
	r := startReloader(t, "", "a", "b")
	ports, first, second := r.text("", "a", "b"), freeTCP(t), freeTCP(t)
	path := filepath.Join(r.dir, "web")
	named := func(name string, list ...string) string {
		return strings.Replace(uplinkText("", list...), `"out"`, fmt.Sprintf("%q", name), 1)
	}
	both := func() []string { return []string{"tcp/" + first + guest, "tcp/unix:" + path + guest} }
	there := func() {
		t.Helper()
		c, err := net.Dial("unix", path)
		if err != nil || !listens(first) || listens(second) {
			t.Errorf("the ways in are not those of the file: %v", err)
		}
		if err == nil {
			c.Close()
		}
	}
	r.reload(ports+named("one")+named("two", both()...), taken, "added=2")
	r.reload(ports+named("one", both()...)+named("two"), taken, "changed=2", "replaced=0")
	there()
	r.reload(ports+named("one")+named("two", both()...), taken, "changed=2", "replaced=0")
	there()
	r.reload(ports+named("two")+named("three", both()...), taken, "changed=1", "added=1", "removed=1")
	there()
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	r.reload(ports+named("two", append(both(), "tcp/"+second+guest, "tcp/"+busy.Addr().String()+guest)...)+named("four"), "ERROR", "is not taken", "address already in use")
	there()
	r.reload(ports+named("two", both()...)+named("three"), taken, "changed=2")
	there()
	r.end()
}

// What an uplink cannot have is told in one line, and everything else goes on.
func TestReloadUserRefused(t *testing.T) {
	const refused = "is not taken"
	r := startReloader(t, "", "a", "b")
	ports := r.text("", "a", "b")
	good := uplinkText("")
	r.reload(ports+good, "configuration is read anew", "added=1")
	a, b := r.connect("a"), r.connect("b")
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	packets, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer packets.Close()
	for name, c := range map[string]struct{ text, words string }{
		"port in use":             {uplinkText("", "tcp/"+busy.Addr().String()+"/10.0.2.15:80"), "address already in use"},
		"UDP port in use":         {uplinkText("", "udp/"+packets.LocalAddr().String()+"/10.0.2.15:53"), "address already in use"},
		"no directory":            {uplinkText("boot = \"/no/such/boot\""), "/no/such/boot"},
		"no directory of leases":  {uplinkText("leases = \"/no/such/dir/leases\""), "/no/such/dir"},
		"no directory of sockets": {uplinkText("", "tcp/unix:/no/such/dir/web/10.0.2.15:80"), "no such file"},
		"a way to nobody":         {uplinkText("", "tcp/127.0.0.1:0/192.0.2.1:80"), "no guest's address"},
	} {
		before := r.logged("ERROR")
		r.reload(ports+c.text, "ERROR", refused, c.words)
		if n := r.logged("ERROR"); n != before+1 {
			t.Errorf("%s: %d lines, want one", name, n-before)
		}
		passes(t, a, b)
		askFor(t, a, [4]byte{10, 0, 2, 50}, [4]byte{10, 0, 2, 2})
	}
	r.end()
}

// At the start the same is told, and the program ends with the code for it.
func TestUserUplinkRefused(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	port := "web=" + filepath.Join(t.TempDir(), "web")
	for options, words := range map[string]string{
		"forward=tcp/" + busy.Addr().String() + "/10.0.2.15:80": "address already in use",
		"leases=/no/such/dir/leases":                            "/no/such/dir",
	} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		code, _, log := runHere(ctx, "run", "--port", port, "--uplink", "user,"+options)
		cancel()
		if code == 0 || strings.Count(log, "\n") != 1 || !strings.Contains(log, words) {
			t.Errorf("%s: code %d, %q; want one line with %q", options, code, log, words)
		}
	}
}
