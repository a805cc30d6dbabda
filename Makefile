# `make demo` runs the example site; `make test` runs every test. Each makes its own environment in .venv.
# PYTHON chooses the interpreter (3.11 or newer).

PYTHON ?=
VENV := .venv
# Tests mostly wait: three processes of them for each core. WORKERS=0 runs them in one, for a debugger.
WORKERS ?= $(shell echo $$((3 * $$(getconf _NPROCESSORS_ONLN))))
# The tests start hundreds of Python processes. With it, as some containers set it, each compiles all modules again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: audit coverage demo test quick soak bench load pictures messages wheel lint types check clean

demo: $(VENV)/demo.stamp
	@exec $(VENV)/bin/python -m example.demo

test: $(VENV)/test.stamp
	sh tools/system-packages.sh
	$(VENV)/bin/pytest -n $(WORKERS) $(PYTEST_ARGS)

# The same, and which lines and branches no test has run. It takes nearly twice the processor time.
coverage: $(VENV)/test.stamp
	sh tools/system-packages.sh
	$(VENV)/bin/coverage erase
	$(VENV)/bin/coverage run -m pytest -n $(WORKERS) $(PYTEST_ARGS)
	$(VENV)/bin/coverage combine --quiet
	$(VENV)/bin/coverage report --skip-covered --skip-empty

# The tests without a browser, faults, topologies of stores and slow ones, in about a minute.
quick: $(VENV)/test.stamp
	$(VENV)/bin/pytest -n $(WORKERS) -m "not browser and not faults and not topology and not slow" $(PYTEST_ARGS)

# Breaks workers and the store at random for SOAK_SECONDS, on both brokers at once, while thousands of messages are
# worked on, and schedulers for two minutes each. Also interrupts a thread at every point, and reads thousands of odd records.
soak: $(VENV)/test.stamp
	sh tools/system-packages.sh
	SOAK_SECONDS=$(or $(SOAK_SECONDS),600) SCHEDULE_SECONDS=120 SWEEP_STEP=1 ODD_RECORDS=3000 $(VENV)/bin/pytest -n 2 \
		tests/faults/test_soak.py tests/faults/test_schedules.py tests/test_interrupts.py tests/test_odd_records.py --timeout 3600 $(PYTEST_ARGS)

# Measures what progress costs, compared with other libraries, in separate environments. A second one has another Python,
# if this machine has it. About ten minutes.
bench: bench-environments
	$(VENV)-bench/bin/python -m benchmarks $(QUESTIONS)

# Holds 10,000 streams on one uvicorn process.
load: bench-environments
	$(VENV)-bench/bin/python -m benchmarks.streams_load

.PHONY: bench-environments
bench-environments:
	sh tools/system-packages.sh wrk
	sh tools/make-venv.sh $(VENV)-bench bench $(PYTHON)
	second=$$(sh tools/find-python.sh 3.13) || exit 0; sh tools/make-venv.sh $(VENV)-bench-second bench "$$second"

# Writes the texts of dramatiq_progress/web/texts.py into each language's django.po, and compiles it.
messages: $(VENV)/test.stamp
	DJANGO_SETTINGS_MODULE=tests.settings $(VENV)/bin/python -m tools.messages

# Makes the pictures of docs/states.md, with the system's Chromium.
pictures: $(VENV)/test.stamp
	sh tools/system-packages.sh
	$(VENV)/bin/python -m tools.pictures

# Builds the wheel, with static files that esbuild has made smaller.
wheel: $(VENV)/test.stamp
	npm install --silent --no-save --no-audit --no-fund --prefix $(VENV)/npm \
		$$($(VENV)/bin/python -c "from tools.static_files import ESBUILD; print(ESBUILD)")
	PATH="$(CURDIR)/$(VENV)/npm/node_modules/.bin:$$PATH" $(VENV)/bin/python -m build --wheel

lint: $(VENV)/lint.stamp
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

# Weaknesses of our code, and known vulnerabilities of its dependencies.
audit: $(VENV)/lint.stamp
	$(VENV)/bin/bandit --quiet --configfile pyproject.toml --recursive dramatiq_progress
	$(VENV)/bin/python tools/audit.py

types: $(VENV)/lint.stamp
	$(VENV)/bin/mypy

check: test lint types

$(VENV)/%.stamp: pyproject.toml tools/make-venv.sh
	sh tools/make-venv.sh $(VENV) $* $(PYTHON)
	@touch $@

clean:
	rm -rf $(VENV) $(VENV)-bench $(VENV)-bench-second .nox .coverage* .mypy_cache .pytest_cache .ruff_cache .hypothesis dist build example/var
