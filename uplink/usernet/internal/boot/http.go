package boot

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"path"
	"time"

	"github.com/hashicorp/go-hclog"

	"vhostnet/metrics"
	"vhostnet/uplink/usernet/internal/limit"
)

// HTTPCounters count what an HTTP server was asked. They may be read at any
// time.
type HTTPCounters struct {
	Served  metrics.Counter // files begun
	Refused metrics.Counter // requests for what is not there or not to be had
	TooMany metrics.Counter // requests of guests that have too many under way
}

// HTTP serves the files of a directory.
type HTTP struct {
	directory *Directory
	slots     *limit.Slots[string]

	// Counters count. They are the HTTP's to add to.
	Counters HTTPCounters
}

// Bounds of requests: for one guest, and in all.
const (
	requestsOfOne = 16
	requestsOfAll = 256
	headerTime    = 10 * time.Second // to send a request's header
	idleTime      = 30 * time.Second // between two requests
	writeTime     = 60 * time.Second // for a client to take some of a file
	maxHeader     = 16 << 10
)

// NewHTTP makes a server. It starts nothing.
func NewHTTP(d *Directory) (*HTTP, error) {
	if d == nil {
		return nil, errors.New("boot: HTTP without a directory")
	}
	slots, err := limit.NewSlots[string](requestsOfOne, requestsOfAll)
	if err != nil {
		return nil, err
	}
	return &HTTP{directory: d, slots: slots}, nil
}

// Serve answers what comes in at l, until ctx ends; then it closes l and all
// connections.
func (h *HTTP) Serve(ctx context.Context, l net.Listener) error {
	s := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: headerTime,
		ReadTimeout:       headerTime,
		IdleTimeout:       idleTime,
		MaxHeaderBytes:    maxHeader,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, guestKey{}, guestOf(c))
		},
		// What clients do wrong is theirs to know.
		ErrorLog: hclog.NewNullLogger().StandardLogger(nil),
	}
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// FromGuest is a connection that knows whose it is. One that does not is taken for
// that of the address at its other end.
type FromGuest interface{ Guest() string }

// guestKey is under what a request's context has its guest.
type guestKey struct{}

func guestOf(c net.Conn) string {
	if g, ok := c.(FromGuest); ok {
		return g.Guest()
	}
	return hostOf(c.RemoteAddr().String())
}

func hostOf(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	return host
}

// ServeHTTP answers one request: GET or HEAD of a file, also of a part of it.
func (h *HTTP) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p := &patient{ResponseWriter: w, control: http.NewResponseController(w)}
	if p.extend() != nil {
		return // the connection is gone
	}
	guest, ok := r.Context().Value(guestKey{}).(string)
	if !ok { // it did not come by Serve
		guest = hostOf(r.RemoteAddr)
	}
	if !h.slots.Take(guest) {
		h.Counters.TooMany.Add(1)
		http.Error(w, "too many requests at once", http.StatusServiceUnavailable)
		return
	}
	defer h.slots.Give(guest)
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		h.Counters.Refused.Add(1)
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "files can only be read", http.StatusMethodNotAllowed)
		return
	}
	file, _, err := h.directory.open(r.URL.Path)
	if err != nil {
		h.Counters.Refused.Add(1)
		if errors.Is(err, fs.ErrNotExist) {
			http.Error(w, "no such file", http.StatusNotFound)
		} else {
			http.Error(w, "not a file to be had", http.StatusForbidden)
		}
		return
	}
	defer func() { _ = file.Close() }() // it was only read
	h.Counters.Served.Add(1)
	w.Header().Set("Content-Type", contentType(r.URL.Path))
	info, err := file.Stat()
	var changed time.Time
	if err == nil {
		changed = info.ModTime()
	}
	http.ServeContent(p, r, "", changed, file)
}

// contentType is what UEFI needs to know what it has loaded (UEFI 2.10,
// 24.7.2.2).
func contentType(name string) string {
	switch path.Ext(name) {
	case ".efi":
		return "application/efi"
	case ".iso":
		return "application/vnd.efi-iso"
	case ".img":
		return "application/vnd.efi-img"
	case ".txt", ".ipxe", ".cfg", ".html":
		return "text/plain; charset=utf-8"
	default:
		return "application/octet-stream"
	}
}

// patient gives a client time for each part that it takes, not for all.
type patient struct {
	http.ResponseWriter
	control *http.ResponseController
}

// Write writes b before the time is over.
func (p *patient) Write(b []byte) (int, error) {
	if err := p.extend(); err != nil {
		return 0, err
	}
	return p.ResponseWriter.Write(b)
}

func (p *patient) extend() error {
	err := p.control.SetWriteDeadline(time.Now().Add(writeTime))
	if errors.Is(err, http.ErrNotSupported) { // no connection: a test
		return nil
	}
	return err
}
