# Every target is enough on its own on a machine with make and Python 3.10 or newer.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
# Python 3.10: one that pyenv has, else what is called so.
OLDEST_PYTHON ?= $(firstword $(wildcard $(HOME)/.pyenv/versions/3.10.*/bin/python3.10) python3.10)
OLDEST := .venv-oldest/bin/python
TESTS ?= tests

.DEFAULT_GOAL := help
.PHONY: help install demo bench-machinery bench-compile bench-transport bench-depth bench-char-gpt bench-lag bench-late bench-copy bench-ptb bench-flagship bench-online bench-memory bench-step-cost bench-links bench-race bench-reach bench-delay-line reproduce tables docs test test-long test-oldest test-hosts chaos chaos-sim fuzz check proto proof

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP) ## make .venv and install the project into it, with its tools

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	    { echo "$(PYTHON) is too old: install Python 3.10 or newer and say make PYTHON=python3.11"; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv .venv || \
	    { echo "$(PYTHON) cannot make virtual environments: install its venv module (python3-venv on Debian)"; exit 1; }
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

demo: install ## run the demonstration (benchmarks/demo.py)
	$(BIN)/python -m benchmarks.demo

bench-machinery: install ## measure what splitting costs: stages against a plain loop, the frame codec (QUICK=1: fast)
	$(BIN)/python -m benchmarks.overhead.split_vs_plain

bench-compile: install ## measure compiled over ordinary stages, and 16 over 32 bits (QUICK=1: fast)
	$(BIN)/python -m benchmarks.overhead.compiled

bench-transport: install ## measure what links between processes carry, as shares of raw TCP (QUICK=1: fast)
	$(BIN)/python -m benchmarks.overhead.transport

bench-depth: install ## every method in depth on four tasks, test split; goes on where it stopped (QUICK=1: fast)
	$(BIN)/python -m benchmarks.depth.methods

bench-char-gpt: install ## a GPT of characters by every method, beside the same model unsplit; goes on where it stopped (QUICK=1: fast)
	$(BIN)/python -m benchmarks.depth.char_gpt

bench-lag: install ## measure what late targets cost, by method; goes on where it stopped (QUICK=1: fast)
	$(BIN)/python -m benchmarks.depth.staleness

bench-late: install ## late gradients: every method on every task at lags 1, 8 and 32; goes on where it stopped (QUICK=1: fast)
	$(BIN)/python -m benchmarks.depth.late
	$(BIN)/python -m benchmarks.depth.late_ablations

bench-copy: install ## how long a sequence is learned, by method and window; goes on where it stopped (QUICK=1: fast)
	$(BIN)/python -m benchmarks.time.copy_task

bench-ptb: install ## Penn Treebank and sequential MNIST, by method and window; goes on where it stopped (QUICK=1: fast)
	$(BIN)/python -m benchmarks.time.ptb

bench-flagship: install ## copy in two processes, both cuts synthetic, against backprop + truncated (QUICK=1: fast)
	$(BIN)/python -m benchmarks.time.both_cuts

bench-online: install ## exact traces of the past against other methods in time, late labels; goes on where it stopped (QUICK=1: fast)
	$(BIN)/python -m benchmarks.time.online
	$(BIN)/python -m benchmarks.time.window_curve

bench-memory: install ## measure memory against the length of a sequence, by method in time (QUICK=1: fast)
	$(BIN)/python -m benchmarks.time.memory

bench-step-cost: install ## measure what a synthetic step costs over a truncated one (QUICK=1: fast)
	$(BIN)/python -m benchmarks.time.step_cost

bench-links: install ## updates per second by method, delay and window on four emulated hosts; needs root (QUICK=1: fast)
	$(BIN)/python -m benchmarks.delay.throughput

bench-race: install ## loss against seconds by method and delay on four emulated hosts; needs root (QUICK=1: fast)
	$(BIN)/python -m benchmarks.delay.time_to_loss
	$(BIN)/python -m benchmarks.delay.gpt_race

bench-reach: install ## how long a sequence is learned by the clock on four emulated hosts; needs root (QUICK=1: fast)
	$(BIN)/python -m benchmarks.delay.copy_by_clock

bench-delay-line: install ## measure the emulated links between hosts; needs root (QUICK=1: fast)
	$(BIN)/python -m benchmarks.network.calibrate

reproduce: install ## every benchmark from nothing, in a copy of the tree; tells which figures moved; days, goes on where it stopped
	$(BIN)/python -m benchmarks.reproduce

tables: install ## write the tables and the plot of README.md and docs/results, and docs/settings.md
	$(BIN)/python -m benchmarks.tables
	$(BIN)/python -m workers.cli.settings_page

# Not --quiet: it hides warnings from --strict, too.
docs: install ## build the documentation as a site, in site/; a warning is an error
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

test: install ## run the tests
	$(BIN)/python -m pytest -n auto

test-long: install ## run the tests that take long
	$(BIN)/python -m pytest -n auto -m long

# Left out are tests of developers' tools (the wheel, the generated code, mypy) and of examples with libraries of their own.
# What old versions deprecate in newer companions is nobody's concern here.
test-oldest: ## run the tests with the oldest versions that are allowed, in .venv-oldest; TESTS=tests/test_x.py: some
	@$(OLDEST_PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 10))' || \
	    { echo "$(OLDEST_PYTHON) is not Python 3.10, the oldest: say make test-oldest OLDEST_PYTHON=/path/to/python3.10"; exit 1; }
	@$(OLDEST) -m pip --version >/dev/null 2>&1 || $(OLDEST_PYTHON) -m venv .venv-oldest
	$(OLDEST) -m pip install --quiet -c constraints-oldest.txt -e . \
	    pytest pytest-timeout pytest-xdist hypothesis greenlet hydra-submitit-launcher prometheus_client tokenizers torchdata
	$(OLDEST) -m pytest -n auto -W default::DeprecationWarning \
	    --ignore tests/test_packaging.py --ignore tests/test_proto_current.py --ignore tests/examples \
	    --deselect tests/test_docs.py::test_the_examples_that_are_typed_pass_strict_mypy $(TESTS)

