// Command conformance writes docs/conformance.md: what vhostnet and DPDK's own
// back-end make of the scenarios of "vhostnet conform", side by side.
package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"vhostnet/integration"
)

// runTime bounds it all.
const runTime = 15 * time.Minute

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, runTime)
	defer cancel()
	dir, err := os.MkdirTemp("", "vhostnet-conformance-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	binary, err := integration.FindBackend(ctx, dir)
	if err != nil {
		return err
	}
	ours, err := askVhostnet(ctx, binary, dir)
	if err != nil {
		return err
	}
	theirs, version, err := askNetVhost(ctx, binary, dir)
	if err != nil {
		return err
	}
	return write(out, ours, theirs, version)
}

func askVhostnet(ctx context.Context, binary, dir string) ([]integration.Outcome, error) {
	b := &integration.Backend{Binary: binary, Log: filepath.Join(dir, "vhostnet.log"), Ports: []integration.Port{
		{Name: "a", Socket: filepath.Join(dir, "a.sock"), Inflight: true}, {Name: "b", Socket: filepath.Join(dir, "b.sock")},
	}}
	defer b.Close()
	if err := b.Start(ctx); err != nil {
		return nil, err
	}
	return integration.Conform(ctx, binary, b.Ports[0].Socket, b.Ports[1].Socket)
}

func askNetVhost(ctx context.Context, binary, dir string) ([]integration.Outcome, string, error) {
	n := &integration.NetVhost{Dir: dir, Sockets: [2]string{filepath.Join(dir, "c.sock"), filepath.Join(dir, "d.sock")}}
	defer n.Close()
	version, err := n.Version(ctx)
	if err != nil {
		return nil, "", err
	}
	if err := n.Start(ctx); err != nil {
		return nil, "", err
	}
	list, err := integration.Conform(ctx, binary, n.Sockets[0], n.Sockets[1])
	return list, version, err
}

const head = `# Conformance

` + "`vhostnet conform --socket PATH [--peer PATH]`" + ` plays front-ends over the socket of
any vhost-user net back-end: each start sequence, and each trap of the protocol
that can be seen from there. This page is what two back-ends make of it, written
by

    make conformance

A failure is a front-end or a guest that is let down, not a verdict: some
scenarios ask for what only newer front-ends do. "Not offered" names the feature
that a scenario needs and the back-end does not have. vhostnet's port has
` + "`inflight=on`" + `, which it has not by default.

`

// write writes the page.
func write(to io.Writer, ours, theirs []integration.Outcome, version string) error {
	w := bufio.NewWriter(to)
	fmt.Fprint(w, head)
	fmt.Fprintf(w, "| scenario | a back-end | vhostnet | %s net_vhost |\n|---|---|---|---|\n", version)
	for i, out := range ours {
		fmt.Fprintf(w, "| %s | %s | %s | %s |\n", out.Name, cell(out.About), out.Result, theirs[i].Result)
	}
	fmt.Fprintf(w, "\n%s: %s; %s: %s.\n", "vhostnet", count(ours), version, count(theirs))
	details(w, "vhostnet", ours)
	details(w, version+" net_vhost", theirs)
	return w.Flush()
}

func count(list []integration.Outcome) string {
	n := map[string]int{}
	for _, out := range list {
		n[out.Result]++
	}
	return fmt.Sprintf("%d pass, %d fail, %d not offered", n["pass"], n["fail"], n["not offered"])
}

// details lists what did not pass, and why.
func details(w io.Writer, name string, list []integration.Outcome) {
	fmt.Fprintf(w, "\n## %s: what did not pass\n\n", name)
	for _, out := range list {
		if out.Result != "pass" {
			fmt.Fprintf(w, "- %s: %s: %s\n", out.Name, out.Result, strings.ReplaceAll(out.Detail, "\n", "; "))
		}
	}
}

// cell is text in a table of Markdown.
func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }
