// Package virtio holds the numbers of the virtio specification that every
// layer shares: feature bits, the virtio_net_hdr codec, device status. It
// knows nothing of rings, memory or sockets.
package virtio

import (
	"fmt"
	"math/bits"
	"sort"
	"strings"
)

// Features is a set of virtio feature bits (virtio 1.3, section 2.2). Over
// vhost-user it is 64 bits wide, so bits from 64 up cannot be negotiated.
type Features uint64

// Feature bits of the network device (virtio 1.3, section 5.1.3).
const (
	NetCsum              Features = 1 << 0  // device completes partial checksums of the driver
	NetGuestCsum         Features = 1 << 1  // driver takes frames with partial checksums
	NetCtrlGuestOffloads Features = 1 << 2  // offloads can be changed at run time
	NetMTU               Features = 1 << 3  // device advises an MTU
	NetMAC               Features = 1 << 5  // device has a MAC address
	NetGuestTSO4         Features = 1 << 7  // driver takes TCPv4 GSO frames
	NetGuestTSO6         Features = 1 << 8  // driver takes TCPv6 GSO frames
	NetGuestECN          Features = 1 << 9  // driver takes GSO frames with ECN
	NetGuestUFO          Features = 1 << 10 // driver takes UDP fragmentation frames
	NetHostTSO4          Features = 1 << 11 // device takes TCPv4 GSO frames
	NetHostTSO6          Features = 1 << 12 // device takes TCPv6 GSO frames
	NetHostECN           Features = 1 << 13 // device takes GSO frames with ECN
	NetHostUFO           Features = 1 << 14 // device takes UDP fragmentation frames
	NetMrgRxBuf          Features = 1 << 15 // driver merges receive buffers
	NetStatus            Features = 1 << 16 // config space has a status field
	NetCtrlVQ            Features = 1 << 17 // control virtqueue
	NetCtrlRx            Features = 1 << 18 // receive modes by control virtqueue
	NetCtrlVLAN          Features = 1 << 19 // VLAN filter by control virtqueue
	NetCtrlRxExtra       Features = 1 << 20 // extra receive modes
	NetGuestAnnounce     Features = 1 << 21 // driver announces itself on request
	NetMQ                Features = 1 << 22 // several queue pairs
	NetCtrlMACAddr       Features = 1 << 23 // MAC address by control virtqueue
	NetGuestUSO4         Features = 1 << 54 // driver takes UDPv4 segmentation frames
	NetGuestUSO6         Features = 1 << 55 // driver takes UDPv6 segmentation frames
	NetHostUSO           Features = 1 << 56 // device takes UDP segmentation frames
	NetHashReport        Features = 1 << 57 // device reports a hash with each frame; never offered here
	NetRSCExt            Features = 1 << 61 // device tells of coalesced segments; never offered here
	NetSpeedDuplex       Features = 1 << 63 // config space has speed and duplex
)

// Feature bits of rings and transport (virtio 1.3, section 6; vhost-user for
// LogAll and ProtocolFeatures, which never reach a driver).
const (
	NotifyOnEmpty    Features = 1 << 24
	LogAll           Features = 1 << 26
	AnyLayout        Features = 1 << 27
	IndirectDesc     Features = 1 << 28
	EventIdx         Features = 1 << 29
	ProtocolFeatures Features = 1 << 30
	Version1         Features = 1 << 32
	AccessPlatform   Features = 1 << 33
	RingPacked       Features = 1 << 34
	InOrder          Features = 1 << 35
	OrderPlatform    Features = 1 << 36
	NotificationData Features = 1 << 38
	RingReset        Features = 1 << 40
)

