package nbl

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"vhostnet/metrics"
	"vhostnet/sharedmem"
	"vhostnet/virtio"
)

// wire is l as it is delivered.
func wire(l *List) []byte {
	b := make([]byte, l.Length)
	dst := Buffer{MDLs: []MDL{sharedmem.BytesBlock(b)}, Length: l.Length}
	CopyFrame(&dst, l)
	scattered := make([]byte, l.Length)
	half := len(b) / 2
	to := NewCursor([]MDL{sharedmem.BytesBlock(scattered[:half]), sharedmem.BytesBlock(scattered[half:])})
	WriteFrame(&to, l)
	if !bytes.Equal(b, scattered) {
		panic("a frame differs by how it is written")
	}
	return b
}

// insert and remove are what a frame looks like with another tag.
func insert(f []byte, tci uint16) []byte {
	out := append([]byte{}, f[:12]...)
	out = binary.BigEndian.AppendUint16(append(out, 0x81, 0), tci)
	return append(out, f[12:]...)
}

func remove(f []byte) []byte { return append(append([]byte{}, f[:12]...), f[16:]...) }

// Whatever a frame's length and wherever its sender split it, its tag can be put
// in, changed and left out, and the parent stays as it is.
func TestRetag(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for length := 18; length < 400; length++ {
		plainFrame := make([]byte, length)
		for i := range plainFrame {
			plainFrame[i] = byte(i * 3)
		}
		binary.BigEndian.PutUint16(plainFrame[12:], 0x88b5)
		taggedFrame := insert(plainFrame, 0xa123)

		var untagged, tagged, out, back List
		untagged.FromBytes(plainFrame, 7)
		if length%2 == 0 { // over a chain, behind a header
			chain := append(make([]byte, 12), plainFrame...)
			at := 1 + rng.IntN(len(chain)-1)
			var serial uint64 = 6
			s := NewSender(virtio.Version1, &serial)
			if r := s.wrap(&untagged, []MDL{sharedmem.BytesBlock(chain[:at]), sharedmem.BytesBlock(chain[at:])}, uint32(len(chain))); r != metrics.ReasonNone {
				t.Fatal(r)
			}
		}
		tagged.FromBytes(taggedFrame, 8)
		if untagged.HasTag() || untagged.TCI() != 0 || !tagged.HasTag() || tagged.TCI() != 0xa123 {
			t.Fatalf("%d bytes: tags %v %#x, %v %#x", length, untagged.HasTag(), untagged.TCI(), tagged.HasTag(), tagged.TCI())
		}
		out.WithTag(&untagged, 0xa123)
		back.WithoutTag(&out)
		for name, c := range map[string]struct {
			l    *List
			want []byte
		}{"put in": {&out, taggedFrame}, "left out again": {&back, plainFrame}, "the parent": {&untagged, plainFrame}} {
			if got := wire(c.l); !bytes.Equal(got, c.want) {
				t.Fatalf("%d bytes, %s:\n%x, want\n%x", length, name, got, c.want)
			}
		}
		if out.Serial() == untagged.Serial() || out.L3 != untagged.L3+4 || out.EtherType != 0x88b5 || out.Dst != untagged.Dst {
			t.Fatalf("%d bytes: serial %#x, L3 %d, type %#x", length, out.Serial(), out.L3, out.EtherType)
		}
		out.WithoutTag(&tagged)
		if got := wire(&out); !bytes.Equal(got, plainFrame) || out.HasTag() || out.Serial() == tagged.Serial() {
			t.Fatalf("%d bytes, left out: %x", length, got)
		}
		out.WithTag(&tagged, 0x2fff)
		if got := wire(&out); !bytes.Equal(got, insert(remove(taggedFrame), 0x2fff)) {
			t.Fatalf("%d bytes, changed: %x", length, got)
		}
		if got := wire(&tagged); !bytes.Equal(got, taggedFrame) {
			t.Fatalf("%d bytes: the parent changed", length)
		}
	}
}

// The tag moves what an offload is counted from.
func TestRetagMovesOffloads(t *testing.T) {
	var l, out, back List
	l.FromBytes(make([]byte, 2000), 1)
	l.Offload = virtio.NetHeader{Flags: virtio.NetFlagNeedsCsum, GSOType: virtio.GSOTCPv4, GSOSize: 1000, CsumStart: 34, CsumOffset: 16, HdrLen: 54}
	want := l.Offload
	want.CsumStart, want.HdrLen = 38, 58
	out.WithTag(&l, 5)
	back.WithoutTag(&out)
	if out.Offload != want || back.Offload != l.Offload {
		t.Errorf("with a tag %+v, without %+v", out.Offload, back.Offload)
	}
	l.Offload = virtio.NetHeader{}
	if out.WithTag(&l, 5); out.Offload != (virtio.NetHeader{}) {
		t.Errorf("a complete frame gets %+v", out.Offload)
	}
}
