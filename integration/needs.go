package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// cacheVariable names the directory in which scripts/setup.sh keeps what it
// unpacks. Without it, that is "vhostnet" in the user's cache directory.
const cacheVariable = "VHOSTNET_CACHE"

// errSetup tells what to do about anything that Find misses.
var errSetup = errors.New("run scripts/setup.sh, as root, to get it")

// Machine is what this machine has for running guests.
type Machine struct {
	Kernel Kernel
	QEMU   *QEMU // the one in PATH
	// OldQEMU is Debian 12's own version, unpacked beside the installed one;
	// nil if scripts/setup.sh has not been run with the part "test".
	OldQEMU *QEMU
}

// Kernel is an unpacked kernel package.
type Kernel struct {
	Image   string // the bzImage
	Modules string // the directory that holds modules.dep and kernel/
	Release string
}

// QEMU is one build of QEMU for x86-64.
type QEMU struct {
	Path         string
	Firmware     []string // directories to be searched for firmware, beside its own
	Major, Minor int
}

// String returns the version.
func (q *QEMU) String() string { return fmt.Sprintf("QEMU %d.%d", q.Major, q.Minor) }

// atLeast reports whether q is this version or a later one.
func (q *QEMU) atLeast(major, minor int) bool {
	return q.Major > major || q.Major == major && q.Minor >= minor
}

// reconnect returns the option of a socket character device that makes it dial
// again after the other side has gone. QEMU 9.2 brought the one in milliseconds
// and later versions drop the one in seconds.
func (q *QEMU) reconnect() string {
	if q.atLeast(9, 2) {
		return "reconnect-ms=100"
	}
	return "reconnect=1"
}

// vectors returns how many MSI-X vectors a NIC with this many queue pairs gets.
// Older versions crash under software emulation when a driver starts a
// vhost-user NIC that has any (in msix_set_vector_notifiers): with none the NIC
// uses the PCI interrupt line.
func (q *QEMU) vectors(pairs int) int {
	if q.atLeast(10, 0) {
		return 2*pairs + 2
	}
	return 0
}

// Find looks for what guests need and names the first thing that is missing.
func Find(ctx context.Context) (*Machine, error) {
	cache, err := cacheDirectory()
	if err != nil {
		return nil, err
	}
	kernel, err := findKernel(filepath.Join(cache, "kernel"))
	if err != nil {
		return nil, err
	}
	path, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		return nil, fmt.Errorf("integration: %w: %w", err, errSetup)
	}
	m := &Machine{Kernel: kernel, QEMU: &QEMU{Path: path}}
	if err := m.QEMU.findVersion(ctx); err != nil {
		return nil, err
	}
	old := filepath.Join(cache, "qemu-7.2", "usr")
	if _, err := os.Stat(old); err != nil {
		return m, nil
	}
	m.OldQEMU = &QEMU{
		Path:     filepath.Join(old, "bin", "qemu-system-x86_64"),
		Firmware: []string{filepath.Join(old, "share", "qemu"), filepath.Join(old, "share", "seabios")},
	}
	return m, m.OldQEMU.findVersion(ctx)
}

func cacheDirectory() (string, error) {
	if dir := os.Getenv(cacheVariable); dir != "" {
		return dir, nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("integration: no cache directory, set %s: %w", cacheVariable, err)
	}
	return filepath.Join(dir, "vhostnet"), nil
}

func findKernel(dir string) (Kernel, error) {
	const prefix = "vmlinuz-"
	images, err := filepath.Glob(filepath.Join(dir, "boot", prefix+"*"))
	if err != nil {
		return Kernel{}, fmt.Errorf("integration: %w", err)
	}
	if len(images) != 1 {
		return Kernel{}, fmt.Errorf("integration: %d guest kernels in %s, want one: %w", len(images), dir, errSetup)
	}
	release := strings.TrimPrefix(filepath.Base(images[0]), prefix)
	return Kernel{Image: images[0], Modules: filepath.Join(dir, "lib", "modules", release), Release: release}, nil
}

var versionPattern = regexp.MustCompile(`version (\d+)\.(\d+)`)

func (q *QEMU) findVersion(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, q.Path, "-version").CombinedOutput()
	if err != nil {
		return fmt.Errorf("integration: %s -version: %w: %s", q.Path, err, out)
	}
	found := versionPattern.FindSubmatch(out)
	if found == nil {
		return fmt.Errorf("integration: %s -version tells no version: %s", q.Path, out)
	}
	// The pattern has made sure that both are numbers.
	q.Major, _ = strconv.Atoi(string(found[1]))
	q.Minor, _ = strconv.Atoi(string(found[2]))
	if !q.atLeast(7, 2) {
		return fmt.Errorf("integration: %s is version %d.%d, want 7.2 or later: %w", q.Path, q.Major, q.Minor, errSetup)
	}
	return nil
}
