package integration

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
)

// Image is what guests boot. Any number of them may use it at a time.
type Image struct {
	Kernel string
	Initrd string
}

// guestTools are the host's programs that a guest gets, beside busybox.
var guestTools = []string{"iperf3", "ethtool", "ip", "tcpdump"}

// guestModules are the kernel modules that an image holds, with all they need.
var guestModules = []string{"virtio_pci", "virtio_net", "virtio_rng", "8021q", "af_packet", "vsock_loopback", "vmw_vsock_virtio_transport"}

// bootModules are loaded before a guest says hello.
const bootModules = "virtio_pci,virtio_net"

// Server makes an image like this one in dir for a guest that serves others:
// it has the programs besides, and the files, by their path in the guest.
func (img *Image) Server(ctx context.Context, dir string, programs []string, files map[string]string) (*Image, error) {
	base, err := os.ReadFile(img.Initrd)
	if err != nil {
		return nil, fmt.Errorf("integration: image: %w", err)
	}
	out := &Image{Kernel: img.Kernel, Initrd: filepath.Join(dir, "server.gz")}
	// The kernel unpacks any number of archives, one after the other; those that
	// are not compressed begin at a multiple of four bytes.
	more := bytes.NewBuffer(append(base, make([]byte, -len(base)&3)...))
	r := &root{archive: archive{w: more}, made: map[string]bool{".": true}}
	// Programs look up who they are to be.
	r.parents("etc/x")
	r.file("etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"))
	for _, program := range programs {
		if err := r.tool(ctx, program); err != nil {
			return nil, err
		}
	}
	for name, from := range files {
		if err := r.copy(strings.TrimPrefix(name, "/"), from); err != nil {
			return nil, err
		}
	}
	if err := r.close(); err != nil {
		return nil, fmt.Errorf("integration: image: %w", err)
	}
	if err := os.WriteFile(out.Initrd, more.Bytes(), 0o600); err != nil {
		return nil, fmt.Errorf("integration: image: %w", err)
	}
	return out, nil
}

// BuildImage makes an image in dir from the kernel, from programs of this
// machine and from the guest program of this module.
func BuildImage(ctx context.Context, kernel Kernel, dir string) (*Image, error) {
	guest := filepath.Join(dir, "guest")
	if err := Build(ctx, "integration/guest", guest); err != nil {
		return nil, err
	}
	img := &Image{Kernel: kernel.Image, Initrd: filepath.Join(dir, "initrd.gz")}
	out, err := os.Create(img.Initrd)
	if err != nil {
		return nil, fmt.Errorf("integration: image: %w", err)
	}
	defer out.Close()
	buffered := bufio.NewWriter(out)
	// The guest unpacks it under emulation: speed counts, size hardly.
	zip, err := gzip.NewWriterLevel(buffered, gzip.BestSpeed)
	if err != nil {
		return nil, fmt.Errorf("integration: image: %w", err)
	}
	if err := writeRoot(ctx, zip, kernel, guest); err != nil {
		return nil, err
	}
	if err := errors.Join(zip.Close(), buffered.Flush(), out.Close()); err != nil {
		return nil, fmt.Errorf("integration: image: %w", err)
	}
	return img, nil
}

// Build compiles a command of this module, named by its directory, without cgo.
func Build(ctx context.Context, directory, to string) error {
	self := reflect.TypeFor[Image]().PkgPath()
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", to, path.Join(path.Dir(self), directory))
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("integration: building %s: %w\n%s", directory, err, out)
	}
	return nil
}

// root collects a guest's files. Each name is written once, directories before
// what is in them.
type root struct {
	archive
	made map[string]bool
}

func writeRoot(ctx context.Context, w io.Writer, kernel Kernel, guest string) error {
	r := &root{archive: archive{w: w}, made: map[string]bool{".": true}}
	for _, dir := range []string{"bin", "dev", "etc", "proc", "root", "run", "sbin", "sys", "tmp", "usr/bin", "usr/sbin"} {
		r.parents(dir + "/x")
	}
	// The kernel opens it for process 1 before anything is mounted.
	r.device("dev/console", 0o600, 5, 1)
	if err := r.copy("init", guest); err != nil {
		return err
	}
	for _, tool := range guestTools {
		if err := r.tool(ctx, tool); err != nil {
			return err
		}
	}
	if err := r.busybox(ctx); err != nil {
		return err
	}
	if err := r.modules(kernel); err != nil {
		return err
	}
	if err := r.close(); err != nil {
		return fmt.Errorf("integration: image: %w", err)
	}
	return nil
}

