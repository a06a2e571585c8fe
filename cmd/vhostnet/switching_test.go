package main

import (
	"slices"
	"strings"
	"testing"

	"vhostnet/vswitch"
)

func TestParseSwitching(t *testing.T) {
	for s, want := range map[string]switching{
		"a=s,vlan=10":                         {vlan: vswitch.VLANOptions{Access: 10}},
		"a=s,trunk=10+20-22+4094,native=1":    {vlan: vswitch.VLANOptions{Trunk: []uint16{10, 20, 21, 22, 4094}, Native: 1}},
		"a=s,protected=on,transparent=on":     {protected: true, transparent: true},
		"a=s,protected=off,mirror=b,trunk=7":  {mirror: "b", vlan: vswitch.VLANOptions{Trunk: []uint16{7}}},
		"a=s,mac=02:00:00:00:00:01,vlan=4094": {vlan: vswitch.VLANOptions{Access: 4094}},
	} {
		p, err := parsePort(s)
		got := p.switching
		if err != nil || !slices.Equal(got.vlan.Trunk, want.vlan.Trunk) {
			t.Errorf("%s: %+v, %v", s, got, err)
		}
		got.vlan.Trunk, want.vlan.Trunk = nil, nil
		if got.vlan.Access != want.vlan.Access || got.vlan.Native != want.vlan.Native || got.protected != want.protected ||
			got.transparent != want.transparent || got.mirror != want.mirror {
			t.Errorf("%s: %+v, want %+v", s, got, want)
		}
	}
	for s, want := range map[string]string{
		"a=s,vlan=0":               "vlan=0: want a VLAN, 1 to 4094",
		"a=s,vlan=4095":            "vlan=4095: want a VLAN, 1 to 4094",
		"a=s,vlan=x":               "vlan=x: want a VLAN",
		"a=s,native=":              "native=: want a VLAN",
		"a=s,native=5":             "want trunk too, or vlan=5",
		"a=s,trunk=":               "trunk=: want VLANs of 1 to 4094",
		"a=s,trunk=1-0":            "trunk=1-0: want VLANs",
		"a=s,trunk=9-4095":         "trunk=9-4095: want VLANs",
		"a=s,trunk=5-4":            "trunk=5-4: want VLANs",
		"a=s,trunk=1-2-3":          "trunk=1-2-3: want VLANs",
		"a=s,vlan=1,trunk=2":       "want one of the two",
		"a=s,protected":            "protected=: want on or off",
		"a=s,transparent=yes":      "transparent=yes: want on or off",
		"a=s,mirror=":              "mirror=: want the name",
		"a=s,mirror=a":             "mirror=a: want the name of another port",
		"a=s,mirror=c b=t":         "mirror=c: want the name of another port",
		"a=s,mirror=b b=t,vlan=1":  "--port b: it gets copies of another port's frames and nothing else",
		"a=s,mirror=b b=t,trunk=1": "--port b: it gets copies",
		"a=s,mirror=b b=t,mirror=c c=u,protected=on": "--port b: it gets copies",
	} {
		o := &runOptions{ports: strings.Split(s, " ")}
		var c config
		if err := o.parsePorts(&c); err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "--port ") {
			t.Errorf("%s: %v, want %q", s, err, want)
		}
	}
}

// Whoever watches is made first, wherever it is named.
func TestMirrorsAreJoined(t *testing.T) {
	o := &runOptions{ports: []string{"a=s,mirror=c", "b=t,mirror=c", "c=u"}}
	var c config
	if err := o.parsePorts(&c); err != nil {
		t.Fatal(err)
	}
	for i, want := range []bool{false, false, true} {
		if c.ports[i].sink != want {
			t.Errorf("port %s is a sink: %v", c.ports[i].name, c.ports[i].sink)
		}
	}
}
