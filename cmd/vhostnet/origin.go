package main

import (
	"fmt"

	"github.com/hashicorp/hcl/v2"
)

// origin is where a user said something: a flag, or a place in a file.
type origin struct {
	what string     // such as "--port web"
	at   *hcl.Range // in a file; nil: on the command line
}

func (o origin) String() string {
	if o.at == nil {
		return o.what
	}
	place := fmt.Sprintf("%s:%d:%d", o.at.Filename, o.at.Start.Line, o.at.Start.Column)
	if o.what == "" {
		return place
	}
	return place + ": " + o.what
}

// startOf is where what a file does not say would be.
func startOf(file string) origin {
	return origin{at: &hcl.Range{Filename: file, Start: hcl.InitialPos, End: hcl.InitialPos}}
}

// mistake is an error of the user's, with the place where it was made.
type mistake struct {
	origin
	err error
}

func (m mistake) Error() string { return m.String() + ": " + m.err.Error() }
func (m mistake) Unwrap() error { return m.err }

// wrong makes a mistake of an error; no error stays none.
func (o origin) wrong(err error) error {
	if err == nil {
		return nil
	}
	return mistake{o, err}
}

func (o origin) errorf(format string, args ...any) error {
	return mistake{o, fmt.Errorf(format, args...)}
}

// mistakesOf are the errors that were joined, each by itself.
func mistakesOf(err error) (list []error) {
	joined, ok := err.(interface{ Unwrap() []error }) // not errors.As: what a mistake wraps is a part of it
	switch {
	case err == nil:
		return nil
	case !ok:
		return []error{err}
	}
	for _, e := range joined.Unwrap() {
		list = append(list, mistakesOf(e)...)
	}
	return list
}