// parents writes the directories above a name.
func (r *root) parents(name string) {
	dir := path.Dir(name)
	if r.made[dir] {
		return
	}
	r.parents(dir)
	r.directory(dir)
	r.made[dir] = true
}

// copy writes a file of the host under a name of the guest.
func (r *root) copy(name, from string) error {
	if r.made[name] {
		return nil
	}
	data, err := os.ReadFile(from)
	if err != nil {
		return fmt.Errorf("integration: image: %w", err)
	}
	info, err := os.Stat(from)
	if err != nil {
		return fmt.Errorf("integration: image: %w", err)
	}
	r.parents(name)
	r.file(name, info.Mode(), data)
	r.made[name] = true
	return nil
}

// tool writes a program and the libraries that it is linked with.
func (r *root) tool(ctx context.Context, name string) error {
	from, err := findTool(name)
	if err != nil {
		return err
	}
	if err := r.copy("bin/"+name, from); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, "ldd", from).CombinedOutput()
	if bytes.Contains(out, []byte("not a dynamic executable")) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("integration: image: ldd %s: %w: %s", from, err, out)
	}
	// Lines are "name => /path (address)" or "/path (address)"; the kernel's
	// own library has no path.
	for word := range strings.FieldsSeq(string(out)) {
		if strings.HasPrefix(word, "/") {
			if err := r.copy(word[1:], word); err != nil {
				return err
			}
		}
	}
	return nil
}

// findTool looks beyond PATH: an ordinary user's lacks the sbin directories.
func findTool(name string) (string, error) {
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/sbin") {
		if found, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return found, nil
		}
	}
	return "", fmt.Errorf("integration: image: there is no program %s: %w", name, errSetup)
}

// busybox writes it and a link for each of its applets, except where a name is
// taken; a link to itself under its own name would be a loop.
func (r *root) busybox(ctx context.Context) error {
	if err := r.tool(ctx, "busybox"); err != nil {
		return err
	}
	from, err := findTool("busybox")
	if err != nil {
		return err
	}
	applets, err := exec.CommandContext(ctx, from, "--list").Output()
	if err != nil {
		return fmt.Errorf("integration: image: busybox --list: %w", err)
	}
	for applet := range strings.FieldsSeq(string(applets)) {
		if name := "bin/" + applet; !r.made[name] {
			r.symlink(name, "busybox")
			r.made[name] = true
		}
	}
	return nil
}

// modules writes guestModules, what they depend on, and the index of those.
func (r *root) modules(kernel Kernel) error {
	index, err := os.ReadFile(filepath.Join(kernel.Modules, "modules.dep"))
	if err != nil {
		return fmt.Errorf("integration: image: %w: %w", err, errSetup)
	}
	builtin, err := os.ReadFile(filepath.Join(kernel.Modules, "modules.builtin"))
	if err != nil {
		return fmt.Errorf("integration: image: %w: %w", err, errSetup)
	}
	into := "lib/modules/" + kernel.Release + "/"
	var kept []string
	for _, name := range guestModules {
		if slices.ContainsFunc(strings.Fields(string(builtin)), func(file string) bool { return moduleName(file) == name }) {
			continue
		}
		files := dependencies(string(index), name)
		if files == nil {
			return fmt.Errorf("integration: image: kernel %s has no module %s", kernel.Release, name)
		}
		for _, file := range files {
			if err := r.copy(into+file, filepath.Join(kernel.Modules, file)); err != nil {
				return err
			}
			// Each needed module gets its own line too: modprobe looks them up.
			line := strings.Join(dependencies(string(index), moduleName(file)), " ")
			if line = strings.Replace(line+" ", " ", ": ", 1); !slices.Contains(kept, line) {
				kept = append(kept, line)
			}
		}
	}
	r.file(into+"modules.dep", 0o644, []byte(strings.Join(kept, "\n")+"\n"))
	return nil
}

// dependencies returns the module's file and those that it needs, out of a
// modules.dep, whose lines are "file: needed needed".
func dependencies(index, module string) []string {
	for line := range strings.Lines(index) {
		file, needed, _ := strings.Cut(line, ":")
		if moduleName(file) == module {
			return append([]string{file}, strings.Fields(needed)...)
		}
	}
	return nil
}

// moduleName turns a file of a module into the name that the kernel gives it.
func moduleName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".")
	return strings.ReplaceAll(name, "-", "_")
}
