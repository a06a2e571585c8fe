// Package vqtest is the driver side of virtqueues, over the same memory as the
// device side in package virtqueue: what a guest's kernel does, for tests,
// benchmarks and front-ends written in Go. Whether the ring is split or packed
// is a feature of the Config, and a test that goes by the methods of requests
// runs on both.
//
// A [Driver] is well-behaved as long as its request methods are used: Add, Put
// and Post, Publish, Reap, Free. The raw methods write any ring word with any
// value and are how a malicious guest is played. A [Pair] is a Driver, its
// guest memory and a virtqueue.Queue, ready to move something:
//
//	p, err := vqtest.NewPair(vqtest.Options{})
//	p.Driver.Add(vqtest.Request{Out: [][]byte{header, frame}})
//	kick := p.Driver.Publish()
//	n, err := p.Queue.Pop(chains)
//
// Nothing here depends on package testing.
package vqtest
