package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclparse"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
)

// maxFile bounds a configuration file, in bytes: thousands of ports fit.
const maxFile = 1 << 20

// withFile is o and what the configuration file adds: settings that no flag
// gives, and ports. Without a file it is o. The error joins the mistakes in the
// file; if nothing can be told of it, the options are nil.
func (o *runOptions) withFile() (*runOptions, error) {
	if o.file == "" {
		return o, nil
	}
	body, err := readFile(o.file)
	if err != nil {
		return nil, err
	}
	r := &fileReader{file: o.file, settings: map[string]setting{}}
	r.readRoot(body)
	slices.SortStableFunc(r.mistakes, func(a, b mistake) int {
		return cmp.Compare(a.at.Start.Byte, b.at.Start.Byte) // the library goes through maps
	})
	errs := make([]error, len(r.mistakes))
	for i, m := range r.mistakes {
		errs[i] = m
	}
	merged, err := o.merge(r)
	return merged, errors.Join(append(errs, err)...)
}

// merge makes options of those flags that were given and, for the others, of
// the file.
func (o *runOptions) merge(r *fileReader) (*runOptions, error) {
	merged := *o
	merged.places, merged.filePorts = map[string]hcl.Range{}, r.ports
	flags := merged.newSettings()
	var errs []error
	flags.VisitAll(func(f *pflag.Flag) {
		if given := o.flags.Lookup(f.Name); given != nil && given.Changed {
			errs = append(errs, flags.Set(f.Name, given.Value.String()))
			return
		}
		s, ok := r.settings[f.Name]
		if !ok {
			return
		}
		merged.places[f.Name] = s.at
		if err := flags.Set(f.Name, s.value); err != nil {
			errs = append(errs, merged.said(f.Name, s.value).errorf("want %s", kindOf(f)))
		}
	})
	return &merged, errors.Join(errs...)
}

// newSettings are the flags of addSettings, with their defaults, which it sets.
func (o *runOptions) newSettings() *pflag.FlagSet {
	cmd := &cobra.Command{}
	o.addSettings(cmd)
	return cmd.Flags()
}

// unreadable is a file of which nothing is known.
type unreadable struct{ err error }

func (e unreadable) Error() string {
	return fmt.Sprintf("configuration file: %v; see vhostnet run --help", e.err)
}
func (e unreadable) Unwrap() error { return e.err }

// readFile parses a file: JSON if its name says so, HCL otherwise.
func readFile(path string) (hcl.Body, error) {
	src, err := readBounded(path)
	if err != nil {
		return nil, unreadable{err}
	}
	parser := hclparse.NewParser()
	look, parse := checkNesting, parser.ParseHCL
	if filepath.Ext(path) == ".json" {
		look, parse = checkJSON, parser.ParseJSON
	}
	if err := look(src, path); err != nil {
		return nil, err
	}
	file, diags := parse(src, path)
	if !diags.HasErrors() {
		return file.Body, nil
	}
	r := &fileReader{file: path}
	r.diagnose(diags)
	return nil, r.mistakes[0] // what follows the first error of syntax is guesses
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	src, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(src) > maxFile {
		err = fmt.Errorf("%s has more than %d bytes", path, maxFile)
	}
	return src, err
}

// setting is the value of a setting in the file.
type setting struct {
	value string
	at    hcl.Range
}

// fileReader collects what a file says, and what is wrong with it.
type fileReader struct {
	file     string
	settings map[string]setting // by the name of their flag
	ports    []portSpec
	network  string // name of the switch whose block is read; "": of none
	mistakes []mistake
}

func (r *fileReader) wrong(at hcl.Range, what string, err error) {
	r.mistakes = append(r.mistakes, mistake{origin{what, &at}, err})
}

// diagnose takes over what the library found.
func (r *fileReader) diagnose(diags hcl.Diagnostics) {
	for _, d := range diags {
		at := startOf(r.file).at
		if d.Subject != nil {
			at = d.Subject
		}
		r.wrong(*at, strings.ToLower(d.Summary[:1])+d.Summary[1:], errors.New(d.Detail))
	}
}

func (r *fileReader) readRoot(body hcl.Body) {
	content, diags := body.Content(bodySchema(settingKeys, blocks...))
	r.diagnose(diags)
	r.each(content, "", settingKeys, func(k key, value string, at hcl.Range) error {
		r.settings[k.option] = setting{value, at}
		return nil
	})
	for _, b := range content.Blocks {
		r.readBlock(b)
	}
}

func (r *fileReader) readBlock(b *hcl.Block) {
	switch b.Type {
	case "switch":
		r.readSwitch(b)
	case "uplink":
		r.readUplink(b)
	default:
		r.readPort(b)
	}
}

// readSwitch reads the ports of a switch.
func (r *fileReader) readSwitch(b *hcl.Block) {
	name := b.Labels[0]
	what := fmt.Sprintf("switch %q", name)
	if !portName.MatchString(name) {
		r.wrong(b.LabelRanges[0], what, errors.New("want a name of at most 63 letters, digits, '.', '_' and '-'"))
	}
	r.network = name
	defer func() { r.network = "" }()
	content, diags := b.Body.Content(bodySchema(nil, "port", "uplink"))
	r.diagnose(diags)
	for _, p := range content.Blocks {
		r.readBlock(p)
	}
}

