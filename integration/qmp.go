package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"time"
)

// monitor is a connection to QEMU's control socket (QMP). It is used by one
// goroutine at a time.
type monitor struct {
	conn net.Conn
	in   *json.Decoder
	past []message // events that came while something else was waited for
}

// message is anything that QEMU sends: a greeting, an answer or an event.
type message struct {
	Event  string          `json:"event"`
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Desc string `json:"desc"`
	} `json:"error"`
}

// dialMonitor connects and negotiates, which is asked for before anything else.
func dialMonitor(ctx context.Context, socket string) (*monitor, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("integration: monitor: %w", err)
	}
	m := &monitor{conn: conn, in: json.NewDecoder(conn)}
	m.bound(ctx)
	var greeting message
	err = m.in.Decode(&greeting)
	if err == nil {
		_, err = m.execute(ctx, "qmp_capabilities", nil)
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("integration: monitor: greeting: %w", err)
	}
	return m, nil
}

func (m *monitor) close() { m.conn.Close() }

// bound makes reads and writes end with ctx.
func (m *monitor) bound(ctx context.Context) {
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(time.Minute)
	}
	// A connection that cannot take a deadline fails at its next use.
	_ = m.conn.SetDeadline(deadline)
}

// execute runs one command and returns its answer.
func (m *monitor) execute(ctx context.Context, command string, arguments map[string]any) (json.RawMessage, error) {
	m.bound(ctx)
	request := map[string]any{"execute": command}
	if arguments != nil {
		request["arguments"] = arguments
	}
	if err := json.NewEncoder(m.conn).Encode(request); err != nil {
		return nil, fmt.Errorf("integration: monitor: %s: %w", command, err)
	}
	for {
		var answer message
		if err := m.in.Decode(&answer); err != nil {
			return nil, fmt.Errorf("integration: monitor: %s: %w", command, err)
		}
		switch {
		case answer.Event != "":
			m.past = append(m.past, answer)
		case answer.Error != nil:
			return nil, fmt.Errorf("integration: monitor: %s: %s", command, answer.Error.Desc)
		default:
			return answer.Return, nil
		}
	}
}

// human runs a command of the monitor that people use. Whatever it prints is an
// error: the commands used here are silent when all is well.
func (m *monitor) human(ctx context.Context, line string) error {
	answer, err := m.execute(ctx, "human-monitor-command", map[string]any{"command-line": line})
	if err != nil {
		return err
	}
	var printed string
	if err := json.Unmarshal(answer, &printed); err != nil {
		return fmt.Errorf("integration: monitor: %s: %w", line, err)
	}
	if printed != "" {
		return fmt.Errorf("integration: monitor: %s: %s", line, printed)
	}
	return nil
}

// await waits for an event, which may have come already. Events before it are
// forgotten.
func (m *monitor) await(ctx context.Context, event string) error {
	for i, past := range m.past {
		if past.Event == event {
			m.past = m.past[i+1:]
			return nil
		}
	}
	m.past = nil
	m.bound(ctx)
	for {
		var came message
		if err := m.in.Decode(&came); err != nil {
			return errors.Join(fmt.Errorf("integration: monitor: waiting for %s: %w", event, err), ctx.Err())
		}
		if came.Event == event {
			return nil
		}
	}
}
