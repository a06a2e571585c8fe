package main

import (
	"encoding/json"
	"errors"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// maxNesting is how deep brackets and signs may be nested in a file. A
// configuration needs four levels.
const maxNesting = 100

// checkNesting refuses what would make the parser of HCL, which is recursive
// and has no bound of its own, use up the stack: that ends a Go program, also
// one that only read a file anew.
func checkNesting(src []byte, file string) error {
	tokens, _ := hclsyntax.LexConfig(src, file, hcl.InitialPos) // the parser says what is wrong with them
	depth, signs := 0, 0
	for _, t := range tokens {
		sign := false
		switch t.Type {
		case hclsyntax.TokenOBrace, hclsyntax.TokenOBrack, hclsyntax.TokenOParen, hclsyntax.TokenTemplateInterp, hclsyntax.TokenTemplateControl:
			depth++
		case hclsyntax.TokenCBrace, hclsyntax.TokenCBrack, hclsyntax.TokenCParen, hclsyntax.TokenTemplateSeqEnd:
			depth = max(0, depth-1)
		case hclsyntax.TokenBang, hclsyntax.TokenMinus:
			sign = true
		default:
		}
		if sign {
			signs++
		} else {
			signs = 0
		}
		if depth+signs > maxNesting {
			return origin{at: &t.Range}.errorf("brackets are nested deeper than %d levels", maxNesting)
		}
	}
	return nil
}

// checkJSON refuses what is no JSON, and what is nested too deep for the
// parser behind it: the library's has a bound.
func checkJSON(src []byte, file string) error {
	var syntax *json.SyntaxError
	err := json.Unmarshal(src, new(json.RawMessage))
	if !errors.As(err, &syntax) {
		return err
	}
	at := hcl.Range{Filename: file, Start: position(src, syntax.Offset)}
	return origin{at: &at}.wrong(err)
}

// position is that of the byte before offset.
func position(src []byte, offset int64) hcl.Pos {
	p := hcl.InitialPos
	for _, b := range src[:max(0, min(int64(len(src)), offset)-1)] {
		p.Byte++
		p.Column++
		if b == '\n' {
			p.Line, p.Column = p.Line+1, 1
		}
	}
	return p
}
