package netdev

import (
	"encoding/binary"
	"errors"
	"slices"

	"vhostnet/queues"
	"vhostnet/virtio"
)

// A driver may name up to maxTable addresses of a kind. One that names more
// gets all of that kind, which is what it would have to be content with: the
// tables are a best effort (virtio 1.3, section 5.1.6.5.2).
const maxTable = 128

// maxVLAN is the largest VLAN id.
const maxVLAN = 4095

// control is what a driver has said by its control queue since that was
// started. A NIC whose control queue was not, as QEMU and others answer it
// themselves, has none, and receives everything. Only the queue's worker uses
// it.
type control struct {
	accepted virtio.Features
	pairs    int // queue pairs of the device
	modes    queues.Modes
	vlans    queues.VLANs
	full     struct{ unicast, multicast bool } // a table was longer than is kept

	announced func() // the driver has announced itself
	publish   func(*queues.Modes)
	usePairs  func(int)
}

// newControl is the state of a driver that has said nothing: everything is
// received. With CTRL_VLAN the set of VLANs is empty, but counts only when the
// driver has ended the promiscuous mode.
func newControl(d *Device) *control {
	c := &control{
		accepted: d.accepted(), pairs: d.o.Pairs,
		announced: d.AnnounceDone, publish: d.nic.SetModes, usePairs: d.nic.UsePairs,
	}
	c.modes = queues.Modes{Promiscuous: true, MAC: number(d.o.MAC[:])}
	return c
}

// Why a command is refused. The driver is told CtrlErr only.
var (
	errUnknown = errors.New("netdev: control command of a class or number that is not served")
	errFeature = errors.New("netdev: control command of a feature that was not accepted")
	errLength  = errors.New("netdev: control command with more or fewer bytes than it has")
	errValue   = errors.New("netdev: control command with a number or address outside its range")
)

// commands are those that are carried out, by class and number, and the
// features without which a driver may not send them.
var commands = map[[2]uint8]struct {
	needs virtio.Features
	do    func(c *control, data []byte) error
}{
	{virtio.CtrlRx, virtio.CtrlRxPromisc}:      {virtio.NetCtrlRx, mode(func(c *control) *bool { return &c.modes.Promiscuous })},
	{virtio.CtrlRx, virtio.CtrlRxAllMulticast}: {virtio.NetCtrlRx, mode(func(c *control) *bool { return &c.modes.AllMulticast })},
	{virtio.CtrlRx, virtio.CtrlRxAllUnicast}:   {virtio.NetCtrlRxExtra, mode(func(c *control) *bool { return &c.modes.AllUnicast })},
	{virtio.CtrlRx, virtio.CtrlRxNoMulticast}:  {virtio.NetCtrlRxExtra, mode(func(c *control) *bool { return &c.modes.NoMulticast })},
	{virtio.CtrlRx, virtio.CtrlRxNoUnicast}:    {virtio.NetCtrlRxExtra, mode(func(c *control) *bool { return &c.modes.NoUnicast })},
	{virtio.CtrlRx, virtio.CtrlRxNoBroadcast}:  {virtio.NetCtrlRxExtra, mode(func(c *control) *bool { return &c.modes.NoBroadcast })},
	{virtio.CtrlMAC, virtio.CtrlMACTableSet}:   {virtio.NetCtrlRx, (*control).setTables},
	{virtio.CtrlMAC, virtio.CtrlMACAddrSet}:    {virtio.NetCtrlMACAddr, (*control).setAddress},
	{virtio.CtrlVLAN, virtio.CtrlVLANAdd}:      {virtio.NetCtrlVLAN, vlan(true)},
	{virtio.CtrlVLAN, virtio.CtrlVLANDel}:      {virtio.NetCtrlVLAN, vlan(false)},

	{virtio.CtrlAnnounce, virtio.CtrlAnnounceAck}: {virtio.NetGuestAnnounce, (*control).ackAnnounce},
	{virtio.CtrlMQ, virtio.CtrlMQPairsSet}:        {virtio.NetMQ, (*control).setPairs},
}

