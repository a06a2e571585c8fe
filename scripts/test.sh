#!/usr/bin/env bash
# Everything once, the stages below in their order. Prints go test's own output and, at the end, the
# minutes of each stage. The first failure ends it.
set -euo pipefail
cd "$(dirname "$0")/.."
export CGO_ENABLED=0

summary=""
stage() { # NAME COMMAND...
	local name=$1 began=$SECONDS
	shift
	printf '\n== %s\n' "$name"
	"$@"
	local took=$((SECONDS - began))
	summary+=$(printf '%-12s %2d min %02d s' "$name" $((took / 60)) $((took % 60)))$'\n'
}

race() {
	CGO_ENABLED=1 go test -race -count=1 -shuffle=on -timeout 10m ./...
}

# The unit tests that need no more of the kernel than the emulator has. It does
# not order a store-release before a load-acquire, as arm64 does, nor tell the
# address of a SIGBUS: internal/disasm looks at the barriers instead of the
# litmus tests, and faults are tested on this machine only.
arm64() {
	GOARCH=arm64 VHOSTNET_CHAINS=50000 go test -short -count=1 -timeout 5m -exec qemu-aarch64-static \
		-skip 'V32|Fault|Guard|TestBudgetHugeFiles|TestV75_ArmAgainst|TestV75_PushAgainst|TestV75_NoLostWakeup|TestV42_Mutator' \
		./virtio ./metrics ./sharedmem ./virtqueue ./nbl
}

stage needs scripts/setup.sh test
stage build make --no-print-directory build
stage vet go vet -tags integration ./...
stage unit go test -count=1 -shuffle=on -timeout 10m ./...
stage rings env VHOSTNET_CHAINS=5200000 go test -count=1 -run 'Differential(Split|Packed)' -v -timeout 10m ./virtqueue
stage race race
stage arm64 arm64
stage doubleread make --no-print-directory doubleread
stage mutants make --no-print-directory mutants CI=1
stage fuzz env TARGETS='SplitChains|PackedChains|IndirectTable|NetHeader|MemTable' scripts/fuzz.sh
stage guests go test -tags integration -count=1 -v -timeout 40m ./integration/...
stage clients go test -tags integration -count=1 -v -timeout 10m ./uplink/usernet/internal/clients
stage faults go test -tags integration -count=1 -v -timeout 10m -run '^TestV79_' ./cmd/vhostnet
stage dpdk go test -tags integration -count=1 -v -timeout 10m ./bench/...

printf '\n%stotal        %2d min %02d s\n' "$summary" $((SECONDS / 60)) $((SECONDS % 60))
