# Two commands on a fresh machine (Python 3.11+, make): `make demo` and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
BENCH_INSTALLED := $(VENV)/.bench-installed
DEMO_RESULTS ?= results
# All of the folder but what they share and the report.
NOT_BENCHMARKS := measure photographs report trainee tune_peer
BENCHMARKS ?= $(filter-out $(NOT_BENCHMARKS:%=benchmarks/%.py),$(wildcard benchmarks/*.py))

.PHONY: demo demo-cluster test test-all test-faults lint format bench clean

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "pgsearch needs Python 3.11 or newer; name one: make PYTHON=python3.12 …"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev,timm,mlflow,cluster]'
	@touch $@

# The main job on the embedded data set: search, then the best found against the baselines,
# each with three seeds that the search has not seen. Repeated, it goes on where it stood.
demo: $(INSTALLED)
	$(BIN)/pgsearch run search_spaces/digits_pg.yaml --results $(DEMO_RESULTS)
	$(BIN)/pgsearch table digits_pg --leaderboard --results $(DEMO_RESULTS)
	$(BIN)/pgsearch best digits_pg --output $(DEMO_RESULTS)/digits_pg_best.yaml --results $(DEMO_RESULTS)
	$(BIN)/pgsearch run $(DEMO_RESULTS)/digits_pg_best.yaml --results $(DEMO_RESULTS)
	$(BIN)/pgsearch run search_spaces/digits_baselines.yaml --results $(DEMO_RESULTS)
	$(BIN)/pgsearch table digits_baselines digits_pg_best --results $(DEMO_RESULTS)

# A search as a job of three Ray nodes of this machine: a node is killed, the job stopped and resumed.
# Two minutes; nothing is left running.
demo-cluster: $(INSTALLED)
	$(BIN)/python -m cluster.demo

# The default suite: under 8 minutes on 2 cores, in two processes, since a test keeps one core busy.
test: $(INSTALLED)
	$(BIN)/pytest --numprocesses 2 --dist worksteal

# All that this machine can run: also what is slow, and real searches on a local Ray.
test-all: $(INSTALLED)
	$(BIN)/pytest -m ""

# All that docs/reliability.md promises, by real kills, full disks and broken stores; prints per
# promise what was tried, held and violated. About a quarter of an hour on 2 cores. strace (which
# `apt-get install strace` brings) and the right to mount are needed for two parts, which skip
# without.
test-faults: $(INSTALLED)
	$(BIN)/pytest -m "promise and not cluster and not browser and not gpu" -rs

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Every benchmark in turn, then the tables of docs/performance.md; for some of them, name them:
# make bench BENCHMARKS="benchmarks/losses.py benchmarks/reading.py". Give it a quiet machine.
bench: $(BENCH_INSTALLED)
	for script in $(BENCHMARKS); do $(BIN)/python $$script || exit; done
	$(BIN)/python benchmarks/report.py

$(BENCH_INSTALLED): $(INSTALLED)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[bench]'
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
