package control

import (
	"net/http"
	"strings"
	"testing"
)

// What the Backend counts is there in the text format, by the same socket, and
// each name is said to be what it is.
func TestMetrics(t *testing.T) {
	f := &fake{
		ports:  []Port{{Name: "web", Connected: true, Link: "down", Memory: 100, Rings: []Ring{{Index: 0}, {Index: 1, Polling: &Polling{Spin: 1000, Found: 4, Vain: 5, Unpolled: 6}}}}},
		queues: []Queue{{ID: 3, Port: "web", State: "Running", Filters: 2, Memory: []Memory{{Usage: "receive", Bytes: 4096, Allocations: 1}}}},
	}
	l := serve(t, f, NewHandler(f, HandlerOptions{Extra: map[string]http.Handler{"GET /metrics": NewMetrics(f)}}), nil)
	code, text, header := l.say("GET", "/metrics", "")
	if code != http.StatusOK || !strings.HasPrefix(header.Get("Content-Type"), "text/plain") {
		t.Errorf("%d, %s", code, header.Get("Content-Type"))
	}
	for _, want := range []string{
		`vhostnet_port_frames_total{direction="tx",port="web"} 1`,
		`vhostnet_port_connected{port="web"} 1`,
		`vhostnet_port_link_up{port="web"} 0`,
		`vhostnet_port_memory_bytes{port="web"} 100`,
		`vhostnet_port_polls_total{outcome="found",port="web",ring="1"} 4`,
		`vhostnet_port_polls_total{outcome="vain",port="web",ring="1"} 5`,
		`vhostnet_port_polls_total{outcome="unpolled",port="web",ring="1"} 6`,
		`vhostnet_queue_running{port="web",queue="3"} 1`,
		`vhostnet_queue_filters{port="web",queue="3"} 2`,
		`vhostnet_queue_memory_bytes{port="web",queue="3",usage="receive"} 4096`,
		`vhostnet_port_drops_total{port="web",reason="no-buffer"} 7`,
	} {
		if !strings.Contains(text, "\n"+want+"\n") {
			t.Errorf("no line %s in\n%s", want, text)
		}
	}
	if strings.Contains(text, `ring="0"`) {
		t.Error("a receive ring is polled")
	}
	for line := range strings.SplitSeq(text, "\n") {
		name, _, _ := strings.Cut(line, "{")
		if line != "" && line[0] != '#' && (!strings.Contains(text, "# HELP "+name+" ") || !strings.Contains(text, "# TYPE "+name+" ")) {
			t.Errorf("%s is not explained", name)
		}
	}
}
