package vutest

import (
	"context"
	"fmt"
	"slices"
	"strconv"

	"vhostnet/vhostuser"
	"vhostnet/virtio"
)

// Kind is a front-end that can be played.
type Kind uint8

// The front-ends, by the program whose behaviour they have.
const (
	QEMU10          Kind = 1 + iota // QEMU 10.0: waits for SET_VRING_ENABLE, resets the status at a stop
	QEMU72                          // QEMU 7.2
	VirtioUser                      // DPDK's virtio-user: guest addresses are its own addresses
	CloudHypervisor                 // wants every message acknowledged; base is the avail index
	Crosvm                          // negotiates acknowledgements and never asks for one
	Libkrun                         // no acknowledgements; a reset only disables rings
)

// Kinds are all of them.
func Kinds() []Kind {
	return []Kind{QEMU10, QEMU72, VirtioUser, CloudHypervisor, Crosvm, Libkrun}
}

// String is the front-end's name in lower case.
func (k Kind) String() string {
	if int(k) < len(kinds) && kinds[k].name != "" {
		return kinds[k].name
	}
	return "kind" + strconv.Itoa(int(k))
}

// kind is how one front-end behaves.
type kind struct {
	name     string
	protocol vhostuser.Protocol // protocol features it takes if offered
	features virtio.Features    // features it lets through to SET_FEATURES if offered
	layout   func(size uint64) []Region
	oneCall  bool // one call event for all rings
	forwards bool // the control queue is the back-end's to serve
	legacy   bool // its guests may be older than virtio 1.0
	resets   bool // packed rings begin anew at every start
	barrier  bool // without REPLY_ACK, GET_FEATURES follows SET_VRING_ENABLE

	// acked says whether a message wants an acknowledgement when REPLY_ACK is
	// negotiated.
	acked func(r vhostuser.Request) bool
	// base is what SET_VRING_BASE says.
	base func(f *FrontEnd, r *ring) uint32

	connect  func(f *FrontEnd, ctx context.Context) error // once per connection
	start    func(f *FrontEnd, ctx context.Context) error // the guest's driver is ready
	stop     func(f *FrontEnd, ctx context.Context) error
	usePairs func(f *FrontEnd, ctx context.Context, n int) error // the guest's driver changes the number of pairs
	memory   func(f *FrontEnd, ctx context.Context) error        // memory changed under running rings
}

// kinds, by Kind. What needs a vIOMMU is in no list.
var kinds = [...]kind{
	QEMU10:          qemu10,
	QEMU72:          qemu72,
	VirtioUser:      virtioUser,
	CloudHypervisor: cloudHypervisor,
	Crosvm:          crosvm,
	Libkrun:         libkrun,
}

func kindOf(k Kind) (*kind, error) {
	if k == 0 || int(k) >= len(kinds) {
		return nil, fmt.Errorf("vutest: kind %d of front-end is not known; Kinds lists those that are", k)
	}
	return &kinds[k], nil
}

// anyOf makes a kind's acked of a list.
func anyOf(list ...vhostuser.Request) func(vhostuser.Request) bool {
	return func(r vhostuser.Request) bool { return slices.Contains(list, r) }
}

// offloads are the features by which driver and device leave work to each
// other.
const offloads = virtio.NetCsum | virtio.NetGuestCsum |
	virtio.NetGuestTSO4 | virtio.NetGuestTSO6 | virtio.NetGuestECN | virtio.NetGuestUFO |
	virtio.NetHostTSO4 | virtio.NetHostTSO6 | virtio.NetHostECN | virtio.NetHostUFO

// control are the features that need a control queue.
const control = virtio.NetCtrlVQ | virtio.NetCtrlRx | virtio.NetCtrlVLAN | virtio.NetCtrlRxExtra |
	virtio.NetGuestAnnounce | virtio.NetMQ | virtio.NetCtrlMACAddr | virtio.NetCtrlGuestOffloads

// consistent drops the features whose requirements are not met, as a driver
// does (virtio 1.3, section 5.1.3.1). Those that need a control queue stay:
// most front-ends serve it themselves.
func consistent(f virtio.Features) virtio.Features {
	if !f.Has(virtio.NetCsum) {
		f &^= virtio.NetHostTSO4 | virtio.NetHostTSO6 | virtio.NetHostUFO | virtio.NetHostUSO
	}
	if !f.Has(virtio.NetGuestCsum) {
		f &^= virtio.NetGuestTSO4 | virtio.NetGuestTSO6 | virtio.NetGuestUFO | virtio.NetGuestUSO4 | virtio.NetGuestUSO6
	}
	if f&(virtio.NetHostTSO4|virtio.NetHostTSO6) == 0 {
		f &^= virtio.NetHostECN
	}
	if f&(virtio.NetGuestTSO4|virtio.NetGuestTSO6) == 0 {
		f &^= virtio.NetGuestECN
	}
	return f
}
