package main

import (
	sd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/hashicorp/go-hclog"
)

// notify tells who started the program, if that is systemd with Type=notify,
// where it stands. Without it nothing is told.
func notify(log hclog.Logger, state string) {
	if _, err := sd.SdNotify(false, state); err != nil {
		log.Warn("systemd cannot be told", "state", state, "error", err)
	}
}
