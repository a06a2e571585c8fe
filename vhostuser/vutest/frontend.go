package vutest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"vhostnet/internal/sys"
	"vhostnet/vhostuser"
	"vhostnet/virtio"
)

// FrontEnd is a virtual machine's front-end and the guest in it. The package
// doc says who may call what concurrently.
type FrontEnd struct {
	o    Options
	kind *kind
	path string

	listener *net.UnixListener // of a front-end that listens, otherwise nil

	// Of one connection.
	conn     *sys.Conn
	greeted  bool // the connect phase is done
	offered  virtio.Features
	protocol vhostuser.Protocol
	told     virtio.Features // of the last SET_FEATURES, 0 when there was none
	known    []Region        // the regions that the back-end was told of
	queues   uint64          // the answer to GET_QUEUE_NUM
	slots    uint64          // the answer to GET_MAX_MEM_SLOTS

	takes int       // descriptors that the next reply may bring,
	taken []*sys.FD // and did

	log        *dirtyLog          // of a migration, nil: none runs
	remembered vhostuser.Protocol // of an earlier connection

	region   *region // of chains in flight; nil before it was asked for
	mem      *memory
	masked   *line   // QEMU: the call event while a vector is masked
	errs     []*line // QEMU: error events, by ring of the NIC
	lines    []*line // interrupts of the guest
	guest    Guest
	accepted virtio.Features
	rings    []*ring // of the guest that has booted, nil before
	ctrl     *ring   // its control queue if the back-end is to serve it, otherwise nil
	active   int     // queue pairs that the guest has enabled
	running  bool    // between start and stop
	resumed  bool    // the rings went on over a new connection
}

// Dial connects to the socket at path. Nothing is said to the back-end before
// [FrontEnd.Start]. [FrontEnd.Close] ends it.
func Dial(path string, o Options) (*FrontEnd, error) { return open(path, o, nil) }

// Listen makes the socket at path, as QEMU does with server=on, and waits for a
// back-end to connect. A [FrontEnd.Reconnect] waits for it again; the socket is
// there until [FrontEnd.Close].
func Listen(path string, o Options) (*FrontEnd, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("vutest: listen: %w", err)
	}
	return open(path, o, l)
}

