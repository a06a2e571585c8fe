package control

import (
	"net/http"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// NewMetrics answers with what a Backend counts, in the text format of
// Prometheus. Nothing is counted for it: it asks the Backend at each request.
// Names of ports are labels, so whoever adds ports bounds how many series there
// are.
func NewMetrics(b Backend) http.Handler {
	r := prometheus.NewRegistry()
	r.MustRegister(&collector{b})
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{MaxRequestsInFlight: 4})
}

// collector is the Backend's counters as metrics.
type collector struct{ b Backend }

func metric(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("vhostnet_"+name, help, labels, nil)
}

// The metrics. Tx is from the VM, rx to the VM.
var (
	metricFrames    = metric("port_frames_total", "Frames that passed a port, by direction: tx is from the VM, rx to it.", "port", "direction")
	metricBytes     = metric("port_bytes_total", "Bytes of those frames, from the Ethernet header on.", "port", "direction")
	metricDrops     = metric("port_drops_total", "Frames that were lost at a port, by reason.", "port", "reason")
	metricFlooded   = metric("port_flooded_total", "Frames from the VM that went to every port.", "port")
	metricSoft      = metric("port_soft_offload_total", "Frames to the VM that were summed or cut in software.", "port")
	metricMoved     = metric("port_addresses_moved_total", "Addresses that were known at another port before.", "port")
	metricForeign   = metric("port_foreign_source_total", "Frames whose source is another port's filter.", "port")
	metricTableFull = metric("port_table_full_total", "Frames whose source was not learned, as the table is full.", "port")
	metricStalls    = metric("port_stalls_total", "Times the VM gave no buffers for so long that its frames are dropped.", "port")
	metricSessions  = metric("port_sessions_total", "Front-ends that were served.", "port")
	metricRefused   = metric("port_refused_requests_total", "Requests of front-ends that were not done.", "port")
	metricClosed    = metric("port_closed_sessions_total", "Sessions that were ended for what the front-end sent or did not.", "port")
	metricConnected = metric("port_connected", "Whether a front-end is connected.", "port")
	metricDriver    = metric("port_driver_up", "Whether the guest's driver has negotiated its features.", "port")
	metricLink      = metric("port_link_up", "Whether the port's link is up.", "port")
	metricOwn       = metric("port_memory_bytes", "Bytes of the daemon's own memory that a VM's port takes, without the guest's.", "port")
	metricPolls     = metric("port_polls_total", "Times a transmit ring was empty in the mode adaptive, by how that ended: polled and a frame was found, polled in vain, or unpolled.", "port", "ring", "outcome")
	metricRunning   = metric("queue_running", "Whether a queue runs.", "queue", "port")
	metricFilters   = metric("queue_filters", "Filters that are set on a queue.", "queue", "port")
	metricMemory    = metric("queue_memory_bytes", "Bytes that a queue has allocated; views of the same guest memory are each counted.", "queue", "port", "usage")
)

// Describe tells what there can be.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		metricFrames, metricBytes, metricDrops, metricFlooded, metricSoft, metricMoved, metricForeign, metricTableFull, metricStalls,
		metricSessions, metricRefused, metricClosed, metricConnected, metricDriver, metricLink, metricOwn, metricPolls, metricRunning, metricFilters, metricMemory,
	} {
		ch <- d
	}
}

// Collect asks the Backend.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	count := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	for _, p := range c.b.Counters() {
		count(metricFrames, p.TxFrames, p.Port, "tx")
		count(metricFrames, p.RxFrames, p.Port, "rx")
		count(metricBytes, p.TxBytes, p.Port, "tx")
		count(metricBytes, p.RxBytes, p.Port, "rx")
		count(metricFlooded, p.Flooded, p.Port)
		count(metricSoft, p.SoftOffload, p.Port)
		count(metricMoved, p.Moved, p.Port)
		count(metricForeign, p.ForeignSource, p.Port)
		count(metricTableFull, p.TableFull, p.Port)
		count(metricStalls, p.Stalls, p.Port)
		count(metricSessions, p.Sessions, p.Port)
		count(metricRefused, p.Refused, p.Port)
		count(metricClosed, p.Closed, p.Port)
		for reason, n := range p.Drops {
			count(metricDrops, n, p.Port, reason)
		}
	}
	c.states(ch, count)
}

// polls are how a port's rings have been polled.
func polls(p *Port, count func(d *prometheus.Desc, v uint64, labels ...string)) {
	for _, r := range p.Rings {
		if r.Polling != nil {
			ring := strconv.Itoa(r.Index)
			count(metricPolls, r.Polling.Found, p.Name, ring, "found")
			count(metricPolls, r.Polling.Vain, p.Name, ring, "vain")
			count(metricPolls, r.Polling.Unpolled, p.Name, ring, "unpolled")
		}
	}
}

// states are what goes up and down, and what rings have counted, which are there
// while they run.
func (c *collector) states(ch chan<- prometheus.Metric, count func(d *prometheus.Desc, v uint64, labels ...string)) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	is := map[bool]float64{true: 1}
	for _, p := range c.b.Ports() {
		gauge(metricConnected, is[p.Connected], p.Name)
		gauge(metricDriver, is[p.Driver], p.Name)
		gauge(metricLink, is[p.Link == "up"], p.Name)
		if p.Memory > 0 {
			gauge(metricOwn, float64(p.Memory), p.Name)
		}
		polls(&p, count)
	}
	for _, q := range c.b.Queues() {
		id := formatID(q.ID)
		gauge(metricRunning, is[q.State == "Running"], id, q.Port)
		gauge(metricFilters, float64(q.Filters), id, q.Port)
		for _, m := range q.Memory {
			gauge(metricMemory, float64(m.Bytes), id, q.Port, m.Usage)
		}
	}
}
