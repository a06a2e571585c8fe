package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"vhostnet/virtio"
	"vhostnet/worker"
)

func TestParsePort(t *testing.T) {
	for s, want := range map[string]portSpec{
		"web=/run/web.sock":               {name: "web", path: "/run/web.sock", fd: -1},
		"web=a=b":                         {name: "web", path: "a=b", fd: -1},
		"web=web.sock,mode=interrupt":     {name: "web", path: "web.sock", fd: -1, mode: worker.Interrupt},
		"w=s,mac=52:54:00:12:34:56":       {name: "w", path: "s", fd: -1, mac: [6]byte{0x52, 0x54, 0, 0x12, 0x34, 0x56}},
		"w=s,mtu=9000,pairs=128":          {name: "w", path: "s", fd: -1, mtu: 9000, pairs: 128},
		"w=s,mask=csum+mq,mask=mrg_rxbuf": {name: "w", path: "s", fd: -1, mask: virtio.NetCsum | virtio.NetMQ | virtio.NetMrgRxBuf},
		"w=s,frontend=libkrun,mask=csum":  {name: "w", path: "s", fd: -1, mask: virtio.NetCsum | virtio.RingPacked},
		"w=@s":                            {name: "w", path: "@s", fd: -1},
		"w=fd:7":                          {name: "w", fd: 7, from: "--port w=fd:7"},
		"w=./fd:7":                        {name: "w", path: "./fd:7", fd: -1},
		"w=s,role=connect":                {name: "w", path: "s", fd: -1, dial: true},
		"w=s,role=listen,socket-mode=600,socket-owner=7,socket-group=8": {
			name: "w", path: "s", fd: -1, access: socketAccess{mode: 0o600, owner: "7", group: "8"},
		},
		"w=s,frontend=qemu": {name: "w", path: "s", fd: -1},
	} {
		want.said = origin{what: "--port " + want.name}
		got, err := parsePort(s)
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(portSpec{}, socketAccess{}, switching{}, guestOptions{}, origin{}, uplinkSpec{})); err != nil || diff != "" {
			t.Errorf("%s: %v\n%s", s, err, diff)
		}
	}
}

// Addresses that nobody chose differ by name and by host, stay the same from
// start to start, and are ones that no manufacturer gives.
func TestJoinPortsGivesAddresses(t *testing.T) {
	join := func(host string) [2][6]byte {
		ports := []portSpec{{name: "a", path: "a", fd: -1}, {name: "b", path: "b", fd: -1}}
		if err := joinPorts(ports, host, 0); err != nil {
			t.Fatal(err)
		}
		return [2][6]byte{ports[0].mac, ports[1].mac}
	}
	one, again, other := join("one"), join("one"), join("other")
	if one != again || one[0] == one[1] || one[0] == other[0] || one[0][0] != 0x02 || one[1][0] != 0x02 {
		t.Errorf("addresses %x, again %x, on another host %x", one, again, other)
	}
}

func TestListOf(t *testing.T) {
	for want, words := range map[string][]string{"": nil, "a": {"a"}, "a or b": {"a", "b"}, "a, b or c": {"a", "b", "c"}} {
		if got := listOf(words); got != want {
			t.Errorf("listOf(%q) is %q", words, got)
		}
	}
}

// Any words make a list of ports that are in nobody's way, or one line of
// error.
func FuzzPorts(f *testing.F) {
	for _, seed := range []string{
		"web=/run/web.sock", "web=/tmp/a db=/tmp/b", "web=/tmp/a,mac=52:54:00:00:00:01,mode=poll", "a=b,mask=csum+mq,pairs=8,mtu=1500",
		"a=b,frontend=crosvm", "a=@b", "a=", "=", "a=b,,", "a=b a=c", "a=b c=b", "a=b c=./b", "a=b,mac=ff:ff:ff:ff:ff:ff", "a=b,mask=+",
		"a=b,mac=02:00:00:00:00:01 c=d,mac=02-00-00-00-00-01", "a=b,mode=\n", "\x00=\x00", "a=b,mtu=99999999999999999999", "ä=ö",
		"a=fd:3", "a=fd:3 b=fd:3", "a=fd:x", "a=b,role=connect", "a=b,role=connect,socket-mode=600", "a=@b,socket-group=0,socket-owner=root",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, words string) {
		o := &runOptions{ports: strings.Split(words, " ")}
		var c config
		if err := o.parsePorts(&c); err != nil {
			if s := oneLine(err); strings.Contains(s, "\n") || !strings.HasPrefix(s, "--port ") {
				t.Errorf("%q: error %q", words, s)
			}
			return
		}
		if len(c.ports) != len(o.ports) {
			t.Fatalf("%q: %d ports of %d", words, len(c.ports), len(o.ports))
		}
		names, paths := map[string]bool{}, map[string]bool{}
		for i, p := range c.ports {
			place := p.path
			if p.fd >= 0 {
				place = fmt.Sprintf("fd:%d", p.fd)
			}
			names[p.name], paths[place] = true, true
			if p.fd < 0 && !strings.HasPrefix(o.ports[i], p.name+"="+p.path) || !portName.MatchString(p.name) || (p.path == "") != (p.fd >= 0) {
				t.Errorf("%q: name %q, path %q, descriptor %d", o.ports[i], p.name, p.path, p.fd)
			}
			if p.mac == [6]byte{} || p.mac[0]&1 != 0 || p.pairs < 0 || p.pairs > maxPairs || p.mtu != 0 && p.mtu < 68 || p.fd < -1 || p.consistent() != nil {
				t.Errorf("%q: %+v", o.ports[i], p)
			}
		}
		if len(names) != len(c.ports) || len(paths) != len(c.ports) {
			t.Errorf("%q: %d names and %d paths of %d ports", words, len(names), len(paths), len(c.ports))
		}
	})
}
