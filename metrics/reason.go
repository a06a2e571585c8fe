package metrics

import (
	"fmt"
	"strings"
)

// Reason says why a frame was dropped.
type Reason uint8

// The reasons. The first group is the sender's fault, the second the
// receiver's state, the third policy, the last this process.
const (
	ReasonNone Reason = iota // not dropped

	ReasonShort   // shorter than its headers
	ReasonHeader  // virtio_net_hdr contradicts itself, the frame or the features
	ReasonCsum    // a checksum was asked for outside the frame
	ReasonGSO     // a segmentation was asked for that cannot be done
	ReasonTooLong // longer than any frame can be
	ReasonGivenUp // left in a transmit ring that the sender does not use any more

	ReasonDisabled     // the ring is not enabled
	ReasonStopped      // the ring is not started
	ReasonNoBuffer     // the receiver gave no buffers in time
	ReasonStalled      // the receiver has given none for a while
	ReasonBuffersSmall // the receiver's buffers can never hold the frame
	ReasonMTU          // longer than the receiver's MTU
	ReasonUnwanted     // outside the receive modes or VLANs that its driver set
	ReasonNotRunning   // the receiver's queue is paused, or not complete
	ReasonBroken       // the receiver's ring is broken
	ReasonNoPort       // the receiver has left
	ReasonLinkDown     // the sender's or the receiver's link was taken down

	ReasonHairpin  // would go back to the port it came from
	ReasonReserved // to 01:80:C2:00:00:0X, which no bridge forwards
	ReasonStorm    // more flooding than the port's budget
	ReasonVLAN     // in a VLAN that its port does not carry

	ReasonProtected // between two ports that are kept apart
	ReasonSink      // from a port that only gets copies of others' frames

	ReasonFault       // the sender's or the receiver's memory is gone
	ReasonSoftOffload // the work of a lacking offload could not be done here
	ReasonBusyFlood   // a flooded or mirrored copy for a receiver that was busy: it does not wait

	NumReasons // how many there are
)

// reasonNames are one word each: they become labels of a metric.
var reasonNames = [NumReasons]string{
	ReasonNone:         "none",
	ReasonShort:        "short",
	ReasonHeader:       "header",
	ReasonCsum:         "csum",
	ReasonGSO:          "gso",
	ReasonTooLong:      "too-long",
	ReasonGivenUp:      "given-up",
	ReasonDisabled:     "disabled",
	ReasonStopped:      "stopped",
	ReasonNoBuffer:     "no-buffer",
	ReasonStalled:      "stalled",
	ReasonBuffersSmall: "buffers-small",
	ReasonMTU:          "mtu",
	ReasonUnwanted:     "unwanted",
	ReasonNotRunning:   "not-running",
	ReasonBroken:       "broken",
	ReasonNoPort:       "no-port",
	ReasonLinkDown:     "link-down",
	ReasonHairpin:      "hairpin",
	ReasonReserved:     "reserved",
	ReasonStorm:        "storm",
	ReasonVLAN:         "vlan",
	ReasonProtected:    "protected",
	ReasonSink:         "sink",
	ReasonFault:        "fault",
	ReasonSoftOffload:  "soft-offload",
	ReasonBusyFlood:    "busy-flood",
}

// String is the reason in one word.
func (r Reason) String() string {
	if r < NumReasons {
		return reasonNames[r]
	}
	return fmt.Sprintf("reason-%d", uint8(r))
}

// Drops counts dropped frames by reason. The zero Drops is ready to use; it
// must not be copied.
type Drops [NumReasons]Counter

// Add counts n frames dropped for r. An unknown reason counts as ReasonNone,
// so that a defect of the caller shows and loses nothing.
func (d *Drops) Add(r Reason, n uint64) {
	if r >= NumReasons {
		r = ReasonNone
	}
	d[r].Add(n)
}

// Total is the number of frames dropped for any reason.
func (d *Drops) Total() uint64 {
	var sum uint64
	for i := range d {
		sum += d[i].Value()
	}
	return sum
}

// Snapshot is the counts now. Counters that move meanwhile are each right,
// but not from one moment.
func (d *Drops) Snapshot() DropCounts {
	var c DropCounts
	for i := range d {
		c[i] = d[i].Value()
	}
	return c
}

// DropCounts are dropped frames by reason, as plain values.
type DropCounts [NumReasons]uint64

// Total is the number of frames dropped for any reason.
func (c DropCounts) Total() uint64 {
	var sum uint64
	for _, n := range c {
		sum += n
	}
	return sum
}

// String lists the reasons that occurred, as "no-buffer=3 storm=1".
func (c DropCounts) String() string {
	var words []string
	for r, n := range c {
		if n != 0 {
			words = append(words, fmt.Sprintf("%s=%d", Reason(r), n))
		}
	}
	return strings.Join(words, " ")
}
