package main

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
)

// The two virtio ports of the front-end are testpmd's ports 0 and 1.
var macs = [2]string{"00:11:22:33:44:10", "00:11:22:33:44:11"}

// Feature bits of the virtio standard that a combination decides about.
const (
	featureMergeable  = 1 << 15 // VIRTIO_NET_F_MRG_RXBUF
	featurePacked     = 1 << 34 // VIRTIO_F_RING_PACKED
	featureInOrder    = 1 << 35 // VIRTIO_F_IN_ORDER
	negotiatedPattern = `features after negotiate = ([0-9a-f]+)`
)

// startFrontEnd starts the front-end on the rig's sockets and waits until both
// ports are connected with the features that the combination asks for.
func (r *rig) startFrontEnd(ctx context.Context, devices []string) (*testpmd, error) {
	t, err := r.startTestpmd(testpmdOptions{
		name: "the front-end", role: "fe", core: r.options.frontCore, queues: r.what.Queues,
		vdevs:    append([]string{r.virtioDevice(0), r.virtioDevice(1)}, devices...),
		logLevel: "pmd.net.virtio.init:debug", // prints the negotiated features; the forwarding loop logs nothing
		flags:    r.frontFlags(),
	})
	if err != nil {
		return nil, err
	}
	text, err := t.ready(ctx)
	if err == nil {
		err = r.checkNegotiated(text)
	}
	return t, err // the rig stops it on an error too
}

// virtioDevice is the --vdev of virtio port i.
func (r *rig) virtioDevice(i int) string {
	return fmt.Sprintf("net_virtio_user%d,path=%s,queues=%d,queue_size=%d,mac=%s,mrg_rxbuf=%s,in_order=%s,vectorized=%s,packed_vq=%s,server=%s",
		i, r.sockets[i], r.what.Queues, r.what.Ring, macs[i],
		bit(r.what.Mergeable), bit(r.what.InOrder), bit(r.what.Vectorized), bit(r.what.Packed), bit(r.options.server))
}

func bit(b bool) string { return choose(b, "1", "0") }

func (r *rig) frontFlags() []string {
	var flags []string
	if r.options.check {
		flags = append(flags, "--no-flush-rx") // waiting frames are the ones that are counted
	}
	if r.what.Queues > 1 {
		flags = append(flags, "--txonly-multi-flow") // else a flow hash sends all to one ring
	}
	return flags
}

var negotiated = regexp.MustCompile(negotiatedPattern)

// checkNegotiated compares the features of both ports with the combination:
// a figure for packed rings must not have been made with split ones.
func (r *rig) checkNegotiated(text string) error {
	found := negotiated.FindAllStringSubmatch(text, -1)
	if len(found) != 2 {
		return fmt.Errorf("the front-end told the negotiated features of %d ports, not 2", len(found))
	}
	for i, m := range found {
		bits, err := strconv.ParseUint(m[1], 16, 64)
		if err != nil {
			return err
		}
		if got := bits&featureMergeable != 0; got != r.what.Mergeable {
			return fmt.Errorf("port %d: mergeable buffers are %s after negotiation (features %#x)", i, choose(got, "on", "off"), bits)
		}
		if got := bits&featurePacked != 0; got != r.what.Packed {
			return fmt.Errorf("port %d: the rings are %s after negotiation (features %#x)", i, choose(got, "packed", "split"), bits)
		}
		r.back.inOrder = bits&featureInOrder != 0
		if r.back.inOrder && !r.what.InOrder {
			return fmt.Errorf("port %d: IN_ORDER is on after negotiation (features %#x)", i, bits)
		}
	}
	return nil
}
