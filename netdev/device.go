package netdev

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/go-hclog"

	"vhostnet/metrics"
	"vhostnet/nbl"
	"vhostnet/queues"
	"vhostnet/sharedmem"
	"vhostnet/vhostuser"
	"vhostnet/virtio"
	"vhostnet/virtqueue"
	"vhostnet/vswitch"
	"vhostnet/worker"
)

// Offered is every virtio feature that the device implements in software for
// any pair of ports.
const Offered = virtio.Version1 | virtio.IndirectDesc | virtio.EventIdx | virtio.InOrder |
	virtio.RingPacked | virtio.AnyLayout | virtio.NotifyOnEmpty |
	virtio.NetMrgRxBuf | virtio.NetCsum | virtio.NetGuestCsum |
	virtio.NetHostTSO4 | virtio.NetHostTSO6 | virtio.NetGuestTSO4 | virtio.NetGuestTSO6 |
	virtio.NetHostECN | virtio.NetGuestECN | virtio.NetHostUFO | virtio.NetGuestUFO |
	virtio.NetHostUSO | virtio.NetGuestUSO4 | virtio.NetGuestUSO6 |
	virtio.NetCtrlVQ | virtio.NetCtrlRx | virtio.NetCtrlRxExtra | virtio.NetCtrlVLAN | virtio.NetCtrlMACAddr |
	virtio.NetMQ | virtio.NetMAC | virtio.NetMTU | virtio.NetStatus |
	virtio.NetGuestAnnounce | virtio.NetSpeedDuplex

// minMTU is the smallest MTU (virtio 1.3, section 5.1.4.1).
const minMTU = 68

// maxRings is how many rings the protocol can name. With as many in pairs there
// is none for the control queue, which no front-end forwards then.
const maxRings = 256

// DefaultPairs is the number of queue pairs when Options names none.
const DefaultPairs = 8

// Options is what a Device is made from. Adapter, Switch and Group are
// required and shared by all devices of a switch.
type Options struct {
	Name  string          // of the port
	MAC   [6]byte         // whose frames go to this VM's queue; zero: learned only
	MTU   uint16          // longest packet without segmentation to this VM, bytes; 0: what its front-end says, if it does
	Pairs int             // queue pairs; 0 means DefaultPairs
	Speed uint32          // of the link, as the driver is told, Mbit/s, up to 2^31-1; 0: unknown
	Mask  virtio.Features // features not to be offered
	Mode  worker.Mode     // how its transmit rings are polled
	Queue QueueMode       // who drives the verbs of its queue
	// Switching says how the switch treats the port: VLANs, mirroring, and so
	// on. Its Name and Counters are the Device's.
	Switching vswitch.PortOptions

	Home    int // 1 + index of the worker to begin on; 0: one with few rings
	Adapter *queues.Adapter
	Switch  *vswitch.Switch
	Group   *worker.Group
	Log     hclog.Logger

	// OnConfig is told that the configuration space has changed by itself. It
	// may be called on any goroutine and must not block. nil: nobody listens.
	OnConfig func()
	// OnBroken is told of a transmit or control ring that was found broken. It
	// is called on a worker and must not block. nil: nobody listens.
	OnBroken func(ring int, err error)
}

// Device implements [vhostuser.Device] for one port. The session's goroutine
// calls its methods, one at a time; Snapshot may be called from any.
type Device struct {
	o        Options
	nic      *queues.NIC
	port     vswitch.PortID
	counters metrics.Port

	mode      atomic.Uint32                       // worker.Mode of transmit rings; see Reconfigure
	switching atomic.Pointer[vswitch.PortOptions] // what the switch was told last

	commands metrics.Counter // of control queues
	refused  metrics.Counter // of those

	draining atomic.Bool  // nothing is taken from the guest any more; see Drain
	held     atomic.Int64 // chains that its transmit rings hold, as far as they have told since then
	steering *vswitch.Steering
	verbs    *queues.Binding

	// tasks guards which worker polls which ring. It is held while a worker
	// reaches its safe point, which is soon: no worker ever takes it.
	tasks sync.Mutex
	home  atomic.Int32 // index of the worker that polls pair 0; changed under tasks

	features   atomic.Uint64 // virtio.Features that the driver accepted
	announcing atomic.Bool   // the driver is asked to announce itself
	link       sync.Mutex    // held by SetLink while it changes the link
	linkDown   atomic.Bool   // see SetLink
	mtu        uint16
	mem        *sharedmem.Map // that the session gave last and holds; nil: none
	rings      []ring         // by index of the device: 2p receives, 2p+1 transmits, see controlIndex
	ctrl       *control       // what the driver said by its control queue; nil while that is not started

	known   []vswitch.Address // what the switch had learned of the port when its last ring stopped
	arrived bool              // a state was loaded, and no ring has started since

	queue     queues.QueueID // that the session allocated; 0: none
	wanted    wantedFilters
	completed bool
	lacking   bool           // a queue was wanted in vain, and the log says so
	freeing   sync.WaitGroup // FREE_QUEUE in the background
	freeCtx   context.Context
	endFree   context.CancelFunc
}

