package main

import "strings"

// badNetworks are files whose user-mode network cannot be: badFiles of its addresses.
var badNetworks = []badFile{
	{"a.hcl", userText(`ipv4 = "10.0.2.0/24"`), []string{`2:9|uplink "user" "u": ipv4=10.0.2.0/24: 10.0.2.0 is the address of the network 10.0.2.0/24 itself|such as 10.0.2.2/24`}},
	{"a.hcl", userText(`ipv4 = "10.0.2.255/24"`), []string{"2:9|ipv4=10.0.2.255/24: 10.0.2.255 is the address of all in the network 10.0.2.0/24|such as 10.0.2.2/24"}},
	{"a.hcl", userText(`ipv4 = "172.16.3.255/22"`), []string{"2:9|address of all in the network 172.16.0.0/22|such as 172.16.0.2/22"}},
	{"a.hcl", userText(`ipv4 = "10.0.2.3/30"`, `reserve = ["web/10.0.9.9"]`), []string{"2:9|address of all in the network 10.0.2.0/30|such as 10.0.2.2/30"}},
	{"a.hcl", userText(`ipv4 = "10.0.2.2/31"`), []string{"2:9|ipv4=10.0.2.2/31|prefix of 31 bits; want a prefix length of 8 to 30"}},
	{"a.hcl", userText(`ipv4 = "169.254.0.1/16"`), []string{"2:9|169.254.0.1 is no station's address; want one such as 10.0.2.2/24"}},
	{"a.hcl", userText(`ipv6 = "fd00::/64"`), []string{"2:9|ipv6=fd00::/64: fd00:: is the address of the network fd00::/64 itself|such as fd00::2/64"}},
	{"a.hcl", userText(`ipv6 = "fe80::1/64"`), []string{"2:9|fe80::1 is no station's address; want one such as fd76:686f:7374::2/64"}},
	{"a.hcl", userText(`ipv6 = "::ffff:10.0.2.2/64"`), []string{"2:9|ipv6=::ffff:10.0.2.2/64|such as fd76:686f:7374::2/64"}},
	{"a.hcl", userText(`ipv4 = "10.0.2.2"`, `reserve = ["web/10.9.9.9"]`), []string{"2:9|ipv4=10.0.2.2: want the gateway's address"}},

	{"a.hcl", userText(`reserve = ["web/10.0.2.0"]`), []string{`2:12|uplink "user" "u": reserve=web/10.0.2.0: 10.0.2.0 is the address of the network|want another one of 10.0.2.0/24, such as 10.0.2.1`}},
	{"a.hcl", userText(`reserve = ["52:54:00:00:00:01/10.0.2.255/mail"]`), []string{"2:12|reserve=52:54:00:00:00:01/10.0.2.255/mail: 10.0.2.255 is the address of all|such as 10.0.2.1"}},
	{"a.hcl", userText(`reserve = ["web/10.0.2.2"]`), []string{"2:12|reserve=web/10.0.2.2: 10.0.2.2 is the gateway's own, where names are resolved too; want another one of 10.0.2.0/24, such as 10.0.2.1"}},
	{"a.hcl", userText(`reserve = ["web/10.0.2.9/fd76:686f:7374::2"]`), []string{"2:12|fd76:686f:7374::2 is the gateway's own|such as fd76:686f:7374::1"}},
	{"a.hcl", userText(`reserve = ["web/fd76:686f:7374::"]`), []string{"2:12|fd76:686f:7374:: is the address of the network fd76:686f:7374::/64 itself|such as fd76:686f:7374::1"}},
	{"a.hcl", userText(`reserve = ["web/10.0.3.9/fd00::9"]`), []string{"2:12|10.0.3.9 is outside of the network 10.0.2.0/24|such as 10.0.2.1", "2:12|fd00::9 is outside of the network fd76:686f:7374::/64"}},
	{"a.hcl", userText(`reserve = ["web/::ffff:10.0.2.9"]`), []string{"2:12|outside of the network fd76:686f:7374::/64"}},
	{"a.hcl", userText(`reserve = ["web/10.0.2.1", "db/10.0.2.9", "mail/10.0.2.1"]`), []string{"2:12|reserve=mail/10.0.2.1: 10.0.2.1 is reserved twice; want another one of 10.0.2.0/24, such as 10.0.2.3"}},
	{"a.hcl", userText(`ipv4 = "10.9.0.2/30"`, `reserve = ["web/10.9.0.1", "db/10.9.0.1", "mail/10.9.0.3"]`), []string{"3:12|db/10.9.0.1: 10.9.0.1 is reserved twice; want another one of 10.9.0.0/30, if one is free, or a larger network", "3:12|10.9.0.3 is the address of all|if one is free"}},
	{"a.hcl", userText(`ipv4 = "10.9.0.1/30"`, `reserve = ["web/10.9.0.3"]`), []string{"3:12|10.9.0.3 is the address of all|such as 10.9.0.2"}},
	{"a.hcl", userText(`ipv4 = "10.9.0.2/30"`, `forward = ["tcp/127.0.0.1:0/10.9.0.1:0"]`), []string{"3:12|such as 10.9.0.1:80"}},
	{"a.hcl", userText(`reserve = ["web/10.0.2.9/10.0.2.10"]`), []string{"2:12|reserve=web/10.0.2.9/10.0.2.10: 10.0.2.10 is a second one of its kind"}},
	{"a.hcl", userText(`reserve = ["web/www/10.0.2.9/www"]`), []string{"2:12|www is a second one of its kind"}},
	{"a.hcl", userText(`reserve = ["web/w_w"]`), []string{`2:12|reserve=web/w_w: hostname "w_w": want letters, digits and hyphens`}},
	{"a.hcl", userText(`ipv4 = "10.9.0.1/16"`, `reserve = ["web/10.9.255.255", "db/10.9.0.255"]`), []string{"3:12|reserve=web/10.9.255.255|address of all in the network 10.9.0.0/16|such as 10.9.0.2"}},
	{"a.hcl", userText(`forward = ["tcp/127.0.0.1:0/10.0.2.2:80", "tcp/127.0.0.1:0/192.0.2.1:80", "tcp/127.0.0.1:0/10.0.2.255:80"]`), []string{"2:12|forward=tcp/127.0.0.1:0/10.0.2.2:80: guest 10.0.2.2:80 is no guest's address", "2:12|192.0.2.1:80 is no guest's address; one of 10.0.2.0/24", "2:12|10.0.2.255 is the address of all"}},
	{"a.hcl", userText(`forward = ["tcp/127.0.0.1:0/web:0", "udp/unix:/x/web:53"]`), []string{"2:12|forward=tcp/127.0.0.1:0/web:0: guest web:0; a VM's port of the switch", "2:12|forward=udp/unix:/x/web:53|tcp is possible"}},
	{"a.hcl", userText(`forward = ["tcp/127.0.0.1:0/10.0.2.256:80", "tcp/127.0.0.1:0/10.0.2:80", "udp/127.0.0.1:0/10.0.2.15.:80", "udp/127.0.0.1:0/[10.0.2.15]:80"]`), []string{"2:12|forward=tcp/127.0.0.1:0/10.0.2.256:80: 10.0.2.256 is no address", "2:12|10.0.2 is no address", "2:12|10.0.2.15. is no address", "2:12|want NETWORK/LISTEN/GUEST"}},
	{"a.hcl", userText(`forward = ["tcp/127.0.0.1:0/u:80", "tcp/127.0.0.1:0/U:80"]`), []string{`1:1|uplink "user" "u": forward tcp 127.0.0.1:0 to u:80: u is an uplink; want the port of a VM`, "1:1|to U:80: u is an uplink"}},
	{"a.hcl", userText(`forward = ["tcp/127.0.0.1:0/10.0.2.15:80", "tcp/127.0.0.1:0/10.0.2.16:80", "tcp/127.0.0.1:0/10.0.2.15:80"]`), []string{"2:12|forward=tcp/127.0.0.1:0/10.0.2.15:80: it is there twice; want it once"}},
	{"a.hcl", userText(`ipv4 = ["10.9.0.1/24"]`, `forward = ["tcp/127.0.0.1:0/10.9.0.15:80"]`, `reserve = ["web/10.9.0.20"]`), []string{"2:9|ipv4: want a string or a number"}},
	{"a.hcl", userText(`ipv6 = null`, `reserve = ["web/fd00::20"]`), []string{"2:9|ipv6: want a string or a number"}},
	{"a.hcl", userText(`ipv4 = [1]`, `vlan = 3`, `trunk = [4]`), []string{"1:1|vlan=3", "2:9|ipv4: want a string or a number"}},
	{"a.hcl", "uplink \"tap\" \"longer_than_a_device\" {\n device = [\"tap0\"]\n}\n", []string{"2:11|device: want a string or a number"}},
	{"a.hcl.json", "{\"uplink\": {\"user\": {\"u\": {\n \"reserve\": [\"web/10.0.2.255\"]}}}}", []string{"2:13|reserve=web/10.0.2.255: 10.0.2.255 is the address of all"}},
}

// userText is a file with a user-mode network, a line for each option.
func userText(options ...string) string {
	return "uplink \"user\" \"u\" {\n " + strings.Join(options, "\n ") + "\n}\n"
}
