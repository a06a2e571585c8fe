package sys

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestSpanMapsAndReleases(t *testing.T) {
	page := PageSize()
	fd := memfd(t, 4*page, MemfdOptions{})
	before := fileMappings()
	s := must[*Span](t)(Reserve(16 * page))
	for _, off := range []uint64{2 * page, 8 * page} {
		if err := s.Map(off, fd, page, 2*page); err != nil {
			t.Fatal(err)
		}
	}
	if n := fileMappings() - before; n != 2 {
		t.Errorf("%d mappings, want 2", n)
	}
	p, q := (*byte)(s.Pointer(2*page)), (*byte)(s.Pointer(8*page))
	*p = 42
	if *q != 42 {
		t.Error("two mappings of one page hold different bytes")
	}
	if flags := vmFlags(t, s.Addr()+uintptr(2*page)); !strings.Contains(flags, " dd ") {
		t.Errorf("mapping flags %q, want dd: not in core dumps", flags)
	}
	for range 2 {
		if err := s.Release(); err != nil {
			t.Fatal(err)
		}
	}
	if n := fileMappings() - before; n != 0 {
		t.Errorf("%d mappings left after Release", n)
	}
}

// vmFlags are the kernel's flags of the mapping at addr.
func vmFlags(t *testing.T, addr uintptr) string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	here := false
	for line := range strings.Lines(string(b)) {
		if head, _, ok := strings.Cut(line, "-"); ok && !strings.Contains(head, " ") {
			here = head == strings.TrimPrefix(hex(addr), "0x")
		}
		if here && strings.HasPrefix(line, "VmFlags:") {
			return line
		}
	}
	t.Fatalf("no mapping at %#x", addr)
	return ""
}

func hex(n uintptr) string {
	const digits = "0123456789abcdef"
	var s []byte
	for ; n != 0; n >>= 4 {
		s = append([]byte{digits[n&15]}, s...)
	}
	return string(s)
}

func TestSpanRefuses(t *testing.T) {
	page := PageSize()
	fd := memfd(t, page, MemfdOptions{})
	s := must[*Span](t)(Reserve(4 * page))
	defer func() { _ = s.Release() }()
	const most = 1<<64 - 1
	for _, c := range []struct{ off, fileOff, n uint64 }{
		{0, 0, 0},
		{0, 0, 5 * page},
		{4 * page, 0, page},
		{5 * page, 0, page},
		{page, 0, most},
		{most, 0, page},
		{0, 1 << 63, page},
		{1, 0, page},
		{0, 1, page},
	} {
		if err := s.Map(c.off, fd, c.fileOff, c.n); err == nil {
			t.Errorf("mapped %d bytes from %d at %d of a span of %d", c.n, c.fileOff, c.off, s.Len())
		}
	}
	for _, n := range []uint64{0, maxSpan + 1, most, maxSpan} {
		if s, err := Reserve(n); err == nil {
			t.Errorf("reserved %d bytes", n)
			_ = s.Release()
		}
	}
	if err := (*Span)(nil).Release(); err != nil {
		t.Errorf("release of nothing: %v", err)
	}
	defer func() {
		if recover() == nil {
			t.Error("a pointer behind the span")
		}
	}()
	s.Pointer(4 * page)
}

func TestV33_StatMemoryRefusesOtherFiles(t *testing.T) {
	mem := memfd(t, PageSize(), MemfdOptions{Sealable: true})
	sealed := memfd(t, PageSize(), MemfdOptions{Sealable: true})
	if err := AddSeals(sealed, SealWrite); err != nil {
		t.Fatal(err)
	}
	future := memfd(t, PageSize(), MemfdOptions{Sealable: true})
	if err := AddSeals(future, SealFutureWrite); err != nil {
		t.Fatal(err)
	}
	fifo := filepath.Join("/dev/shm", "vhostnet-test-fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.Remove(fifo) }()
	open := func(path string, flags int) func() (int, error) {
		return func() (int, error) { return unix.Open(path, flags|unix.O_CLOEXEC, 0) }
	}
	for name, c := range map[string]struct {
		open func() (int, error)
		want string // part of the refusal
	}{
		"directory":     {open("/dev/shm", unix.O_RDONLY), "type"},
		"/dev/zero":     {open("/dev/zero", unix.O_RDWR), "type"},
		"fifo on tmpfs": {open(fifo, unix.O_RDWR), "type"},
		"procfs":        {open("/proc/self/comm", unix.O_RDWR), "file system"},
		"eventfd":       {func() (int, error) { return unix.Eventfd(0, unix.EFD_CLOEXEC) }, "memory-backend-memfd"},
		"socket":        {func() (int, error) { return unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0) }, "type"},
		"read-only":     {open(procFD(mem.Num()), unix.O_RDONLY), "share=on"},
		"write-only":    {open(procFD(mem.Num()), unix.O_WRONLY), "share=on"},
		"O_PATH":        {open(procFD(mem.Num()), unix.O_PATH), "share=on"},
		"write-sealed":  {sealed.dupNum, "sealed"},
		"future-sealed": {future.dupNum, "sealed"},
	} {
		fd := OwnFD(must[int](t)(c.open()))
		_, err := StatMemory(fd)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want a refusal with %q", name, err, c.want)
		}
		_ = fd.Close()
	}
	if _, err := StatMemory(nil); err == nil {
		t.Error("no descriptor: accepted")
	}
}

