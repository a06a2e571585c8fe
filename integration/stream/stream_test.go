package stream

import (
	"bytes"
	"errors"
	"hash/crc64"
	"io"
	"strings"
	"testing"
)

func TestSendReceive(t *testing.T) {
	for _, n := range []int64{0, 1, 7, 8, blockSize - 1, blockSize, blockSize + 1, 3*blockSize + 5} {
		var wire bytes.Buffer
		sent, err := Send(&wire, 42, n, nil)
		if err != nil || sent.Bytes != n || int64(wire.Len()) != n {
			t.Fatalf("Send of %d: %+v, %v, %d bytes written", n, sent, err, wire.Len())
		}
		if want := crc64.Checksum(wire.Bytes(), crc64.MakeTable(crc64.ECMA)); sent.CRC64 != want {
			t.Errorf("Send of %d: sum %#x, want %#x", n, sent.CRC64, want)
		}
		var told int64
		received, err := Receive(bytes.NewReader(wire.Bytes()), 42, n, func(n int64) { told = n })
		if err != nil || received != sent || told != n {
			t.Errorf("Receive of %d: %+v, %v, progress %d; sent %+v", n, received, err, told, sent)
		}
	}
}

func TestSeedsDiffer(t *testing.T) {
	var a, b bytes.Buffer
	if _, err := Send(&a, 1, 4096, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := Send(&b, 2, 4096, nil); err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(a.Bytes(), b.Bytes()) || bytes.Equal(a.Bytes()[:2048], a.Bytes()[2048:]) {
		t.Error("two streams, or two halves of one, are the same bytes")
	}
}

func TestReceiveFindsOneWrongBit(t *testing.T) {
	const n = 2*blockSize + 100
	for _, at := range []int{0, 1, blockSize - 1, blockSize, n - 1} {
		var wire bytes.Buffer
		if _, err := Send(&wire, 7, n, nil); err != nil {
			t.Fatal(err)
		}
		wire.Bytes()[at] ^= 0x10
		sum, err := Receive(&wire, 7, n, nil)
		if err == nil || !strings.Contains(err.Error(), "byte ") || sum.Bytes > int64(at) {
			t.Errorf("bit flipped in byte %d: %+v, %v", at, sum, err)
		}
	}
}

func TestReceiveTruncated(t *testing.T) {
	var wire bytes.Buffer
	if _, err := Send(&wire, 7, 100_000, nil); err != nil {
		t.Fatal(err)
	}
	sum, err := Receive(&wire, 7, 100_001, nil)
	if !errors.Is(err, io.ErrUnexpectedEOF) || sum.Bytes != 100_000 {
		t.Errorf("one byte short: %+v, %v", sum, err)
	}
}

// TestOpen sends until it is stopped, and receives until the sender ends.
func TestOpen(t *testing.T) {
	var wire bytes.Buffer
	stop := make(chan struct{})
	sent, err := Send(writerFunc(func(p []byte) (int, error) {
		if wire.Len() >= 3*blockSize {
			close(stop)
		}
		return wire.Write(p)
	}), 5, Open, stop)
	if err != nil || sent.Bytes != 4*blockSize {
		t.Fatalf("Send: %+v, %v", sent, err)
	}
	received, err := Receive(bytes.NewReader(wire.Bytes()), 5, Open, nil)
	if err != nil || received != sent {
		t.Errorf("Receive: %+v, %v, sent %+v", received, err, sent)
	}
	received, err = Receive(bytes.NewReader(wire.Bytes()[:blockSize+1]), 5, Open, nil)
	if err != nil || received.Bytes != blockSize+1 {
		t.Errorf("Receive of a part: %+v, %v", received, err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
