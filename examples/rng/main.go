// Command rng gives a virtual machine entropy: a vhost-user device other than a
// NIC, on vhostnet's packages vhostuser, virtqueue and worker alone.
//
//	go run ./examples/rng --socket-path /tmp/rng.sock
//	qemu-system-x86_64 ... -chardev socket,id=rng,path=/tmp/rng.sock \
//	    -device vhost-user-rng-pci,chardev=rng
//
// The VM's memory must be shared, as for a NIC. With --connect it is QEMU that
// listens (server=on on its chardev). QEMU 10.0 crashes when this device comes
// back under a running VM, so rng has to outlive it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/hashicorp/go-hclog"

	"vhostnet/sharedmem"
	"vhostnet/vhostuser"
	"vhostnet/worker"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "rng:", err)
		os.Exit(1)
	}
}

// run serves front-ends until ctx ends.
func run(ctx context.Context, args []string, log io.Writer) error {
	flags := flag.NewFlagSet("rng", flag.ContinueOnError)
	flags.SetOutput(log)
	path := flags.String("socket-path", "", "where virtual machines connect")
	connect := flags.Bool("connect", false, "the virtual machine listens there (QEMU's server=on)")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *path == "" {
		return errors.New("no socket is given; say for instance --socket-path /tmp/rng.sock")
	}
	group, err := worker.NewGroup(worker.Options{Workers: 1})
	if err != nil {
		return err
	}
	budget, err := sharedmem.NewBudget(sharedmem.DefaultLimits())
	if err != nil {
		return err
	}
	server, err := vhostuser.NewServer(&device{worker: group.Pick()}, vhostuser.Options{
		Name: "rng", Path: *path, Dial: *connect, Budget: budget,
		Log: hclog.New(&hclog.LoggerOptions{Name: "rng", Output: log}),
	})
	if err != nil {
		return err
	}
	defer server.Close()

	// The worker ends after the last session, which needs it to let go.
	working, stopWorking := context.WithCancel(context.Background())
	serving, stopServing := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() {
		ended <- group.Run(working)
		stopServing()
	}()
	err = server.Serve(serving)
	stopServing()
	stopWorking()
	return errors.Join(err, <-ended)
}
