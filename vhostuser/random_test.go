package vhostuser

import (
	"math/rand/v2"
	"os"
	"strconv"
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
			return 500
		}
		return 10_000
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
func (c *chance) index() int { return []int{0, 0, 1, 1, 2, 3, 4, 255}[c.IntN(8)] }

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

// message makes up a request.
func (c *chance) message() (r Request, payload []byte, fds []*sys.FD) {
	i := c.index()
	switch c.IntN(80) {
	case 0, 1, 2:
		r = []Request{GetFeatures, GetProtocolFeatures, GetQueueNum, GetMaxMemSlots, GetStatus, SetOwner, ResetOwner}[c.IntN(7)]
	case 3, 4, 5, 6, 7, 8:
		f := accepted
		if c.IntN(3) == 0 {
			f &^= virtio.ProtocolFeatures
		}
		r, payload = SetFeatures, U64(f).Marshal()
	case 9:
		r, payload = SetProtocolFeatures, U64(c.word()).Marshal()
	case 10, 11, 12, 13, 14, 15:
		var table MemTable
		for range 1 + c.IntN(3) {
			table.Regions = append(table.Regions, c.region())
			fds = append(fds, c.g.fd(c.t))
		}
		if c.IntN(2) == 0 {
			sys.CloseAll(fds[1:])
			table.Regions, fds = []MemRegion{c.g.whole()}, fds[:1]
		}
		r, payload = SetMemTable, table.Marshal()
	case 16, 17, 18:
		r, payload, fds = AddMemReg, SingleRegion{Region: c.region()}.Marshal(), []*sys.FD{c.g.fd(c.t)}
	case 19, 20:
		r, payload = RemMemReg, SingleRegion{Region: c.region()}.Marshal()
	case 21, 22, 23, 24, 25, 26, 27, 28, 29:
		r, payload = SetVringNum, state(i, ringSize)
	case 30, 31:
		r, payload = SetVringBase, state(i, uint32(c.word()))
	case 32, 33, 34, 35, 36, 37, 38, 39, 40:
		a := addr(i)
		if c.IntN(6) == 0 {
			a.Used += uint64(c.IntN(9))
		}
		r, payload = SetVringAddr, a.Marshal()
	case 41, 42, 43:
		r, payload = GetVringBase, state(i, 0)
	case 44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59:
		r = []Request{SetVringKick, SetVringKick, SetVringCall, SetVringErr}[c.IntN(4)]
		if c.IntN(4) == 0 {
			payload = noFD(i)
		} else {
			payload, fds = fdPayload(i), []*sys.FD{newFD(c.t)}
		}
	case 60, 61, 62, 63, 64, 65, 66:
		r, payload = SetVringEnable, state(i, uint32(c.IntN(3)))
	case 67, 68:
		r, payload = []Request{SendRARP, NetSetMTU, SetStatus}[c.IntN(3)], U64(c.word()).Marshal()
	case 69:
		r = Request(c.IntN(lastKnown + 2))
		payload = make([]byte, []int{0, 8, 8, 40, 16, c.IntN(64)}[c.IntN(6)])
		for j := range payload {
			payload[j] = byte(c.IntN(3))
		}
	}
	c.spoil(&payload, &fds)
	return r, payload, fds
}

// spoil makes one in a few messages wrong.
func (c *chance) spoil(payload *[]byte, fds *[]*sys.FD) {
	switch c.IntN(20) {
	case 0:
		*fds = append(*fds, c.oddFD())
	case 1:
		sys.CloseAll(*fds)
		*fds = []*sys.FD{c.oddFD()}
	case 2:
		if n := len(*payload); n > 0 {
			(*payload)[c.IntN(n)] ^= byte(1 << c.IntN(8))
		}
	case 3:
		*payload = (*payload)[:c.IntN(len(*payload)+1)]
	}
}

// play sends messages until there is enough of it or the back-end has.
func (c *chance) play(p *peer) {
	for range 1 + c.IntN(40) {
		r, payload, fds := c.message()
		flags := FlagVersion
		if c.IntN(12) != 0 {
			flags |= FlagNeedReply
		}
		if c.IntN(60) == 0 {
			flags = uint32(c.IntN(32))
		}
		if err := p.send(r, flags, payload, fds...); err != nil {
			return
		}
		if c.IntN(200) == 0 { // half a message, and gone
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
			if _, err = p.read(int(h.Size)); err != nil || h.Request == r {
				break
			}
			head, err = p.read(HeaderLen)
		}
		if err != nil {
			if !ended(err) {
				c.t.Fatalf("%s (flags %#x): %v", r, flags, err)
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
	for range n {
		f := p.dial()
		c.play(f)
		_ = f.conn.Close()
		p.dev.take()
	}
	last := p.dial()
	last.number(GetFeatures)
	_ = last.conn.Close()
	p.close()
	c.g.close()
	stats := p.server.Stats()
	t.Logf("%+v", stats)
	if stats.Sessions != uint64(n)+2 || stats.SecondFrontend != 0 {
		t.Errorf("%+v, want %d sessions", stats, n+2)
	}
	if bytes, regions := p.server.budget.Spent(); bytes != 0 || regions != 0 {
		t.Errorf("%d bytes in %d regions are still mapped", bytes, regions)
	}
	atRest(t, before)
}
