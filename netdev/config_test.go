package netdev

import (
	"testing"

	"vhostnet/virtio"
)

func TestConfigSpace(t *testing.T) {
	l := newLab(t)
	config := func() virtio.NetConfig { return virtio.DecodeNetConfig(l.d.Config()) }
	want := virtio.NetConfig{
		MAC: labMAC, Status: virtio.NetStatusLinkUp, MaxPairs: 2, MTU: 1500,
		Speed: virtio.NetSpeedUnknown, Duplex: virtio.NetDuplexUnknown,
	}
	if got := config(); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	l.must(l.d.SetMTU(9000))
	l.d.o.Speed = 25000
	want.MTU, want.Speed, want.Duplex = 9000, 25000, virtio.NetDuplexFull
	if got := config(); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}

	told := 0
	l.d.o.OnConfig = func() { told++ }
	l.d.AskAnnounce()
	if got := config(); got != want || told != 0 {
		t.Errorf("a driver that cannot announce itself is asked to: %+v, told %d times", got, told)
	}
	l.d.Negotiated(virtio.Version1 | virtio.NetGuestAnnounce)
	l.d.AskAnnounce()
	l.d.AskAnnounce()
	want.Status |= virtio.NetStatusAnnounce
	if got := config(); got != want || told != 1 {
		t.Errorf("%+v, want %+v; told %d times, want once", got, want, told)
	}
	l.d.AnnounceDone()
	want.Status = virtio.NetStatusLinkUp
	if got := config(); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	l.d.AskAnnounce()
	l.d.Reset()
	want.MTU = 1500
	if got := config(); got != want {
		t.Errorf("after a reset %+v, want %+v", got, want)
	}
	l.must(l.d.SetLink(t.Context(), false))
	l.must(l.d.SetLink(t.Context(), false))
	want.Status = 0
	if got := config(); got != want || told != 3 || l.d.LinkUp() {
		t.Errorf("with the link down %+v, told %d times; want %+v, 3 times", got, told, want)
	}
	l.must(l.d.SetLink(t.Context(), true))
	want.Status = virtio.NetStatusLinkUp
	if got := config(); got != want || told != 4 || !l.d.LinkUp() {
		t.Errorf("with the link up again %+v, told %d times; want %+v, 4 times", got, told, want)
	}
	l.d.Disconnected()
}

func TestFeaturesThatBelongTogether(t *testing.T) {
	l := newLab(t)
	l.d.o.Mask = virtio.NetCtrlVQ | virtio.NetGuestCsum
	got := l.d.Features()
	if lost := virtio.NetMQ | virtio.NetGuestAnnounce | virtio.NetGuestTSO4 | virtio.NetGuestTSO6; got&lost != 0 {
		t.Errorf("%s is offered without what it needs", got&lost)
	}
	if want := virtio.NetMAC | virtio.NetMTU | virtio.NetStatus | virtio.NetSpeedDuplex | virtio.NetHostTSO4; !got.Has(want) {
		t.Errorf("offered are %s, want %s among them", got, want)
	}
	l.d.o.MAC = [6]byte{}
	if l.d.Features().Has(virtio.NetMAC) {
		t.Error("a MAC is offered, and there is none")
	}
}
