package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"vhostnet/control"
	"vhostnet/vhostuser/vutest"
)

// runNetworks is runAPI with user-mode networks, which are told by their options.
func runNetworks(t *testing.T, networks ...string) *api {
	t.Helper()
	r := runDaemonWith(t, func(r *running, o *runOptions) {
		o.control = r.path("control")
		o.uplinks = networks
	}, "web")
	return &api{running: r, Client: control.NewClient(r.path("control"))}
}

// arrives sends a datagram to an address of the host until a front-end gets it.
func arrives(t *testing.T, at string, a *vutest.FrontEnd) {
	t.Helper()
	c, err := net.Dial("udp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	want := []byte("to the guest by " + at)
	waitFor(t, "a datagram from "+at, func() bool {
		if _, err := c.Write(want); err != nil {
			t.Fatal(err)
		}
		for {
			got, err := a.Recv(0, 100*time.Millisecond)
			if err != nil {
				return false
			}
			if bytes.Contains(got.Data, want) {
				return true
			}
		}
	})
}

// A way in comes and goes by commands, and guests are reached by it.
func TestForwardCommands(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	first, second := freeTCP(t), freeTCP(t)
	a := runNetworks(t, "user,forward=tcp/"+first+"/10.0.2.50:80")
	web := connect(t, a.path("web"), vutest.Options{})
	askFor(t, web, [4]byte{10, 0, 2, 50}, [4]byte{10, 0, 2, 2})
	a.says("forwards", "tcp/"+first+" 10.0.2.50:80 internet configuration")
	a.says("forwards add tcp/"+second+"/10.0.2.50:81", "tcp/"+second+" 10.0.2.50:81 internet control")
	a.says("forwards --port internet", "tcp/"+second+" 10.0.2.50:81 internet control")
	a.says("forwards add udp/"+second+"/10.0.2.50:53 --port internet", "udp/"+second)
	a.says("forwards add tcp/unix:DIR/web.sock/[fd76:686f:7374::15]:80", "tcp/unix:"+a.path("web.sock"), "[fd76:686f:7374::15]:80")
	arrives(t, second, web)
	third := freeTCP(t)
	a.says("forwards add udp/"+third+"/web:53", "udp/"+third+" web:53 internet control")
	arrives(t, third, web)
	a.says("forwards remove udp/" + third)
	if _, err := os.Lstat(a.path("web.sock")); err != nil || !listens(first) || !listens(second) {
		t.Errorf("the ways in are not open: %v", err)
	}

	a.refuses(exitFailed, "forwards add tcp/"+second+"/10.0.2.50:82", second, "to 10.0.2.50:81", "remove that one first")
	a.refuses(exitFailed, "forwards add tcp/"+busy.Addr().String()+"/10.0.2.50:82", "address already in use")
	a.refuses(exitFailed, "forwards add tcp/127.0.0.1:0/192.0.2.1:80", "no guest's address", "10.0.2.0/24")
	a.refuses(exitFailed, "forwards add tcp/127.0.0.1:0/10.0.2.2:80", "no guest's address")
	a.refuses(exitFailed, "forwards add tcp/somewhere:1/10.0.2.50:80", "127.0.0.1:8080")
	a.refuses(exitFailed, "forwards add tcp/192.0.2.1:80/10.0.2.50:80", "cannot assign requested address")
	a.refuses(exitFailed, "forwards add udp/unix:DIR/x/10.0.2.50:80", "tcp is possible")
	a.refuses(exitFailed, "forwards add tcp/unix:DIR/10.0.2.50:80", "not a socket", "choose another path")
	a.refuses(exitFailed, "forwards add tcp/unix:DIR/web/10.0.2.50:80", "in use") // a VM's
	a.refuses(exitFailed, "forwards add tcp/unix:DIR/no/such/10.0.2.50:80", "no such file")
	a.refuses(exitFailed, "forwards add tcp/unix:DIR/"+strings.Repeat("x", 200)+"/10.0.2.50:80", "invalid argument")
	a.refuses(exitFailed, "forwards add tcp/127.0.0.1:0/10.0.2.50:80 --port web", "port web is no user-mode network; want internet")
	a.refuses(exitFailed, "forwards add tcp/127.0.0.1:0/10.0.2.50:80 --port x", "no port x")
	a.refuses(exitFailed, "forwards remove tcp/127.0.0.1:1", "no forward tcp/127.0.0.1:1")
	for line, word := range map[string]string{
		"forwards x": "x", "forwards add": "NETWORK/LISTEN/GUEST", "forwards add tcp/127.0.0.1:80": "NETWORK/LISTEN/GUEST", "forwards add sctp/127.0.0.1:80/10.0.2.50:80": "NETWORK/LISTEN/GUEST",
		"forwards add tcp/127.0.0.1:80/10.0.2.256:80": "10.0.2.256 is no address",
		"forwards remove": "NETWORK/LISTEN", "forwards remove tcp": "NETWORK/LISTEN", "forwards remove tcp/": "NETWORK/LISTEN",
	} {
		a.refuses(exitUsage, line, word)
	}

	for line, want := range map[string]string{
		"forwards remove":       "tcp/" + first + "\tto 10.0.2.50:80\n",
		"forwards add x --port": "internet\n",
		"forwards --port":       "internet\n",
	} {
		head, last, _ := strings.Cut(line, " ")
		args := append([]string{cobra.ShellCompRequestCmd, head, "--control", a.path("control")}, strings.Fields(last)...)
		if sub, rest, _ := strings.Cut(last, " "); !strings.HasPrefix(sub, "-") { // flags follow the subcommand
			args = append([]string{cobra.ShellCompRequestCmd, head, sub, "--control", a.path("control")}, strings.Fields(rest)...)
		}
		if code, out, _ := runHere(t.Context(), append(args, "")...); code != exitDone || !strings.HasPrefix(out, want) {
			t.Errorf("completion of %q: exit code %d, %q, want %q", line, code, out, want)
		}
	}
	a.says("forwards remove tcp/" + second + " udp/" + second + " tcp/unix:" + a.path("web.sock") + " tcp/" + first)
	if _, err := os.Lstat(a.path("web.sock")); err == nil || listens(first) || listens(second) {
		t.Errorf("ways in that were removed are open: %v", err)
	}
	var list []control.Forward
	code, out, log := a.vhostnet("forwards -o json")
	if err := json.Unmarshal([]byte(out), &list); code != exitDone || err != nil || len(list) != 0 {
		t.Errorf("no ways in: exit code %d, %s, %s, %v", code, out, log, err)
	}
}

// The path of a way in has one spelling, however the file, a flag, a command or the
// API wrote it: it is listed, found, refused a second time and removed by that.
func TestForwardPaths(t *testing.T) {
	t.Chdir(t.TempDir())
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	whole := func(name string) string { return unixPrefix + filepath.Join(dir, name) }
	const guest = "/10.0.2.50:80"
	a := runNetworks(t, "user,forward=tcp/unix:rel.sock"+guest+",forward=tcp/unix:"+dir+"//b/../w.sock"+guest)
	a.says("forwards", "tcp/"+whole("rel.sock"))
	a.says("forwards", "tcp/"+whole("w.sock"))
	a.refuses(exitFailed, "forwards add tcp/unix:./rel.sock"+guest, "remove that one first")
	added, err := a.AddForward(t.Context(), control.ForwardRequest{Network: "tcp", Listen: unixPrefix + dir + "/./x//y.sock", Guest: "10.0.2.50:80"})
	if err == nil {
		t.Errorf("there is no directory x: %+v", added)
	}
	added, err = a.AddForward(t.Context(), control.ForwardRequest{Network: "tcp", Listen: unixPrefix + dir + "//./y.sock", Guest: "10.0.2.50:80"})
	if err != nil || added.Listen != whole("y.sock") {
		t.Errorf("%+v, %v", added, err)
	}
	a.must(a.RemoveForward(t.Context(), "tcp", unixPrefix+dir+"///y.sock"))
	a.says("forwards remove tcp/" + whole("rel.sock") + " tcp/" + whole("w.sock"))
	if list, err := a.Forwards(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("%+v, %v", list, err)
	}
	a.refuses(exitUsage, "forwards add tcp/unix:"+guest, "/tmp/web.sock")
}

// The API refuses what the commands would not send, each time with a sentence, and
// everything goes on.
func TestForwardRequests(t *testing.T) {
	a := runNetworks(t, "user,name=one", "user,name=two,ipv4=10.0.3.2/24,ipv6=fd76:686f:7375::2/64,mac=52:55:0a:00:03:02")
	good := control.ForwardRequest{Network: "tcp", Listen: "127.0.0.1:0", Guest: "10.0.3.15:80", Port: "two"}
	added, err := a.AddForward(t.Context(), good)
	a.must(err)
	if added.Port != "two" || added.Origin != "control" || added.Guest != good.Guest || !listens(added.Listen) {
		t.Errorf("%+v", added)
	}
	for words, change := range map[string]func(r *control.ForwardRequest){
		"want the port of one: one or two": func(r *control.ForwardRequest) { r.Port = "" },
		"remove that one first":            func(r *control.ForwardRequest) { r.Port, r.Listen, r.Guest = "one", added.Listen, "10.0.2.15:80" },
		"10.0.2.0/24":                      func(r *control.ForwardRequest) { r.Port = "one" },
		`guest "web:"`:                     func(r *control.ForwardRequest) { r.Guest = "web:" },
		`guest "w/b:80"`:                   func(r *control.ForwardRequest) { r.Guest = "w/b:80" },
		`guest "web:65536"`:                func(r *control.ForwardRequest) { r.Guest = "web:65536" },
		`guest "10.0.3.256:80": 10.0.3.256 is no address; want one such`: func(r *control.ForwardRequest) { r.Guest = "10.0.3.256:80" },
		`guest ""`:   func(r *control.ForwardRequest) { r.Guest = "" },
		"are needed": func(r *control.ForwardRequest) { r.Guest = "10.0.3.15:0" },
		"want a whole path, such as unix:/run/web":  func(r *control.ForwardRequest) { r.Listen = "unix:web.sock" },
		`want a whole path, such as unix:/run/web.`: func(r *control.ForwardRequest) { r.Listen = "unix:" },
		`network "tcp6"; tcp or udp`:                func(r *control.ForwardRequest) { r.Network = "tcp6" },
		`listen address "127.0.0.1:99999"`:          func(r *control.ForwardRequest) { r.Listen = "127.0.0.1:99999" },
		"60000 characters; want at most 256":        func(r *control.ForwardRequest) { r.Listen = strings.Repeat("[", 60000) },
	} {
		r := good
		change(&r)
		_, err := a.AddForward(t.Context(), r)
		if status(err) != control.StatusInvalidParameter || !strings.Contains(err.Error(), words) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%.200v; want one line with %q", err, words)
		}
	}
	if err := a.RemoveForward(t.Context(), "tcp", "127.0.0.1:1"); status(err) != control.StatusFileNotFound {
		t.Errorf("a way in that is not there: %v", err)
	}
	a.must(a.RemovePort(t.Context(), "two"))
	if listens(added.Listen) {
		t.Error("a way into a network that has gone is open")
	}
	if list, err := a.Forwards(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("%+v, %v", list, err)
	}
	a.must(a.RemovePort(t.Context(), "one"))
	if _, err := a.AddForward(t.Context(), good); err == nil || !strings.Contains(err.Error(), "no user-mode network") {
		t.Errorf("without a network: %v", err)
	}
}

