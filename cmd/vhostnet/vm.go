package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// runtimeDir is where the sockets of --vm are: a directory of who runs the
// program.
func runtimeDir() (string, error) {
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		return filepath.Join(dir, "vhostnet"), nil
	}
	if os.Geteuid() == 0 {
		return "/run/vhostnet", nil
	}
	return "", errors.New("XDG_RUNTIME_DIR is not set, so there is no directory for the socket; want it set, or --port NAME=PATH")
}

// parseVM reads NAME[,key=value...]: a port with its socket in the runtime
// directory.
func parseVM(s string) (portSpec, error) {
	name, options, more := strings.Cut(s, ",")
	said := origin{what: "--vm " + name}
	if !portName.MatchString(name) {
		return portSpec{}, origin{what: fmt.Sprintf("--vm %q", name)}.errorf("want a name of at most 63 letters, digits, '.', '_' and '-', such as web")
	}
	dir, err := runtimeDir()
	if err != nil {
		return portSpec{}, said.wrong(err)
	}
	p := portSpec{name: name, path: filepath.Join(dir, name+".sock"), fd: -1, said: said}
	if more {
		for field := range strings.SplitSeq(options, ",") {
			key, value, _ := strings.Cut(field, "=")
			if err := p.option(key, value); err != nil {
				return portSpec{}, said.wrong(err)
			}
		}
	}
	if p.dial {
		return portSpec{}, said.errorf("role=connect: the socket of a --vm is made here; want --port %s=PATH,role=connect", name)
	}
	return p, said.wrong(errors.Join(p.consistent(), p.switching.consistent()))
}

// makeRuntimeDir makes the directory for the sockets of --vm: nobody else's.
func makeRuntimeDir() error {
	dir, err := runtimeDir()
	if err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("the directory for the sockets of --vm: %w", err)
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("the directory for the sockets of --vm: %w", err)
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || !ok || int(owner.Uid) != os.Geteuid() || info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%s is for the sockets of --vm, and others can write to it (%v); want a directory of your own, or none", dir, info.Mode())
	}
	return nil
}

// recipe is how a VM is attached to its port.
type recipe struct {
	VM              string `json:"vm"`
	Socket          string `json:"socket"`
	MAC             string `json:"mac"`
	QEMU            string `json:"qemu"`
	CloudHypervisor string `json:"cloud_hypervisor"`
	Libvirt         string `json:"libvirt"`
}

func newRecipe(p portSpec) recipe {
	mac := net.HardwareAddr(p.mac[:]).String()
	fill := strings.NewReplacer("NAME", p.name, "SOCKET", p.path, "MAC", mac).Replace
	return recipe{p.name, p.path, mac, fill(qemuRecipe), fill(cloudRecipe), fill(libvirtRecipe)}
}

// What is written down for each VM. Memory is shared in all of them.
const (
	qemuRecipe = `qemu-system-x86_64 -name NAME -m 1G -machine q35,memory-backend=mem0 \
  -object memory-backend-memfd,id=mem0,size=1G,share=on \
  -chardev socket,id=char0,path=SOCKET,reconnect-ms=100 \
  -netdev vhost-user,id=net0,chardev=char0 \
  -device virtio-net-pci,netdev=net0,mac=MAC`
	cloudRecipe = `cloud-hypervisor --memory size=1G,shared=on \
  --net vhost_user=on,socket=SOCKET,num_queues=2,mac=MAC`
	libvirtRecipe = `<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>
<interface type='vhostuser'>
  <mac address='MAC'/>
  <source type='unix' path='SOCKET' mode='client'>
    <reconnect enabled='yes' timeout='1'/>
  </source>
  <model type='virtio'/>
</interface>`
)

// printRecipes writes how the VMs of --vm are attached, in one piece: text, or a
// line of JSON.
func printRecipes(out io.Writer, ports []portSpec, names []string, asJSON bool) error {
	var list []recipe
	for _, s := range names {
		name, _, _ := strings.Cut(s, ",")
		list = append(list, newRecipe(ports[indexOfPort(ports, name)]))
	}
	var b bytes.Buffer
	if asJSON {
		if err := json.NewEncoder(&b).Encode(map[string]any{"vms": list}); err != nil {
			return err
		}
	} else {
		for _, r := range list {
			fmt.Fprintf(&b, "# VM %s: QEMU (before 9.2 with reconnect=1 for reconnect-ms=100), with a disk or a kernel behind it\n%s\n\n", r.VM, r.QEMU)
			fmt.Fprintf(&b, "# VM %s: Cloud Hypervisor\n%s\n\n", r.VM, r.CloudHypervisor)
			fmt.Fprintf(&b, "# VM %s: libvirt, in <domain> and in <devices>\n%s\n\n", r.VM, r.Libvirt)
		}
	}
	_, err := out.Write(b.Bytes())
	return err
}
