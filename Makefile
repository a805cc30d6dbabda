# `make demo` runs the example site; `make test` runs every test. Each makes its own environment in .venv.
# PYTHON chooses the interpreter (3.11 or newer).

PYTHON ?=
VENV := .venv

.PHONY: audit demo test soak bench load pictures messages lint types check clean

demo: $(VENV)/demo.stamp
	@exec $(VENV)/bin/python -m example.demo

test: $(VENV)/test.stamp
	sh tools/system-packages.sh
	$(VENV)/bin/coverage run -m pytest $(PYTEST_ARGS)
	$(VENV)/bin/coverage report --skip-covered --skip-empty

# Breaks workers and the store at random for SOAK_SECONDS on each broker, while thousands of messages are worked on.
soak: $(VENV)/test.stamp
	sh tools/system-packages.sh
	SOAK_SECONDS=$(or $(SOAK_SECONDS),600) $(VENV)/bin/pytest tests/faults/test_soak.py $(PYTEST_ARGS)

# Measures what progress costs, side by side with what people use today, in environments of its own: a second one has
# another Python, where this machine has it. About ten minutes.
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

# Writes the texts of dramatiq_progress/texts.py into each language's django.po, and compiles it.
messages: $(VENV)/test.stamp
	DJANGO_SETTINGS_MODULE=tests.settings $(VENV)/bin/python -m tools.messages

# Makes the pictures of docs/states.md anew, with the system's Chromium.
pictures: $(VENV)/test.stamp
	sh tools/system-packages.sh
	$(VENV)/bin/python -m tools.pictures

lint: $(VENV)/lint.stamp
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

# Weaknesses of our code, and known ones of what it needs.
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
	rm -rf $(VENV) $(VENV)-bench $(VENV)-bench-second .nox .coverage .mypy_cache .pytest_cache .ruff_cache .hypothesis dist build example/var
