package virtio

import (
	"bytes"
	"testing"
)

func TestNetConfigOnTheWire(t *testing.T) {
	c := NetConfig{
		MAC: [6]byte{0x52, 0x54, 0, 0x12, 0x34, 0x56}, Status: NetStatusLinkUp | NetStatusAnnounce,
		MaxPairs: 0x0108, MTU: 1500, Speed: 100000, Duplex: NetDuplexFull,
	}
	want := []byte{
		0x52, 0x54, 0, 0x12, 0x34, 0x56, // mac
		3, 0, // status
		8, 1, // max_virtqueue_pairs
		0xdc, 0x05, // mtu
		0xa0, 0x86, 1, 0, // speed
		1,                   // duplex
		0, 0, 0, 0, 0, 0, 0, // receive side scaling, hash reports
	}
	if got := c.Encode(); !bytes.Equal(got, want) {
		t.Errorf("% x, want % x", got, want)
	}
	if got := DecodeNetConfig(want); got != c {
		t.Errorf("%+v, want %+v", got, c)
	}
	if got := DecodeNetConfig(want[:8]); got != (NetConfig{MAC: c.MAC, Status: 3}) {
		t.Errorf("of 8 bytes: %+v", got)
	}
}

// A device that masks a feature masks those that need it: Linux refuses a
// device that offers one without the other.
func TestConsistent(t *testing.T) {
	all := ^Features(0)
	for _, tt := range []struct{ without, gone Features }{
		{0, 0},
		{NetCtrlVQ, NetCtrlRx | NetCtrlVLAN | NetCtrlRxExtra | NetGuestAnnounce | NetMQ | NetCtrlMACAddr | NetCtrlGuestOffloads},
		{NetCtrlRx, NetCtrlRxExtra},
		{NetCsum, NetHostTSO4 | NetHostTSO6 | NetHostUFO | NetHostUSO | NetHostECN},
		{NetGuestCsum, NetGuestTSO4 | NetGuestTSO6 | NetGuestUFO | NetGuestUSO4 | NetGuestUSO6 | NetGuestECN},
		{NetHostTSO4, 0},
		{NetHostTSO4 | NetHostTSO6, NetHostECN},
		{NetGuestTSO4 | NetGuestTSO6, NetGuestECN},
	} {
		if got, want := (all &^ tt.without).Consistent(), all&^tt.without&^tt.gone; got != want {
			t.Errorf("without %s: %s is gone, want %s", tt.without, all&^tt.without&^got, tt.gone)
		}
	}
}
