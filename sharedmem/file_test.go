package sharedmem

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vhostnet/internal/sys"
)

// V32: where it can, the file is made unable to shrink.
func TestV32_SealsShrink(t *testing.T) {
	baseline(t)
	for name, c := range map[string]struct {
		sealable bool
		seals    int
		want     bool
	}{
		"sealable":         {true, 0, true},
		"sealed by peer":   {true, sys.SealShrink | sys.SealGrow | sys.SealSeal, true},
		"grow sealed":      {true, sys.SealGrow, true},
		"no more seals":    {true, sys.SealSeal, false},
		"cannot be sealed": {false, 0, false},
	} {
		fd, err := sys.NewMemfd("test", page, sys.MemfdOptions{Sealable: c.sealable})
		if err != nil {
			t.Fatal(err)
		}
		if c.seals != 0 {
			if err := sys.AddSeals(fd, c.seals); err != nil {
				t.Fatal(err)
			}
		}
		f, err := OpenFile(fd)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := sys.Truncate(f.fd, 0); f.Sealed() != c.want || (err != nil) != c.want {
			t.Errorf("%s: sealed %v, truncation: %v", name, f.Sealed(), err)
		}
		f.Unref()
	}
}

// V33, V34: what is no memory is refused, closed, and the refusal helps.
func TestV33_OpenFileRefuses(t *testing.T) {
	baseline(t)
	path := filepath.Join("/dev/shm", "vhostnet-test-readonly")
	if err := os.WriteFile(path, make([]byte, page), 0o600); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.Remove(path) }()
	for name, c := range map[string]struct {
		path  string
		flags int
		want  string
	}{
		"procfs":    {"/proc/self/comm", os.O_RDWR, "memory-backend-memfd with share=on"},
		"device":    {"/dev/zero", os.O_RDWR, "share=on"},
		"directory": {"/dev/shm", os.O_RDONLY, "share=on"},
		"read-only": {path, os.O_RDONLY, "share=on"},
	} {
		f, err := os.OpenFile(c.path, c.flags, 0)
		if err != nil {
			t.Fatal(err)
		}
		dup, err := sys.OwnFD(int(f.Fd())).Dup()
		if err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
		if m, err := OpenFile(dup); err == nil {
			m.Unref()
			t.Errorf("%s: accepted", name)
		} else if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %q does not say %q", name, err, c.want)
		}
		if dup.Num() != -1 {
			t.Errorf("%s: not closed", name)
		}
	}
	if _, err := OpenFile(nil); err == nil {
		t.Error("no descriptor: accepted")
	}
}

func TestFileReferences(t *testing.T) {
	baseline(t)
	f, err := NewMemoryFile(3 * page)
	if err != nil {
		t.Fatal(err)
	}
	if f.Size() != 3*page || f.PageSize() != sys.PageSize() || !f.Sealed() {
		t.Errorf("%d bytes, pages of %d, sealed %v", f.Size(), f.PageSize(), f.Sealed())
	}
	d, err := f.Dup()
	if err != nil {
		t.Fatal(err)
	}
	if err := sys.Truncate(d, 4*page); err == nil {
		t.Error("our own memory can grow")
	}
	_ = d.Close()
	m, err := NewMap([]Region{{Size: page, File: f}}, MapOptions{})
	if err != nil {
		t.Fatal(err)
	}
	f.Unref()
	if f.Size() != 3*page {
		t.Error("the Map does not keep its File")
	}
	m.Unref()
	if f.Size() != 0 {
		t.Error("the File outlives its last reference")
	}
	if panics(f.Unref) == nil || panics(func() { f.Ref() }) == nil {
		t.Error("a dead File was used")
	}
	if _, err := NewMemoryFile(1 << 63); err == nil {
		t.Error("an impossible file was made")
	}
}