test-hosts: install ## run the tests on four emulated machines; needs root on Linux
	$(BIN)/python -m pytest -m hosts

chaos: install ## kill, pause, cut and corrupt runs of four stages, and report what that costs (MINUTES=15, SEED=0; QUICK=1: fast)
	$(BIN)/python -m benchmarks.chaos

chaos-sim: install ## simulate gRPC links on networks with faults, seed after seed; MINUTES=5, SEEDS=n: at most n, SEED=n: that one again
	$(BIN)/python -m tests.support.simulated $(foreach name,SEED SEEDS MINUTES,$(if $($(name)),--$(shell echo $(name) | tr A-Z a-z) $($(name))))

fuzz: install ## fuzz the decoder, the handshake and the edges, guided by coverage where atheris can be installed; MINUTES=10, INPUTS=n: at most n, SEED=n
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[fuzz]' || true
	$(BIN)/python -m tests.support.fuzzing $(foreach name,SEED INPUTS MINUTES,$(if $($(name)),--$(shell echo $(name) | tr A-Z a-z) $($(name))))

proof: install ## show that small runs of every method come out as at the commit BASE, bit for bit
	rm -rf .proof && git worktree prune && git worktree add --quiet --detach .proof $(BASE)
	(cd .proof && ../$(BIN)/python -m tests.reference_runs record ../.proof.json) && git worktree remove --force .proof
	$(BIN)/python -m tests.reference_runs compare .proof.json

check: install ## lint, formatting, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

proto: install ## regenerate workers/stage_pb2.py from proto/dni/v1/stage.proto
	$(BIN)/python -m grpc_tools.protoc --proto_path=workers=proto/dni/v1 --python_out=. --pyi_out=. workers/stage.proto
