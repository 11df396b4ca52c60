# `make demo` and `make test` do all set-up. `make help` lists the rest.

CACHE := $(or $(MILLRACE_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/millrace)
# One target folder for every clone on this machine: host and wadm take minutes to build.
export CARGO_TARGET_DIR ?= $(CACHE)/target
export MILLRACE_HOME := $(CURDIR)/build/dist
export PATH := $(PATH):/usr/sbin:/usr/local/sbin
CARGO := cargo
BIN := $(CARGO_TARGET_DIR)/debug
MILLRACE := $(MILLRACE_HOME)/bin/millrace
PROVIDERS := conduit mqtt kafka modbus gpio http

.PHONY: help
help: ## This list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

.PHONY: setup
setup: ## Install what building and testing need (quick when nothing is to be done)
	@scripts/setup

.PHONY: guests
guests: ## Build the wasm: harness and example steps
	@scripts/build-guests

.PHONY: build
build: setup guests ## Build everything into build/dist
	@scripts/own-target $(CARGO_TARGET_DIR)
	@echo "building (the first time takes half an hour on two cores)"
	$(CARGO) build --locked --workspace --bins
	@mkdir -p $(MILLRACE_HOME)/bin $(MILLRACE_HOME)/providers
	@for b in millrace millrace-host millrace-bench-connectors millrace-chaos; do \
	  cmp -s $(BIN)/$$b $(MILLRACE_HOME)/bin/$$b || install -m 755 $(BIN)/$$b $(MILLRACE_HOME)/bin/$$b; done
	@mkdir -p $(MILLRACE_HOME)/components && cp -pu build/components/*.wasm $(MILLRACE_HOME)/components/
	@for s in samples/*/; do mkdir -p $(MILLRACE_HOME)/$$s && for f in $$s*.yaml; do \
	  sed 's|\.\./\.\./build/components|../../components|' $$f > $(MILLRACE_HOME)/$$f; done; done
	@cp -ruL samples/three-languages $(MILLRACE_HOME)/samples/
	@for p in $(PROVIDERS); do \
	  par=$(MILLRACE_HOME)/providers/$$p.par.gz; \
	  { [ -L $$par ] && [ $$par -nt $(BIN)/millrace-$$p ]; } || $(MILLRACE) provider pack --name $$p --out $$par $(BIN)/millrace-$$p || exit 1; \
	  ls -t $(MILLRACE_HOME)/providers/$$p-*.par.gz | tail -n +4 | xargs -r rm -f; done

.PHONY: demo
demo: build ## A whole platform, a simulated machine and a pipeline; Ctrl-C ends it
	@$(MILLRACE) demo $(ARGS)

.PHONY: test
test: build ## Everything: format, lints, unit, property and end-to-end tests
	@scripts/check
	$(CARGO) test --locked --workspace --no-fail-fast
	cd components && CARGO_TARGET_DIR=$(CARGO_TARGET_DIR)/components $(CARGO) test --locked --workspace
	@scripts/gpio-vm test --locked --workspace

.PHONY: wash
wash: build ## The test with the ordinary `wash` and a tenant's credentials; builds wash first (some minutes)
	@scripts/setup wash
	$(CARGO) test --locked --workspace --test tenants -- --ignored wash

.PHONY: bench
bench: build ## Print the tables of speed and size, connectors beside their plain client libraries with them
	@$(MILLRACE) bench $(ARGS)
	@[ -n "$(ARGS)" ] || scripts/gpio-vm latency --locked --workspace

.PHONY: fuzz
fuzz: setup ## Feed any bytes to everything that reads foreign input, for half a minute each
	@scripts/fuzz

.PHONY: clean
clean: ## Remove what was built here (the shared cache stays)
	rm -rf build
