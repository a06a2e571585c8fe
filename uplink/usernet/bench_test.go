package usernet

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"vhostnet/nbl"
)

const benchChunk = 1 << 20 // bytes of one iteration

// stream sends iterations of benchChunk over each of the connections, all at once.
func stream(b *testing.B, senders []io.Writer, receivers []io.Reader) {
	b.SetBytes(benchChunk)
	each := b.N/len(senders) + 1
	var wg sync.WaitGroup
	before := cpuTime(b)
	b.ResetTimer()
	for i := range senders {
		wg.Go(func() {
			chunk := make([]byte, 256<<10)
			for range each * (benchChunk / len(chunk)) {
				if _, err := senders[i].Write(chunk); err != nil {
					b.Error(err)
					return
				}
			}
		})
		wg.Go(func() {
			if n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, io.LimitReader(receivers[i], int64(each)*benchChunk), make([]byte, 256<<10)); err != nil || n < int64(each)*benchChunk {
				b.Error(n, err)
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	// What it costs is known also on a machine that has other things to do.
	b.ReportMetric((cpuTime(b)-before).Seconds()*1e9/float64(each*len(senders)*benchChunk), "cpu-s/GB")
}

// cpuTime is what the process has used of the machine.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkNetwork is a guest in this process, behind the switch, and a program on
// the host: the way of a guest's bytes but for its rings.
func BenchmarkNetwork(b *testing.B) {
	for _, streams := range []int{1, 8} {
		for _, up := range []bool{true, false} {
			b.Run(fmt.Sprintf("streams=%d/up=%v", streams, up), func(b *testing.B) {
				l := newLab(b, Options{Host: true})
				g := newTestGuest(l, 1, nbl.UplinkFeatures)
				hosts := make(chan net.Conn, streams)
				done := make(chan struct{})
				at := server(b, "127.0.0.1:0", func(c net.Conn) {
					hosts <- c
					<-done
				})
				var senders []io.Writer
				var receivers []io.Reader
				for range streams {
					c, err := g.dial(netip.AddrPortFrom(gateways[0], at.Port()))
					l.must(err)
					defer c.Close()
					if h := <-hosts; up {
						senders, receivers = append(senders, c), append(receivers, h)
					} else {
						senders, receivers = append(senders, h), append(receivers, c)
					}
				}
				stream(b, senders, receivers)
				s := g.stack
				if !up {
					s = l.n.stack
				}
				b.ReportMetric(float64(s.Stats().TCP.Retransmits.Value()), "retransmits")
				b.ReportMetric(float64(s.Stats().TCP.Timeouts.Value()), "timeouts")
				close(done)
			})
		}
	}
}

// wire joins two guests' stacks without a switch: each packet is copied into flat
// memory, crosses to a goroutine, and is copied out.
type wire struct {
	*guestLink
	to   *wire
	flat chan []byte
}

func (w *wire) WritePackets(list stack.PacketBufferList) (int, tcpip.Error) {
	for _, pkt := range list.AsSlice() {
		b := make([]byte, 0, pkt.Size())
		for _, s := range pkt.AsSlices() {
			b = append(b, s...)
		}
		select {
		case w.to.flat <- b:
		default:
		}
	}
	return list.Len(), nil
}

func (w *wire) run() {
	for b := range w.flat {
		if d := w.up.Load(); d != nil {
			pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(b)})
			(*d).DeliverNetworkPacket(0, pkt)
			pkt.DecRef()
		}
	}
}

// BenchmarkLinks is the same stack twice, joined in this process: what there is
// to reach.
func BenchmarkLinks(b *testing.B) {
	for _, streams := range []int{1, 8} {
		b.Run(fmt.Sprintf("streams=%d", streams), func(b *testing.B) {
			l := &lab{t: b}
			var guests [2]*testGuest
			var wires [2]*wire
			for i := range guests {
				guests[i] = bareGuest(b, i+1, nbl.UplinkFeatures)
				wires[i] = &wire{guestLink: (*guestLink)(guests[i]), flat: make(chan []byte, 1024)}
				guests[i].newStack(l, wires[i])
			}
			wires[0].to, wires[1].to = wires[1], wires[0]
			var running sync.WaitGroup
			for _, w := range wires {
				running.Go(w.run)
			}
			ln, err := gonet.ListenTCP(guests[1].stack, tcpip.FullAddress{NIC: nicID, Addr: stackAddress(guests[1].v4), Port: 9}, protocolOf(guests[1].v4))
			l.must(err)
			var senders []io.Writer
			var receivers []io.Reader
			for range streams {
				c, err := guests[0].dial(netip.AddrPortFrom(guests[1].v4, 9))
				l.must(err)
				a, err := ln.Accept()
				l.must(err)
				senders, receivers = append(senders, c), append(receivers, a)
			}
			stream(b, senders, receivers)
			ln.Close()
			for i, g := range guests {
				g.up.Store(nil)
				g.stack.Destroy()
				_ = i
			}
			for _, w := range wires {
				close(w.flat)
			}
			running.Wait()
		})
	}
}
