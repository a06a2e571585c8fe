package virtio

import "encoding/binary"

// Bits of [NetConfig.Status] (virtio 1.3, section 5.1.4).
const (
	NetStatusLinkUp   uint16 = 1 // the link is up
	NetStatusAnnounce uint16 = 2 // the driver is to announce itself (GUEST_ANNOUNCE)
)

// What [NetConfig.Speed] and [NetConfig.Duplex] say when nobody knows.
const (
	NetSpeedUnknown  uint32 = 0xffffffff
	NetDuplexUnknown uint8  = 0xff
)

// NetDuplexFull is the [NetConfig.Duplex] of a link that sends and receives at
// the same time.
const NetDuplexFull uint8 = 1

// NetConfig is the configuration space of the network device (virtio 1.3,
// section 5.1.4), as far as it is used here. It is read-only to the driver. A
// field is meaningful to a driver that accepted the feature in brackets.
type NetConfig struct {
	MAC      [6]byte // [NetMAC]
	Status   uint16  // [NetStatus]
	MaxPairs uint16  // queue pairs [NetMQ]
	MTU      uint16  // bytes [NetMTU]
	Speed    uint32  // Mbit/s [NetSpeedDuplex]
	Duplex   uint8   // [NetSpeedDuplex]
}

// NetConfigLen is the length in bytes of the configuration space, with the
// fields of receive side scaling and hash reports, which are zero.
const NetConfigLen = 24

// Encode is the configuration space, little-endian.
func (c *NetConfig) Encode() []byte {
	b := make([]byte, NetConfigLen)
	copy(b, c.MAC[:])
	binary.LittleEndian.PutUint16(b[6:], c.Status)
	binary.LittleEndian.PutUint16(b[8:], c.MaxPairs)
	binary.LittleEndian.PutUint16(b[10:], c.MTU)
	binary.LittleEndian.PutUint32(b[12:], c.Speed)
	b[16] = c.Duplex
	return b
}

// DecodeNetConfig reads a configuration space; what is beyond the end of b is
// zero.
func DecodeNetConfig(b []byte) NetConfig {
	var whole [NetConfigLen]byte
	copy(whole[:], b)
	return NetConfig{
		MAC:      [6]byte(whole[:6]),
		Status:   binary.LittleEndian.Uint16(whole[6:]),
		MaxPairs: binary.LittleEndian.Uint16(whole[8:]),
		MTU:      binary.LittleEndian.Uint16(whole[10:]),
		Speed:    binary.LittleEndian.Uint32(whole[12:]),
		Duplex:   whole[16],
	}
}
