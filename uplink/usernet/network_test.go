package usernet

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"vhostnet/nbl"
)

// What a Network cannot be made from is refused by a sentence that says what it
// can; nothing of it is left.
func TestNewRefuses(t *testing.T) {
	noLeak(t)
	l := newSwitch(t)
	for _, c := range []struct {
		change func(*Options)
		want   string
	}{
		{func(o *Options) { o.Switch = nil }, "needed"},
		{func(o *Options) { o.MAC = [6]byte{1} }, "group"},
		{func(o *Options) { o.IPv4 = netip.MustParsePrefix("10.0.2.2/31") }, "8 to 30"},
		{func(o *Options) { o.IPv4 = netip.MustParsePrefix("127.0.0.1/8") }, "IPv4 address"},
		{func(o *Options) { o.IPv6 = netip.MustParsePrefix("fd00::1/48") }, "64"},
		{func(o *Options) { o.IPv6 = netip.MustParsePrefix("fe80::1/64") }, "IPv6 address"},
		{func(o *Options) { o.MTU = 1000 }, "1280 to 65535"},
		{func(o *Options) { o.Limits.Flows = -1 }, "limit Flows"},
		{func(o *Options) { o.Limits.FlowIdle = -1 }, "FlowIdle"},
		{func(o *Options) {
			o.Forwards = []Forward{{"tcp", "127.0.0.1:0", netip.MustParseAddrPort("10.0.2.15:22")}, {"tcp", "x", netip.AddrPort{}}}
		}, "forward"},
	} {
		o := Options{Name: "user", Switch: l.s, Group: l.group, Log: hclog.NewNullLogger()}
		c.change(&o)
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v; want %q in it", err, c.want)
		}
	}
}

// A Network that never ran gives everything back, and one runs once.
func TestLife(t *testing.T) {
	noLeak(t)
	l := newSwitch(t)
	n, err := New(Options{
		Name: "user", Switch: l.s, Group: l.group, Log: hclog.NewNullLogger(),
		Forwards: []Forward{{"tcp", "127.0.0.1:0", netip.MustParseAddrPort("10.0.2.15:22")}, {"udp", "127.0.0.1:0", netip.MustParseAddrPort("10.0.2.15:53")}},
	})
	l.must(err)
	l.must(n.Close(context.Background()))
	if err := n.Run(context.Background()); err == nil {
		t.Error("a Network runs that was closed")
	}
	if err := n.AddForward(Forward{"tcp", "127.0.0.1:0", netip.MustParseAddrPort("10.0.2.15:22")}); err == nil {
		t.Error("a Network that was closed takes a forward")
	}

	on := newLab(t, Options{Host: true})
	g := newTestGuest(on, 1, nbl.UplinkFeatures)
	at := echoUDP(t, "127.0.0.1:0")
	c := g.dialUDP(netip.AddrPortFrom(gateways[0], at.Port()))
	exchange(t, c, []byte("before"))
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	on.must(on.n.Drain(ctx))
	before := on.n.Snapshot().Port.TxFrames
	_, err = c.Write([]byte("after"))
	on.must(err)
	on.wait("the answer to be kept back", func() bool { return !on.n.out.empty() })
	if n := on.n.Snapshot().Port.TxFrames; n != before {
		t.Errorf("%d packets went to guests after Drain", n-before)
	}
	on.end()
	on.must(on.n.Close(ctx))
	if err := on.n.Run(ctx); err == nil {
		t.Error("a Network runs twice")
	}
}
