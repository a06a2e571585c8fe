// Package agent runs commands in a guest for a test on the host. The two sides
// speak over a byte stream that carries nothing else, a guest's second serial
// port: one JSON object per line, requests from the host, replies from the
// guest. Requests carry an id and run at the same time, so a server can stay in
// the foreground while a client runs beside it. A line that is not JSON is
// skipped by the host and answered with an error by the guest; neither side
// gives up on it.
//
// A guest says hello when its agent starts. A second hello on the same stream
// means that the guest has started again, and ends every command of its former
// life.
package agent

import "time"

// OutputLimit is how many bytes of a command's output are kept. The rest is
// read and thrown away, and the result says so.
const OutputLimit = 256 << 10

// lineLimit bounds one line in either direction: OutputLimit with every byte
// escaped, and some room for the other fields.
const lineLimit = 6*OutputLimit + 64<<10

// killDelay is how long a killed command's descendants may keep its output open
// before the output is closed under them.
const killDelay = time.Second

// Hello is what a guest says of itself when its agent starts.
type Hello struct {
	BootID string `json:"boot_id"` // changes with every start of the kernel
	Kernel string `json:"kernel"`  // release, as uname -r prints it
}

// request is one line from the host.
type request struct {
	ID      uint64   `json:"id"`
	Argv    []string `json:"argv,omitempty"`
	Seconds float64  `json:"seconds,omitempty"` // killed after this time; must be positive
	Cancel  bool     `json:"cancel,omitempty"`  // kill the command with this id
}

// reply is one line from the guest: a hello, or the end of a command.
type reply struct {
	Hello     *Hello `json:"hello,omitempty"`
	ID        uint64 `json:"id,omitempty"`
	Code      int    `json:"code"`
	Output    string `json:"output,omitempty"`
	Truncated bool   `json:"truncated,omitempty"`
	Error     string `json:"error,omitempty"` // why the command did not run to its own end
}
