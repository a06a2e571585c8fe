// Command guest is the one program of ours in a test guest: as process 1 it
// brings the machine up and serves the agent on the second serial port; as
// "guest send" and "guest receive" it is one end of a checked byte stream over
// TCP; as "guest probe" it sends datagrams that nobody waits for; as "guest connect"
// it opens connections, one after the other; as "guest churn" it changes memory and
// looks at it again; as "guest connections", "guest datagram" and "guest resolve" it
// asks servers, and as "guest echo" it is one.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"vhostnet/integration/stream"
)

func main() {
	if os.Getpid() == 1 {
		boot()
	}
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "guest:", err)
		os.Exit(1)
	}
}

// dialTimeout bounds how long a sender keeps trying to connect.
const dialTimeout = 20 * time.Second

// progressStep is how many bytes lie between two writes of the progress file.
const progressStep = 1 << 20

var errCommand = errors.New("want send, receive, probe, connect, churn, connections, datagram, resolve or echo")

func run(args []string) error {
	if len(args) == 0 {
		return errCommand
	}
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	addr := flags.String("addr", "", "address to connect to, or to listen on, with port")
	n := flags.Int64("bytes", stream.Open, "length of the stream; by default it ends when the sender gets SIGTERM")
	seed := flags.Uint64("seed", 1, "seed of the stream")
	progress := flags.String("progress", "", "file that tells how many bytes were received so far; made once the receiver listens")
	every := flags.Duration("every", time.Millisecond, "time between two datagrams, or two changed pages")
	lasting := flags.Duration("for", 2*time.Second, "how long connections are opened")
	count := flags.Int("count", 1, "number of connections")
	network := flags.String("network", "", "udp or tcp, by which names are asked for; by default as their answers want it")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	var sum stream.Summary
	var err error
	switch args[0] {
	case "probe":
		return probe(*addr, *every, asked())
	case "connect":
		return connect(*addr, *lasting)
	case "churn":
		return churn(*every, asked())
	case "connections":
		return connections(*addr, *count, *n)
	case "datagram":
		return datagram(*addr, *n)
	case "resolve":
		return resolve(*addr, *network, flags.Arg(0))
	case "echo":
		return echo(*addr, asked())
	case "send":
		sum, err = send(*addr, *seed, *n, asked())
	case "receive":
		sum, err = receive(*addr, *seed, *n, *progress)
	default:
		err = fmt.Errorf("%q: %w", args[0], errCommand)
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(sum)
}

// asked returns what is closed when this process is asked to end, which then
// does not end it.
func asked() <-chan struct{} {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	stop := make(chan struct{})
	go func() {
		<-signals
		close(stop)
	}()
	return stop
}

func send(addr string, seed uint64, n int64, stop <-chan struct{}) (stream.Summary, error) {
	conn, err := dial(addr)
	if err != nil {
		return stream.Summary{}, err
	}
	defer conn.Close()
	sum, err := stream.Send(conn, seed, n, stop)
	if err != nil {
		return sum, err
	}
	if err := conn.CloseWrite(); err != nil {
		return sum, err
	}
	// The receiver answers when it has seen the last byte: a sender that ends
	// well knows that all has arrived.
	var ok [1]byte
	if _, err := conn.Read(ok[:]); err != nil {
		return sum, fmt.Errorf("waiting for the receiver's answer: %w", err)
	}
	return sum, nil
}

func dial(addr string) (*net.TCPConn, error) {
	to, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		return nil, err
	}
	err = errors.New("no attempt made")
	for start := time.Now(); time.Since(start) < dialTimeout; time.Sleep(100 * time.Millisecond) {
		var conn net.Conn
		if conn, err = net.DialTimeout("tcp", to.String(), 5*time.Second); err == nil {
			return conn.(*net.TCPConn), nil //nolint:forcetypeassert // a TCP address was dialled
		}
	}
	return nil, err
}

// probe sends small datagrams, whatever becomes of them, until it is stopped. It
// is there so that frames move as soon as frames can.
func probe(addr string, every time.Duration, stop <-chan struct{}) error {
	to, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		return err
	}
	conn, err := net.ListenUDP("udp", nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			// There may be no way to the other side for the moment.
			_, _ = conn.WriteToUDP([]byte("probe"), to)
		case <-stop:
			return nil
		}
	}
}

func receive(addr string, seed uint64, n int64, progress string) (stream.Summary, error) {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return stream.Summary{}, err
	}
	defer listener.Close()
	report, err := progressFile(progress)
	if err != nil {
		return stream.Summary{}, err
	}
	conn, err := listener.Accept()
	if err != nil {
		return stream.Summary{}, err
	}
	defer conn.Close()
	sum, err := stream.Receive(conn, seed, n, report)
	if err != nil {
		return sum, err
	}
	_, err = conn.Write([]byte{1})
	return sum, err
}

// progressFile makes the file and returns what writes a count into it. A count
// is replaced whole, so a reader never sees half of one.
func progressFile(path string) (func(int64), error) {
	if path == "" {
		return nil, nil
	}
	write := func(n int64) error {
		if err := os.WriteFile(path+".new", strconv.AppendInt(nil, n, 10), 0o600); err != nil {
			return err
		}
		return os.Rename(path+".new", path)
	}
	if err := write(0); err != nil {
		return nil, err
	}
	next := int64(progressStep)
	return func(n int64) {
		if n >= next {
			next = n + progressStep
			// Whoever reads the file misses a step; the stream itself is unharmed.
			_ = write(n)
		}
	}, nil
}
