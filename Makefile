# Everything that this project does, by name. `make` alone prints this list.
SHELL := /bin/bash
.DEFAULT_GOAL := help

TOOL := go tool -modfile=tools/go.mod
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null)

.PHONY: help install build run test check bench reset

help: ## Print what there is to make.
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: ## Install what is missing: Go modules, a Postgres server.
	@scripts/install.sh

build: ## Build bin/sluice.
	@CGO_ENABLED=0 go build -ldflags "-X main.release=$(VERSION)" -o bin/sluice ./cmd/sluice

run: install build ## Run Sluice with a page at http://127.0.0.1:8080/ and its own Postgres in ./data.
	@exec bin/sluice serve --dev

test: ## Install what is missing, then check and test everything, as CI does.
	@scripts/install.sh --test
	@$(MAKE) --no-print-directory check
	go test -race -timeout 25m ./...

check: ## Look at the format, go vet and staticcheck.
	@unformatted="$$($(TOOL) gofumpt -l $$(git ls-files '*.go'))"; \
	if [ -n "$$unformatted" ]; then echo "not formatted (run gofumpt -w):"; echo "$$unformatted"; exit 1; fi
	go vet ./...
	$(TOOL) staticcheck ./...

bench: build ## Measure a server beside a floor; minutes long, writes to the terminal.
	@scripts/bench.sh

reset: ## Empty ./data after asking.
	@scripts/reset.sh
