SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

SHELL_SCRIPTS := $(shell grep -lsE '^\#!.*bash' lab/* lab/lib/* tools/* test/* demo/* bench/migration/* .ci/*)

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: deps
deps: ## Install the npm modules as locked
	npm install --no-save --no-audit --no-fund

.PHONY: tools
tools: ## Find or build kube-apiserver, etcd, consul, kubectl into .cache/tools (minutes, once)
	tools/install

.PHONY: build
build: ## Compile the operator into dist/
	npx tsc -p tsconfig.build.json

.PHONY: lab
lab: ## Start three sites on this machine, as root; installs what is missing (lab/status shows them)
	lab/up

.PHONY: lab-down
lab-down: ## End the lab and take away all of it
	lab/down

.PHONY: operator
operator: build ## Run the operator against the lab, in the foreground; log also in .lab/operator.log
	KUBECONFIG=.lab/kubeconfig node dist/controllers/main.js --consul http://198.51.100.11:8500 2>&1 | tee .lab/operator.log

.PHONY: demo
demo: ## Show it all on this machine, as root: two tenants, pings, a live migration, times beside the paper's
	demo/up

.PHONY: demo-down
demo-down: ## End the demo and take away all of it
	demo/down

.PHONY: bench
bench: build ## Measure the operator in the lab against a floor of direct calls; ARGS='--quick --only network'
	npx tsx bench/main.ts $(ARGS)

.PHONY: bench-migration
bench-migration: build ## Measure moves as the paper's Table 5 does, each beside bare libvirt; ARGS='--docs'
	bench/migration/run $(ARGS)

.PHONY: generate
generate: ## Write what is generated from the schemas: crds/*.yaml
	npm run --silent generate

checks := generated format types lint exports scripts
.PHONY: verify $(checks:%=verify-%)
verify: $(checks:%=verify-%) ## Check that generated files are up to date, format, lint, types, dead exports, shell scripts
verify-generated: ; npm run --silent generate -- --check
verify-format: ; npx prettier --check --log-level warn .
verify-types: ; npx tsc --noEmit
verify-lint: ; npx eslint .
verify-exports: ; npx knip
verify-scripts: ; shellcheck $(SHELL_SCRIPTS)

.PHONY: test
test: ## Everything that must hold, from lint to end-to-end in the lab (as root)
	test/run

.PHONY: test-faults
test-faults: build ## The operator killed at every effect of its work or its reply lost; lines, daemons and guests failing (as root, well over an hour)
	test/run --faults
