# Run `make` for a list of targets.

SHELL := /bin/bash
.DEFAULT_GOAL := help

# A checkout owned by somebody else, as in many CI systems, has no usable
# version stamp, and go build would fail over it.
export GOFLAGS := $(strip $(GOFLAGS) -buildvcs=false)

# Sets of build tags that CI tests; "none" is the plain build. Tags of one set
# are joined by commas. The last one has all of them: its tests run with the race
# detector.
TAGSETS ?= none compression crdt compression,crdt

STATICCHECK ?= honnef.co/go/tools/cmd/staticcheck@v0.8.2
FUZZTIME ?= 10s
TAGS ?=
TESTFLAGS ?=

# The packages that a test run is about, the longest first. PACKAGES=tagged stands for those that
# are about what tags change: the stores, and items that are merged into. The promises, kills,
# several engines and what stands on the engine run without tags and with all of them, and so do the
# longest tests of those: what they are about is no different with one tag.
PACKAGES ?= all
ATBOTHENDS = TestSQLStores|TestSQLStoreOnTheCallersOwnHandle|TestRedisClusterStore|TestINV14ACommitOnItsWayHoldsUpTheAnswer

# tests FLAGS: runs all tests and reports on them; a skipped test is a failure
# unless .ci/allowed-skips names it. go test's own verdict counts too (pipefail).
define tests
set -o pipefail; packages="./internal/promises ./internal/machines ./internal/neighbours ./..."; \
	[ $(PACKAGES) = all ] || packages="$$($(tagged)) -skip=^($(ATBOTHENDS))$$"; \
	SYNCENGINE_REQUIRE_SERVERS=1 \
	go test -json -count=1 -timeout=20m -parallel=4 -tags='$(TAGS)' $(TESTFLAGS) $(1) $$packages \
	| go run ./internal/testreport -allow .ci/allowed-skips -slowest 20
endef

tagged = go list -tags='$(TAGS)' -f '{{.ImportPath}} {{join .TestImports " "}} {{join .XTestImports " "}}' ./... \
	| awk -v root=$$(go list -m) '{ for (i = 1; i <= NF; i++) if ($$i == root) { print $$1; next } }' | grep -v '/promises$$\|/machines$$\|/crash$$\|/neighbours$$\|/fleetsim$$\|/inspect$$\|/syncenginetest$$\|/examples/\|/cmd/'

.PHONY: help
help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 12

.PHONY: demo
demo: ## run the quickstart example
	go run ./examples/quickstart

.PHONY: servers
servers: ## install redis-server and mariadb-server if they are missing
	@./.ci/servers.sh

.PHONY: test
test: servers ## run all tests against real servers; no test may be skipped
	@$(call tests,)

MYSQLD ?=

.PHONY: mysql
mysql: servers ## run all tests with MySQL in MariaDB's place: make mysql MYSQLD=/usr/sbin/mysqld
	@[ -n '$(MYSQLD)' ] || { echo "which mysqld? make mysql MYSQLD=/usr/sbin/mysqld" >&2; exit 1; }
	@export SYNCENGINE_MYSQLD='$(MYSQLD)'; $(call tests,)

# SQLite is a translation of C, with locks of its own: the detector would make it ten times slower, and
# has nothing to find in it.
RACE = -race -gcflags='modernc.org/sqlite/lib=-race=false'

.PHONY: race
race: servers gcc ## the same with the race detector
	@$(call tests,$(RACE))

.PHONY: gcc
gcc:
	@cc=$$(go env CC); command -v "$${cc%% *}" >/dev/null || { \
		echo "The race detector needs cgo and a C compiler: install gcc (apt-get install gcc libc6-dev)." >&2; exit 1; }

