package netdev

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"vhostnet/virtio"
	"vhostnet/vswitch"
	"vhostnet/worker"
)

// What a port has saved is learned by another one, and counted there, and
// gives it no filter.
func TestStateMoves(t *testing.T) {
	from, to := newLab(t), newLab(t)
	guest := [6]byte{0x52, 0x54, 0, 9, 9, 9}
	p := from.pair()
	from.session(p.Mem)
	from.must(from.d.StartRing(0, p.Queue))
	from.must(from.d.onWorker(0, func(c *worker.Context) {
		from.d.o.Switch.Teach(c, from.d.port, vswitch.Address{MAC: guest, VLAN: 5})
	}))
	from.d.counters.TxFrames.Add(7)
	from.d.counters.RxBytes.Add(900)
	from.d.StopRing(0)
	blob, err := from.d.SaveState()
	from.must(err)
	from.d.Disconnected()

	told := 0
	to.d.o.OnConfig = func() { told++ }
	to.must(to.d.LoadState(blob))
	got := to.d.o.Switch.Addresses(to.d.port, 10)
	for _, want := range []vswitch.Address{{MAC: labMAC}, {MAC: guest, VLAN: 5}} {
		if !slices.Contains(got, want) {
			t.Errorf("%v is not learned: %v", want, got)
		}
	}
	if s := to.d.Snapshot(); s.TxFrames != 7 || s.RxBytes != 900 {
		t.Errorf("counters %+v", s.PortSnapshot)
	}
	// The driver is asked to announce itself when its first ring runs.
	q := to.pair()
	to.session(q.Mem)
	to.d.Negotiated(virtio.Version1 | virtio.NetGuestAnnounce)
	if told != 0 {
		t.Error("the driver is asked before it runs")
	}
	to.must(to.d.StartRing(0, q.Queue))
	if c := virtio.DecodeNetConfig(to.d.Config()); told != 1 || c.Status&virtio.NetStatusAnnounce == 0 {
		t.Errorf("told %d times, status %#x", told, c.Status)
	}
	to.d.Disconnected()
	if blob, err := to.d.SaveState(); err != nil || strings.Contains(string(blob), "learned") {
		t.Errorf("of the session before: %s, %v", blob, err)
	}
}

// A state comes from a front-end: what is wrong with it changes nothing, and
// what is not its own is not given.
func TestStateIsChecked(t *testing.T) {
	l := newLab(t)
	many := state{Version: 1, Device: stateDevice, Learned: make([]movedAddress, 2*maxMoved+1)}
	blob, err := json.Marshal(many)
	l.must(err)
	for name, bad := range map[string]string{
		"nothing":      ``,
		"no JSON":      `{"version":1`,
		"other type":   `{"version":"1","device":"virtio-net"}`,
		"version":      `{"version":2,"device":"virtio-net"}`,
		"device":       `{"version":1,"device":"virtio-rng"}`,
		"port":         fmt.Sprintf(`{"version":1,"device":"virtio-net","port":%q}`, strings.Repeat("x", 65)),
		"no address":   `{"version":1,"device":"virtio-net","filters":[{"mac":"x"}]}`,
		"long address": `{"version":1,"device":"virtio-net","filters":[{"mac":"02:00:00:00:00:00:00:01"}]}`,
		"VLAN":         `{"version":1,"device":"virtio-net","learned":[{"mac":"02:00:00:00:00:01","vlan":4096}]}`,
		"count":        `{"version":1,"device":"virtio-net","counters":{"tx_frames":-1}}`,
		"many":         string(blob),
	} {
		if err := l.d.LoadState([]byte(bad)); err == nil {
			t.Errorf("%s is loaded", name)
		}
	}
	if got := l.d.o.Switch.Addresses(l.d.port, 10); got != nil || l.d.Snapshot().TxFrames != 0 {
		t.Errorf("a refused state has left %v", got)
	}
	// Another port's filter, and a group, are not learned; a counter cannot wrap.
	l.must(l.d.LoadState([]byte(`{"version":1,"device":"virtio-net","filters":[{"mac":"52:54:00:00:00:02"}],
		"learned":[{"mac":"ff:ff:ff:ff:ff:ff"},{"mac":"02:00:00:00:00:07"}],"counters":{"tx_frames":18446744073709551615}}`)))
	if got := l.d.o.Switch.Addresses(l.d.port, 10); len(got) != 1 || got[0].MAC != [6]byte{2, 0, 0, 0, 0, 7} {
		t.Errorf("learned are %v", got)
	}
	if n := l.d.Snapshot().TxFrames; n != maxCount {
		t.Errorf("%d frames", n)
	}
}

// However often a state is loaded, its counters do not wrap, and leave the port's
// own room.
func TestStateAgainAndAgain(t *testing.T) {
	l := newLab(t)
	l.d.counters.TxFrames.Add(5)
	for range 9 {
		l.must(l.d.LoadState(fmt.Appendf(nil, `{"version":1,"device":"virtio-net","counters":{"tx_frames":%d,"tx_bytes":%d,"rx_frames":%d,"rx_bytes":7}}`,
			uint64(1<<62), uint64(1<<63), uint64(1<<61))))
	}
	s := l.d.Snapshot()
	for what, n := range map[string]uint64{"frames sent": s.TxFrames, "bytes sent": s.TxBytes, "frames received": s.RxFrames} {
		if n != maxCount {
			t.Errorf("%s: %d, want %d", what, n, uint64(maxCount))
		}
	}
	if s.RxBytes != 63 {
		t.Errorf("%d bytes received, want 63", s.RxBytes)
	}
	l.d.counters.TxFrames.Add(5)
	if n := l.d.Snapshot().TxFrames; n != maxCount+5 {
		t.Errorf("%d frames behind five more, want %d", n, uint64(maxCount)+5)
	}
}
