package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"vhostnet/integration/stream"
)

// clientTime bounds what one of many connections may take.
const clientTime = 2 * time.Minute

// errEcho says that what came back is not what was sent.
var errEcho = errors.New("the echo is not what was sent")

// connections opens n connections to a server that echoes, and sends n bytes by
// each one only when all of them are open.
func connections(addr string, count int, size int64) error {
	begun, failed := make(chan struct{}), make(chan struct{})
	var open, all sync.WaitGroup
	var fail sync.Once
	errs := make([]error, count)
	dialling := make(chan struct{}, 64) // so that SYNs do not wait for each other's answers
	open.Add(count)
	for i := range count {
		all.Go(func() {
			dialling <- struct{}{}
			conn, err := net.DialTimeout("tcp", addr, clientTime)
			<-dialling
			open.Done()
			if err != nil {
				errs[i] = err
				fail.Do(func() { close(failed) })
				return
			}
			defer conn.Close()
			select {
			case <-begun:
				errs[i] = echoed(conn, uint64(i), size)
			case <-failed:
			}
		})
	}
	open.Wait()
	close(begun)
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	fmt.Fprintf(os.Stdout, "%d connections, %d bytes each\n", count, size)
	return nil
}

// echoed sends bytes and compares what comes back.
func echoed(conn net.Conn, seed uint64, size int64) error {
	if err := conn.SetDeadline(time.Now().Add(clientTime)); err != nil {
		return err
	}
	sent, got := make([]byte, size), make([]byte, size)
	stream.Fill(sent, seed)
	if _, err := conn.Write(sent); err != nil {
		return err
	}
	if _, err := io.ReadFull(conn, got); err != nil {
		return err
	}
	if !bytes.Equal(got, sent) {
		return errEcho
	}
	return nil
}

// Datagrams may be lost.
const (
	datagramTries = 20
	datagramWait  = 2 * time.Second
)

// datagram sends a datagram to a server that echoes until its echo comes.
func datagram(addr string, size int64) error {
	conn, err := net.Dial("udp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	sent, got := make([]byte, size), make([]byte, 1<<16)
	stream.Fill(sent, uint64(size))
	err = errors.New("no attempt made")
	for range datagramTries {
		if _, err = conn.Write(sent); err != nil { // that is how the kernel tells of an earlier one
			continue
		}
		if err = conn.SetReadDeadline(time.Now().Add(datagramWait)); err != nil {
			return err
		}
		var n int
		if n, err = conn.Read(got); err == nil {
			if !bytes.Equal(got[:n], sent) {
				return fmt.Errorf("%d of %d bytes: %w", n, size, errEcho)
			}
			return nil
		}
	}
	return fmt.Errorf("%d bytes: %w", size, err)
}

// resolve asks a name server for a name's texts and addresses, and prints them.
func resolve(addr, network, name string) error {
	r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, asked, _ string) (net.Conn, error) {
		if network != "" {
			asked = network
		}
		fmt.Fprintln(os.Stdout, "by", asked)
		return new(net.Dialer).DialContext(ctx, asked, addr)
	}}
	ctx, cancel := context.WithTimeout(context.Background(), clientTime)
	defer cancel()
	addresses, err := r.LookupHost(ctx, name)
	fmt.Fprintln(os.Stdout, addresses)
	texts, terr := r.LookupTXT(ctx, name)
	for _, text := range texts {
		fmt.Fprintln(os.Stdout, "text of", len(text))
	}
	if len(addresses)+len(texts) == 0 {
		return errors.Join(err, terr)
	}
	return nil
}

// echo answers what comes to an address, by UDP and by TCP, until it is stopped.
func echo(addr string, stop <-chan struct{}) error {
	packets, err := net.ListenPacket("udp", addr)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return errors.Join(err, packets.Close())
	}
	fmt.Fprintln(os.Stdout, "ready")
	go func() {
		b := make([]byte, 1<<16)
		for {
			n, from, err := packets.ReadFrom(b)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				_, _ = packets.WriteTo(b[:n], from) // whoever asked asks again
			}
		}
	}()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn) // what is missing the other side sees
			}()
		}
	}()
	<-stop
	return errors.Join(packets.Close(), listener.Close())
}
