package nbl

import "vhostnet/sharedmem"

// MDL is a memory descriptor: one contiguous window on the packet's memory.
type MDL = sharedmem.Block

// bytesMDL is an MDL over private memory.
func bytesMDL(b []byte) MDL { return sharedmem.BytesBlock(b) }

// Buffer is a NET_BUFFER: Length bytes of frame that start Offset bytes into a
// chain of MDLs. What lies before Offset is not the frame's (virtio_net_hdr),
// nor is what lies behind its end.
//
//	MDLs    [ MDL 0          ][ MDL 1       ][ MDL 2 ]
//	        |<- Offset ->|<-- Length -->|
//	          unused      the frame      unused
//
// Offset + Length is never more than the MDLs hold.
type Buffer struct {
	MDLs   []MDL  // the chain (MdlChain); the order is that of the bytes
	Offset uint32 // of the frame in the chain, bytes (DataOffset)
	Length uint32 // of the frame, bytes (DataLength)
}

// At is a cursor that stands off bytes into the frame.
func (b *Buffer) At(off uint32) Cursor {
	c := Cursor{mdls: b.MDLs}
	c.Skip(uint64(b.Offset + off)) // modulo 2^32: see List.derive
	return c
}

// Cursor is a place in a chain of MDLs. It moves forward as bytes are copied
// through it and stops at the end of the chain.
type Cursor struct {
	mdls []MDL
	off  uint64 // into mdls[0]
}

// NewCursor stands at the first byte of mdls.
func NewCursor(mdls []MDL) Cursor { return Cursor{mdls: mdls} }

// here is what is left of the MDL that the cursor stands in, the next one when
// that is used up; empty at the end of the chain.
func (c *Cursor) here() MDL {
	for len(c.mdls) > 0 {
		if n := c.mdls[0].Len(); c.off < n {
			return c.mdls[0].Sub(c.off, n-c.off)
		}
		c.off -= c.mdls[0].Len()
		c.mdls = c.mdls[1:]
	}
	return MDL{}
}

// Skip moves n bytes forward, at most to the end of the chain.
func (c *Cursor) Skip(n uint64) { c.off += n }

// Write copies src into the chain and returns how many bytes fitted.
func (c *Cursor) Write(src []byte) int {
	done := 0
	for done < len(src) {
		dst := c.here()
		n := min(dst.Len(), uint64(len(src)-done))
		if n == 0 {
			break
		}
		dst.CopyFrom(src[done:done+int(n)], 0)
		c.off += n
		done += int(n)
	}
	return done
}

// Read copies from the chain into dst and returns how many bytes there were.
func (c *Cursor) Read(dst []byte) int {
	done := 0
	for done < len(dst) {
		src := c.here()
		n := min(src.Len(), uint64(len(dst)-done))
		if n == 0 {
			break
		}
		src.CopyTo(dst[done:done+int(n)], 0)
		c.off += n
		done += int(n)
	}
	return done
}

// Copy moves n bytes from src to the chain, both cursors forward, and returns
// how many were moved: fewer when either chain ends. This is the copy of a
// frame's payload from guest to guest.
func (c *Cursor) Copy(src *Cursor, n uint64) uint64 {
	left := n
	for left > 0 {
		to, from := c.here(), src.here()
		k := min(to.Len(), from.Len(), left)
		if k == 0 {
			break
		}
		sharedmem.Copy(to.Sub(0, k), from.Sub(0, k))
		c.off += k
		src.off += k
		left -= k
	}
	return n - left
}