// names are the bits' names in QEMU's device properties where it has one, so
// that a mask reads as a user of QEMU would write it.
var names = map[string]Features{
	"csum": NetCsum, "guest_csum": NetGuestCsum, "ctrl_guest_offloads": NetCtrlGuestOffloads,
	"mtu": NetMTU, "mac": NetMAC,
	"guest_tso4": NetGuestTSO4, "guest_tso6": NetGuestTSO6, "guest_ecn": NetGuestECN, "guest_ufo": NetGuestUFO,
	"host_tso4": NetHostTSO4, "host_tso6": NetHostTSO6, "host_ecn": NetHostECN, "host_ufo": NetHostUFO,
	"mrg_rxbuf": NetMrgRxBuf, "status": NetStatus, "ctrl_vq": NetCtrlVQ, "ctrl_rx": NetCtrlRx,
	"ctrl_vlan": NetCtrlVLAN, "ctrl_rx_extra": NetCtrlRxExtra, "guest_announce": NetGuestAnnounce,
	"mq": NetMQ, "ctrl_mac_addr": NetCtrlMACAddr,
	"guest_uso4": NetGuestUSO4, "guest_uso6": NetGuestUSO6, "host_uso": NetHostUSO,
	"speed_duplex":    NetSpeedDuplex,
	"notify_on_empty": NotifyOnEmpty, "log_all": LogAll, "any_layout": AnyLayout,
	"indirect_desc": IndirectDesc, "event_idx": EventIdx, "protocol_features": ProtocolFeatures,
	"version_1": Version1, "access_platform": AccessPlatform, "packed": RingPacked, "in_order": InOrder,
	"order_platform": OrderPlatform, "notification_data": NotificationData, "ring_reset": RingReset,
}

// Has reports whether every bit of want is in f.
func (f Features) Has(want Features) bool { return f&want == want }

// needs says which features of the network device need another one; any one of
// its bits suffices (virtio 1.3, section 5.1.3.1). What needs something that
// is itself in need comes behind it.
var needs = []struct{ features, of Features }{
	{NetHostTSO4 | NetHostTSO6 | NetHostUFO | NetHostUSO, NetCsum},
	{NetHostECN, NetHostTSO4 | NetHostTSO6},
	{NetGuestTSO4 | NetGuestTSO6 | NetGuestUFO | NetGuestUSO4 | NetGuestUSO6, NetGuestCsum},
	{NetGuestECN, NetGuestTSO4 | NetGuestTSO6},
	{NetCtrlRx | NetCtrlVLAN | NetGuestAnnounce | NetMQ | NetCtrlMACAddr | NetCtrlGuestOffloads, NetCtrlVQ},
	{NetCtrlRxExtra, NetCtrlRx},
}

// Consistent is f without the features that need one which is not in f. A
// device offers no others: Linux refuses one that does.
func (f Features) Consistent() Features {
	for _, n := range needs {
		if f&n.of == 0 {
			f &^= n.features
		}
	}
	return f
}

// ParseFeatures reads a comma-separated list of names such as
// "mrg_rxbuf,guest_tso4". The empty string is the empty set. An unknown name
// is an error that lists the names known.
func ParseFeatures(list string) (Features, error) {
	var f Features
	if list == "" {
		return 0, nil
	}
	for name := range strings.SplitSeq(list, ",") {
		bit, ok := names[strings.TrimSpace(name)]
		if !ok {
			return 0, fmt.Errorf("virtio: unknown feature %q; known are %s", name, strings.Join(Names(), ", "))
		}
		f |= bit
	}
	return f, nil
}

// Names lists every feature name that [ParseFeatures] takes, sorted.
func Names() []string {
	list := make([]string, 0, len(names))
	for name := range names {
		list = append(list, name)
	}
	sort.Strings(list)
	return list
}

// String gives the names of the bits in f, lowest bit first, joined by
// commas; a bit without a name is written as its number.
func (f Features) String() string {
	var list []string
	for rest := uint64(f); rest != 0; rest &= rest - 1 {
		list = append(list, bitName(Features(rest&-rest)))
	}
	return strings.Join(list, ",")
}

func bitName(bit Features) string {
	for name, b := range names {
		if b == bit {
			return name
		}
	}
	return fmt.Sprintf("bit%d", bits.TrailingZeros64(uint64(bit)))
}
