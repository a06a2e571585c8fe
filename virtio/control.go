package virtio

// Classes of commands of a network device's control queue (virtio 1.3, section
// 5.1.6.5). A command is its class, its number in the class, and data.
const (
	CtrlRx       uint8 = 0
	CtrlMAC      uint8 = 1
	CtrlVLAN     uint8 = 2
	CtrlAnnounce uint8 = 3
	CtrlMQ       uint8 = 4
)

// Commands of CtrlRx; the data is one byte, 0 or 1.
const (
	CtrlRxPromisc      uint8 = 0
	CtrlRxAllMulticast uint8 = 1
	CtrlRxAllUnicast   uint8 = 2
	CtrlRxNoMulticast  uint8 = 3
	CtrlRxNoUnicast    uint8 = 4
	CtrlRxNoBroadcast  uint8 = 5
)

// Commands of CtrlMAC. The data is two tables of a 32-bit count and as many
// addresses, unicast and multicast; or one address.
const (
	CtrlMACTableSet uint8 = 0
	CtrlMACAddrSet  uint8 = 1
)

// Commands of CtrlVLAN; the data is a 16-bit id.
const (
	CtrlVLANAdd uint8 = 0
	CtrlVLANDel uint8 = 1
)

// CtrlAnnounceAck is the command of CtrlAnnounce; it has no data.
const CtrlAnnounceAck uint8 = 0

// CtrlMQPairsSet is the command of CtrlMQ by which a driver says how many
// queue pairs it uses; the data is a 16-bit number from 1 on.
const CtrlMQPairsSet uint8 = 0

// Acknowledgements of a command: one byte.
const (
	CtrlOK  uint8 = 0
	CtrlErr uint8 = 1
)