// readUplink reads an uplink; its device is called as its port unless the file
// says otherwise.
func (r *fileReader) readUplink(b *hcl.Block) {
	what := fmt.Sprintf("uplink %q %q", b.Labels[0], b.Labels[1])
	p, err := newUplinkSpec(b.Labels[0], b.Labels[1], origin{what, &b.DefRange})
	if m, ok := errors.AsType[mistake](err); ok {
		r.mistakes = append(r.mistakes, m)
		return
	}
	p.network = r.network
	keys := slices.Concat(uplinkKinds[p.uplink.kind].keys, uplinkKeys)
	content, diags := b.Body.Content(bodySchema(keys))
	r.diagnose(diags)
	if p.uplink.kind == "tap" {
		p.uplink.tap.device = p.name
	}
	read := map[string]bool{}
	r.each(content, what, keys, func(k key, value string, _ hcl.Range) error {
		read[k.name] = true
		return p.uplinkOption(k.option, value)
	})
	check := p.consistentUplink
	for _, name := range uplinkKinds[p.uplink.kind].basis {
		if content.Attributes[name] != nil && !read[name] {
			check = p.switching.consistent // by what stands for it all else would be wrong
		}
	}
	for _, err := range mistakesOf(check()) {
		r.wrong(rangeOf(err, content, keys, b.DefRange), what, err)
	}
	r.ports = append(r.ports, p)
}

// rangeOf is where the option is that an error is about; elsewhere: nothing says so.
func rangeOf(err error, content *hcl.BodyContent, keys []key, elsewhere hcl.Range) hcl.Range {
	if o, ok := errors.AsType[optionError](err); ok {
		for _, k := range keys {
			if attr := content.Attributes[k.name]; attr != nil && k.option == o.option {
				return attr.Expr.Range()
			}
		}
	}
	return elsewhere
}

func (r *fileReader) readPort(b *hcl.Block) {
	p := portSpec{name: b.Labels[0], fd: -1, said: origin{fmt.Sprintf("port %q", b.Labels[0]), &b.DefRange}}
	p.network = r.network
	if !portName.MatchString(p.name) {
		r.wrong(b.LabelRanges[0], p.said.what, errors.New("want a name of at most 63 letters, digits, '.', '_' and '-', such as web"))
		return
	}
	content, diags := b.Body.Content(bodySchema(portKeys))
	r.diagnose(diags)
	r.each(content, p.said.what, portKeys, func(k key, value string, at hcl.Range) error {
		if k.name != socketKey {
			return p.option(k.option, value)
		}
		err := p.putAt(value)
		p.from = origin{p.said.what, &at}.String()
		return err
	})
	if _, ok := content.Attributes[socketKey]; !ok {
		r.wrong(b.DefRange, p.said.what, errors.New("it has no socket; want one such as socket = \"/run/vhostnet/web.sock\""))
	}
	if err := errors.Join(p.consistent(), p.switching.consistent()); err != nil {
		r.wrong(b.DefRange, p.said.what, err)
	}
	r.ports = append(r.ports, p)
}

// each calls take for the attributes of a body, in the order of keys. What it
// finds wrong is in what.
func (r *fileReader) each(content *hcl.BodyContent, what string, keys []key, take func(k key, value string, at hcl.Range) error) {
	for _, k := range keys {
		attr, ok := content.Attributes[k.name]
		if !ok {
			continue
		}
		v, diags := attr.Expr.Value(nil)
		if diags.HasErrors() {
			r.diagnose(diags)
			continue
		}
		values, err := k.kind.flags(v)
		if err != nil {
			err = fmt.Errorf("%s: %w", k.name, err)
		}
		for _, value := range values {
			err = errors.Join(err, take(k, value, attr.Expr.Range()))
		}
		for _, err := range mistakesOf(err) {
			r.wrong(attr.Expr.Range(), what, err)
		}
	}
}

// flags writes a value as flags have it: once, or each by itself.
func (k kind) flags(v cty.Value) ([]string, error) {
	if k == each {
		return listWords(v)
	}
	s, err := k.flag(v)
	if err != nil {
		return nil, err
	}
	return []string{s}, nil
}

// flag writes a value as flags have it.
func (k kind) flag(v cty.Value) (string, error) {
	switch k {
	case scalar:
		return scalarFlag(v)
	case onOff:
		if v.Type() != cty.Bool || v.IsNull() {
			return "", errors.New("want true or false")
		}
		if v.True() {
			return "on", nil
		}
		return "off", nil
	case plus, comma:
		words, err := listWords(v)
		if k == plus {
			return strings.Join(words, "+"), err
		}
		return strings.Join(words, ","), err
	case each:
	}
	return "", fmt.Errorf("a key of kind %d, which is none", k)
}

func scalarFlag(v cty.Value) (string, error) {
	if v.IsNull() || v.Type() != cty.String && v.Type() != cty.Number {
		return "", errors.New("want a string or a number")
	}
	s, err := convert.Convert(v, cty.String)
	if err != nil {
		return "", err
	}
	return s.AsString(), nil
}

// listWords are the elements of a list.
func listWords(v cty.Value) (words []string, err error) {
	if v.IsNull() || !v.Type().IsTupleType() {
		return nil, errors.New("want a list such as [1, 2]")
	}
	for _, element := range v.AsValueSlice() {
		word, err := scalarFlag(element)
		if err != nil {
			return nil, fmt.Errorf("in the list: %w", err)
		}
		words = append(words, word)
	}
	return words, nil
}
