package vhostuser

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
)

// Request is the id of a message from the front-end (vhost-user protocol,
// "Front-end message types").
type Request uint32

// Requests of a front-end. Those that no net device is sent are left out:
// their numbers are answered like any unknown id.
const (
	GetFeatures         Request = 1
	SetFeatures         Request = 2
	SetOwner            Request = 3
	ResetOwner          Request = 4
	SetMemTable         Request = 5
	SetLogBase          Request = 6
	SetLogFD            Request = 7
	SetVringNum         Request = 8
	SetVringAddr        Request = 9
	SetVringBase        Request = 10
	GetVringBase        Request = 11
	SetVringKick        Request = 12
	SetVringCall        Request = 13
	SetVringErr         Request = 14
	GetProtocolFeatures Request = 15
	SetProtocolFeatures Request = 16
	GetQueueNum         Request = 17
	SetVringEnable      Request = 18
	SendRARP            Request = 19
	NetSetMTU           Request = 20
	SetBackendReqFD     Request = 21
	IOTLBMsg            Request = 22
	GetConfig           Request = 24
	SetConfig           Request = 25
	PostcopyAdvise      Request = 28
	PostcopyListen      Request = 29
	PostcopyEnd         Request = 30
	GetInflightFD       Request = 31
	SetInflightFD       Request = 32
	ResetDevice         Request = 34
	GetMaxMemSlots      Request = 36
	AddMemReg           Request = 37
	RemMemReg           Request = 38
	SetStatus           Request = 39
	GetStatus           Request = 40
	SetDeviceStateFD    Request = 42
	CheckDeviceState    Request = 43
)

// requestNames are the protocol's own names, for errors and logs.
var requestNames = map[Request]string{
	GetFeatures: "GET_FEATURES", SetFeatures: "SET_FEATURES", SetOwner: "SET_OWNER", ResetOwner: "RESET_OWNER",
	SetMemTable: "SET_MEM_TABLE", SetLogBase: "SET_LOG_BASE", SetLogFD: "SET_LOG_FD",
	SetVringNum: "SET_VRING_NUM", SetVringAddr: "SET_VRING_ADDR", SetVringBase: "SET_VRING_BASE",
	GetVringBase: "GET_VRING_BASE", SetVringKick: "SET_VRING_KICK", SetVringCall: "SET_VRING_CALL",
	SetVringErr: "SET_VRING_ERR", GetProtocolFeatures: "GET_PROTOCOL_FEATURES",
	SetProtocolFeatures: "SET_PROTOCOL_FEATURES", GetQueueNum: "GET_QUEUE_NUM", SetVringEnable: "SET_VRING_ENABLE",
	SendRARP: "SEND_RARP", NetSetMTU: "NET_SET_MTU", SetBackendReqFD: "SET_BACKEND_REQ_FD", IOTLBMsg: "IOTLB_MSG",
	GetConfig: "GET_CONFIG", SetConfig: "SET_CONFIG", PostcopyAdvise: "POSTCOPY_ADVISE",
	PostcopyListen: "POSTCOPY_LISTEN", PostcopyEnd: "POSTCOPY_END", GetInflightFD: "GET_INFLIGHT_FD",
	SetInflightFD: "SET_INFLIGHT_FD", ResetDevice: "RESET_DEVICE", GetMaxMemSlots: "GET_MAX_MEM_SLOTS",
	AddMemReg: "ADD_MEM_REG", RemMemReg: "REM_MEM_REG", SetStatus: "SET_STATUS", GetStatus: "GET_STATUS",
	SetDeviceStateFD: "SET_DEVICE_STATE_FD", CheckDeviceState: "CHECK_DEVICE_STATE",
}

// String is the protocol's name of the request, or "request N".
func (r Request) String() string {
	if name, ok := requestNames[r]; ok {
		return name
	}
	return "request " + strconv.FormatUint(uint64(r), 10)
}

// Flags of a message header.
const (
	FlagVersion     uint32 = 1 // the only protocol version
	FlagVersionMask uint32 = 3
	FlagReply       uint32 = 4 // the message is a reply
	FlagNeedReply   uint32 = 8 // the sender wants an acknowledgement (REPLY_ACK)
)

// ReplyFlags is the flags word of every reply. QEMU and virtio-user compare
// it for equality, so NEED_REPLY must not be carried over.
const ReplyFlags = FlagVersion | FlagReply

// HeaderLen is the length of a message header in bytes.
const HeaderLen = 12

// MaxPayload is the longest payload in bytes that is taken. The protocol sets
// no limit; the longest message of a net front-end is a table of 32 regions,
// 1032 bytes.
const MaxPayload = 4096

// MaxFDs is the most descriptors taken with one message; the front-ends of
// today send up to 32 with a memory table.
const MaxFDs = 64

// ErrShort says that a message ends before its fixed part does.
var ErrShort = errors.New("vhostuser: message is too short")

// order is the byte order on the socket: the machine's, as both ends are on
// one host.
var order = binary.NativeEndian

// Header precedes every message in both directions.
type Header struct {
	Request Request
	Flags   uint32
	Size    uint32 // bytes of payload that follow
}

// Append adds the 12 bytes of h to b.
func (h Header) Append(b []byte) []byte {
	b = order.AppendUint32(b, uint32(h.Request))
	b = order.AppendUint32(b, h.Flags)
	return order.AppendUint32(b, h.Size)
}

// ParseHeader reads a header from the first 12 bytes of b. The only error is
// [ErrShort]; whether the fields make sense is for [Header.Check].
func ParseHeader(b []byte) (Header, error) {
	if len(b) < HeaderLen {
		return Header{}, fmt.Errorf("%w: %d bytes of a %d-byte header", ErrShort, len(b), HeaderLen)
	}
	return Header{
		Request: Request(order.Uint32(b)),
		Flags:   order.Uint32(b[4:]),
		Size:    order.Uint32(b[8:]),
	}, nil
}

// Check refuses a header that cannot begin a request: another version, a
// reply, reserved flags, a payload longer than [MaxPayload]. After such a
// header the stream cannot be followed any more.
func (h Header) Check() error {
	switch {
	case h.Flags&FlagVersionMask != FlagVersion:
		return fmt.Errorf("vhostuser: %s: protocol version %d, only version %d is spoken", h.Request, h.Flags&FlagVersionMask, FlagVersion)
	case h.Flags&FlagReply != 0:
		return fmt.Errorf("vhostuser: %s: a reply was sent where a request is expected", h.Request)
	case h.Flags&^(FlagVersionMask|FlagNeedReply) != 0:
		return fmt.Errorf("vhostuser: %s: reserved flags are set: %#x", h.Request, h.Flags)
	case h.Size > MaxPayload:
		return fmt.Errorf("vhostuser: %s: payload of %d bytes, at most %d are taken", h.Request, h.Size, MaxPayload)
	}
	return nil
}

// NeedReply reports whether the sender wants an acknowledgement.
func (h Header) NeedReply() bool { return h.Flags&FlagNeedReply != 0 }

// Message is a whole message: header and payload in one slice, to be sent by
// one call (virtio-user reads a reply without a loop).
func Message(r Request, flags uint32, payload []byte) []byte {
	b := make([]byte, 0, HeaderLen+len(payload))
	b = Header{Request: r, Flags: flags, Size: uint32(len(payload))}.Append(b)
	return append(b, payload...)
}

// exactly checks the length of a payload before any of its fields is read.
func exactly(b []byte, n int, what string) error {
	if len(b) != n {
		return fmt.Errorf("vhostuser: payload of %d bytes, a %s has %d", len(b), what, n)
	}
	return nil
}
