package queues

import (
	"testing"

	"vhostnet/virtio"
	"vhostnet/virtqueue"
	"vhostnet/virtqueue/vqtest"
)

// ringFormat is RING_PACKED while TestPackedRings runs. The tests of this
// package do not run in parallel.
var ringFormat virtio.Features

// at is where a ring of the format stands behind n entries of its first lap.
func at(n uint16) virtqueue.State {
	if ringFormat == 0 {
		return virtqueue.State{Avail: n, Used: n}
	}
	return virtqueue.State{Avail: n | vqtest.WrapBit, Used: n | vqtest.WrapBit, Packed: true}
}

// TestPackedRings repeats the tests of delivery for receivers with packed
// rings.
func TestPackedRings(t *testing.T) {
	ringFormat = virtio.RingPacked
	defer func() { ringFormat = 0 }()
	for name, test := range map[string]func(*testing.T){
		"V52_GoldenHeaders":            TestV52_GoldenHeaders,
		"V51_AnyLayout":                TestV51_AnyLayout,
		"V44_RuntBuffers":              TestV44_RuntBuffers,
		"V44_EmptyBuffers":             TestV44_EmptyBuffers,
		"SmallBufferIsKept":            TestSmallBufferIsKept,
		"V53_PrefixIsAccepted":         TestV53_PrefixIsAccepted,
		"V73_TooFewForNow":             TestV73_TooFewForNow,
		"V70_JumboFrames":              TestV70_JumboFrames,
		"SeveralBursts":                TestSeveralBursts,
		"PrefixOverBursts":             TestPrefixOverBursts,
		"Softened":                     TestSoftened,
		"SoftenedOverBursts":           TestSoftenedOverBursts,
		"SoftenedInPortions":           TestSoftenedInPortions,
		"SoftenedSegmentsLost":         TestSoftenedSegmentsLost,
		"SoftenedForSeveral":           TestSoftenedForSeveral,
		"V32_ReceiverFaults":           TestV32_ReceiverFaults,
		"ReceiverFaultsInLaterBurst":   TestReceiverFaultsInLaterBurst,
		"V32_SenderFaults":             TestV32_SenderFaults,
		"SenderFaultsForEver":          TestSenderFaultsForEver,
		"DeliveryRule":                 TestDeliveryRule,
		"DeliveryRuleInBatch":          TestDeliveryRuleInBatch,
		"MTU":                          TestMTU,
		"RingNotReady":                 TestRingNotReady,
		"V49_ReadableReceiveBuffer":    TestV49_ReadableReceiveBuffer,
		"BrokenRing":                   TestBrokenRing,
		"V76_DeadCallDescriptor":       TestV76_DeadCallDescriptor,
		"LockHeldElsewhere":            TestLockHeldElsewhere,
		"DefectReleasesTheLock":        TestDefectReleasesTheLock,
		"Steering":                     TestSteering,
		"SteeringOfUnknownFlows":       TestSteeringOfUnknownFlows,
		"SteeringPastUnusablePairs":    TestSteeringPastUnusablePairs,
		"SteeringPrefix":               TestSteeringPrefix,
		"NoteSent":                     TestNoteSent,
		"Trap7_13_StopWaitsForTheCall": TestTrap7_13_StopWaitsForTheCall,
		"DeliverAllocatesNothing":      TestDeliverAllocatesNothing,
		"RingsChangeUnderDelivery":     TestRingsChangeUnderDelivery,
		"BuffersComeMeanwhile":         TestBuffersComeMeanwhile,
		"WorkersSoftenApart":           TestWorkersSoftenApart,
	} {
		t.Run(name, test)
	}
}