// ring is what a Device knows of one ring. Only the session's goroutine uses
// what is not atomic.
type ring struct {
	state  atomic.Uint32  // bits below; read by Snapshot
	bytes  atomic.Uint64  // of this process's memory that it takes while it is started
	task   ringTask       // transmit and control rings; nil while stopped
	at     *worker.Worker // that polls task, nil: none; changed under Device.tasks
	serial nbl.Serial     // of the packets that are sent; the worker's while polled

	arrivals worker.Arrivals // of the guest's frames
}

// ringTask is a ring that a worker looks after. Only that worker calls it while
// it is polled, only the session's goroutine otherwise.
type ringTask interface {
	worker.Task
	queue() *virtqueue.Queue
	held() int                                       // chains that were popped and not pushed back
	finish(c *worker.Context, reason metrics.Reason) // drop them; nil c: without the worker, which has ended
	broken(err error)
}

// Bits of ring.state.
const (
	ringStarted uint32 = 1 << iota
	ringEnabled
	ringBroken // of rings with a task; until the next start
)

func (r *ring) is(bit uint32) bool { return r.state.Load()&bit != 0 }

func (r *ring) set(bit uint32, on bool) {
	if on {
		r.state.Or(bit)
	} else {
		r.state.And(^bit)
	}
}

// polled reports whether a worker is to poll a ring that has a task.
func (r *ring) polled() bool {
	t, ok := r.task.(*txRing)
	return r.is(ringEnabled) || ok && t.givenUp
}

var (
	_ vhostuser.Device     = (*Device)(nil)
	_ vhostuser.MTUSetter  = (*Device)(nil)
	_ vhostuser.Announcer  = (*Device)(nil)
	_ vhostuser.Configurer = (*Device)(nil)
	_ vhostuser.StateSaver = (*Device)(nil)
	_ vswitch.Port         = (*queues.NIC)(nil)
	_ queues.Steering      = (*vswitch.Steering)(nil)
	_ worker.Learner       = (*txRing)(nil)
)

// New attaches a device without a front-end to the switch. [Device.Close] ends
// it.
func New(o Options) (*Device, error) {
	if o.Adapter == nil || o.Switch == nil || o.Group == nil {
		return nil, fmt.Errorf("netdev: port %q: without Adapter, Switch or Group; a device needs all three", o.Name)
	}
	if o.Pairs == 0 {
		o.Pairs = DefaultPairs
	}
	if o.MTU != 0 && o.MTU < minMTU {
		return nil, fmt.Errorf("netdev: port %q: MTU %d; %d to 65535 are possible", o.Name, o.MTU, minMTU)
	}
	if workers := len(o.Group.Workers()); o.Home < 0 || o.Home > workers {
		return nil, fmt.Errorf("netdev: port %q: home %d; 1 to %d name a worker, 0 none", o.Name, o.Home, workers)
	}
	if o.MAC[0]&1 != 0 {
		return nil, fmt.Errorf("netdev: port %q: MAC %x is a group address; a VM needs a unicast one", o.Name, o.MAC)
	}
	if o.Speed > maxSpeed {
		return nil, fmt.Errorf("netdev: port %q: link speed %d Mbit/s; 0 (unknown) to %d are possible", o.Name, o.Speed, maxSpeed)
	}
	if o.OnConfig == nil {
		o.OnConfig = func() {}
	}
	if o.Log == nil {
		o.Log = hclog.NewNullLogger()
	}
	if o.OnBroken == nil {
		o.OnBroken = func(int, error) {}
	}
	d := &Device{o: o, mtu: o.MTU}
	d.mode.Store(uint32(o.Mode))
	d.switching.Store(&o.Switching)
	d.freeCtx, d.endFree = context.WithCancel(context.Background())
	nic, err := o.Adapter.NewNIC(queues.NICOptions{Name: o.Name, Pairs: o.Pairs, Counters: &d.counters})
	if err != nil {
		return nil, err
	}
	rings := 2 * o.Pairs // NewNIC has checked Pairs
	if d.Features().Has(virtio.NetCtrlVQ) && rings < maxRings {
		rings++
	}
	d.nic, d.rings = nic, make([]ring, rings)
	o.Switching.Name, o.Switching.Counters = o.Name, &d.counters
	d.port, err = o.Switch.Attach(nic, o.Switching)
	if err != nil {
		return nil, fmt.Errorf("netdev: port %q: %w", o.Name, err)
	}
	d.steering = o.Switch.Steering(d.port)
	d.verbs = o.Adapter.Bind("port " + o.Name)
	if o.MAC != [6]byte{} && o.Queue == QueueAuto {
		own := Wanted{Filter: queues.Filter{MAC: o.MAC, VLAN: ownFilter(o.Switching.VLAN)}, Origin: OriginConfiguration}
		d.wanted.list = []wanted{{own, d.verbs}}
	}
	home := o.Group.Pick().Index()
	if o.Home != 0 {
		home = o.Home - 1
	}
	d.home.Store(int32(home))
	return d, nil
}

