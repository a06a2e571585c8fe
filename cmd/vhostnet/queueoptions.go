package main

import (
	"fmt"
	"net"
	"strconv"
	"strings"

	"vhostnet/netdev"
	"vhostnet/vswitch"
)

// queueModes are the words for who drives the verbs of a port's queue.
var queueModes = map[netdev.QueueMode]string{netdev.QueueAuto: "auto", netdev.QueueManual: "manual"}

func parseQueueMode(s string) (netdev.QueueMode, error) {
	for mode, word := range queueModes {
		if word == s {
			return mode, nil
		}
	}
	return 0, fmt.Errorf("queue=%s: want auto (the VM's session drives its queue) or manual (the control API does)", s)
}

// parseStatics reads MAC[/VLAN] of stations behind a port, joined by '+'.
func parseStatics(s string) (list []vswitch.Address, err error) {
	for field := range strings.SplitSeq(s, "+") {
		text, vlan, inVLAN := strings.Cut(field, "/")
		a := vswitch.Address{}
		if a.MAC, err = parseMAC(text); err == nil && inVLAN {
			a.VLAN, err = parseStaticVLAN(vlan)
		}
		if err != nil {
			return nil, fmt.Errorf("static=%s: want addresses of stations such as 52:54:00:12:34:56, with /VLAN (1 to %d, or any) behind those that are in one, joined by '+'", s, maxVLAN)
		}
		list = append(list, a)
	}
	return list, nil
}

func parseStaticVLAN(s string) (uint16, error) {
	if s == "any" {
		return vswitch.AnyVLAN, nil
	}
	return parseVLAN("static", s)
}

// joinStatics writes addresses as parseStatics reads them.
func joinStatics(list []vswitch.Address) string {
	words := make([]string, len(list))
	for i, a := range list {
		words[i] = net.HardwareAddr(a.MAC[:]).String()
		switch a.VLAN {
		case 0:
		case vswitch.AnyVLAN:
			words[i] += "/any"
		default:
			words[i] += "/" + strconv.Itoa(int(a.VLAN))
		}
	}
	return strings.Join(words, "+")
}
