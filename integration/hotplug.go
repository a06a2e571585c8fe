package integration

import (
	"context"
	"fmt"
)

// dimmMiB is the size of a module of memory: one block of Linux on x86-64, the
// least that it takes.
const dimmMiB = 128

// ReplaceNIC takes the NIC out of the running guest and puts in one with other
// properties, on the same connection to the port.
func (g *Guest) ReplaceNIC(ctx context.Context, properties string) error {
	err := g.monitor(ctx, func(m *monitor) error {
		if err := m.human(ctx, "device_del nic"); err != nil {
			return err
		}
		if err := m.await(ctx, "DEVICE_DELETED"); err != nil {
			return err
		}
		return m.human(ctx, "device_add "+g.nic(properties))
	})
	if err != nil {
		return err
	}
	g.cfg.Device = properties
	return g.configure(ctx)
}

// monitor calls f with a connection to QEMU's control socket.
func (g *Guest) monitor(ctx context.Context, f func(m *monitor) error) error {
	m, err := dialMonitor(ctx, g.path("qmp.sock"))
	if err != nil {
		return err
	}
	defer m.close()
	return f(m)
}

// onlineScript puts new blocks of memory to use: $1 is how many there must be,
// $2 what for.
const onlineScript = `cd /sys/devices/system/memory
until [ $(grep -l offline memory*/state | wc -l) = $1 ]; do sleep 0.05; done
for state in $(grep -l offline memory*/state); do echo $2 >$state; done`

// PlugMemory puts a module of memory into a running guest, which is then used:
// for "online_kernel" also for what is on the way to and from the NIC, for
// "online_movable" only for what can be moved away from it.
func (g *Guest) PlugMemory(ctx context.Context, name, use string) error {
	err := g.monitor(ctx, func(m *monitor) error {
		if err := m.human(ctx, fmt.Sprintf("object_add memory-backend-memfd,id=%s-memory,size=%dM,share=on", name, dimmMiB)); err != nil {
			return err
		}
		return m.human(ctx, fmt.Sprintf("device_add pc-dimm,id=%[1]s,memdev=%[1]s-memory", name))
	})
	if err != nil {
		return err
	}
	_, err = g.Run(ctx, "sh", "-c", onlineScript, "sh", "1", use)
	return err
}

// UnplugMemory takes out a module that was put in with "online_movable".
func (g *Guest) UnplugMemory(ctx context.Context, name string) error {
	return g.monitor(ctx, func(m *monitor) error {
		if err := m.human(ctx, "device_del "+name); err != nil {
			return err
		}
		if err := m.await(ctx, "DEVICE_DELETED"); err != nil {
			return err
		}
		return m.human(ctx, "object_del "+name+"-memory")
	})
}
