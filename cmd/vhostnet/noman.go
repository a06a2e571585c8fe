//go:build !man

package main

import "github.com/spf13/cobra"

// buildCommands are what only the build needs: see man.go.
func buildCommands() []*cobra.Command { return nil }
