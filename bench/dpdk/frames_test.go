package main

import (
	"bytes"
	"encoding/binary"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// loop makes the frames of both directions, of 64 bytes.
func loop(t *testing.T, count int) (want, foreign [][]byte) {
	t.Helper()
	var err error
	if want, err = loopFrames(0, count, minSize, 1); err != nil {
		t.Fatal(err)
	}
	if foreign, err = loopFrames(1, count, minSize, 1); err != nil {
		t.Fatal(err)
	}
	return want, foreign
}

func TestLoopFramesAreDifferentAndValid(t *testing.T) {
	for _, size := range []int{minSize, 65, maxSize} {
		seen := map[string]bool{}
		for port := range 2 {
			frames, err := loopFrames(port, 100, size, 3)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range frames {
				seen[string(f)] = true
				if len(f) != size {
					t.Fatalf("a frame of %d bytes, want %d", len(f), size)
				}
				if got := sum(f[ipAt:udpAt], 0); got != 0xffff {
					t.Fatalf("size %d: the IPv4 header sums to %#x, want 0xffff", size, got)
				}
				pseudo := uint32(sum(f[ipAt+12:udpAt], 0)) + 17 + uint32(size-udpAt)
				if got := sum(f[udpAt:], pseudo); got != 0xffff {
					t.Fatalf("size %d: the UDP datagram sums to %#x, want 0xffff", size, got)
				}
			}
		}
		if len(seen) != 200 {
			t.Errorf("size %d: %d different frames, want 200", size, len(seen))
		}
	}
}

func TestLoopFramesKeepAFlowInItsPair(t *testing.T) {
	const count, queues = 100, 3
	pairs := map[uint16]map[int]bool{} // by flow
	for port := range 2 {
		frames, err := loopFrames(port, count, minSize, queues)
		if err != nil {
			t.Fatal(err)
		}
		next := 0
		for q := range queues {
			from, to := share(count, queues, q)
			if from != next {
				t.Fatalf("pair %d begins at %d, want %d", q, from, next)
			}
			next = to
			for _, f := range frames[from:to] {
				flow := binary.BigEndian.Uint16(f[udpAt:])
				if pairs[flow] == nil {
					pairs[flow] = map[int]bool{}
				}
				pairs[flow][q] = true
			}
		}
		if next != count {
			t.Errorf("the shares end at %d, want %d", next, count)
		}
	}
	for flow, in := range pairs {
		if len(in) != 1 {
			t.Errorf("flow %d enters by %d pairs, want 1", flow, len(in))
		}
	}
	if len(pairs) != queues*flowCount {
		t.Errorf("%d flows, want %d", len(pairs), queues*flowCount)
	}
}

func TestSumKnownHeader(t *testing.T) {
	// An IPv4 header with a zero checksum field; the right checksum is 0xb861.
	header := []byte{0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0, 0, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0, 0xc7}
	if got := ^sum(header, 0); got != 0xb861 {
		t.Errorf("checksum %#x, want 0xb861", got)
	}
}

func TestJudge(t *testing.T) {
	want, foreign := loop(t, 10)
	altered := bytes.Clone(want[3])
	altered[63] ^= 1
	swapped := slices.Clone(want)
	swapped[2], swapped[7] = swapped[7], swapped[2]
	for _, c := range []struct {
		name string
		got  [][]byte
		want verdict
	}{
		{"all", want, verdict{Sent: 10, Intact: 10}},
		{"all, the loop cut elsewhere", slices.Concat(want[4:], want[:4]), verdict{Sent: 10, Intact: 10}},
		{"none", nil, verdict{Sent: 10, Lost: 10}},
		{"one lost", want[1:], verdict{Sent: 10, Intact: 9, Lost: 1}},
		{"one altered", slices.Concat(want[:3], [][]byte{altered}, want[4:]), verdict{Sent: 10, Intact: 9, Lost: 1, Altered: 1}},
		{"one cut short", slices.Concat(want[:9], [][]byte{want[9][:60]}), verdict{Sent: 10, Intact: 9, Lost: 1, Altered: 1}},
		{"one doubled", slices.Concat(want, want[9:]), verdict{Sent: 10, Intact: 10, Doubled: 1}},
		{"one from the other direction", slices.Concat(want, foreign[:1]), verdict{Sent: 10, Intact: 10, Misplaced: 1}},
		{"two out of order", swapped, verdict{Sent: 10, Intact: 10, Reordered: 1}},
	} {
		got := judge(want, foreign, c.got, true)
		if got.ok() != (c.want == verdict{Sent: 10, Intact: 10}) {
			t.Errorf("%s: ok is %v", c.name, got.ok())
		}
		if (got.Example != "") != (c.want.Lost > 0) {
			t.Errorf("%s: the example is %q", c.name, got.Example)
		}
		got.Example = ""
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
	if got := judge(want, foreign, swapped, false); !got.ok() {
		t.Errorf("order was looked at: %v", got)
	}
}

func TestDescribeLost(t *testing.T) {
	seen := []bool{false, true, true, false, false}
	if got := describeLost(seen); got != "0-0 3-4" {
		t.Errorf("got %q, want %q", got, "0-0 3-4")
	}
	seen = make([]bool, 100)
	for i := range seen {
		seen[i] = i%2 == 0
	}
	if got := describeLost(seen); len(got) > 100 || !strings.HasSuffix(got, "...") {
		t.Errorf("fifty ranges are told as %q", got)
	}
}

func TestPcapKeepsFrames(t *testing.T) {
	want, _ := loop(t, 3)
	path := filepath.Join(t.TempDir(), "x.pcap")
	if err := writePcap(path, want); err != nil {
		t.Fatal(err)
	}
	got, err := readPcap(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestParsePcapRefusesWhatIsCutOff(t *testing.T) {
	file := []byte{
		0x4d, 0x3c, 0xb2, 0xa1, 2, 0, 4, 0, // magic of nanosecond times, version 2.4
		0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 1, 0, 0, 0, // unused, longest frame, Ethernet
		0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 3, 0, 0, 0, // time, bytes kept, bytes sent
		7, 8, 9,
	}
	got, err := parsePcap(file)
	if err != nil || len(got) != 1 || !bytes.Equal(got[0], []byte{7, 8, 9}) {
		t.Fatalf("the whole file gives %v, %v", got, err)
	}
	for n := range len(file) {
		got, err := parsePcap(file[:n])
		if n == pcapHeader {
			if err != nil || len(got) != 0 {
				t.Errorf("a file of no frames gives %v, %v", got, err)
			}
		} else if err == nil {
			t.Errorf("the first %d bytes were taken as %v", n, got)
		}
	}
	file[0] = 0
	if _, err := parsePcap(file); err == nil {
		t.Error("a file without the magic was taken")
	}
}
