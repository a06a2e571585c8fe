package vhostuser

import (
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"vhostnet/internal/sys"
	"vhostnet/virtio"
)

// sessions is how many random front-ends are played; VHOSTNET_SESSIONS says
// otherwise.
func sessions(t testing.TB) int {
	t.Helper()
	text, ok := os.LookupEnv("VHOSTNET_SESSIONS")
	if !ok {
		if testing.Short() {
			return defaultSessions / 20
		}
		return defaultSessions
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("VHOSTNET_SESSIONS=%q: a number of sessions is needed", text)
	}
	return n
}

// chance is a random front-end: mostly in the right order with the right
// contents, and wrong somewhere.
type chance struct {
	*rand.Rand
	t testing.TB
	g *guest
}

// index is a ring's, mostly.
func (c *chance) index() int {
	switch c.IntN(60) {
	case 0:
		return 4
	case 1:
		return 255
	}
	return c.IntN(3)
}

// oddFD is a descriptor that no front-end would send.
func (c *chance) oddFD() *sys.FD {
	switch c.IntN(4) {
	case 0:
		n, err := syscall.Open("/dev/null", syscall.O_RDWR|syscall.O_CLOEXEC, 0)
		if err != nil {
			c.t.Fatal(err)
		}
		return sys.OwnFD(n)
	case 1:
		a, b := socketPair(c.t)
		_ = b.Close()
		return a
	case 2:
		return c.g.fd(c.t)
	}
	return newFD(c.t)
}

// word is a number at some edge.
func (c *chance) word() uint64 {
	edges := []uint64{0, 1, 2, 7, 255, 256, 4095, 4096, 65535, 65536, guestSize, guestUser, 1 << 31, 1 << 32, 1 << 63, 1<<64 - 1}
	return edges[c.IntN(len(edges))] + uint64(c.IntN(3)) - 1
}

// region is a piece of the guest, mostly.
func (c *chance) region() MemRegion {
	at := uint64(c.IntN(16)) * ringSpace
	r := c.g.region(at, at+ringSpace)
	switch c.IntN(12) {
	case 0:
		r.Size = c.word()
	case 1:
		r.Offset = c.word()
	case 2:
		r.GPA = c.word()
	case 3:
		return c.g.whole()
	}
	return r
}

// chanceRequest is what a front-end sends.
type chanceRequest struct {
	id      Request
	payload []byte
	fds     []*sys.FD
}

// kinds are the requests that a random front-end makes up, the likelier the
// greater their weight.
var kinds = []struct {
	weight int
	make   func(c *chance) chanceRequest
}{
	{3, func(c *chance) chanceRequest {
		ids := []Request{GetFeatures, GetProtocolFeatures, GetQueueNum, GetMaxMemSlots, GetStatus, SetOwner, ResetOwner}
		return chanceRequest{id: ids[c.IntN(len(ids))]}
	}},
	{8, func(c *chance) chanceRequest {
		f := accepted
		if c.IntN(3) == 0 {
			f &^= virtio.ProtocolFeatures
		}
		if c.IntN(5) == 0 {
			f &^= virtio.EventIdx
		}
		return chanceRequest{id: SetFeatures, payload: U64(f).Marshal()}
	}},
	{8, func(c *chance) chanceRequest {
		regions := []MemRegion{c.g.whole()}
		if c.IntN(2) == 0 {
			regions = []MemRegion{c.region(), c.region()}[:1+c.IntN(2)]
		}
		r := chanceRequest{id: SetMemTable, payload: MemTable{Regions: regions}.Marshal()}
		for range regions {
			r.fds = append(r.fds, c.g.fd(c.t))
		}
		return r
	}},
	{4, func(c *chance) chanceRequest {
		return chanceRequest{AddMemReg, SingleRegion{Region: c.region()}.Marshal(), []*sys.FD{c.g.fd(c.t)}}
	}},
	{3, func(c *chance) chanceRequest {
		return chanceRequest{id: RemMemReg, payload: SingleRegion{Region: c.region()}.Marshal()}
	}},
	{12, func(c *chance) chanceRequest {
		return chanceRequest{id: SetVringNum, payload: state(c.index(), ringSize)}
	}},
	{2, func(c *chance) chanceRequest {
		return chanceRequest{id: SetVringBase, payload: state(c.index(), uint32(c.word()))}
	}},
	{12, func(c *chance) chanceRequest {
		a := addr(c.index())
		if c.IntN(10) == 0 {
			a.Used += uint64(c.IntN(9))
		}
		return chanceRequest{id: SetVringAddr, payload: a.Marshal()}
	}},
	{3, func(c *chance) chanceRequest { return chanceRequest{id: GetVringBase, payload: state(c.index(), 0)} }},
	{20, func(c *chance) chanceRequest {
		id := []Request{SetVringKick, SetVringKick, SetVringCall, SetVringErr}[c.IntN(4)]
		if c.IntN(4) == 0 {
			return chanceRequest{id: id, payload: noFD(c.index())}
		}
		return chanceRequest{id, fdPayload(c.index()), []*sys.FD{newFD(c.t)}}
	}},
	{8, func(c *chance) chanceRequest {
		return chanceRequest{id: SetVringEnable, payload: state(c.index(), uint32(c.IntN(2)))}
	}},
	{3, func(c *chance) chanceRequest {
		ids := []Request{SendRARP, NetSetMTU, SetStatus, SetProtocolFeatures}
		return chanceRequest{id: ids[c.IntN(len(ids))], payload: U64(c.word()).Marshal()}
	}},
	{1, func(c *chance) chanceRequest { // anything
		payload := make([]byte, []int{0, 8, 8, 40, 16, c.IntN(64)}[c.IntN(6)])
		for i := range payload {
			payload[i] = byte(c.IntN(3))
		}
		return chanceRequest{id: Request(c.IntN(lastKnown + 2)), payload: payload}
	}},
}

