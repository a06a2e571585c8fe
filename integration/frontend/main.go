// Command frontend is the front-end of a VM that has nothing to send, for tests
// in which the back-end runs inside a guest: it connects to a socket, starts its
// rings, says so and stays until it is asked to end.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"vhostnet/vhostuser/vutest"
)

// startTime bounds the start.
const startTime = time.Minute

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "frontend:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 1 {
		return errors.New("want the path of a socket, and nothing else")
	}
	asked, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	f, err := vutest.Dial(args[0], vutest.Options{Kind: vutest.QEMU10})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(asked, startTime)
	defer cancel()
	if _, err := f.Start(ctx); err != nil {
		_ = f.Close()
		return err
	}
	if _, err := fmt.Fprintln(os.Stdout, "running"); err != nil {
		return errors.Join(err, f.Close())
	}
	<-asked.Done()
	return f.Close()
}
