package usernet

import (
	"encoding/binary"
	"errors"

	"vhostnet/internal/sys"
	"vhostnet/worker"
)

// turnDatagrams is how many datagrams of one flow are taken before it is the
// next one's turn.
const turnDatagrams = 32

// maxDatagram is the longest datagram.
const maxDatagram = 65535

// receive carries what comes from outside to guests, until stop.
func (f *flows) receive() {
	tokens := make([]uint64, 64)
	buffer := make([]byte, maxDatagram)
	var again, next []*flow // of which more may be there: an edge is told once
	for !f.ended.Load() {
		timeout := -1
		if len(again) > 0 {
			timeout = 0
		}
		count, err := f.poller.Wait(tokens, timeout)
		if err != nil {
			f.n.o.Log.Error("datagrams are not received any more", "uplink", f.n.o.Name, "error", err)
			return
		}
		next = next[:0]
		for _, fl := range again {
			if f.drain(fl, buffer) {
				next = append(next, fl)
			}
		}
		for _, token := range tokens[:count] {
			if fl := f.byName(token); fl != nil && f.drain(fl, buffer) {
				next = append(next, fl)
			}
		}
		again, next = next, again
	}
}

func (f *flows) byName(token uint64) *flow {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.byToken[token]
}

// drain carries a turn's datagrams of one flow and reports whether there may be
// more.
func (f *flows) drain(fl *flow, buffer []byte) bool {
	for range turnDatagrams {
		fl.mu.Lock()
		if fl.sock == nil {
			fl.mu.Unlock()
			return false
		}
		n, why := fl.sock.Recv(buffer)
		mtu := 0
		var quoted [originLen]byte
		quotedLen := 0
		if why != sys.Sent && why != sys.Again {
			quoted, quotedLen = fl.origin, fl.originAt
			mtu = fl.sock.PathMTU()
		}
		fl.mu.Unlock()
		switch why {
		case sys.Sent:
			fl.used.Store(worker.Now())
			f.deliver(fl, buffer[:n])
		case sys.Again:
			return false
		default:
			f.n.counters.flowErrors.Add(1)
			f.n.sendError(why, quoted[:quotedLen], mtu)
		}
	}
	return true
}

// deliver sends what came from outside to the flow's guest.
func (f *flows) deliver(fl *flow, data []byte) {
	if fl.key.proto == protoUDP {
		f.n.sendUDP(fl.key.far, fl.key.guest, data)
		return
	}
	if len(data) < icmpLen {
		return
	}
	src, dst := fl.key.far.Addr(), fl.key.guest.Addr()
	f.n.sendTransport(src, dst, fl.key.proto, len(data), func(b []byte) {
		copy(b, data)
		binary.BigEndian.PutUint16(b[4:], fl.key.guest.Port())
		putICMPSum(b, src, dst)
	})
}

// stop ends receive.
func (f *flows) stop() {
	f.ended.Store(true)
	f.wake.Signal()
}

// close ends all flows. Nobody uses them any more.
func (f *flows) close() error {
	f.ended.Store(true)
	f.mu.Lock()
	all := make([]*flow, 0, len(f.m))
	for _, fl := range f.m {
		all = append(all, fl)
	}
	f.mu.Unlock()
	for _, fl := range all {
		f.remove(fl)
	}
	err := f.poller.Close()
	f.wake.Close()
	return errors.Join(err)
}
