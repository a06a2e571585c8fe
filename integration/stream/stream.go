// Package stream sends a long sequence of bytes that both ends can compute, so
// that the receiver compares every byte with what it must be. It is made for
// guests without hardware to help them: eight bytes cost a few multiplications,
// and the sum is one that a table computes.
package stream

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc64"
	"io"
	"math"
)

// blockSize is how many bytes are made, written and compared at a time.
const blockSize = 64 << 10

var table = crc64.MakeTable(crc64.ECMA)

// Summary is what one end saw of a stream. Two ends that agree have the same
// Summary.
type Summary struct {
	Bytes int64  `json:"bytes"`
	CRC64 uint64 `json:"crc64"` // ECMA, of the bytes as they were sent or received
}

// source makes the bytes of a stream: splitmix64, each word little-endian.
type source struct{ state uint64 }

// fill fills p, whose length is a multiple of 8.
func (s *source) fill(p []byte) {
	for i := 0; i+8 <= len(p); i += 8 {
		s.state += 0x9e3779b97f4a7c15
		z := s.state
		z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		binary.LittleEndian.PutUint64(p[i:], z^z>>31)
	}
}

// Open is the length of a stream that its sender ends when it likes.
const Open = math.MaxInt64

// Fill fills p, whose length is a multiple of 8, with the first bytes of the
// stream with this seed.
func Fill(p []byte, seed uint64) { (&source{seed}).fill(p) }

// Send writes the first n bytes of the stream with this seed, or fewer if stop
// is closed before; stop may be nil.
func Send(w io.Writer, seed uint64, n int64, stop <-chan struct{}) (Summary, error) {
	var sum Summary
	from, block := source{seed}, make([]byte, blockSize)
	for sum.Bytes < n {
		select {
		case <-stop:
			return sum, nil
		default:
		}
		from.fill(block)
		part := block[:min(n-sum.Bytes, blockSize)]
		sent, err := w.Write(part)
		sum.add(part[:sent])
		if err != nil {
			return sum, fmt.Errorf("stream: sending after %d of %d bytes: %w", sum.Bytes, n, err)
		}
	}
	return sum, nil
}

// Receive reads n bytes, of an Open stream all that come, and compares each with
// the stream of this seed; the first that differs ends it. progress, which may be nil, is told the count of
// good bytes after each block.
func Receive(r io.Reader, seed uint64, n int64, progress func(int64)) (Summary, error) {
	var sum Summary
	from, want, got := source{seed}, make([]byte, blockSize), make([]byte, blockSize)
	for sum.Bytes < n {
		from.fill(want)
		size := min(n-sum.Bytes, blockSize)
		read, err := io.ReadFull(r, got[:size])
		if at := differ(got[:read], want[:read]); at >= 0 {
			return sum, fmt.Errorf("stream: byte %d is %#02x, want %#02x", sum.Bytes+int64(at), got[at], want[at])
		}
		sum.add(got[:read])
		if n == Open && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)) {
			return sum, nil
		}
		if err != nil {
			return sum, fmt.Errorf("stream: receiving after %d of %d bytes: %w", sum.Bytes, n, err)
		}
		if progress != nil {
			progress(sum.Bytes)
		}
	}
	return sum, nil
}

func (s *Summary) add(p []byte) {
	s.Bytes += int64(len(p))
	s.CRC64 = crc64.Update(s.CRC64, table, p)
}

// differ returns the first index at which a and b, of one length, are not the
// same, or -1.
func differ(a, b []byte) int {
	if bytes.Equal(a, b) {
		return -1
	}
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return -1
}