// execute carries out a command, which is a private copy of the driver's
// bytes. On error nothing has changed.
func (c *control) execute(command []byte) error {
	if len(command) < 2 {
		return errLength
	}
	known, ok := commands[[2]uint8(command)]
	switch {
	case !ok:
		return errUnknown
	case !c.accepted.Has(known.needs):
		return errFeature
	}
	return known.do(c, command[2:])
}

// mode is a command that sets one of the receive modes.
func mode(which func(*control) *bool) func(*control, []byte) error {
	return func(c *control, data []byte) error {
		if len(data) != 1 {
			return errLength
		}
		*which(c) = data[0] != 0
		c.receive()
		return nil
	}
}

// vlan is a command that adds a VLAN or takes it out.
func vlan(on bool) func(*control, []byte) error {
	return func(c *control, data []byte) error {
		if len(data) != 2 {
			return errLength
		}
		id := binary.LittleEndian.Uint16(data)
		if id > maxVLAN {
			return errValue
		}
		c.vlans.Set(id, on)
		c.receive()
		return nil
	}
}

// setTables replaces both tables of addresses.
func (c *control) setTables(data []byte) error {
	unicast, rest, err := table(data)
	if err != nil {
		return err
	}
	groups, rest, err := table(rest)
	if err != nil {
		return err
	}
	if len(rest) != 0 {
		return errLength
	}
	c.modes.Unicast, c.full.unicast = addresses(unicast)
	c.modes.Groups, c.full.multicast = addresses(groups)
	c.receive()
	return nil
}

const (
	macLen   = 6
	countLen = 4
)

// table takes a counted table of addresses from the front of data. The count is
// the driver's: it is compared with what is there before it is multiplied.
func table(data []byte) (macs, rest []byte, err error) {
	if len(data) < countLen {
		return nil, nil, errLength
	}
	n := binary.LittleEndian.Uint32(data)
	data = data[countLen:]
	if uint64(n) > uint64(len(data)/macLen) {
		return nil, nil, errLength
	}
	return data[:n*macLen], data[n*macLen:], nil
}

// addresses are the numbers of a table, sorted, or none when it is too long.
func addresses(table []byte) (list []uint64, full bool) {
	if len(table) > maxTable*macLen {
		return nil, true
	}
	for mac := range slices.Chunk(table, macLen) {
		list = append(list, number(mac))
	}
	slices.Sort(list)
	return list, false
}

// number is an address, its first byte on the wire most significant.
func number(mac []byte) uint64 {
	return uint64(binary.BigEndian.Uint16(mac))<<32 | uint64(binary.BigEndian.Uint32(mac[2:]))
}

// setAddress makes another address the NIC's own: what is sent to the one
// before is not received any more. Which frames the switch brings to the port's
// queue, and what it learns, is not the driver's to say.
func (c *control) setAddress(data []byte) error {
	if len(data) != macLen {
		return errLength
	}
	if data[0]&1 != 0 {
		return errValue
	}
	c.modes.MAC = number(data)
	c.receive()
	return nil
}

func (c *control) ackAnnounce(data []byte) error {
	if len(data) != 0 {
		return errLength
	}
	c.announced()
	return nil
}

// setPairs: frames to the driver go by the first pairs from now on.
func (c *control) setPairs(data []byte) error {
	if len(data) != 2 {
		return errLength
	}
	n := int(binary.LittleEndian.Uint16(data))
	if n < 1 || n > c.pairs {
		return errValue
	}
	c.usePairs(n)
	return nil
}

// receive tells the NIC the modes as they are now, in a copy: workers read it.
func (c *control) receive() {
	m := c.modes
	m.AllUnicast = m.AllUnicast || c.full.unicast
	m.AllMulticast = m.AllMulticast || c.full.multicast
	if c.accepted.Has(virtio.NetCtrlVLAN) {
		vlans := c.vlans
		m.VLANs = &vlans
	}
	c.publish(&m)
}
