// Package model is a device's side of virtqueues, written a second time: from
// the text of virtio 1.3, sections 2.7 (split) and 2.8 (packed), without a
// look at package virtqueue and without a line of it. It is as slow and as
// literal as the text. Memory is arrays of bytes, words are put together byte
// by byte, a question about an interval is answered by going through it.
//
// Tests give the same bytes to it and to the real device and compare what both
// take out of the ring, what they write into memory, and when they want to
// call. Where they differ, one of them has misread the text.
//
// What the text leaves to the device is a parameter (Config.MaxChain,
// Config.MaxPieces) or follows package virtqueue's documentation: chains are
// returned in the order in which they were taken, kicks are off until Arm, the
// first Push calls. Where the driver broke a rule and the text does not say
// what follows, [Either] is the answer.
//
// One goroutine at a time may use a Device. In steady state nothing allocates.
package model
