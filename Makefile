# The habits of this repository. `make help` lists them.
GO      ?= go
TOOL    := $(GO) tool -modfile=tools/go.mod
PKGS    := ./...
export CGO_ENABLED := 0

.PHONY: help build test unit race fuzz integration doubleread mutants check lint fmt tidy vuln bench conformance bench-dpdk bench-peers bench-bound bench-net bench-restart demo soak man install clean

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## bin/vhostnet, static
	$(GO) build -trimpath -o bin/vhostnet ./cmd/vhostnet

test: ## everything once: needs, unit, race, fuzz seeds, guests, DPDK (root installs what is missing)
	@scripts/test.sh

unit: ## unit tests
	$(GO) test -count=1 -shuffle=on $(PKGS)

race: ## unit tests under the race detector
	CGO_ENABLED=1 $(GO) test -race -count=1 -shuffle=on $(PKGS)

fuzz: ## every fuzz target for FUZZTIME (default 20s); TARGETS=REGEXP chooses
	@scripts/fuzz.sh

doubleread: ## no word of guest memory is read twice for one decision
	$(GO) test -tags doubleread -count=1 -run 'P2_|DoubleRead' ./virtqueue ./nbl ./netdev

mutants: ## plant each defect of testdata/mutants; a test must fail (CI=1: the chosen ones, ONLY=PREFIX, FORMAT=markdown)
	@$(GO) run ./internal/mutants $(if $(CI),-short) -o $(or $(FORMAT),table) $(ONLY)

integration: build ## guests in QEMU and DPDK's front-end against vhostnet
	$(GO) test -tags integration -count=1 -v -timeout 40m ./integration/... ./bench/...
	$(GO) test -tags integration -count=1 -v -timeout 10m -run '^TestV79_' ./cmd/vhostnet

check: ## format, lint, vet, race tests, tidy
	@scripts/check.sh

fmt: ## write the format that check asks for
	$(TOOL) golangci-lint fmt

lint:
	$(TOOL) golangci-lint run

tidy:
	$(GO) mod tidy && cd tools && $(GO) mod tidy

vuln: ## known vulnerabilities in what is linked (in no gate: the answer changes without us)
	$(TOOL) govulncheck $(PKGS)

bench: ## stage costs over vqtest, then each row of docs/performance.md as a ratio beside its goal (IDLE=60s)
	$(GO) test -run '^$$' -bench . -benchmem -count=1 ./bench/... ./virtqueue/... ./vswitch/... ./nbl/...
	$(GO) test -run '^$$' -bench '^BenchmarkPath$$' -benchmem -count=1 ./netdev
	$(GO) test -run '^$$' -bench '^BenchmarkRow' -benchtime 200x -count=1 ./netdev
	VHOSTNET_IDLE=$(or $(IDLE),60s) $(GO) test -run '^TestIdlePortsCostNothing$$' -count=1 -v ./cmd/vhostnet

conformance: build ## docs/conformance.md: what vhostnet and DPDK's own back-end make of "vhostnet conform"
	VHOSTNET=$(CURDIR)/bin/vhostnet $(GO) run ./integration/conformance > docs/conformance.md.new
	mv docs/conformance.md.new docs/conformance.md

bench-dpdk: build ## VM to VM against DPDK's own back-end, with DPDK as front-end
	$(GO) run ./bench/dpdk

bench-peers: build ## the same, with Open vSwitch with DPDK: five rounds in turn, 64 B and 1518 B (scripts/setup.sh bench)
	$(GO) run ./bench/dpdk -backend vhostnet,dpdk,ovs -sizes 64,1518 -runs 5

bench-bound: build ## what the machine allows: vhostnet and DPDK's back-end beside one that only takes, copies and gives back
	$(GO) build -o bin/bare ./bench/bare
	$(GO) run ./bench/dpdk -backend vhostnet,dpdk,bare,rings -sizes 64,512,1518 -packed=off,on -windows 20 -seconds 0.2

bench-net: build ## a guest's network: vhostnet's user-mode one against slirp, passt and QEMU's TAP
	$(GO) run ./bench/net

bench-restart: build ## 50 kills of vhostnet under load, with split and with packed rings: how long until frames come through again
	VHOSTNET=$(CURDIR)/bin/vhostnet VHOSTNET_KILLS=$(or $(KILLS),50) $(GO) test -tags integration -count=1 -v -timeout 40m -run '^TestRestart(Packed)?$$' ./integration

demo: ## two guests with a user-mode network: DHCP, names, pages, ping, iperf3; CONSOLE=1 leaves one open
	@scripts/demo.sh

soak: build ## long amounts of what test runs shortly; LONG=1 ten times as long with guests
	VHOSTNET_SOAK=1 $(GO) test -count=1 -timeout 4h ./vhostuser/... ./virtqueue/... ./netdev/...
	VHOSTNET_PACED=10m $(GO) test -count=1 -timeout 2h -v -run '^TestPacedTrafficIsNotDropped$$' ./netdev
	VHOSTNET=$(CURDIR)/bin/vhostnet VHOSTNET_KILLS=$(if $(LONG),1000,100) VHOSTNET_MIGRATIONS=$(if $(LONG),100,20) VHOSTNET_PAGE=200 $(GO) test -tags integration -count=1 -v -timeout 4h -run 'Restart|Migration|UserNetwork' ./integration
	FUZZTIME=10m scripts/fuzz.sh
	$(MAKE) --no-print-directory mutants

# make install takes these; DESTDIR goes before all of them.
PREFIX     ?= /usr/local
BINDIR     ?= $(PREFIX)/bin
MANDIR     ?= $(PREFIX)/share/man/man1
DATADIR    ?= $(PREFIX)/share
SYSCONFDIR ?= /etc
UNITDIR    ?= $(PREFIX)/lib/systemd/system
BACKENDDIR ?= $(DATADIR)/qemu/vhost-user

man: ## bin/man: the manual, a page for each command
	rm -rf bin/man && mkdir -p bin/man
	$(GO) run -tags man ./cmd/vhostnet man bin/man

install: build man ## the program, manual, completion, systemd unit, QEMU's back-end descriptor and an example; DESTDIR, PREFIX
	@scripts/install.sh "$(DESTDIR)" "$(BINDIR)" "$(MANDIR)" "$(DATADIR)" "$(SYSCONFDIR)" "$(UNITDIR)" "$(BACKENDDIR)"

clean: ## what build and tests left
	rm -rf bin .cache
