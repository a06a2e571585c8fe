package vhostuser

import (
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"vhostnet/internal/sys"
	"vhostnet/virtio"
)

func TestDeviceRefuses(t *testing.T) {
	b := newBench(t, newStub(), nil)
	g := newGuest(t)
	b.handshake(g)
	b.ring(1)
	b.dev.failing("memory", errStub)
	b.refused(AddMemReg, SingleRegion{Region: MemRegion{GPA: 1 << 40, User: 1 << 40, Size: 4096}}.Marshal(), g.fd(t))
	b.calls("memory 2")
	b.regions(1)

	b.ok(SetVringEnable, state(0, 1))
	b.calls("enable 0 true")
	b.dev.failing("start", errStub)
	e, efd := eventfd(t)
	b.ok(SetVringErr, fdPayload(0), efd)
	b.ok(SetVringNum, state(0, ringSize))
	b.ok(SetVringAddr, addr(0).Marshal())
	b.refused(SetVringKick, fdPayload(0), newFD(t))
	b.calls("start 0")
	if !signalled(t, e) {
		t.Error("the front-end was not told by the err event")
	}
	b.number(GetFeatures)
	b.calls() // not tried again until something changes
	b.dev.failing("start", nil)
	b.say(SetVringKick, fdPayload(0), newFD(t))
	b.number(GetFeatures)
	b.calls("start 0")

	b.dev.failing("replace", errStub)
	b.refused(SetVringCall, fdPayload(0), newFD(t))
	b.calls("replace 0")
	b.base(0)
	b.calls() // the ring was stopped by the failure
}

// A panic behind a handler ends that session, and the port lives on.
func TestPanicEndsTheSession(t *testing.T) {
	d := newStub()
	b := newBench(t, d, nil)
	g := newGuest(t)
	b.handshake(g)
	d.panicIn("enable")
	b.say(SetVringEnable, state(0, 1))
	b.closed()
	b.wait()
	if log := b.log.String(); !strings.Contains(log, "please report") {
		t.Errorf("log does not ask for a report:\n%s", log)
	}
	if got := b.server.Stats().Closed; got != 1 {
		t.Errorf("%d sessions closed, want 1", got)
	}
	b.calls("enable 0 true", "disconnected")
}

// wildFault is what a fault outside guest memory looks like.
type wildFault struct{}

func (wildFault) Error() string { return "fault" }

func (wildFault) RuntimeError() {}

func (wildFault) Addr() uintptr { return 0xdead0000 }

// A fault outside guest memory is not forgiven.
func TestWildFaultIsFatal(t *testing.T) {
	d := newStub()
	d.panicking = "enable"
	d.panicWith = wildFault{}
	s := newSession(&Server{dev: d, rings: d.rings, log: newLimitedLog(hclog.NewNullLogger())}, nil)
	defer func() {
		if r := recover(); r != (wildFault{}) {
			t.Errorf("recovered %v, want the fault", r)
		}
	}()
	_, err := s.do(&message{Header: Header{Request: SetVringEnable}, payload: state(0, 1)})
	t.Errorf("a fault at a wild address became %v", err)
}

// What a ring lacks without NEED_REPLY is told by its err event, and the
// session goes on.
func TestMalformedRingWithoutNeedReply(t *testing.T) {
	b := newBench(t, newStub(), nil)
	g := newGuest(t)
	b.handshake(g)
	e, efd := eventfd(t)
	b.say(SetVringErr, fdPayload(0), efd)
	b.say(SetVringNum, state(0, ringSize))
	bad := addr(0)
	bad.Desc++
	b.say(SetVringAddr, bad.Marshal())
	b.say(SetVringKick, fdPayload(0), newFD(t))
	b.number(GetFeatures)
	if !signalled(t, e) {
		t.Error("the front-end was not told by the err event")
	}
	b.say(SetVringAddr, addr(0).Marshal())
	b.number(GetFeatures)
	b.calls("start 0")
}

// Whatever the device panics in, nothing of the session is left: neither the
// memory that it had nor the one that it was about to have.
func TestPanicLeavesNothing(t *testing.T) {
	for _, call := range []string{"negotiated", "memory", "enable", "replace", "save"} {
		t.Run(call, func(t *testing.T) {
			g := newGuest(t)
			before := measure(t)
			d := newStub()
			b := newBench(t, d, nil)
			b.handshake(g)
			b.live(0)
			d.panicIn(call)
			switch call {
			case "negotiated":
				b.base(0)
				b.say(SetFeatures, U64(accepted&^virtio.EventIdx).Marshal())
			case "memory", "replace":
				b.say(AddMemReg, SingleRegion{Region: MemRegion{GPA: 1 << 40, User: 1 << 40, Size: 4096}}.Marshal(), g.fd(t))
			case "enable":
				b.say(SetVringEnable, state(1, 1))
			case "save":
				b.base(0)
				r, w := channels["pipe"](t)
				_ = r.Close()
				b.say(SetDeviceStateFD, DeviceState{Direction: StateSave}.Marshal(), w)
			}
			b.closed()
			b.close()
			if !strings.Contains(b.log.String(), "please report") {
				t.Errorf("nothing has panicked:\n%s", b.log)
			}
			atRest(t, before)
		})
	}
}

// A descriptor that was to go with a reply is closed when there is none: the
// reply cannot be sent, or the request failed behind it.
func TestDescriptorOfNoReply(t *testing.T) {
	file := func() *sys.FD {
		fd, err := sys.NewMemfd("test", 4096, sys.MemfdOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return fd
	}
	for name, end := range map[string]func(*conn){
		"no reply": func(*conn) {},
		"a reply that cannot be sent": func(c *conn) {
			c.end()
			if err := c.reply(GetInflightFD, nil); err == nil {
				t.Error("a reply is sent on a connection that has ended")
			}
		},
		"another descriptor": func(c *conn) { c.attach(file()) },
	} {
		t.Run(name, func(t *testing.T) {
			before := measure(t)
			ours, theirs := socketPair(t)
			s, err := sys.ConnFrom(ours)
			if err != nil {
				t.Fatal(err)
			}
			c := &conn{Conn: s}
			c.attach(file())
			end(c)
			c.close()
			_ = theirs.Close()
			atRest(t, before)
		})
	}
}