// One place can be had once, however many ask at a time, and while its network
// goes.
func TestForwardsAtOnce(t *testing.T) {
	a := runNetworks(t, "user")
	at := freeTCP(t)
	const callers = 8
	var asking sync.WaitGroup
	got := make(chan error, callers)
	for i := range callers {
		asking.Go(func() {
			_, err := a.AddForward(t.Context(), control.ForwardRequest{Network: "tcp", Listen: at, Guest: fmt.Sprintf("10.0.2.%d:80", 20+i)})
			got <- err
		})
	}
	asking.Wait()
	close(got)
	done := 0
	for err := range got {
		if err == nil {
			done++
		} else if status(err) != control.StatusInvalidParameter {
			t.Error(err)
		}
	}
	if done != 1 {
		t.Errorf("%d callers have the one place", done)
	}
	for range callers {
		asking.Go(func() {
			_, _ = a.AddForward(t.Context(), control.ForwardRequest{Network: "udp", Listen: "127.0.0.1:0", Guest: "10.0.2.15:53"}) // before or after
		})
	}
	a.must(a.RemovePort(t.Context(), "internet"))
	asking.Wait()
	if list, err := a.Forwards(t.Context()); err != nil || len(list) != 0 || listens(at) {
		t.Errorf("ways into a network that has gone: %+v, %v", list, err)
	}
}

