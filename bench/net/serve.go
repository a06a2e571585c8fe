package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"time"
)

// ready is what a server says once it listens.
const ready = "listening"

// serveEnds takes connections and closes them at once, until ctx ends.
func serveEnds(ctx context.Context, address string, out io.Writer) error {
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = ln.Close() })() // Accept says that it is closed
	fmt.Fprintln(out, ready, ln.Addr())
	for {
		conn, err := ln.Accept()
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			time.Sleep(10 * time.Millisecond) // out of descriptors, or broken off before it was taken
			continue
		}
		_ = conn.Close() // nothing was written to it
	}
}
