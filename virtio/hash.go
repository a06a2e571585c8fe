package virtio

import "encoding/binary"

// NetHashHeaderLen is the length in bytes of virtio_net_hdr with HASH_REPORT:
// the 12 bytes of NetHeader, then those of NetHash.
const NetHashHeaderLen = 20

// NetHash is what virtio_net_hdr ends with when HASH_REPORT was accepted
// (virtio 1.3, section 5.1.6.4.4). No port of ours offers it; the codec is for
// packets that come from elsewhere.
type NetHash struct {
	Value  uint32
	Report uint16 // over what the hash was made; 0: there is none
}

// Encode writes the last 8 of the 20 bytes of b; padding is zero.
func (h NetHash) Encode(b []byte) {
	_ = b[NetHashHeaderLen-1]
	binary.LittleEndian.PutUint32(b[12:], h.Value)
	binary.LittleEndian.PutUint16(b[16:], h.Report)
	binary.LittleEndian.PutUint16(b[18:], 0)
}

// DecodeNetHash reads the last 8 of the 20 bytes of b.
func DecodeNetHash(b []byte) NetHash {
	_ = b[NetHashHeaderLen-1]
	return NetHash{Value: binary.LittleEndian.Uint32(b[12:]), Report: binary.LittleEndian.Uint16(b[16:])}
}
