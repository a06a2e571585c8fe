//go:build integration

package integration

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Libvirt is a libvirtd of our own: it sees the system's directories replaced by
// others, and what it starts ends with it.
type Libvirt struct {
	dir  string
	proc *process
}

// libvirtUser is who QEMU runs as, by Debian's default.
const libvirtUser = "libvirt-qemu"

// libvirtConfig is what differs from the default where no systemd runs.
const libvirtConfig = `security_driver = "none"
cgroup_controllers = []
stdio_handler = "file"
`

// libvirtScript replaces the directories, in a mount namespace, and starts
// libvirtd. It stays, as process 1, to reap what libvirtd's QEMUs leave: libvirtd
// waits until a process that it has killed is gone. $1 is the directory that
// holds the others.
const libvirtScript = `set -e
for pair in etc:/etc/libvirt run:/run/libvirt lib:/var/lib/libvirt log:/var/log/libvirt cache:/var/cache/libvirt; do
	mkdir -p ${pair#*:}
	mount --bind $1/${pair%%:*} ${pair#*:}
done
libvirtd --pid-file $1/run/libvirtd.pid &
wait $!`

// StartLibvirt starts libvirtd with its files in dir, which must be reachable
// for every user and have a short name. It takes root.
func StartLibvirt(ctx context.Context, dir string) (*Libvirt, error) {
	for _, name := range []string{"etc", "run", "lib", "log", "cache"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			return nil, fmt.Errorf("integration: libvirt: %w", err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "etc", "qemu.conf"), []byte(libvirtConfig), 0o600); err != nil {
		return nil, fmt.Errorf("integration: libvirt: %w", err)
	}
	l := &Libvirt{dir: dir}
	var err error
	// Process 1 of a namespace: when it ends, so does every QEMU in there.
	l.proc, err = start("libvirtd", filepath.Join(dir, "libvirtd.log"), "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
		"sh", "-c", libvirtScript, "sh", dir)
	if err != nil {
		return nil, err
	}
	return l, pollEvery(ctx, time.Second, "libvirtd to answer", func() (bool, error) {
		if err := l.proc.alive(); err != nil {
			return false, err
		}
		return l.virsh(ctx, "version") == nil, nil
	})
}

// Close ends libvirtd and the domains.
func (l *Libvirt) Close() { l.proc.kill() }

// virsh runs one command of libvirt's client.
func (l *Libvirt) virsh(ctx context.Context, args ...string) error {
	connect := "qemu+unix:///system?socket=" + filepath.Join(l.dir, "run", "libvirt-sock")
	out, err := exec.CommandContext(ctx, "virsh", append([]string{"--quiet", "--connect", connect}, args...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("integration: virsh %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// domain is what README.md shows of a domain's definition, and what our guests
// need besides. %[1]s is the name, %[2]s the directory of its files, %[3]s the
// kernel's command line, %[4]s the address of the NIC, %[5]s its source.
const domain = `<domain type='qemu'>
  <name>%[1]s</name>
  <memory unit='MiB'>256</memory>
  <memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>
  <vcpu>1</vcpu>
  <cpu mode='maximum'/>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>%[2]s/kernel</kernel><initrd>%[2]s/initrd</initrd><cmdline>%[3]s</cmdline>
  </os>
  <features><acpi/><apic/></features>
  <clock offset='utc'/>
  <devices>
    <serial type='file'><source path='%[2]s/%[1]s.console.log'/><target port='0'/></serial>
    <serial type='unix'><source mode='bind' path='%[2]s/%[1]s.agent.sock'/><target port='1'/></serial>
    <interface type='vhostuser'>
      <mac address='%[4]s'/>
      %[5]s
      <model type='virtio'/>
    </interface>
    <memballoon model='none'/>
  </devices>
</domain>
`

// clientSource and serverSource are the two roles of QEMU at a port's socket.
const (
	clientSource = `<source type='unix' path='%s' mode='client'><reconnect enabled='yes' timeout='1'/></source>`
	serverSource = `<source type='unix' path='%s' mode='server'/>`
)

// Boot defines and starts a domain and waits until its guest is up. Of cfg only
// Name, Number, Dir, Socket and Image are used. The guest lives as long as libvirtd.
func (l *Libvirt) Boot(ctx context.Context, cfg GuestConfig, source string) (*Guest, error) {
	cfg.Pairs = 1
	g := &Guest{cfg: cfg, proc: l.proc}
	definition := fmt.Sprintf(domain, cfg.Name, cfg.Dir, cfg.kernelLine(), cfg.mac(), fmt.Sprintf(source, cfg.Socket))
	file := g.path("xml")
	if err := os.WriteFile(file, []byte(definition), 0o600); err != nil {
		return nil, fmt.Errorf("integration: libvirt: %w", err)
	}
	if err := l.virsh(ctx, "create", file); err != nil {
		return nil, err
	}
	if err := g.connect(ctx); err != nil {
		return nil, err
	}
	return g, g.awaitBoot(ctx)
}

// giveToLibvirt makes a directory one in which QEMU may make its sockets.
func giveToLibvirt(dir string) error {
	who, err := user.Lookup(libvirtUser)
	if err != nil {
		return fmt.Errorf("integration: libvirt: %w: %w", err, errSetup)
	}
	uid, err := strconv.Atoi(who.Uid)
	if err != nil {
		return fmt.Errorf("integration: libvirt: user %s: %w", libvirtUser, err)
	}
	if err := os.Chown(dir, uid, -1); err != nil {
		return fmt.Errorf("integration: libvirt: %w", err)
	}
	return nil
}
