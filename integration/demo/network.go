package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"vhostnet/integration"
)

// leaseScript is what udhcpc does with a lease. The addresses that a guest has
// besides are those of the measurements.
const leaseScript = `cat > /run/lease <<'END'
#!/bin/sh
[ "$1" = bound ] || exit 0
/bin/ip addr replace $ip/$mask dev $interface
/bin/ip route replace default via $router
echo "search $domain" > /etc/resolv.conf
for d in $dns; do echo "nameserver $d" >> /etc/resolv.conf; done
echo "address $ip, router $router, name server $dns, domain $domain"
END
chmod +x /run/lease
modprobe af_packet 2>/dev/null
udhcpc -i eth0 -n -q -f -t 20 -T 1 -s /run/lease 2>/dev/null`

// addressScript waits for the address that the guest makes itself of what the
// router advertises.
const addressScript = `/bin/ip link set eth0 down; /bin/ip link set eth0 up
until /bin/ip -6 -o addr show dev eth0 scope global | grep dynamic; do sleep 0.2; done
/bin/ip route replace default via 10.0.2.2`

// network shows what the user-mode network gives a guest: addresses, names, and
// this machine.
func (d *demo) network(ctx context.Context, lab *integration.Lab) error {
	port, stop, err := servePage()
	if err != nil {
		return err
	}
	defer stop()
	a, b := lab.Guests[0], lab.Guests[1]
	page := fmt.Sprintf("http://host.internal:%d/", port)
	// busybox' wget takes a name's IPv4 address when it has one.
	page6 := fmt.Sprintf(`"http://[$(nslookup -type=aaaa host.internal | sed -n 's/^Address: *\(.*::.*\)/\1/p')]:%d/"`, port)
	for _, s := range []struct {
		guest       *integration.Guest
		say, script string
	}{
		{b, "udhcpc -i eth0", leaseScript},
		{a, "udhcpc -i eth0", leaseScript},
		{a, "ip -6 addr show dev eth0 scope global", addressScript},
		{a, "nslookup b.internal", "nslookup b.internal"},
		{a, "wget -O- " + page, "wget -q -O- " + page},
		{a, "wget -O- " + page6, "wget -q -O- " + page6},
		{a, "ping -c 3 b.internal", "ping -c 3 b.internal"},
	} {
		fmt.Fprintf(d.out, "\nguest %s$ %s\n", s.guest.Name(), s.say)
		text, err := s.guest.Shell(ctx, s.script)
		fmt.Fprint(d.out, indent(text))
		if err != nil {
			return err
		}
	}
	return nil
}

// servePage serves a page on both loopback addresses of this machine, at one
// port.
func servePage() (port int, stop func(), err error) {
	server := &http.Server{
		ReadHeaderTimeout: time.Minute,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "A page of the machine that runs vhostnet, to %s.\n", r.RemoteAddr)
		}),
	}
	var errs []error
	for _, host := range []string{"127.0.0.1", "::1"} {
		l, err := net.Listen("tcp", net.JoinHostPort(host, fmt.Sprint(port)))
		if err != nil {
			errs = append(errs, err)
			continue
		}
		port = l.Addr().(*net.TCPAddr).Port
		go func() { _ = server.Serve(l) }() // until Close, which closes l
	}
	return port, func() { _ = server.Close() }, errors.Join(errs...)
}
