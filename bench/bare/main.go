// Command bare is the least that a back-end can be between two front-ends: it
// takes a frame's buffers from two rings, copies the frame, and gives them back.
// It has no switch, no packets, no locks that count, and trusts its front-ends,
// so that nobody but bench/dpdk may be one. What it reaches is what the machine
// allows; with -copy=false, what the rings alone allow.
//
//	go build -o bin/bare ./bench/bare
//	go run ./bench/dpdk -backend vhostnet,dpdk,bare,rings
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
		fmt.Fprintln(os.Stderr, "bare:", err)
		os.Exit(1)
	}
}

// run forwards between the front-ends of two sockets until ctx ends.
func run(ctx context.Context, args []string, log io.Writer) error {
	flags := flag.NewFlagSet("bare", flag.ContinueOnError)
	flags.SetOutput(log)
	cpu := flags.Int("cpu", 0, "the core of the thread that forwards")
	frames := flags.Bool("copy", true, "copy the frames; false: only give their buffers, with whatever is in them")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != ports {
		return fmt.Errorf("%d sockets are given, two are needed: bare [flags] SOCKET SOCKET", flags.NArg())
	}
	group, err := worker.NewGroup(worker.Options{CPUs: []int{*cpu}})
	if err != nil {
		return err
	}
	budget, err := sharedmem.NewBudget(sharedmem.DefaultLimits())
	if err != nil {
		return err
	}
	w := &wire{frames: *frames}
	var servers []*vhostuser.Server
	for i, path := range flags.Args() {
		server, err := vhostuser.NewServer(&device{wire: w, port: i, worker: group.Pick()}, vhostuser.Options{
			Name: fmt.Sprint("bare", i), Path: path, Budget: budget,
			Log: hclog.New(&hclog.LoggerOptions{Name: "bare", Output: log}),
		})
		if err != nil {
			return err
		}
		defer server.Close()
		servers = append(servers, server)
	}
	return serve(ctx, group, servers)
}

// serve runs the worker and the servers until ctx or one of them ends. The worker
// ends after the last session, which needs it to let go.
func serve(ctx context.Context, group *worker.Group, servers []*vhostuser.Server) error {
	working, stopWorking := context.WithCancel(context.Background())
	defer stopWorking()
	serving, stopServing := context.WithCancel(ctx)
	defer stopServing()
	worked := make(chan error, 1)
	go func() {
		worked <- group.Run(working)
		stopServing()
	}()
	served := make(chan error, len(servers))
	for _, s := range servers {
		go func() {
			served <- s.Serve(serving)
			stopServing()
		}()
	}
	var err error
	for range servers {
		err = errors.Join(err, <-served)
	}
	stopWorking()
	return errors.Join(err, <-worked)
}
