//go:build integration

package integration

import (
	"context"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestFirmware has three firmwares, each with a virtio-net driver of its own,
// take a lease and load files from a server in another guest.
func TestFirmware(t *testing.T) {
	server, payload := buildServer(t)
	lab := startLab(t,
		GuestConfig{Name: "server", QEMU: machine.QEMU, Image: server, OwnQueue: true, MemoryMiB: 384},
		GuestConfig{Name: "ipxe", QEMU: machine.QEMU, Firmware: IPXE, Later: true, OwnQueue: true},
		GuestConfig{Name: "ovmf", QEMU: machine.QEMU, Firmware: OVMF, Later: true},
		GuestConfig{Name: "uboot", QEMU: machine.QEMU, Firmware: UBoot, Later: true})
	s := serve(t, lab.Guests[0])
	run(t, "IPXE", func(t *testing.T) { testIPXE(t, lab, s) })
	run(t, "OVMF", func(t *testing.T) { testOVMF(t, lab, s) })
	run(t, "UBoot", func(t *testing.T) { testUBoot(t, lab, s, payload) })
}

// payloadBytes is the size of the file that OVMF and U-Boot load.
const payloadBytes = 4_000_000

// buildServer makes an image with a DHCP, TFTP and HTTP server's programs and
// files: a script for iPXE, the Linux that it starts, and a file for the others.
func buildServer(t *testing.T) (*Image, []byte) {
	t.Helper()
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		must(t, os.WriteFile(path, data, 0o644))
		return path
	}
	payload := make([]byte, payloadBytes)
	for i := range payload {
		payload[i] = byte(i * i >> 8)
	}
	script := "#!ipxe\nkernel http://10.0.0.1/linux " + GuestConfig{}.kernelLine() + "\ninitrd http://10.0.0.1/initrd\nboot\n"
	server, err := image.Server(within(t, time.Minute), dir, []string{"dnsmasq"}, map[string]string{
		"/srv/boot.ipxe": write("boot.ipxe", []byte(script)),
		"/srv/payload":   write("payload", payload),
		"/srv/linux":     image.Kernel,
		"/srv/initrd":    image.Initrd,
	})
	must(t, err)
	return server, payload
}

// server is a guest that serves others.
type server struct {
	*Guest
	dnsmasq *Job
}

// serve starts the servers in a guest.
func serve(t *testing.T, g *Guest) *server {
	t.Helper()
	ctx := within(t, 30*time.Second)
	_, err := g.StartJob(ctx, "httpd", "-f", "-h", "/srv")
	must(t, err)
	s := &server{Guest: g}
	s.dnsmasq, err = g.StartJob(ctx, "dnsmasq", "--no-daemon", "--user=root", "--conf-file=/dev/null", "--port=0", "--interface=eth0",
		"--dhcp-range=10.0.0.100,10.0.0.150,1h", "--dhcp-leasefile=/run/leases", "--log-dhcp",
		"--enable-tftp", "--tftp-root=/srv",
		"--dhcp-match=set:ipxe,175", "--dhcp-boot=tag:ipxe,boot.ipxe", "--dhcp-boot=tag:!ipxe,payload")
	must(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			out, err := s.dnsmasq.Output(ctx)
			t.Log(out, err)
		}
	})
	must(t, poll(ctx, "dnsmasq to serve", func() (bool, error) {
		out, err := s.dnsmasq.Output(ctx)
		return strings.Contains(out, "TFTP root"), err
	}))
	return s
}

// served fails t unless the server has given this guest a lease and sent it a
// file.
func (s *server) served(t *testing.T, g *Guest, file string) {
	t.Helper()
	ctx := within(t, 10*time.Second)
	out, err := s.dnsmasq.Output(ctx)
	must(t, err)
	if ack := regexp.MustCompile(`DHCPACK\(eth0\) (\S+) ` + g.cfg.mac()).FindStringSubmatch(out); ack == nil {
		t.Errorf("the server has leased nothing to %s", g.cfg.mac())
	} else if !strings.Contains(out, "sent /srv/"+file+" to "+ack[1]) {
		t.Errorf("the server has not sent %s to %s", file, ack[1])
	}
}

// testIPXE boots Linux over the network: the kernel that iPXE's driver loads by
// HTTP runs, and its own driver takes the rings over.
func testIPXE(t *testing.T, lab *Lab, s *server) {
	ctx := within(t, 3*time.Minute)
	begin := time.Now()
	must(t, lab.Boot(ctx, 1, nil))
	t.Logf("booted over the network in %v", time.Since(begin).Round(time.Second))
	s.served(t, lab.Guests[1], "boot.ipxe")
	bothWays(lab, func(from, to *Guest) { must(t, Reach(ctx, from, to)) })
	transferBothWays(t, lab, 10*megabyte)
	must(t, lab.Guests[1].Close())
}

// testOVMF has UEFI load a file, which is none that it could start.
func testOVMF(t *testing.T, lab *Lab, s *server) {
	ctx := within(t, 3*time.Minute)
	must(t, lab.PowerOn(ctx, 2))
	must(t, lab.Guests[2].AwaitConsole(ctx, "NBP file downloaded successfully"))
	s.served(t, lab.Guests[2], "payload")
	must(t, lab.Guests[2].Close())
}

// testUBoot has U-Boot load a file by command and tell its checksum.
func testUBoot(t *testing.T, lab *Lab, s *server, payload []byte) {
	ctx := within(t, 100*time.Second)
	must(t, lab.PowerOn(ctx, 3))
	g := lab.Guests[3]
	must(t, g.AwaitConsole(ctx, "autoboot"))
	const at = "0x2000000"
	must(t, g.Type(ctx, "\n"))
	must(t, g.AwaitConsole(ctx, "=> "))
	must(t, g.Type(ctx, "virtio scan; setenv autoload no; dhcp; tftpboot "+at+" 10.0.0.1:payload\n"))
	must(t, g.AwaitConsole(ctx, "Bytes transferred = "))
	must(t, g.Type(ctx, fmt.Sprintf("crc32 %s %x\n", at, len(payload))))
	must(t, g.AwaitConsole(ctx, fmt.Sprintf("==> %08x", crc32.ChecksumIEEE(payload))))
	s.served(t, g, "payload")
	must(t, g.Close())
}