// What was added by hand outlives new configurations, also one with which its
// network is another; what was removed by hand does not come back; and a file that
// is in the way of either is refused.
func TestReloadKeepsForwardsByHand(t *testing.T) {
	const taken, refused, guest = "configuration is read anew", "is not taken", "/10.0.2.99:80"
	control := filepath.Join(t.TempDir(), "control")
	settings := fmt.Sprintf("control = %q", control)
	r := startReloader(t, settings, "a")
	ports := r.text(settings, "a")
	file, other, hand := freeTCP(t), freeTCP(t), freeTCP(t)
	forwards := func(args ...string) string {
		t.Helper()
		code, out, log := runHere(t.Context(), append(append([]string{"forwards"}, args...), "--control", control)...)
		if code != exitDone {
			t.Fatalf("forwards %v: exit code %d, %s", args, code, log)
		}
		return out
	}
	r.reload(ports+uplinkText("", "tcp/"+file+guest, "tcp/"+other+guest), taken, "added=1")
	forwards("add", "tcp/"+hand+guest)
	forwards("remove", "tcp/"+other)
	there := func(want ...string) {
		t.Helper()
		list := forwards()
		for _, at := range []string{file, other, hand} {
			is := false
			for _, w := range want {
				is = is || w == at
			}
			if listens(at) != is || strings.Contains(list, at) != is {
				t.Errorf("%s: want a way in there: %v\n%s", at, is, list)
			}
		}
	}
	there(file, hand)
	// The file takes one away, and is as it was again: each by comparison with the
	// file before.
	r.reload(ports+uplinkText("", "tcp/"+other+guest), taken, "changed=1")
	there(hand)
	r.reload(ports+uplinkText("", "tcp/"+file+guest, "tcp/"+other+guest), taken, "changed=1")
	there(file, hand)
	// In the place of what was added: refused, and so is a network that would not
	// have its guest.
	r.reload(ports+uplinkText("", "tcp/"+file+guest, "tcp/"+hand+guest), "ERROR", refused, "added at run time", "vhostnet forwards remove")
	there(file, hand)
	r.reload(ports+uplinkText("ipv4 = \"10.9.9.2/24\""), "ERROR", refused, "added at run time", "no guest's address")
	there(file, hand) // and the network is there again
	r.reload(ports+uplinkText("mtu = 9000", "tcp/"+file+guest), taken, "replaced=1")
	there(file, hand)
	if list := forwards(); !strings.Contains(list, "control") || !strings.Contains(list, "configuration") {
		t.Errorf("the origins are lost:\n%s", list)
	}
	// A way in of the file that was removed, and added by hand: it is not the
	// file's any more.
	forwards("remove", "tcp/"+file)
	forwards("add", "tcp/"+file+guest)
	r.reload(ports+uplinkText("mtu = 9000"), taken, "changed=1")
	there(file, hand)
	// In the place of one of the file, to another guest, also when the network is
	// another one, or again that of before.
	toOther := func() {
		t.Helper()
		there(file, other, hand)
		if list := strings.Join(strings.Fields(forwards()), " "); !strings.Contains(list, "tcp/"+other+" 10.0.2.98:80 out control") {
			t.Errorf("the way in is not the one that was added:\n%s", list)
		}
	}
	r.reload(ports+uplinkText("mtu = 9000", "tcp/"+other+guest), taken, "changed=1")
	forwards("remove", "tcp/"+other)
	forwards("add", "tcp/"+other+"/10.0.2.98:80")
	r.reload(ports+uplinkText("mtu = 9100", "tcp/"+other+guest), taken, "replaced=1")
	toOther()
	r.reload(ports+uplinkText("mtu = 9200", "tcp/"+other+guest)+"port \"d\" {\n socket = \"/no/such/directory/d\"\n}\n", "ERROR", refused, "/no/such/directory")
	toOther()
	forwards("remove", "tcp/"+other)
	r.reload(ports+uplinkText("mtu = 9000", "tcp/"+other+guest), taken, "replaced=1")
	there(file, hand) // what was removed of the file is not there again
	// With the network its ways in go.
	r.reload(ports, taken, "removed=1")
	there()
	r.end()
}

