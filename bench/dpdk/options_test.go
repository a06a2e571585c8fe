package main

import (
	"errors"
	"flag"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestOptionsDefaults(t *testing.T) {
	o, err := parseOptions(nil, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]int{64, 256, 512, 1024, 1518}, o.sizes); diff != "" {
		t.Errorf("sizes (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"vhostnet", "dpdk"}, o.backends); diff != "" {
		t.Errorf("back-ends (-want +got):\n%s", diff)
	}
	if len(o.combinations()) != 5 {
		t.Errorf("%d combinations by default, want one per size", len(o.combinations()))
	}
}

func TestOptionsCheckCoversTheMatrix(t *testing.T) {
	o, err := parseOptions([]string{"-check", "-long", "60"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[combination]bool{}
	for _, c := range o.combinations() {
		seen[c] = true
	}
	if len(seen) != 5*3*2 {
		t.Errorf("%d combinations, want five sizes, three numbers of queue pairs, mergeable or not", len(seen))
	}
	if diff := cmp.Diff([]string{"vhostnet"}, o.backends); diff != "" {
		t.Errorf("back-ends (-want +got):\n%s", diff)
	}
	b := bench{options: o}
	if b.circulation(0) != time.Minute || b.circulation(1) != o.duration {
		t.Errorf("circulation is %v and then %v, want a minute for the first only", b.circulation(0), b.circulation(1))
	}
}

func TestOptionsFloodComesApartAndLast(t *testing.T) {
	o, err := parseOptions([]string{"-flood", "-sizes", "64,512"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	var floods []bool
	for _, c := range o.combinations() {
		floods = append(floods, c.Flood)
	}
	if diff := cmp.Diff([]bool{false, false, true, true}, floods); diff != "" {
		t.Errorf("flood (-want +got):\n%s", diff)
	}
}

func TestOptionsRefused(t *testing.T) {
	for _, c := range []struct{ args, names string }{
		{"-sizes 63", `"63"`},
		{"-sizes 64,,128", `""`},
		{"-sizes 1519", `"1519"`},
		{"-queues 0", `"0"`},
		{"-mrg yes", `"yes"`},
		{"-backend vpp", `"vpp"`},
		{"-backend vhostnet=", `"vhostnet="`},
		{"-backend dpdk=bin/dpdk", `"dpdk=bin/dpdk"`},
		{"-windows -1", "-windows -1"},
		{"-check -windows 3", "-windows 3"},
		{"-runs 0", "-runs 0"},
		{"-patience -1", "-patience -1"},
		{"-seconds 0", "-seconds 0"},
		{"-frames 1000", "-frames 1000"},
		{"-o xml", "-o xml"},
		{"-front-core 0", "-front-core 0"},
		{"-check -flood", "-flood"},
		{"64", `"64"`},
	} {
		_, err := parseOptions(strings.Fields(c.args), io.Discard)
		if _, ok := errors.AsType[*usageError](err); !ok {
			t.Errorf("%s: error %v, want a usage error", c.args, err)
		} else if !strings.Contains(err.Error(), c.names) {
			t.Errorf("%s: %q does not name %s", c.args, err, c.names)
		}
	}
	if _, err := parseOptions([]string{"-h"}, io.Discard); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("-h: error %v, want flag.ErrHelp", err)
	}
}