.PHONY: lint
lint: ## gofmt, go vet and staticcheck, without tags and with all: each file is in one of the two
	@files=$$(gofmt -l .); if [ -n "$$files" ]; then echo "not formatted by gofmt:"; echo "$$files"; exit 1; fi
	@set -e; for set in $(sort $(firstword $(TAGSETS)) $(lastword $(TAGSETS))); do tags=$${set/#none/}; \
		echo "go vet -tags='$$tags' ./..."; go vet -tags="$$tags" ./...; \
		echo "staticcheck -tags='$$tags' ./..."; go run $(STATICCHECK) -tags="$$tags" ./...; \
	done

# Types are checked for systems and processors that the tests don't run on. Building all for them
# takes minutes, and finds no more.
.PHONY: elsewhere
elsewhere: ## check the types for Windows, macOS and 32 bits
	go run ./internal/elsewhere -tags '$(lastword $(TAGSETS))' windows/amd64 darwin/arm64 linux/386

# All tests run without tags, and, with fewer drawn cases (-short), with all tags and the race
# detector, which takes several times as long. Between, those run that the tags of a set can reach.
.PHONY: ci
ci: lint elsewhere servers gcc ## everything CI runs (.ci/run calls this)
	@set -e; for set in $(TAGSETS); do tags=$${set/#none/}; \
		echo "== tags: $$set"; go build -tags="$$tags" ./...; \
		how=test; packages=tagged; short=-short; \
		if [ "$$set" = none ]; then packages=all; short=; fi; \
		if [ "$$set" = "$(lastword $(TAGSETS))" ]; then how=race; packages=all; fi; \
		$(MAKE) --no-print-directory $$how TAGS="$$tags" PACKAGES=$$packages TESTFLAGS="$$short $(TESTFLAGS)"; \
	done
	@if [ -f bench/go.mod ]; then echo "== bench"; cd bench && go vet ./... && go test -count=1 ./byhand/lines; fi

.PHONY: reference
reference: ## write docs/reference.md from the comments of Config and Events
	go run ./internal/docs

.PHONY: postgres
postgres: ## vet and test the example of a store on Postgres, a module of its own
	cd examples/postgres && go vet ./... && go test -count=1 ./...

.PHONY: cluster
cluster: servers ## test against Redis Cluster, Sentinel and MariaDB Galera, and print what was counted; five minutes
	go vet -tags=cluster ./internal/cluster
	SYNCENGINE_REQUIRE_SERVERS=1 go test -count=1 -timeout=20m -v -tags=cluster $(TESTFLAGS) ./internal/cluster

.PHONY: otel
otel: ## vet and test the spans of OpenTelemetry, a module of its own
	cd otelsyncengine && go vet ./... && go test -count=1 ./...

FLEETSIM ?= 10m

.PHONY: fleetsim
fleetsim: servers ## a fleet in trouble for FLEETSIM (10m), against a model
	SYNCENGINE_REQUIRE_SERVERS=1 go test -count=1 -timeout=0 -v -run AFleetInTrouble ./internal/fleetsim -fleetsim.for=$(FLEETSIM)

.PHONY: bench
bench: servers ## run the benchmarks, those of the nested module too
	go test -run '^$$' -bench . -benchmem ./...
	@if [ -f bench/go.mod ]; then cd bench && go test -run '^$$' -bench . -benchmem ./...; fi

.PHONY: table
table: servers ## measure beside code that is not ours: the table of BENCHMARKS.md; half an hour
	cd bench && go test -count=1 -timeout=0 -v -run Table $(TESTFLAGS) ./table $(TABLEFLAGS)

.PHONY: curves
curves: servers ## measure how time and memory grow with items, callers and sizes, and draw docs/curves.svg and docs/loads.svg
	cd bench && go test -count=1 -timeout=0 -v -run Curves $(TESTFLAGS) ./table $(CURVEFLAGS) -svg $(CURDIR)/docs/curves.svg
	cd bench && go test -count=1 -timeout=0 -v -run Loads $(TESTFLAGS) ./table -rounds 3 -svg $(CURDIR)/docs/loads.svg

.PHONY: lines
lines: ## lines of the catalogue example beside the same by hand
	@cd bench && go run ./byhand/lines

# What a test calls in another package counts: those of internal/promises cover the root.
.PHONY: cover
cover: servers ## measure what all tests cover together, into cover.out
	SYNCENGINE_REQUIRE_SERVERS=1 go test -count=1 -timeout=20m -parallel=4 -tags='$(TAGS)' $(TESTFLAGS) \
		-coverpkg=./... -coverprofile=cover.out ./...
	@go tool cover -func=cover.out | tail -1

.PHONY: fuzz
fuzz: ## run each fuzz target for FUZZTIME (10s)
	@set -e -o pipefail; for pkg in $$(go list ./...); do \
		for name in $$(go test -list '^Fuzz' "$$pkg" | grep '^Fuzz' || true); do \
			echo "== $$pkg $$name"; go test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) "$$pkg"; \
		done; \
	done

.PHONY: clean
clean: ## remove what tests and the demo leave behind
	rm -rf cover.out
	find . -name '*.test' -type f -delete
	find . -path '*/testdata/rapid' -prune -exec rm -rf {} +
