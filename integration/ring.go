package integration

import (
	"context"
	endian "encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Ring is a split ring of a guest's NIC, read from the memory that QEMU shares
// (virtio 1.2, 2.7): what the driver and vhostnet have really said to one
// another. It is of no use once the driver has made its rings anew.
type Ring struct {
	name        string
	memory      *os.File
	size        uint16
	desc        int64 // offsets in memory
	avail, used int64
}

// Ring finds ring i of the guest's NIC.
func (g *Guest) Ring(ctx context.Context, i int) (*Ring, error) {
	var answer json.RawMessage
	err := g.monitor(ctx, func(m *monitor) (err error) {
		// Not x-query-virtio-queue-status: that one stops the ring, by GET_VRING_BASE.
		answer, err = m.execute(ctx, "x-query-virtio-vhost-queue-status", map[string]any{"path": nicPath, "queue": i})
		return err
	})
	if err != nil {
		return nil, err
	}
	var status struct {
		Size  uint16 `json:"num"`
		Desc  int64  `json:"desc-phys"`
		Avail int64  `json:"avail-phys"`
		Used  int64  `json:"used-phys"`
	}
	if err := json.Unmarshal(answer, &status); err != nil {
		return nil, fmt.Errorf("integration: ring %d: %w", i, err)
	}
	// Below 2 GiB a guest's physical address is an offset in its memory file.
	end := max(status.Desc, status.Avail, status.Used) + usedHeader + descEntry*int64(status.Size)
	if status.Desc == 0 || status.Avail == 0 || status.Used == 0 || end > int64(g.cfg.MemoryMiB)<<20 {
		return nil, fmt.Errorf("integration: %s's ring %d is not in its memory: %+v", g.cfg.Name, i, status)
	}
	r := &Ring{name: fmt.Sprintf("%s's ring %d", g.cfg.Name, i), size: status.Size, desc: status.Desc, avail: status.Avail, used: status.Used}
	r.memory, err = g.openMemory()
	return r, err
}

// nicPath is where QEMU keeps the NIC's virtio device.
const nicPath = "/machine/peripheral/nic/virtio-backend"

// openMemory opens the memory file through QEMU's own descriptor.
func (g *Guest) openMemory() (*os.File, error) {
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", g.proc.cmd.Process.Pid))
	if err != nil {
		return nil, fmt.Errorf("integration: %w", err)
	}
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && strings.HasPrefix(target, "/memfd:memory-backend-memfd") {
			return os.Open(link)
		}
	}
	return nil, fmt.Errorf("integration: %s's QEMU has no memory file", g.cfg.Name)
}

// Close ends the reading.
func (r *Ring) Close() error { return r.memory.Close() }

// Layout of a split ring.
const (
	availHeader, availEntry = 4, 2
	usedHeader, usedEntry   = 4, 8
	descEntry               = 16
)

// RingState is what a ring held at one moment.
type RingState struct {
	Avail, Used uint16   // the two indexes: entries ever written, modulo 2^16
	heads       []uint16 // avail.ring
	returned    []uint32 // the ids in used.ring
}

// Read reads the ring. The driver may write meanwhile, and so may vhostnet: the
// entries are those of an instant only where one of them stands still.
func (r *Ring) Read() (RingState, error) {
	avail, err := r.area(r.avail, availHeader, availEntry)
	if err != nil {
		return RingState{}, err
	}
	used, err := r.area(r.used, usedHeader, usedEntry)
	if err != nil {
		return RingState{}, err
	}
	s := RingState{Avail: index(avail), Used: index(used), heads: make([]uint16, r.size), returned: make([]uint32, r.size)}
	for i := range int(r.size) {
		s.heads[i] = endian.LittleEndian.Uint16(avail[availHeader+availEntry*i:])
		s.returned[i] = endian.LittleEndian.Uint32(used[usedHeader+usedEntry*i:])
	}
	return s, nil
}

func (r *Ring) area(at int64, header, entry int) ([]byte, error) {
	area := make([]byte, header+entry*int(r.size))
	if _, err := r.memory.ReadAt(area, at); err != nil {
		return nil, fmt.Errorf("integration: %s: %w", r.name, err)
	}
	return area, nil
}

// index reads the index that follows an area's flags.
func index(area []byte) uint16 { return endian.LittleEndian.Uint16(area[2:]) }

// Buffers returns the guest's physical addresses of the buffers, one of each
// chain, that the driver has given and not got back.
func (r *Ring) Buffers() ([]uint64, error) {
	s, err := r.Read()
	if err != nil {
		return nil, err
	}
	table := make([]byte, descEntry*int(r.size))
	if _, err := r.memory.ReadAt(table, r.desc); err != nil {
		return nil, fmt.Errorf("integration: %s: %w", r.name, err)
	}
	var at []uint64
	for _, head := range s.Pending() {
		at = append(at, endian.LittleEndian.Uint64(table[descEntry*int(head%r.size):]))
	}
	return at, nil
}