// Close takes the port off the switch after its last session has ended, and
// waits for its queue to be freed. ctx bounds the waits for workers.
func (d *Device) Close(ctx context.Context) error {
	stop := context.AfterFunc(ctx, d.endFree)
	d.freeing.Wait()
	inTime := stop()
	d.endFree()
	d.o.Switch.Detach(d.port)
	if err := d.o.Group.Quiesce(ctx); err != nil {
		return fmt.Errorf("netdev: port %q: workers did not leave it: %w", d.o.Name, err)
	}
	if !inTime {
		return fmt.Errorf("netdev: port %q: the time was up before its queue was known to be freed: %w", d.o.Name, context.Cause(ctx))
	}
	return nil
}

// Features is what is offered to the front-end: a feature whose need is masked
// is masked, too, and there is no MAC without one.
func (d *Device) Features() virtio.Features {
	f := Offered &^ d.o.Mask
	if d.o.MAC == [6]byte{} {
		f &^= virtio.NetMAC
	}
	return f.Consistent()
}

// Rings is the number of rings: a receive and a transmit ring per pair, and the
// control queue if it is offered.
func (d *Device) Rings() int { return len(d.rings) }

// controlIndex is the index of the control queue, -1 if the driver did not
// accept one over the socket. Without MQ it is behind the only pair that such a
// driver knows of (virtio 1.3, section 5.1.2).
func (d *Device) controlIndex() int {
	f := d.accepted()
	switch {
	case !f.Has(virtio.NetCtrlVQ):
		return -1
	case !f.Has(virtio.NetMQ):
		return 2
	}
	return 2 * d.o.Pairs
}

// ringBroken notes that a ring with a task is broken. It is called on a worker.
func (d *Device) ringBroken(i int, err error) {
	d.rings[i].set(ringBroken, true)
	d.o.OnBroken(i, err)
}

// Negotiated takes what the driver accepted; it counts from the next start of
// a ring on. The first one of a session allocates the VM's queue.
func (d *Device) Negotiated(f virtio.Features) {
	d.features.Store(uint64(f))
	d.guestCame()
	if d.queue == 0 {
		d.allocateQueue()
	}
}

// accepted is what the driver accepted.
func (d *Device) accepted() virtio.Features { return virtio.Features(d.features.Load()) }

// Memory makes m the Map of rings that start from now on and of the queue's
// allocations. On error both stay with the Map before.
func (d *Device) Memory(m *sharedmem.Map) error {
	d.nic.SetMemory(m)
	if err := d.remakeMemory(); err != nil {
		d.nic.SetMemory(d.mem) // the session still holds it
		return err
	}
	d.mem = m
	return nil
}

// SetMTU takes the MTU that the front-end shows to its driver (NET_SET_MTU).
// It counts from the next start of a receive ring on.
func (d *Device) SetMTU(mtu uint16) error {
	if mtu < minMTU {
		return fmt.Errorf("netdev: MTU %d; %d to 65535 are possible", mtu, minMTU)
	}
	d.mtu = mtu
	return nil
}

// Announce sends a RARP frame in the guest's name, so that switches learn where
// it is now (SEND_RARP; RFC 903).
func (d *Device) Announce(mac [6]byte) error {
	frame := rarp(mac)
	return d.onWorker(0, func(c *worker.Context) {
		var l nbl.List
		if l.FromBytes(frame, announceSerial) != metrics.ReasonNone {
			return
		}
		d.o.Switch.Forward(c, d.port, []*nbl.List{&l})
	})
}

// onWorker runs f on the worker of a pair and waits for it. A fault of guest
// memory inside f is an error. Workers outlive sessions, so it does not fail
// otherwise while the program runs.
func (d *Device) onWorker(pair int, f func(c *worker.Context)) error {
	var fault error
	err := d.worker(pair).Do(context.Background(), func(c *worker.Context) {
		fault = sharedmem.Guard(func() error { f(c); return nil })
	})
	return errors.Join(err, fault)
}

// worker polls the transmit ring of a pair: pairs go round the workers,
// beginning at the device's home.
func (d *Device) worker(pair int) *worker.Worker {
	all := d.o.Group.Workers()
	return all[(int(d.home.Load())+pair)%len(all)]
}

// DeriveMAC is the address of a port that was given none: locally administered
// and the same at every start on one host.
func DeriveMAC(host, port string) [6]byte {
	sum := sha256.Sum256([]byte("vhostnet\x00" + host + "\x00" + port))
	mac := [6]byte(sum[:6])
	mac[0] = 0x02
	return mac
}
