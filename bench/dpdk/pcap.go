package main

import (
	"encoding/binary"
	"fmt"
	"os"
)

// The capture file format of libpcap, in this machine's byte order
// (little-endian on all that DPDK's front-end is run on here): a header of 24
// bytes, then for each frame 16 bytes and the frame.
const (
	pcapMagic     = 0xa1b2c3d4 // times in microseconds
	pcapMagicNano = 0xa1b23c4d // times in nanoseconds: what DPDK writes
	pcapHeader    = 24
	pcapRecord    = 16
	pcapEthernet  = 1 // LINKTYPE_ETHERNET
	pcapMaxFrame  = 65535
)

// writePcap makes a capture file of frames.
func writePcap(path string, frames [][]byte) error {
	le := binary.LittleEndian
	b := le.AppendUint32(nil, pcapMagic)
	b = le.AppendUint16(b, 2) // version 2.4
	b = le.AppendUint16(b, 4)
	b = le.AppendUint64(b, 0) // time zone and accuracy: unused
	b = le.AppendUint32(b, pcapMaxFrame)
	b = le.AppendUint32(b, pcapEthernet)
	for _, f := range frames {
		b = le.AppendUint64(b, 0) // time
		b = le.AppendUint32(b, uint32(len(f)))
		b = le.AppendUint32(b, uint32(len(f)))
		b = append(b, f...)
	}
	return os.WriteFile(path, b, 0o600)
}

// readPcap returns the frames of a capture file, in order.
func readPcap(path string) ([][]byte, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	frames, err := parsePcap(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return frames, nil
}

func parsePcap(b []byte) ([][]byte, error) {
	le := binary.LittleEndian
	if len(b) < pcapHeader {
		return nil, fmt.Errorf("%d bytes are no capture file: its header alone has %d", len(b), pcapHeader)
	}
	if magic := le.Uint32(b); magic != pcapMagic && magic != pcapMagicNano {
		return nil, fmt.Errorf("capture file begins with %#x, not %#x or %#x", magic, uint32(pcapMagic), uint32(pcapMagicNano))
	}
	var frames [][]byte
	for b = b[pcapHeader:]; len(b) > 0; {
		if len(b) < pcapRecord {
			return nil, fmt.Errorf("the header of frame %d is cut off", len(frames))
		}
		kept, sent := le.Uint32(b[8:]), le.Uint32(b[12:])
		if b = b[pcapRecord:]; kept != sent || uint64(kept) > uint64(len(b)) {
			return nil, fmt.Errorf("frame %d is cut off: %d bytes of %d", len(frames), min(uint64(kept), uint64(len(b))), sent)
		}
		frames = append(frames, b[:kept:kept])
		b = b[kept:]
	}
	return frames, nil
}
