// vhostnet gives virtual machines a network over vhost-user sockets.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
)

// Exit codes.
const (
	exitDone   = 0
	exitFailed = 1 // at run time
	exitUsage  = 2 // wrong flags, paths or values
)

// usageError is a mistake of whoever wrote the command line.
type usageError struct{ err error }

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

func main() {
	// Who reads the counters may leave: that is an error of the write then, and
	// not the end of the switch.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	context.AfterFunc(ctx, stop) // a second signal ends the process on the spot
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is the program: it ends when ctx does, and answers the exit code.
func run(ctx context.Context, args []string, out, log io.Writer) int {
	root := newRootCommand(out, log)
	root.SetArgs(append([]string{}, args...)) // nil would be the process's own
	root.SetOut(out)
	root.SetErr(log)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	last := newOutlet(log, 1, nil)
	go last.run()
	fmt.Fprintf(last, "vhostnet: %s\n", oneLine(err))
	last.end()
	if _, usage := errors.AsType[usageError](err); usage {
		return exitUsage
	}
	return exitFailed
}

// oneLine writes joined errors one behind the other.
func oneLine(err error) string {
	lines := strings.Split(err.Error(), "\n")
	return strings.Join(slices.DeleteFunc(lines, func(s string) bool { return s == "" }), "; ")
}
