# The one door. `make` alone says what there is.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
STATE ?= .local
TASKS ?= 1
CORES := $(shell getconf _NPROCESSORS_ONLN)
# Tests wait for servers most of the time: three workers for each core keep it busy.
WORKERS ?= $(shell expr 3 \* $(CORES))
LOCK := $(VENV)/bin/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
	--no-header --no-annotate --no-emit-index-url --quiet

.PHONY: help setup demo demo-archive demo-queue demo-devices up device test drill mutants bench web lint format lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.current local/node_modules/.current cdk/node_modules/.current benchmark/node_modules/.current ## install .venv and the npm packages from the locks, if they have changed

# What runs on this machine needs a third of it: the rest is installed when a target needs it.
.PHONY: setup-local
setup-local: $(if $(wildcard $(VENV)/.current),$(VENV)/.current,$(VENV)/.local) local/node_modules/.current

define tools
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) is not installed; install Python 3.11 or newer" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $(PYTHON) is older than 3.11; give a newer one: make $(or $(MAKECMDGOALS),setup) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "error: $(PYTHON) has no module venv; install it (Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@command -v npm >/dev/null || { echo "error: npm is not installed; install Node 20 or newer" >&2; exit 1; }
	@node -e 'process.exit(+(process.versions.node.split(".")[0] < 20))' || { echo "error: Node $$(node --version) is too old; install Node 20 or newer" >&2; exit 1; }
endef

# $(1): gigabytes, $(2): time. pip's own lines, one for each package, become one for 10 of them.
define install
	$(tools)
	@df -Pk . | awk -v gb=$(1) 'END { exit $$4 < gb * 1000000 }' || { echo "error: the disk is full; $(VENV) takes $(1) GB" >&2; exit 1; }
	@echo "Installing Python packages into $(VENV), once: $(1) GB in $(2)"
	@$(PYTHON) -m venv $(VENV)
	@set -o pipefail; $(PY) -m pip install --disable-pip-version-check --progress-bar off --require-hashes --no-deps -r $< \
	  | awk -v all=$$(grep -c == $<) '/^Collecting/ && ++n % 10 == 0 { print "  " n " of " all " packages"; fflush() } /^Installing/ { print "  unpacking"; fflush() }' \
	  || { echo "error: pip could not install the packages; see that its index answers (pip config list names it), then run make again" >&2; exit 1; }
	@touch $@
endef

$(VENV)/.current: requirements/dev.txt
	$(call install,1.2,some two minutes)

$(VENV)/.local: requirements/local.txt
	$(call install,0.4,about a minute)

%/node_modules/.current: %/package-lock.json
	$(tools)
	@echo "Installing npm packages into $*/node_modules, once"
	@cd $* && npm ci --silent || { echo "error: npm ci failed in $*; see that $$(npm config get registry) answers, then run make again" >&2; exit 1; }
	@node local/optional.mjs $*
	@touch $@

demo: setup-local ## show and check the main job on real servers
	@$(PY) -m local demo

demo-archive: setup-local ## let events pile up, archive them with tasks from zero, check for one row per event (JetStream, then SQS)
	@$(PY) -m local demo-archive

up: setup-local ## run the whole system on this machine until Ctrl-C (TASKS=3, ARCHIVE=1, QUEUE=1, DEVICES=1, ARGS="--nats-port 0")
	@$(PY) -m local up --tasks $(TASKS) --state "$(STATE)" $(if $(ARCHIVE),--archive) $(if $(QUEUE),--queue) $(if $(DEVICES),--devices) $(ARGS)

demo-queue: setup-local ## show two queue sidecars and a client: visibility, dead letters, a kill (JetStream, then SQS)
	@$(PY) -m local demo-queue

demo-devices: setup-local ## show devices over MQTT: readings as rows, outages as posts, a broker and a role killed
	@$(PY) -m local demo-devices

device: setup-local ## add a device to the system that make up DEVICES=1 runs, and print how it publishes (NAME=greenhouse)
	@$(PY) -m local device $(NAME) --state "$(STATE)"

test: setup operations/node_modules/.current ## run every test, on real servers that the tests start (ROOM=service/customer: one room's)
	@$(PY) -m pytest -n $(WORKERS) --dist loadgroup $(if $(ROOM),tests/$(ROOM))

.PHONY: unit
unit: setup ## run the tests that start no program and no server, in under a minute (ROOM=service/customer: one room's)
	@$(PY) -m pytest -n $(CORES) --dist loadgroup -p tests.support.unit -r fE $(if $(ROOM),tests/$(ROOM))

.PHONY: nemesis
nemesis: setup ## disturb everything at random while clients work, and judge what they saw (SEED=106, RUNS=20, ONLY=0,3)
	@$(PY) -m tests.nemesis $(if $(SEED),--seed $(SEED)) $(if $(RUNS),--runs $(RUNS)) $(if $(ONLY),--only $(ONLY)) $(ARGS)

drill: setup ## run every drill in full: half an hour, and a table of the results; then five random seeds of the nemesis
	@$(PY) -m pytest -m drill --drill-full -v --no-header
	@$(PY) -m tests.nemesis --runs 5

mutants: setup ## change one line at a time and check that a test fails; resumable (ARGS="--report")
	@$(PY) -m tests.mutants $(ARGS)

bench: setup-local ## measure what one request costs here, beside Go, an echo and a plain handler; some minutes (ARGS="--quick")
	@$(PY) -m benchmark cost --json .bench/cost.json --report .bench/cost.html $(ARGS)

web: setup-local benchmark/node_modules/.current ## serve the live page: set a load and watch it, on this machine (ARGS="--port 8090")
	@$(PY) -m benchmark web $(ARGS)

lint: setup ## run ruff, codespell, mypy --strict and import-linter; check that locks and generated pages are current
	$(VENV)/bin/ruff check .
	@$(MAKE) --no-print-directory words
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	@$(PY) -m operations.interface --check
	@$(MAKE) --no-print-directory lock-check

# .codespell-own.txt holds single words, PHRASES what takes several. Of the tests, only tests/support is held to both.
PHRASES := so many|for certain|of one.s own|is meant|is none of|(it|that|they) (is|are) none|puts? right|to be had|wants root|who reads|is told
WORDS = $(shell git ls-files '*.py' '*.proto' '*.md' '*.toml' Makefile | grep -vE '^tests/([^s]|s[^u])|_pb2|^CHANGELOG')
.PHONY: words
words: setup
	@$(VENV)/bin/codespell --dictionary - --dictionary .codespell-own.txt $(WORDS)
	@! grep -nE "\b($(PHRASES))\b" $(filter-out Makefile,$(WORDS)) || { echo "error: say it in plain words (PHRASES in the Makefile)" >&2; exit 1; }

format: setup ## format the code
	$(VENV)/bin/ruff check --fix --quiet .
	$(VENV)/bin/ruff format .

lock: setup ## lock the dependencies of pyproject.toml and each package.json again, at their newest versions
	$(LOCK) --upgrade -o requirements/service.txt
	$(LOCK) --upgrade --all-extras -c requirements/service.txt -o requirements/dev.txt
	$(LOCK) --extra otel -c requirements/service.txt -c requirements/dev.txt -o requirements/service-otel.txt
	$(LOCK) --extra local --extra control-plane --extra benchmark -c requirements/dev.txt -o requirements/local.txt
	cd local && npm install --package-lock-only --silent
	cd cdk && npm install --package-lock-only --silent
	cd benchmark && npm install --package-lock-only --silent
	cd operations && npm install --package-lock-only --silent
	cd examples/requester && npm install --package-lock-only --silent

.PHONY: lock-check
lock-check: setup
	@dir=$$(mktemp -d) && trap 'rm -rf "$$dir"' EXIT && cp requirements/*.txt "$$dir" \
	&& $(LOCK) -o "$$dir/service.txt" && $(LOCK) --all-extras -c "$$dir/service.txt" -o "$$dir/dev.txt" \
	&& $(LOCK) --extra otel -c "$$dir/service.txt" -c "$$dir/dev.txt" -o "$$dir/service-otel.txt" \
	&& $(LOCK) --extra local --extra control-plane --extra benchmark -c "$$dir/dev.txt" -o "$$dir/local.txt" && diff -u requirements/local.txt "$$dir/local.txt" \
	&& diff -u requirements/service-otel.txt "$$dir/service-otel.txt" && diff -u requirements/service.txt "$$dir/service.txt" && diff -u requirements/dev.txt "$$dir/dev.txt" \
	&& (cd local && npm ci --dry-run --silent >/dev/null) && (cd cdk && npm ci --dry-run --silent >/dev/null) && (cd benchmark && npm ci --dry-run --silent >/dev/null) && (cd operations && npm ci --dry-run --silent >/dev/null) \
	&& (cd examples/requester && npm ci --dry-run --silent >/dev/null) \
	&& echo "lock files are current" || { echo "error: the lock files are not current; run make lock" >&2; exit 1; }

clean: ## remove everything that is not in the repository
	rm -rf $(VENV) local/node_modules cdk/node_modules benchmark/node_modules operations/node_modules examples/requester/node_modules cdk/cdk.out .local .bench .mutants .nemesis .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

.PHONY: cp-list cp-create cp-status cp-rotate cp-revoke cp-delete
CP := $(PY) -m control_plane
ARGS ?=

cp-list: setup-local ## list the accounts of the NATS system (ARGS="--json")
	@$(CP) list $(ARGS)

cp-create: setup-local ## create account, users, credentials, stream and bucket (ARGS="--initials DO --dry-run")
	@$(CP) create $(ARGS)

cp-status: setup-local ## compare the desired with the actual state
	@$(CP) status $(ARGS)

cp-rotate: setup-local ## give the service new credentials (ARGS="--secret")
	@$(CP) rotate --user service $(ARGS)

cp-revoke: setup-local ## revoke old credentials, after a rotation that kept them (ARGS="--key U...")
	@$(CP) revoke $(ARGS)

cp-delete: setup-local ## delete the account and everything in it, after asking
	@$(CP) delete $(ARGS)

.PHONY: image handler bootstrap synth cost diff deploy destroy
IMAGE ?= customer-balance:latest

.PHONY: docker
docker:
	@docker info >/dev/null 2>&1 || { echo "error: Docker does not answer; install or start it" >&2; exit 1; }

image: docker ## build the container image and show its size (PYTHON_TAG, DOCKER_ARGS)
	docker build $(DOCKER_ARGS) $(if $(PYTHON_TAG),--build-arg PYTHON_TAG=$(PYTHON_TAG)) \
	  --build-arg VERSION=$$($(PYTHON) -c 'import service; print(service.__version__)') \
	  --build-arg REVISION=$$(git rev-parse --short HEAD) -t $(IMAGE) .
	@docker image inspect $(IMAGE) --format '{{.Size}}' | awk '{printf "%s: %.0f MB\n", "$(IMAGE)", $$1 / 1e6}'

handler: docker ## build examples/queue_client as an image, for the queue sidecar (PYTHON_TAG, DOCKER_ARGS)
	@tar cf - requirements/service.txt service/queue/sqs_pb2.py service/queue/sqs_pb2_grpc.py examples/queue_client \
	  | docker build $(DOCKER_ARGS) $(if $(PYTHON_TAG),--build-arg PYTHON_TAG=$(PYTHON_TAG)) --quiet -t handler \
	    -f examples/queue_client/Dockerfile -

bootstrap: setup ## prepare your AWS account and region for the CDK, once
	@$(PY) -m cdk bootstrap

synth: setup ## synthesize the CloudFormation template; check it with cdk-nag and cfn-lint
	@rm -f cdk/cdk.out/*.template.json
	@$(PY) -m cdk synth
	$(VENV)/bin/cfn-lint cdk/cdk.out/*.template.json

cost: setup ## show what a month costs, item by item: proof of concept and production
	@$(PY) -m cdk cost

diff: setup ## show what a deployment would change
	@$(PY) -m cdk diff

deploy: setup ## check, create the secret if it is missing, deploy, wait until the tasks answer (ARGS=--replace-secret)
	@$(PY) -m cdk deploy $(ARGS)

destroy: setup ## ask, destroy the stack, delete the secret, clear the seed flag
	@$(PY) -m cdk destroy $(ARGS)

.PHONY: interface docs-check
interface: setup ## write docs/interface.md and docs/asyncapi.yaml from the contracts
	@$(PY) -m operations.interface

docs-check: setup ## run the commands of the pages that are marked to be run, in a copy of this folder, beside make up
	@$(PY) -m tests.docs_check

.PHONY: proto
PROTOC := $(PY) -m grpc_tools.protoc -I. --python_out=. --pyi_out=.
proto: setup ## generate the code of every .proto
	$(PROTOC) service/devices/msg.proto
	$(PROTOC) --grpc_python_out=. service/queue/sqs.proto service/devices/query/query.proto