// request makes one up.
func (c *chance) request() chanceRequest {
	total := 0
	for _, k := range kinds {
		total += k.weight
	}
	at := c.IntN(total)
	for _, k := range kinds {
		if at -= k.weight; at < 0 {
			r := k.make(c)
			c.spoil(&r)
			return r
		}
	}
	panic("weights do not add up")
}

// spoil makes one in a few requests wrong.
func (c *chance) spoil(r *chanceRequest) {
	switch c.IntN(60) {
	case 0:
		r.fds = append(r.fds, c.oddFD())
	case 1:
		sys.CloseAll(r.fds)
		r.fds = []*sys.FD{c.oddFD()}
	case 2:
		if n := len(r.payload); n > 0 {
			r.payload[c.IntN(n)] ^= byte(1 << c.IntN(8))
		}
	case 3:
		r.payload = r.payload[:c.IntN(len(r.payload)+1)]
	}
}

// play sends messages until there is enough of it or the back-end has.
func (c *chance) play(p *peer) {
	for range 1 + c.IntN(60) {
		r := c.request()
		flags := FlagVersion
		if c.IntN(40) != 0 {
			flags |= FlagNeedReply
		}
		if c.IntN(400) == 0 {
			flags = uint32(c.IntN(32))
		}
		if err := p.send(r.id, flags, r.payload, r.fds...); err != nil {
			return
		}
		if c.IntN(400) == 0 { // half a message, and gone
			_ = p.conn.Send(make([]byte, 1+c.IntN(11)), nil)
			return
		}
		if flags != FlagVersion|FlagNeedReply {
			continue
		}
		// A request of before may have a reply that was not read.
		head, err := p.read(HeaderLen)
		for err == nil {
			h, _ := ParseHeader(head)
			if h.Flags != ReplyFlags || h.Size > MaxPayload {
				c.t.Fatalf("reply with header %+v", h)
			}
			if _, err = p.read(int(h.Size)); err != nil || h.Request == r.id {
				break
			}
			head, err = p.read(HeaderLen)
		}
		if err != nil {
			if !ended(err) {
				c.t.Fatalf("%s (flags %#x): %v", r.id, flags, err)
			}
			return
		}
	}
}

// V13, V14, P10, P11: random front-ends with odd descriptors on one port. None
// of them may crash it, hold it up or leave anything behind.
func TestV13_V14_RandomSessions(t *testing.T) {
	seed := uint64(1)
	if text, ok := os.LookupEnv("VHOSTNET_SEED"); ok {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatalf("VHOSTNET_SEED=%q: a number is needed", text)
		}
		seed = n
	}
	n := sessions(t)
	t.Logf("%d sessions, VHOSTNET_SEED=%d", n, seed)
	before := measure(t)
	p := newPort(t, tempSocket(t), nil)
	p.dial().conn.Close()
	c := &chance{Rand: rand.New(rand.NewPCG(seed, 14)), t: t, g: newGuest(t)}
	told := map[string]int{}
	for range n {
		f := p.dial()
		c.play(f)
		_ = f.conn.Close()
		for _, call := range p.dev.take() {
			name, _, _ := strings.Cut(call, " ")
			told[name]++
		}
	}
	last := p.dial()
	last.number(GetFeatures)
	_ = last.conn.Close()
	p.close()
	c.g.close()
	stats := p.server.Stats()
	t.Logf("%+v; device was told %v", stats, told)
	if told["start"] < n/10 || told["replace"] < n/10 || told["memory"] < n {
		t.Errorf("the sessions hardly reach the device: %v", told)
	}
	if stats.Sessions != uint64(n)+2 || stats.SecondFrontend != 0 {
		t.Errorf("%+v, want %d sessions", stats, n+2)
	}
	if bytes, regions := p.server.budget.Spent(); bytes != 0 || regions != 0 {
		t.Errorf("%d bytes in %d regions are still mapped", bytes, regions)
	}
	atRest(t, before)
}
