package virtio

import (
	"bytes"
	"strings"
	"testing"
)

func TestParseFeatures(t *testing.T) {
	f, err := ParseFeatures("mrg_rxbuf, guest_tso4,version_1")
	if err != nil || f != NetMrgRxBuf|NetGuestTSO4|Version1 {
		t.Errorf("got %v, %v", f, err)
	}
	if f, err := ParseFeatures(""); f != 0 || err != nil {
		t.Errorf("the empty list is %v, %v", f, err)
	}
	if _, err := ParseFeatures("mrg_rxbuf,tso9"); err == nil || !strings.Contains(err.Error(), `"tso9"`) || !strings.Contains(err.Error(), "guest_tso4") {
		t.Errorf("an unknown feature: %v", err)
	}
}

// Every name is read back as what it was written from.
func TestFeatureNamesRoundTrip(t *testing.T) {
	var all Features
	for _, name := range Names() {
		f, err := ParseFeatures(name)
		if err != nil || f.String() != name || f&(f-1) != 0 || all&f != 0 {
			t.Errorf("%s: %v (%#x), %v", name, f, uint64(f), err)
		}
		all |= f
	}
	if back, err := ParseFeatures(all.String()); err != nil || back != all {
		t.Errorf("all features: %v, %v", back, err)
	}
	if got := (Features(1)<<60 | NetCsum).String(); got != "csum,bit60" {
		t.Errorf("a bit without a name: %s", got)
	}
}

func TestV65_NetHeaderLen(t *testing.T) {
	for f, want := range map[Features]int{
		0: 10, NetCsum | NetHostTSO4: 10, NetMrgRxBuf: 12, Version1: 12, RingPacked: 12, Version1 | NetMrgRxBuf: 12,
	} {
		if got := NetHeaderLen(f); got != want {
			t.Errorf("header with %v is %d bytes, want %d", f, got, want)
		}
	}
}

func TestNetHeader(t *testing.T) {
	h := NetHeader{Flags: 1, GSOType: 4, HdrLen: 0x0203, GSOSize: 0x0405, CsumStart: 0x0607, CsumOffset: 0x0809, NumBuffers: 0x0a0b}
	wire := []byte{
		1,          // flags
		4,          // gso_type
		0x03, 0x02, // hdr_len
		0x05, 0x04, // gso_size
		0x07, 0x06, // csum_start
		0x09, 0x08, // csum_offset
		0x0b, 0x0a, // num_buffers
	}
	for _, n := range []int{10, 12} {
		b := make([]byte, n)
		h.Encode(b)
		if !bytes.Equal(b, wire[:n]) {
			t.Errorf("%d bytes: % x", n, b)
		}
	}
	want := h
	want.NumBuffers = 0 // the driver's is not read
	if got := DecodeNetHeader(wire); got != want {
		t.Errorf("decoded %+v", got)
	}
}
