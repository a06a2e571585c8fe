package vhostuser

import (
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
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
