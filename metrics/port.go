package metrics

// Port counts what passes one port of the switch. Tx is from the VM, Rx is to
// the VM. The zero Port is ready to use; it must not be copied. Every counter
// may be added to concurrently.
type Port struct {
	TxFrames      Counter // frames that the switch took from the VM
	TxBytes       Counter // their bytes, from the Ethernet header on
	RxFrames      Counter // frames given to the VM
	RxBytes       Counter // their bytes
	Flooded       Counter // frames from the VM that went to every port
	SoftOffload   Counter // frames to the VM that were summed or cut here, for want of an offload
	Moved         Counter // addresses that the switch knew at another port before
	ForeignSource Counter // frames whose source is filtered to another port, so it was not learned
	TableFull     Counter // frames whose source was not learned because the table is full
	Stalls        Counter // times the VM gave no buffers for so long that its frames are dropped at once
	Drops         Drops   // frames lost, by reason
}

// PortSnapshot is the value of every counter of a [Port].
type PortSnapshot struct {
	TxFrames, TxBytes uint64
	RxFrames, RxBytes uint64
	Flooded           uint64
	SoftOffload       uint64
	Moved             uint64
	ForeignSource     uint64
	TableFull         uint64
	Stalls            uint64
	Drops             DropCounts
}

// Snapshot reads every counter. Counters that move meanwhile are each right,
// but not from one moment.
func (p *Port) Snapshot() PortSnapshot {
	return PortSnapshot{
		TxFrames:      p.TxFrames.Value(),
		TxBytes:       p.TxBytes.Value(),
		RxFrames:      p.RxFrames.Value(),
		RxBytes:       p.RxBytes.Value(),
		Flooded:       p.Flooded.Value(),
		SoftOffload:   p.SoftOffload.Value(),
		Moved:         p.Moved.Value(),
		ForeignSource: p.ForeignSource.Value(),
		TableFull:     p.TableFull.Value(),
		Stalls:        p.Stalls.Value(),
		Drops:         p.Drops.Snapshot(),
	}
}
