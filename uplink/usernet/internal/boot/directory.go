package boot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
)

// Directory is the files that guests may read. It may be used concurrently.
type Directory struct{ root *os.Root }

// Open opens a directory. What is in it may change at any time; a directory
// that takes its place is not seen.
func Open(name string) (*Directory, error) {
	root, err := os.OpenRoot(name)
	if err != nil {
		return nil, fmt.Errorf("boot: directory to boot from: %w", err)
	}
	return &Directory{root: root}, nil
}

// Close closes the directory. Files that are open stay so.
func (d *Directory) Close() error { return d.root.Close() }

// open opens a regular file by the name that a guest has for it: a path from
// the directory on, with slashes of either kind. Every error is either
// fs.ErrNotExist or fs.ErrPermission.
func (d *Directory) open(name string) (f *os.File, size int64, err error) {
	name = strings.TrimPrefix(path.Clean("/"+strings.ReplaceAll(name, `\`, "/")), "/")
	if name == "" || strings.ContainsRune(name, 0) {
		return nil, 0, fs.ErrNotExist
	}
	info, err := d.root.Stat(name) // before it is opened: that of a pipe would wait
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, 0, fs.ErrNotExist
	case err != nil || !info.Mode().IsRegular():
		return nil, 0, fs.ErrPermission
	}
	if f, err = d.root.Open(name); err != nil {
		return nil, 0, fs.ErrPermission
	}
	if info, err = f.Stat(); err != nil || !info.Mode().IsRegular() {
		_ = f.Close()
		return nil, 0, fs.ErrPermission
	}
	return f, info.Size(), nil
}