func (f *FD) dupNum() (int, error) {
	d, err := f.Dup()
	return d.Take(), err
}

func TestStatMemory(t *testing.T) {
	got, err := StatMemory(memfd(t, 12345, MemfdOptions{}))
	if want := (MemoryFile{Size: 12345, PageSize: PageSize()}); err != nil || got != want {
		t.Errorf("memfd: %+v, %v; want %+v", got, err, want)
	}
	huge := memfd(t, 0, MemfdOptions{Huge: true})
	got, err = StatMemory(huge)
	if err != nil || !got.Huge || got.PageSize <= PageSize() {
		t.Errorf("huge memfd: %+v, %v", got, err)
	}
	file, err := os.CreateTemp("/dev/shm", "vhostnet-test-")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.Remove(file.Name()) }()
	defer func() { _ = file.Close() }()
	fd := OwnFD(must[int](t)(unix.Dup(int(file.Fd()))))
	defer func() { _ = fd.Close() }()
	if _, err := StatMemory(fd); err != nil {
		t.Errorf("a file on tmpfs: %v", err)
	}
}

func TestSeals(t *testing.T) {
	fd := memfd(t, PageSize(), MemfdOptions{Sealable: true})
	if Seals(fd) != 0 {
		t.Fatalf("a new file has seals %#x", Seals(fd))
	}
	if err := AddSeals(fd, SealShrink|SealSeal); err != nil {
		t.Fatal(err)
	}
	if Seals(fd) != SealShrink|SealSeal {
		t.Errorf("seals %#x", Seals(fd))
	}
	if err := Truncate(fd, 0); !errors.Is(err, unix.EPERM) {
		t.Errorf("shrinking a sealed file: %v", err)
	}
	if err := AddSeals(fd, SealGrow); !errors.Is(err, unix.EPERM) {
		t.Errorf("sealing a sealed file: %v", err)
	}
	if err := AddSeals(memfd(t, 0, MemfdOptions{}), SealShrink); err == nil {
		t.Error("a file that cannot be sealed was")
	}
	if err := Truncate(fd, 1<<63); err == nil {
		t.Error("an impossible size was set")
	}
	if Seals(nil) != 0 {
		t.Error("nothing has seals")
	}
	if _, err := NewMemfd("test", 1<<63, MemfdOptions{}); err == nil {
		t.Error("an impossible file was made")
	}
	if _, err := NewMemfd(strings.Repeat("x", 300), 0, MemfdOptions{}); err == nil {
		t.Error("a file with an impossible name was made")
	}
}

func TestPinThread(t *testing.T) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		t.Fatal(err)
	}
	cpu := 0
	for !set.IsSet(cpu) {
		cpu++
	}
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := PinThread(cpu); err != nil {
			result <- err
			return
		}
		var now unix.CPUSet
		err := unix.SchedGetaffinity(0, &now)
		if err == nil && (now.Count() != 1 || !now.IsSet(cpu)) {
			err = errors.New("the thread may run elsewhere")
		}
		Yield()
		result <- err
	}()
	if err := <-result; err != nil {
		t.Error(err)
	}
	for _, cpu := range []int{-1, 1 << 20, 1023} {
		if cpu == 1023 && set.IsSet(cpu) {
			continue
		}
		if err := PinThread(cpu); err == nil {
			t.Errorf("pinned to CPU %d", cpu)
		}
	}
}

func TestMaxMapCount(t *testing.T) {
	if n, err := MaxMapCount(); err != nil || n <= 0 {
		t.Errorf("%d mappings, %v", n, err)
	}
}
