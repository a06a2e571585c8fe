package vhostuser

import (
	"syscall"
	"testing"

	"vhostnet/internal/sys"
)

// handshakeSteps are those of a front-end, up to a ring that runs.
var handshakeSteps = []func(p *peer, g *guest){
	func(p *peer, _ *guest) { p.say(SetOwner, nil) },
	func(p *peer, _ *guest) { p.number(GetFeatures) },
	func(p *peer, _ *guest) { p.ok(SetFeatures, U64(accepted).Marshal()) },
	func(p *peer, g *guest) {
		p.ok(SetMemTable, MemTable{Regions: []MemRegion{g.whole()}}.Marshal(), g.fd(p.t))
	},
	func(p *peer, _ *guest) { p.ok(SetVringErr, fdPayload(0), eventFD(p.t)) },
	func(p *peer, _ *guest) { p.ok(SetVringNum, state(0, ringSize)) },
	func(p *peer, _ *guest) { p.ok(SetVringAddr, addr(0).Marshal()) },
	func(p *peer, _ *guest) { p.ok(SetVringCall, fdPayload(0), eventFD(p.t)) },
	func(p *peer, _ *guest) { p.ok(SetVringKick, fdPayload(0), eventFD(p.t)) },
	func(p *peer, _ *guest) { p.ok(SetVringEnable, state(0, 1)) },
}

// handshakeFaults are how a handshake ends early. What cannot be sent any more
// was answered by the end of the connection.
var handshakeFaults = []func(p *peer){
	func(*peer) {},
	func(p *peer) { _ = p.conn.Send(make([]byte, 5), nil) },
	func(p *peer) { _ = p.conn.Send(Message(SetVringNum, FlagVersion, state(0, 1))[:HeaderLen+3], nil) },
	func(p *peer) { _ = p.send(GetFeatures, 0, nil) },
	func(p *peer) { _ = p.send(Request(200), FlagVersion, nil) },
	func(p *peer) { _ = p.send(SetVringNum, FlagVersion, state(99, 1)) },
	func(p *peer) { _ = p.send(SetVringKick, FlagVersion, fdPayload(0), eventFD(p.t), eventFD(p.t)) },
	func(p *peer) { _ = p.send(SetMemTable, FlagVersion, []byte{1}, eventFD(p.t)) },
}

// S4, P10: a thousand front-ends connect, make a mistake or leave in the midst
// of the handshake, and are gone. Each of them is served as the first was, and
// descriptors, mappings and goroutines end where they began.
func TestS4_ThousandFaultyHandshakes(t *testing.T) {
	const rounds = 1000
	g := newGuest(t)
	before := measure(t)
	p := newPort(t, tempSocket(t), nil)
	first := p.dial()
	first.number(GetFeatures)
	_ = first.conn.Close()
	started := 0
	for i := range rounds {
		steps := i % (len(handshakeSteps) + 1)
		f := p.dial()
		for _, step := range handshakeSteps[:steps] {
			step(f, g)
		}
		handshakeFaults[i/(len(handshakeSteps)+1)%len(handshakeFaults)](f)
		_ = f.conn.Close()
		if steps == len(handshakeSteps) {
			started++
		}
	}
	p.close()
	g.close()
	stats := p.server.Stats()
	if stats.Sessions != rounds+1 || stats.SecondFrontend != 0 || stats.Closed < rounds/2 {
		t.Errorf("%+v, want %d sessions, most of which were ended", stats, rounds+1)
	}
	starts := 0
	for _, call := range p.dev.take() {
		if call == "start 0" {
			starts++
		}
	}
	if starts < started {
		t.Errorf("%d rings were started, want %d at least", starts, started)
	}
	if bytes, regions := p.server.budget.Spent(); bytes != 0 || regions != 0 {
		t.Errorf("%d bytes in %d regions are still mapped", bytes, regions)
	}
	atRest(t, before)
}

// eventFD is an event of which this process keeps nothing, not even until the
// test's end.
func eventFD(t testing.TB) *sys.FD {
	t.Helper()
	n, _, errno := syscall.Syscall(syscall.SYS_EVENTFD2, 0, syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if errno != 0 {
		t.Fatal(errno)
	}
	return sys.OwnFD(int(n))
}
