package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// Serve is the guest's side: it says hello, then runs what the host asks for
// until the stream ends. It returns when every command that it started has
// ended; commands still running at the end of the stream are killed.
func Serve(rw io.ReadWriter, hello Hello) error {
	s := &server{out: rw, running: map[uint64]context.CancelFunc{}}
	defer s.stop()
	if err := s.send(reply{Hello: &hello}); err != nil {
		return fmt.Errorf("agent: hello: %w", err)
	}
	lines := bufio.NewScanner(rw)
	lines.Buffer(make([]byte, 0, 64<<10), lineLimit)
	for lines.Scan() {
		s.handle(lines.Bytes())
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("agent: reading requests: %w", err)
	}
	return nil
}

type server struct {
	outMu sync.Mutex
	out   io.Writer

	mu      sync.Mutex
	running map[uint64]context.CancelFunc
	wg      sync.WaitGroup
}

func (s *server) handle(line []byte) {
	if len(line) == 0 {
		return
	}
	var req request
	if err := json.Unmarshal(line, &req); err != nil {
		s.answer(reply{Error: fmt.Sprintf("a line of %d bytes is not a request: %v", len(line), err)})
		return
	}
	if req.Cancel {
		s.mu.Lock()
		if cancel := s.running[req.ID]; cancel != nil {
			cancel()
		}
		s.mu.Unlock()
		return
	}
	if len(req.Argv) == 0 || req.Seconds <= 0 {
		s.answer(reply{ID: req.ID, Error: "a request needs a command and a positive time"})
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(req.Seconds*float64(time.Second)))
	s.mu.Lock()
	s.running[req.ID] = cancel
	s.mu.Unlock()
	s.wg.Go(func() {
		r := execute(ctx, req.Argv)
		r.ID = req.ID
		s.mu.Lock()
		delete(s.running, req.ID)
		s.mu.Unlock()
		cancel()
		s.answer(r)
	})
}

// execute runs one command in a process group of its own, so that a kill
// reaches what a shell has started.
func execute(ctx context.Context, argv []string) reply {
	var out limited
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = killDelay
	err := cmd.Run()
	r := reply{Output: string(out.kept), Truncated: out.lost > 0}
	var exit *exec.ExitError
	switch {
	case err == nil:
	case ctx.Err() != nil:
		r.Code, r.Error = -1, "killed: "+ctx.Err().Error()
	case errors.As(err, &exit) && exit.Exited():
		r.Code = exit.ExitCode()
	default:
		r.Code, r.Error = -1, err.Error()
	}
	return r
}

func (s *server) answer(r reply) {
	// A stream that cannot be written is a stream whose next read fails: the
	// reading side reports it.
	_ = s.send(r)
}

func (s *server) send(r reply) error {
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	s.outMu.Lock()
	defer s.outMu.Unlock()
	_, err = s.out.Write(append(line, '\n'))
	return err
}

func (s *server) stop() {
	s.mu.Lock()
	for _, cancel := range s.running {
		cancel()
	}
	s.mu.Unlock()
	s.wg.Wait()
}

// limited keeps the first OutputLimit bytes written to it. os/exec writes from
// one goroutine when stdout and stderr are the same writer.
type limited struct {
	kept []byte
	lost int
}

func (l *limited) Write(p []byte) (int, error) {
	n := min(len(p), OutputLimit-len(l.kept))
	l.kept = append(l.kept, p[:n]...)
	l.lost += len(p) - n
	return len(p), nil
}
