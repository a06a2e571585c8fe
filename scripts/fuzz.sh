#!/usr/bin/env bash
# Every fuzz target of the tree, FUZZTIME each (default 20s). TARGETS, a regular
# expression, chooses.
set -euo pipefail
cd "$(dirname "$0")/.."
time=${FUZZTIME:-20s}
grep -rlE --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u | while read -r dir; do
	grep -hoE '^func Fuzz[A-Za-z0-9_]+' "$dir"/*_test.go | awk '{print $2}' | { grep -E "${TARGETS:-.}" || true; } | while read -r target; do
		echo "== $dir $target"
		go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 1s "$dir"
	done
done
