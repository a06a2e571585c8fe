package boot

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

func TestHTTP(t *testing.T) {
	kernel := contents(200_000)
	d, _ := newDirectory(t, map[string][]byte{"kernel": kernel, "boot.efi": {1}, "sub/script.ipxe": []byte("#!ipxe\n"), "index.html": nil})
	h, err := NewHTTP(d)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- h.Serve(ctx, l) }()
	transport := &http.Transport{DisableCompression: true}
	defer transport.CloseIdleConnections()
	web := &http.Client{Transport: transport, Timeout: 20 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	for _, c := range []struct {
		method, path, ranged string
		code                 int
		kind                 string
		body                 []byte
	}{
		{"GET", "/kernel", "", 200, "application/octet-stream", kernel},
		{"GET", "/kernel", "bytes=100-199", 206, "application/octet-stream", kernel[100:200]},
		{"GET", "/kernel", "bytes=300000-", 416, "", nil},
		{"HEAD", "/kernel", "", 200, "application/octet-stream", []byte{}},
		{"GET", "/boot.efi", "", 200, "application/efi", []byte{1}},
		{"GET", "//sub//script.ipxe", "", 200, "text/plain; charset=utf-8", []byte("#!ipxe\n")},
		{"GET", "/index.html", "", 200, "text/plain; charset=utf-8", []byte{}},
		{"GET", "/", "", 404, "", nil},
		{"GET", "/sub/", "", 403, "", nil},
		{"GET", "/nothing", "", 404, "", nil},
		{"GET", "/leak", "", 403, "", nil},
		{"GET", "/sub/out/secret", "", 403, "", nil},
		{"GET", "/..%2fsecret", "", 404, "", nil},
		{"GET", "/%2e%2e/secret", "", 404, "", nil},
		{"GET", "/kernel%00", "", 404, "", nil},
		{"PUT", "/kernel", "", 405, "", nil},
		{"DELETE", "/kernel", "", 405, "", nil},
	} {
		r, err := http.NewRequestWithContext(t.Context(), c.method, "http://"+l.Addr().String()+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if c.ranged != "" {
			r.Header.Set("Range", c.ranged)
		}
		answer, err := web.Do(r)
		if err != nil {
			t.Errorf("%s %s: %v", c.method, c.path, err)
			continue
		}
		body, err := io.ReadAll(answer.Body)
		_ = answer.Body.Close()
		if err != nil || answer.StatusCode != c.code {
			t.Errorf("%s %s: %d %v, want %d", c.method, c.path, answer.StatusCode, err, c.code)
		}
		if c.kind != "" && answer.Header.Get("Content-Type") != c.kind {
			t.Errorf("%s %s: type %q, want %q", c.method, c.path, answer.Header.Get("Content-Type"), c.kind)
		}
		if c.body != nil && !bytes.Equal(body, c.body) {
			t.Errorf("%s %s: %d bytes, want %d", c.method, c.path, len(body), len(c.body))
		}
	}
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
	if n := h.slots.InUse(); n != 0 {
		t.Errorf("%d requests are counted after the end", n)
	}
}

// named is a guest's connection.
type named struct{ net.Conn }

func (named) Guest() string { return "web" }

// All addresses of a guest have one share.
func TestManyAddresses(t *testing.T) {
	d, _ := newDirectory(t, map[string][]byte{"f": {1}})
	h, err := NewHTTP(d)
	if err != nil {
		t.Fatal(err)
	}
	for range requestsOfOne {
		h.slots.Take("web")
	}
	for guest, want := range map[string]int{guestOf(named{}): 503, "db": 200} {
		r := httptest.NewRequestWithContext(context.WithValue(t.Context(), guestKey{}, guest), "GET", "/f", nil)
		w := httptest.NewRecorder()
		if h.ServeHTTP(w, r); w.Code != want {
			t.Errorf("%s: %d, want %d", guest, w.Code, want)
		}
	}
}

func TestManyRequests(t *testing.T) {
	d, _ := newDirectory(t, map[string][]byte{"f": {1}})
	h, err := NewHTTP(d)
	if err != nil {
		t.Fatal(err)
	}
	for range requestsOfOne {
		h.slots.Take("192.0.2.1")
	}
	for remote, want := range map[string]int{"192.0.2.1:5": 503, "192.0.2.2:5": 200, "not an address": 200} {
		r := httptest.NewRequestWithContext(t.Context(), "GET", "/f", nil)
		r.RemoteAddr = remote
		w := httptest.NewRecorder()
		if h.ServeHTTP(w, r); w.Code != want {
			t.Errorf("%s: %d, want %d", remote, w.Code, want)
		}
	}
	if n := h.Counters.TooMany.Value(); n != 1 {
		t.Errorf("%d counted, want 1", n)
	}
	if _, err := NewHTTP(nil); err == nil {
		t.Error("a server without a directory")
	}
}
