#!/usr/bin/env bash
# Runs all mutants and writes their table into docs/security.md, between its
# two markers.
set -euo pipefail
cd "$(dirname "$0")/.."
table=$(go run ./internal/mutants -o markdown)
awk -v table="$table" '
	/^<!-- end of mutants -->$/ { skip = 0 }
	!skip { print }
	/^<!-- mutants/ { print ""; print table; print ""; skip = 1 }
' docs/security.md >docs/security.md.new
mv docs/security.md.new docs/security.md