// Slots reads the descriptors of a ring as they are, which in a packed ring is
// all that both sides have said.
func (r *Ring) Slots() ([]byte, error) { return r.area(r.desc, 0, descEntry) }

// LeftOfSecondLap is how many slots of a packed ring the driver has before it in
// a lap of even number, and more than the ring has in one of odd number: the
// bit AVAIL of a slot is set in the odd ones (virtio 1.2, 2.8.1).
func (r *Ring) LeftOfSecondLap() (int, error) {
	slots, err := r.Slots()
	if err != nil {
		return 0, err
	}
	const availBit = 1 << 7 // of the flags, in a slot's last two bytes
	odd := func(i int) bool { return slots[descEntry*i+14]&availBit != 0 }
	if odd(0) {
		return int(r.size) + 1, nil
	}
	for i := range int(r.size) {
		if odd(i) {
			return int(r.size) - i, nil // not yet written in this lap
		}
	}
	return 0, nil
}

// Runs tells of the slots of a packed ring whose they are, in runs of the same
// AVAIL and USED, and what each side's event suppression area says.
func (r *Ring) Runs() (string, error) {
	slots, err := r.Slots()
	if err != nil {
		return "", err
	}
	var text strings.Builder
	var before byte
	for i := range int(r.size) {
		flags := slots[descEntry*i+14]>>7 | slots[descEntry*i+15]>>6&2
		if i == 0 || flags != before {
			fmt.Fprintf(&text, "%d: %s, ", i, [...]string{"used even", "available odd", "available even", "used odd"}[flags])
		}
		before = flags
	}
	for side, at := range map[string]int64{"driver": r.avail, "device": r.used} {
		var event [4]byte
		if _, err := r.memory.ReadAt(event[:], at); err != nil {
			return "", fmt.Errorf("integration: %s: %w", r.name, err)
		}
		fmt.Fprintf(&text, "%s's event %#x, ", side, endian.LittleEndian.Uint32(event[:]))
	}
	return strings.TrimSuffix(text.String(), ", "), nil
}

// ReadUsed returns how many heads have been returned so far, modulo 2^16.
func (r *Ring) ReadUsed() (uint16, error) {
	var header [usedHeader]byte
	if _, err := r.memory.ReadAt(header[:], r.used); err != nil {
		return 0, fmt.Errorf("integration: %s: %w", r.name, err)
	}
	return index(header[:]), nil
}

// Pending returns the heads that the driver has given and not got back.
func (s RingState) Pending() []uint16 {
	pending := make([]uint16, 0, len(s.heads))
	for i := s.Used; i != s.Avail; i++ {
		pending = append(pending, s.heads[int(i)%len(s.heads)])
	}
	return pending
}

// errHeads is a ring in which a head was returned twice, or out of turn, or one
// that nobody gave.
var errHeads = errors.New("the heads in the ring are not what they must be")

// Check returns an error unless every head that the ring still tells about was
// returned exactly once: vhostnet returns heads in the order in which it gets
// them, so the two areas hold the same heads up to the used index, and none is
// with both sides at a time. vhostnet must not run.
func (s RingState) Check() error {
	size := uint16(len(s.heads))
	pending := s.Avail - s.Used
	if pending > size {
		return fmt.Errorf("%w: avail index %d, used index %d, %d entries", errHeads, s.Avail, s.Used, size)
	}
	with := map[uint16]uint16{}
	for i := s.Used; i != s.Avail; i++ {
		head := s.heads[i%size]
		if before, twice := with[head]; twice || head >= size {
			return fmt.Errorf("%w: head %d is available at %d and at %d", errHeads, head, before, i)
		}
		with[head] = i
	}
	// The driver may be about to overwrite the oldest entry.
	for i := s.Avail - size + 1; i != s.Used && pending < size; i++ {
		if gave, got := uint32(s.heads[i%size]), s.returned[i%size]; gave != got {
			return fmt.Errorf("%w: %d was given at %d, %d was returned", errHeads, gave, i, got)
		}
	}
	return nil
}

// CheckFirst returns an error unless what has been returned since before, when
// vhostnet did not run, begins with the heads that were pending then. It returns
// how many of them the ring still tells about.
func (s RingState) CheckFirst(before RingState) (int, error) {
	returned := int(s.Used - before.Used)
	if returned > len(s.returned) {
		return 0, nil // the oldest are overwritten
	}
	pending := before.Pending()
	n := min(returned, len(pending))
	for i := range n {
		at := before.Used + uint16(i)
		if got := s.returned[int(at)%len(s.returned)]; got != uint32(pending[i]) {
			return 0, fmt.Errorf("%w: %d was pending at %d, %d was returned after the restart", errHeads, pending[i], at, got)
		}
	}
	return n, nil
}