// open makes the front-end; with a listener, which it owns on error too, it is
// the back-end that connects.
func open(path string, o Options, l *net.UnixListener) (*FrontEnd, error) {
	f := &FrontEnd{path: path, listener: l}
	if err := f.open(o); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (f *FrontEnd) open(o Options) (err error) {
	o, k, err := o.fill()
	if err != nil {
		return err
	}
	f.o, f.kind, f.guest = o, k, o.Guest
	if f.mem, err = newMemory(o.Layout, o.Truncatable); err != nil {
		return err
	}
	if err := f.openEvents(); err != nil {
		return err
	}
	return f.dial()
}

// openEvents makes the events that are older than any guest.
func (f *FrontEnd) openEvents() (err error) {
	if f.masked, err = newLine(); err != nil {
		return err
	}
	for range 2 * f.o.Pairs {
		l, err := newLine()
		if err != nil {
			return err
		}
		f.errs = append(f.errs, l)
	}
	return nil
}

func (f *FrontEnd) dial() error {
	u, err := f.socket()
	if err != nil {
		return fmt.Errorf("vutest: connect: %w", err)
	}
	f.conn, err = sys.NewConn(u)
	if err != nil {
		return fmt.Errorf("vutest: connect: %w", err)
	}
	f.greeted, f.protocol, f.told, f.known = false, 0, 0, nil
	return nil
}

func (f *FrontEnd) socket() (*net.UnixConn, error) {
	if f.listener == nil {
		return net.DialUnix("unix", nil, &net.UnixAddr{Name: f.path, Net: "unix"})
	}
	if err := f.listener.SetDeadline(time.Now().Add(f.o.Timeout)); err != nil {
		return nil, err
	}
	return f.listener.AcceptUnix()
}

// Start brings the rings to life, in the front-end's own sequence, and returns
// the features that the guest's driver accepted. The first time it boots
// Options.Guest; after a [FrontEnd.Stop] the same rings go on where they stood
// (QEMU: stop and cont), but for packed ones of virtio-user, which begins anew
// with empty ones. Nothing is kicked: what the guest posted before is
// for the back-end to find.
func (f *FrontEnd) Start(ctx context.Context) (virtio.Features, error) {
	if f.running {
		return 0, errors.New("vutest: start: the rings run already; Stop or Reboot them")
	}
	if err := f.greet(ctx); err != nil {
		return 0, err
	}
	if f.kind.resets && f.accepted.Has(virtio.RingPacked) {
		f.shutdown()
	}
	if f.rings == nil {
		if err := f.boot(f.guest); err != nil {
			return 0, err
		}
	}
	if err := f.kind.start(f, ctx); err != nil {
		return 0, fmt.Errorf("vutest: start as %s: %w", f.kind.name, err)
	}
	f.running, f.resumed = true, false
	return f.accepted, nil
}

// Stop ends the service of the rings, in the front-end's own sequence. The
// guest's memory and rings stay as they are for a Start.
func (f *FrontEnd) Stop(ctx context.Context) error {
	if !f.running {
		return errors.New("vutest: stop: no rings run")
	}
	f.running = false
	if err := f.kind.stop(f, ctx); err != nil {
		return fmt.Errorf("vutest: stop as %s: %w", f.kind.name, err)
	}
	return nil
}

// Reboot stops the rings if they run, forgets everything in the guest's
// memory, and starts g on the same connection.
func (f *FrontEnd) Reboot(ctx context.Context, g Guest) (virtio.Features, error) {
	if f.running {
		if err := f.Stop(ctx); err != nil {
			return 0, err
		}
	}
	f.guest = g
	f.shutdown()
	return f.Start(ctx)
}

// Reconnect drops the connection, as it is, and connects again, as front-ends
// do when their back-end was restarted: the guest runs on, its rings are as
// they are, and the session is told anew up to running rings. While nobody
// listens it tries again, as long as Options.Timeout.
func (f *FrontEnd) Reconnect(ctx context.Context) (virtio.Features, error) {
	f.Disconnect()
	for end := f.deadline(ctx); ; time.Sleep(retryPause) {
		err := f.dial()
		if err == nil {
			break
		}
		if ctx.Err() != nil || time.Now().After(end) {
			return 0, err
		}
	}
	f.resumed = f.rings != nil
	return f.Start(ctx)
}

const retryPause = time.Millisecond // between two attempts to connect

// Disconnect closes the socket without a word, as a front-end that is killed.
// The guest's memory stays, and can be looked at.
func (f *FrontEnd) Disconnect() {
	if f.conn != nil {
		_ = f.conn.Close()
	}
	f.running = false
	f.log.close()
	f.log = nil
}

// Close ends everything: connection, guest, memory. The FrontEnd is of no use
// afterwards; closing again does nothing.
func (f *FrontEnd) Close() error {
	f.Disconnect()
	if f.listener != nil {
		_ = f.listener.Close()
	}
	f.shutdown()
	f.masked.close()
	for _, l := range f.errs {
		l.close()
	}
	f.masked, f.errs = nil, nil
	f.mem.close()
	return nil
}

// greet does the connect phase once per connection.
func (f *FrontEnd) greet(ctx context.Context) error {
	if f.greeted {
		return nil
	}
	if err := f.kind.connect(f, ctx); err != nil {
		return fmt.Errorf("vutest: connect as %s: %w", f.kind.name, err)
	}
	f.greeted = true
	return nil
}

// legacyFeatures are those that a driver older than virtio 1.0 can know.
const legacyFeatures = 1<<32 - 1

// choose gives the features that a guest's driver accepts. A NIC with one queue
// pair has no MQ (QEMU: mq=off).
func (f *FrontEnd) choose(g Guest) virtio.Features {
	all := f.offered & (f.kind.features | f.o.Through) &^ g.Without
	if g.Legacy {
		all &= legacyFeatures
	} else {
		all &^= virtio.NotifyOnEmpty | virtio.AnyLayout
	}
	if !g.Packed {
		all &^= virtio.RingPacked
	}
	if f.o.Pairs == 1 {
		all &^= virtio.NetMQ
	}
	if f.kind.forwards && (!g.Control || !all.Has(virtio.NetCtrlVQ)) {
		all &^= control
	}
	return consistent(all)
}

// Features are those that the guest's driver accepted.
func (f *FrontEnd) Features() virtio.Features { return f.accepted }

// Offered are the features that the back-end offers, bit 30 included. They are
// known after the first Start.
func (f *FrontEnd) Offered() virtio.Features { return f.offered }

// Protocol are the protocol features that were negotiated.
func (f *FrontEnd) Protocol() vhostuser.Protocol { return f.protocol }

// QueueNum is the answer to GET_QUEUE_NUM, 0 when it was not asked.
func (f *FrontEnd) QueueNum() uint64 { return f.queues }

// Pairs is how many queue pairs the guest uses now.
func (f *FrontEnd) Pairs() int { return f.active }
