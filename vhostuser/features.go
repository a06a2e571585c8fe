package vhostuser

import (
	"fmt"
	"math/bits"
	"strings"
)

// Protocol is a set of protocol features: abilities of the two ends of the
// socket, negotiated by GET and SET_PROTOCOL_FEATURES, which a guest never
// sees.
type Protocol uint64

// Protocol features known here by name. [Offered] says which are served.
const (
	ProtocolMQ          Protocol = 1 << 0  // GET_QUEUE_NUM
	ProtocolLogShmFD    Protocol = 1 << 1  // SET_LOG_BASE with a descriptor
	ProtocolRARP        Protocol = 1 << 2  // SEND_RARP
	ProtocolReplyAck    Protocol = 1 << 3  // acknowledgements on request
	ProtocolMTU         Protocol = 1 << 4  // NET_SET_MTU
	ProtocolBackendReq  Protocol = 1 << 5  // requests from the back-end
	ProtocolPagefault   Protocol = 1 << 8  // postcopy migration
	ProtocolConfig      Protocol = 1 << 9  // GET_CONFIG, SET_CONFIG
	ProtocolInflight    Protocol = 1 << 12 // GET_INFLIGHT_FD, SET_INFLIGHT_FD
	ProtocolResetDevice Protocol = 1 << 13 // RESET_DEVICE
	ProtocolMemSlots    Protocol = 1 << 15 // ADD_MEM_REG, REM_MEM_REG, GET_MAX_MEM_SLOTS
	ProtocolStatus      Protocol = 1 << 16 // SET_STATUS, GET_STATUS
	ProtocolDeviceState Protocol = 1 << 19 // SET_DEVICE_STATE_FD, CHECK_DEVICE_STATE
)

// Offered are the protocol features that this package serves. A device takes
// from them by the optional interfaces that it lacks: MTU needs an
// [MTUSetter], RARP an [Announcer], CONFIG and BACKEND_REQ a [Configurer], DEVICE_STATE a
// [StateSaver].
const Offered = ProtocolMQ | ProtocolLogShmFD | ProtocolRARP | ProtocolReplyAck | ProtocolMTU | ProtocolBackendReq | ProtocolConfig |
	ProtocolResetDevice | ProtocolMemSlots | ProtocolStatus | ProtocolDeviceState

var protocolNames = map[Protocol]string{
	ProtocolMQ: "mq", ProtocolLogShmFD: "log_shmfd", ProtocolRARP: "rarp", ProtocolReplyAck: "reply_ack",
	ProtocolMTU: "mtu", ProtocolBackendReq: "backend_req", ProtocolPagefault: "pagefault", ProtocolConfig: "config",
	ProtocolInflight: "inflight_shmfd", ProtocolResetDevice: "reset_device", ProtocolMemSlots: "configure_mem_slots",
	ProtocolStatus: "status", ProtocolDeviceState: "device_state",
}

// Has reports whether every bit of want is in p.
func (p Protocol) Has(want Protocol) bool { return p&want == want }

// String gives the names of the bits in p, lowest first, joined by commas; a
// bit without a name is written as its number.
func (p Protocol) String() string {
	var list []string
	for rest := uint64(p); rest != 0; rest &= rest - 1 {
		name, ok := protocolNames[Protocol(rest&-rest)]
		if !ok {
			name = fmt.Sprintf("bit%d", bits.TrailingZeros64(rest))
		}
		list = append(list, name)
	}
	return strings.Join(list, ",")
}
