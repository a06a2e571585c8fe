package netdev

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"

	"vhostnet/metrics"
	"vhostnet/vswitch"
	"vhostnet/worker"
)

// The state of a port moves with its guest as JSON (vhost-user: DEVICE_STATE).
// It passes through the front-end, so what a guest's owner can write into it
// must give him nothing that he had not: addresses are learned here, as from
// the guest's own frames, and never become filters, which are this host's to
// give; counters are only added to.

// stateVersion is the version of the state that is written, and the only one
// that is read.
const stateVersion = 1

// maxMoved is how many addresses move with a guest.
const maxMoved = 1024

// state is what moves.
type state struct {
	Version  int            `json:"version"`
	Device   string         `json:"device"` // stateDevice
	Port     string         `json:"port"`   // its name at the source, for people
	Filters  []movedAddress `json:"filters,omitempty"`
	Learned  []movedAddress `json:"learned,omitempty"`
	Counters *movedCounters `json:"counters,omitempty"`
}

const stateDevice = "virtio-net"

// movedAddress is an address whose frames went to the guest.
type movedAddress struct {
	MAC  string `json:"mac"`
	VLAN uint16 `json:"vlan,omitempty"`
}

// movedCounters are those that mean the same on every host.
type movedCounters struct {
	TxFrames uint64 `json:"tx_frames"`
	TxBytes  uint64 `json:"tx_bytes"`
	RxFrames uint64 `json:"rx_frames"`
	RxBytes  uint64 `json:"rx_bytes"`
}

// maxCount is up to where counters grow by what is taken over, however often
// that comes: it leaves the port's own room.
const maxCount = 1 << 62

func moved(list []vswitch.Address) []movedAddress {
	out := make([]movedAddress, len(list))
	for i, a := range list {
		out[i] = movedAddress{MAC: net.HardwareAddr(a.MAC[:]).String(), VLAN: a.VLAN}
	}
	return out
}

// SaveState is what moves with the guest: the addresses whose frames went to it
// until its rings stopped, and its counters.
func (d *Device) SaveState() ([]byte, error) {
	s := state{Version: stateVersion, Device: stateDevice, Port: d.o.Name, Learned: moved(d.known)}
	if d.o.MAC != [6]byte{} {
		s.Filters = moved([]vswitch.Address{{MAC: d.o.MAC}})
	}
	now := d.counters.Snapshot()
	s.Counters = &movedCounters{TxFrames: now.TxFrames, TxBytes: now.TxBytes, RxFrames: now.RxFrames, RxBytes: now.RxBytes}
	blob, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("netdev: port %q: save the state: %w", d.o.Name, err)
	}
	return blob, nil
}

// LoadState takes what a port on another host has saved. The driver is asked to
// announce itself when its rings run. On error nothing has changed.
func (d *Device) LoadState(blob []byte) error {
	var s state
	if err := json.Unmarshal(blob, &s); err != nil {
		return fmt.Errorf("netdev: port %q: state from another host: %w", d.o.Name, err)
	}
	addresses, err := s.check()
	if err != nil {
		return fmt.Errorf("netdev: port %q: state from another host: %w", d.o.Name, err)
	}
	if err := d.onWorker(0, func(c *worker.Context) {
		for _, a := range addresses {
			d.o.Switch.Teach(c, d.port, a)
		}
	}); err != nil {
		return err
	}
	if m := s.Counters; m != nil {
		add(&d.counters.TxFrames, m.TxFrames)
		add(&d.counters.TxBytes, m.TxBytes)
		add(&d.counters.RxFrames, m.RxFrames)
		add(&d.counters.RxBytes, m.RxBytes)
	}
	d.arrived = true
	return nil
}

func add(c *metrics.Counter, n uint64) { c.Add(min(n, maxCount-min(c.Value(), maxCount))) }

// check answers the addresses of a state that can be taken over.
func (s *state) check() ([]vswitch.Address, error) {
	switch {
	case s.Device != stateDevice:
		return nil, fmt.Errorf("it is of a device %.40q, want %q", s.Device, stateDevice)
	case s.Version != stateVersion:
		return nil, fmt.Errorf("it has version %d, version %d can be read", s.Version, stateVersion)
	case len(s.Port) > 64:
		return nil, errors.New("the name of its port has more than 64 bytes")
	case len(s.Filters)+len(s.Learned) > 2*maxMoved:
		return nil, fmt.Errorf("it has %d addresses, at most %d move", len(s.Filters)+len(s.Learned), 2*maxMoved)
	}
	var list []vswitch.Address
	for _, from := range [][]movedAddress{s.Filters, s.Learned} {
		for _, m := range from {
			hw, err := net.ParseMAC(m.MAC)
			if err != nil || len(hw) != 6 || m.VLAN > 4095 {
				return nil, fmt.Errorf("%.40q, VLAN %d, is no address of a station", m.MAC, m.VLAN)
			}
			list = append(list, vswitch.Address{VLAN: m.VLAN, MAC: [6]byte(hw)})
		}
	}
	return list, nil
}
