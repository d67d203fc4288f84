# The one door. `make` alone says what there is.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
STATE ?= .local
TASKS ?= 1
LOCK := $(VENV)/bin/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
	--no-header --no-annotate --no-emit-index-url --quiet

.PHONY: help setup demo demo-archive demo-queue up test drill mutants bench web lint format lock clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 18

setup: $(VENV)/.current local/node_modules/.current cdk/node_modules/.current benchmark/node_modules/.current ## .venv and the npm parts, from the locks; nothing when current

$(VENV)/.current: requirements/dev.txt
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) is not installed; install Python 3.11 or newer" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $(PYTHON) is older than 3.11; give a newer one: make setup PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements/dev.txt
	@touch $@

%/node_modules/.current: %/package-lock.json
	@command -v npm >/dev/null || { echo "error: npm is not installed; install Node 20 or newer" >&2; exit 1; }
	cd $* && npm ci --silent
	@touch $@

demo: setup ## the main job on real servers, shown and checked
	@$(PY) -m local demo

demo-archive: setup ## events pile up, tasks start from zero and end, a row for each event (JetStream, then SQS)
	@$(PY) -m local demo-archive

up: setup ## the whole system on this machine until Ctrl-C (TASKS=3, ARCHIVE=1, QUEUE=1, ARGS="--nats-port 0")
	@$(PY) -m local up --tasks $(TASKS) --state $(STATE) $(if $(ARCHIVE),--archive) $(if $(QUEUE),--queue) $(ARGS)

demo-queue: setup ## two queue sidecars and an example client: visibility, dead letters, a kill (JetStream, then SQS)
	@$(PY) -m local demo-queue

test: setup ## every test, on real servers that the tests start
	@$(PY) -m pytest -n 2 --dist loadgroup

drill: setup ## what production does to a task, in full: half an hour, and a table of what held
	@$(PY) -m pytest -m drill --drill-full -v --no-header

mutants: setup ## change a line at a time and see that a test fails; resumable (ARGS="--report")
	@$(PY) -m tests.mutants $(ARGS)

bench: setup ## what one request costs here, beside Go, an echo and the plain way; some minutes (ARGS="--quick")
	@$(PY) -m benchmark cost --json .bench/cost.json --report .bench/cost.html $(ARGS)

web: setup ## the live page: a load to be set and seen, on this machine (ARGS="--port 8090")
	@$(PY) -m benchmark web $(ARGS)

lint: setup ## ruff, mypy --strict, import-linter, lock files current
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	@$(MAKE) --no-print-directory lock-check

format: setup ## put the code's form right
	$(VENV)/bin/ruff check --fix --quiet .
	$(VENV)/bin/ruff format .

lock: setup ## lock the dependencies of pyproject.toml and each package.json anew
	$(LOCK) --upgrade -o requirements/service.txt
	$(LOCK) --upgrade --all-extras -c requirements/service.txt -o requirements/dev.txt
	$(LOCK) --extra otel -c requirements/service.txt -c requirements/dev.txt -o requirements/service-otel.txt
	cd local && npm install --package-lock-only --silent
	cd cdk && npm install --package-lock-only --silent
	cd benchmark && npm install --package-lock-only --silent

.PHONY: lock-check
lock-check: setup
	@dir=$$(mktemp -d) && trap 'rm -rf "$$dir"' EXIT && cp requirements/*.txt "$$dir" \
	&& $(LOCK) -o "$$dir/service.txt" && $(LOCK) --all-extras -c "$$dir/service.txt" -o "$$dir/dev.txt" \
	&& $(LOCK) --extra otel -c "$$dir/service.txt" -c "$$dir/dev.txt" -o "$$dir/service-otel.txt" \
	&& diff -u requirements/service-otel.txt "$$dir/service-otel.txt" && diff -u requirements/service.txt "$$dir/service.txt" && diff -u requirements/dev.txt "$$dir/dev.txt" \
	&& (cd local && npm ci --dry-run --silent >/dev/null) && (cd cdk && npm ci --dry-run --silent >/dev/null) && (cd benchmark && npm ci --dry-run --silent >/dev/null) \
	&& echo "lock files are current" || { echo "error: the lock files are not current; run make lock" >&2; exit 1; }

clean: ## remove everything that is not in the repository
	rm -rf $(VENV) local/node_modules cdk/node_modules benchmark/node_modules cdk/cdk.out .local .bench .mutants .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

.PHONY: cp-list cp-create cp-status cp-rotate cp-revoke cp-delete
CP := $(PY) -m control_plane
ARGS ?=

cp-list: setup ## the accounts of the NATS system (ARGS="--json")
	@$(CP) list $(ARGS)

cp-create: setup ## account, users, credentials, stream and bucket (ARGS="--initials DO --dry-run")
	@$(CP) create $(ARGS)

cp-status: setup ## what is wanted beside what is there
	@$(CP) status $(ARGS)

cp-rotate: setup ## new credentials for the service (ARGS="--secret")
	@$(CP) rotate --user service $(ARGS)

cp-revoke: setup ## old credentials void, after a rotation that kept them (ARGS="--key U...")
	@$(CP) revoke $(ARGS)

cp-delete: setup ## the account with all that is in it, after asking
	@$(CP) delete $(ARGS)

.PHONY: image handler bootstrap synth cost diff deploy destroy
IMAGE ?= customer-balance:latest

.PHONY: docker
docker:
	@docker info >/dev/null 2>&1 || { echo "error: Docker does not answer; install or start it" >&2; exit 1; }

image: docker ## build the container image, and say how large it is (PYTHON_TAG, DOCKER_ARGS)
	docker build $(DOCKER_ARGS) $(if $(PYTHON_TAG),--build-arg PYTHON_TAG=$(PYTHON_TAG)) \
	  --build-arg VERSION=$$($(PYTHON) -c 'import service; print(service.__version__)') \
	  --build-arg REVISION=$$(git rev-parse --short HEAD) -t $(IMAGE) .
	@docker image inspect $(IMAGE) --format '{{.Size}}' | awk '{printf "%s: %.0f MB\n", "$(IMAGE)", $$1 / 1e6}'

handler: docker ## build examples/queue_client as an image, for the queue sidecar (PYTHON_TAG, DOCKER_ARGS)
	@tar c requirements/service.txt service/queue/sqs_pb2.py service/queue/sqs_pb2_grpc.py examples/queue_client \
	  | docker build $(DOCKER_ARGS) $(if $(PYTHON_TAG),--build-arg PYTHON_TAG=$(PYTHON_TAG)) --quiet -t handler \
	    -f examples/queue_client/Dockerfile -

bootstrap: setup ## prepare your AWS account and region for the CDK, once
	@$(PY) -m cdk bootstrap

synth: setup ## the CloudFormation template, checked by cdk-nag and cfn-lint
	@$(PY) -m cdk synth
	$(VENV)/bin/cfn-lint cdk/cdk.out/*.template.json

cost: setup ## what a month costs, item by item: the proof of concept beside production
	@$(PY) -m cdk cost

diff: setup ## what a deployment would change
	@$(PY) -m cdk diff

deploy: setup ## check, make the secret if there is none, deploy, wait until the tasks answer (ARGS=--replace-secret)
	@$(PY) -m cdk deploy $(ARGS)

destroy: setup ## ask, destroy the stack, delete the secret, clear the seed flag
	@$(PY) -m cdk destroy $(ARGS)

.PHONY: proto
proto: setup ## generate the code of service/queue/sqs.proto anew
	$(PY) -m grpc_tools.protoc -I. --python_out=. --pyi_out=. --grpc_python_out=. service/queue/sqs.proto