// A way in of the file that was removed by hand does not even listen for an instant
// when its network is replaced, also when the network of before comes back: somebody
// else may be there.
func TestReloadOpensNothingRemoved(t *testing.T) {
	const taken, guest = "configuration is read anew", "/10.0.2.99:80"
	control := filepath.Join(t.TempDir(), "control")
	settings := fmt.Sprintf("control = %q", control)
	r := startReloader(t, settings, "a")
	ports, kept, gone := r.text(settings, "a"), freeTCP(t), freeTCP(t)
	both := func() []string { return []string{"tcp/" + kept + guest, "tcp/" + gone + guest} }
	r.reload(ports+uplinkText("", both()...), taken, "added=1")
	if code, _, log := runHere(t.Context(), "forwards", "remove", "tcp/"+gone, "--control", control); code != exitDone {
		t.Fatal(log)
	}
	other, err := net.Listen("tcp", gone)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	r.reload(ports+uplinkText("mtu = 9000", both()...), taken, "replaced=1")
	r.reload(ports+uplinkText("mtu = 9100", both()...)+"port \"d\" {\n socket = \"/no/such/directory/d\"\n}\n", "ERROR", "is not taken", "/no/such/directory")
	if r.logged("address already in use") != 0 || !listens(kept) {
		t.Error("the network that comes back is not as it was")
	}
	code, out, log := runHere(t.Context(), "forwards", "--control", control)
	if code != exitDone || !strings.Contains(out, kept) || strings.Contains(out, gone) {
		t.Errorf("the ways in: %s%s", out, log)
	}
	other.Close()
	r.reload(ports+uplinkText("mtu = 9000", "tcp/"+kept+guest), taken, "changed=1")
	r.reload(ports+uplinkText("mtu = 9000", both()...), taken, "changed=1")
	if !listens(gone) {
		t.Error("the file said it anew, and nobody listens")
	}
	r.end()
}
