package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
)

// maxLoopFrames bounds the frames that circulate in one direction: were they
// all to meet in one ring, a quarter of it would still be free, so that a lost
// frame is never lost for want of a descriptor.
const maxLoopFrames = ringSize * 3 / 4

// Where things are in the frames that are made here: Ethernet, IPv4 and UDP
// without options, then a number that no other frame has, then random bytes.
const (
	ipAt      = 14
	udpAt     = ipAt + 20
	numberAt  = udpAt + 8
	randomAt  = numberAt + 4
	flowCount = 16 // UDP source ports per queue pair: a flow keeps to its pair, as a guest's does
)

// loopFrames makes the frames that enter at one of the two ports: from its MAC
// to the other's, each different, a share for each queue pair. The two ports'
// frames are of the same flows, in both directions. The same arguments make the
// same frames.
func loopFrames(port, count, size, queues int) ([][]byte, error) {
	var mac [2]net.HardwareAddr
	for i := range mac {
		var err error
		if mac[i], err = net.ParseMAC(macs[i]); err != nil {
			return nil, err
		}
	}
	random := rand.NewChaCha8([32]byte{byte(port), byte(size), byte(size >> 8)})
	frames := make([][]byte, 0, count)
	for q := range queues {
		from, to := share(count, queues, q)
		for i := from; i < to; i++ {
			f := make([]byte, size)
			copy(f, mac[1-port])
			copy(f[6:], mac[port])
			binary.BigEndian.PutUint16(f[12:], 0x0800)
			binary.BigEndian.PutUint32(f[numberAt:], uint32(port)<<16|uint32(i))
			_, _ = random.Read(f[randomAt:]) // never fails
			putHeaders(f, byte(port), uint16(10_000+q*flowCount+i%flowCount))
			frames = append(frames, f)
		}
	}
	return frames, nil
}

// share is the part of so many frames that enters by queue pair q.
func share(count, queues, q int) (from, to int) {
	return q * count / queues, (q + 1) * count / queues
}

// putHeaders writes valid IPv4 and UDP headers, since a switch may look at them:
// flow number flow, from the given port's end.
func putHeaders(f []byte, port byte, flow uint16) {
	ip, udp := f[ipAt:udpAt], f[udpAt:]
	ip[0], ip[8], ip[9] = 0x45, 64, 17 // version and length, time to live, UDP
	binary.BigEndian.PutUint16(ip[2:], uint16(len(f)-ipAt))
	copy(ip[12:], []byte{192, 0, 2, 1 + port, 192, 0, 2, 2 - port}) // RFC 5737's addresses for examples
	binary.BigEndian.PutUint16(ip[10:], ^sum(ip, 0))
	binary.BigEndian.PutUint16(udp, flow)
	binary.BigEndian.PutUint16(udp[2:], flow)
	binary.BigEndian.PutUint16(udp[4:], uint16(len(udp)))
	pseudo := uint32(sum(ip[12:20], 0)) + 17 + uint32(len(udp))
	check := ^sum(udp, pseudo)
	if check == 0 {
		check = 0xffff // RFC 768: zero would say that there is none
	}
	binary.BigEndian.PutUint16(udp[6:], check)
}

// sum is the one's complement sum of RFC 1071, continued from start.
func sum(b []byte, start uint32) uint16 {
	s := start
	for ; len(b) > 1; b = b[2:] {
		s += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

// verdict compares the frames that came back with those that were sent.
type verdict struct {
	Sent      int    `json:"sent"`
	Intact    int    `json:"intact"`    // came back once, where they belong, byte for byte
	Lost      int    `json:"lost"`      // did not come back in their own shape
	Altered   int    `json:"altered"`   // came back, and nobody sent them so
	Doubled   int    `json:"doubled"`   // came back more often than sent
	Misplaced int    `json:"misplaced"` // came back at the port they were sent from
	Reordered int    `json:"reordered"` // breaks of the order beyond the one where the loop was cut
	Example   string `json:"example,omitempty"`
}

func (v verdict) ok() bool {
	return v.Intact == v.Sent && v.Altered+v.Doubled+v.Misplaced+v.Reordered == 0
}

func (v verdict) String() string {
	return fmt.Sprintf("of %d frames %d came back intact; %d lost, %d altered, %d doubled, %d at the wrong port, %d out of order%s",
		v.Sent, v.Intact, v.Lost, v.Altered, v.Doubled, v.Misplaced, v.Reordered, v.Example)
}

// judge compares what came back at one port (in order of arrival) with what was
// sent towards it (want) and away from it (foreign). The loop is cut anywhere,
// so the order that must be kept is a cyclic one; it is looked at if ordered.
func judge(want, foreign, got [][]byte, ordered bool) verdict {
	v := verdict{Sent: len(want)}
	place := make(map[string]int, len(want))
	for i, f := range want {
		place[string(f)] = i
	}
	elsewhere := make(map[string]bool, len(foreign))
	for _, f := range foreign {
		elsewhere[string(f)] = true
	}
	seen := make([]bool, len(want))
	last, breaks := -1, 0
	for _, f := range got {
		i, known := place[string(f)]
		switch {
		case !known && elsewhere[string(f)]:
			v.Misplaced++
		case !known:
			v.Altered++
			if v.Example == "" {
				v.Example = "; " + describe(want, f)
			}
		case seen[i]:
			v.Doubled++
		default:
			seen[i] = true
			v.Intact++
			if i < last {
				breaks++
			}
			last = i
		}
	}
	v.Lost = v.Sent - v.Intact
	if v.Lost > 0 && v.Example == "" {
		v.Example = "; lost: " + describeLost(seen)
	}
	if ordered {
		v.Reordered = max(breaks-1, 0)
	}
	return v
}

// describe says how an altered frame differs from the one whose number it carries.
func describe(want [][]byte, got []byte) string {
	if len(got) < randomAt {
		return fmt.Sprintf("a frame of %d bytes: %x", len(got), got)
	}
	number := got[numberAt:randomAt]
	for _, f := range want {
		if bytes.Equal(f[numberAt:randomAt], number) {
			at := 0
			for at < min(len(f), len(got)) && f[at] == got[at] {
				at++
			}
			return fmt.Sprintf("frame %x was sent with %d bytes and came back with %d, different from byte %d on: %x", number, len(f), len(got), at, got[at:min(at+16, len(got))])
		}
	}
	return fmt.Sprintf("a frame of %d bytes with the unknown number %x", len(got), number)
}

// describeLost names the places, in the order of sending, of frames not seen.
func describeLost(seen []bool) string {
	var ranges []string
	for i := 0; i < len(seen); i++ {
		from := i
		for i < len(seen) && !seen[i] {
			i++
		}
		if i > from {
			ranges = append(ranges, fmt.Sprintf("%d-%d", from, i-1))
		}
	}
	if len(ranges) > 10 {
		ranges = append(ranges[:10], "...")
	}
	return strings.Join(ranges, " ")
}

// join adds the verdicts of the two ports.
func (v verdict) join(w verdict) verdict {
	v.Sent += w.Sent
	v.Intact += w.Intact
	v.Lost += w.Lost
	v.Altered += w.Altered
	v.Doubled += w.Doubled
	v.Misplaced += w.Misplaced
	v.Reordered += w.Reordered
	if v.Example == "" {
		v.Example = w.Example
	}
	return v
}
