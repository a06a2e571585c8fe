package integration

import (
	"fmt"
	"io"
	"io/fs"
)

// archive writes a cpio archive of the kind that Linux unpacks as its first
// root file system ("newc", Documentation/driver-api/early-userspace/
// buffer-format). The first error is kept and returned by close.
type archive struct {
	w       io.Writer
	inode   uint32
	written int64
	err     error
}

// File types in a mode, as in <sys/stat.h>.
const (
	typeRegular   = 0o100000
	typeDirectory = 0o040000
	typeSymlink   = 0o120000
	typeCharacter = 0o020000
)

// trailer is the name of the entry that ends an archive.
const trailer = "TRAILER!!!"

func (a *archive) directory(name string) { a.entry(name, typeDirectory|0o755, 0, 0, nil) }

func (a *archive) file(name string, perm fs.FileMode, data []byte) {
	a.entry(name, typeRegular|uint32(perm.Perm()), 0, 0, data)
}

func (a *archive) symlink(name, target string) {
	a.entry(name, typeSymlink|0o777, 0, 0, []byte(target))
}

func (a *archive) device(name string, perm fs.FileMode, major, minor uint32) {
	a.entry(name, typeCharacter|uint32(perm.Perm()), major, minor, nil)
}

func (a *archive) close() error {
	a.entry(trailer, 0, 0, 0, nil)
	return a.err
}

// entry writes one entry: the magic, 13 fields of 8 hexadecimal digits, the
// name with its zero byte and the data, both padded to 4 bytes.
func (a *archive) entry(name string, mode, major, minor uint32, data []byte) {
	a.inode++
	const uid, gid, links, mtime, devMajor, devMinor, check = 0, 0, 1, 0, 0, 0, 0
	a.write(fmt.Appendf(nil, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		a.inode, mode, uid, gid, links, mtime, len(data), devMajor, devMinor, major, minor, len(name)+1, check))
	a.write(append([]byte(name), 0))
	a.pad()
	a.write(data)
	a.pad()
}

func (a *archive) pad() { a.write(make([]byte, -a.written&3)) }

func (a *archive) write(p []byte) {
	if a.err != nil {
		return
	}
	n, err := a.w.Write(p)
	a.written += int64(n)
	a.err = err
}
