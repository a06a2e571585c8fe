package virtio

import "encoding/binary"

// Flags of virtio_net_hdr (virtio 1.3, section 5.1.6).
const (
	NetFlagNeedsCsum uint8 = 1 // the checksum at CsumStart+CsumOffset holds the pseudo-header sum only
	NetFlagDataValid uint8 = 2 // the checksum was verified
	NetFlagRSCInfo   uint8 = 4 // CsumStart and CsumOffset are the segments and duplicate ACKs that were coalesced
)

// GSO types of virtio_net_hdr (virtio 1.3, section 5.1.6).
const (
	GSONone  uint8 = 0
	GSOTCPv4 uint8 = 1
	GSOUDP   uint8 = 3 // UDP fragmentation (UFO)
	GSOTCPv6 uint8 = 4
	GSOUDPL4 uint8 = 5 // UDP segmentation (USO)
	GSOECN   uint8 = 0x80
)

// MaxNetHeaderLen is the longest virtio_net_hdr that this codec writes, bytes.
const MaxNetHeaderLen = 12

// NetHeader is virtio_net_hdr as a value in host memory. Its fields are what
// the peer wrote: nothing in it is checked.
type NetHeader struct {
	Flags      uint8
	GSOType    uint8
	HdrLen     uint16 // hint only, never trusted
	GSOSize    uint16 // payload bytes of one segment
	CsumStart  uint16 // from the first byte of the frame
	CsumOffset uint16 // from CsumStart
	NumBuffers uint16 // receive with mergeable buffers: chains used by the frame
}

// NetHeaderLen is the length in bytes of virtio_net_hdr on the rings of a
// driver that accepted f: 12 with VERSION_1, MRG_RXBUF or RING_PACKED, else
// the legacy 10. It is the same in both directions.
func NetHeaderLen(f Features) int {
	if f&(Version1|NetMrgRxBuf|RingPacked) != 0 {
		return 12
	}
	return 10
}

// DecodeNetHeader reads a header from b, which holds 10 or 12 bytes; the
// device ignores the driver's num_buffers, so it is not read.
func DecodeNetHeader(b []byte) NetHeader {
	_ = b[9]
	return NetHeader{
		Flags:      b[0],
		GSOType:    b[1],
		HdrLen:     binary.LittleEndian.Uint16(b[2:]),
		GSOSize:    binary.LittleEndian.Uint16(b[4:]),
		CsumStart:  binary.LittleEndian.Uint16(b[6:]),
		CsumOffset: binary.LittleEndian.Uint16(b[8:]),
	}
}

// Encode writes all of b, which is 10 or 12 bytes long; num_buffers is left
// out of the 10-byte form.
func (h *NetHeader) Encode(b []byte) {
	_ = b[9]
	b[0] = h.Flags
	b[1] = h.GSOType
	binary.LittleEndian.PutUint16(b[2:], h.HdrLen)
	binary.LittleEndian.PutUint16(b[4:], h.GSOSize)
	binary.LittleEndian.PutUint16(b[6:], h.CsumStart)
	binary.LittleEndian.PutUint16(b[8:], h.CsumOffset)
	if len(b) >= MaxNetHeaderLen {
		binary.LittleEndian.PutUint16(b[10:], h.NumBuffers)
	}
}
