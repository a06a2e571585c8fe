#!/usr/bin/env bash
# What a change must pass before it is offered: format, lint, vet, race tests,
# tidy module files.
set -euo pipefail
cd "$(dirname "$0")/.."
tool() { go tool -modfile=tools/go.mod "$@"; }
echo "== format"
tool golangci-lint fmt --diff
echo "== lint"
tool golangci-lint run
tool golangci-lint run --build-tags integration
tool golangci-lint run --build-tags doubleread
echo "== vet"
go vet ./...
go vet -tags integration ./...
go vet -tags doubleread ./...
GOARCH=arm64 go vet ./...
echo "== tidy"
go mod tidy -diff
(cd tools && go mod tidy -diff)
echo "== race"
CGO_ENABLED=1 go test -race -count=1 -shuffle=on ./...
