# Everything a contributor runs. `make demo` and `make test` work on a fresh clone: Python >= 3.11 with venv and headers, a C compiler.
#   make demo          the whole story on one machine, checked with openssl; leaves the servers running
#   make test          all tests
#   make check         format, lint, types, stubs against the native modules, Cython warnings, layers
#   make check-native  the native modules under AddressSanitizer and UndefinedBehaviorSanitizer
#   make coverage-native   which lines of the native modules the tests reach
#   make bench         figures against nginx and cfssl on this machine (under ten minutes)
#   make bench-large   the same with 100 million entries
#   make clean         remove everything that was built
# Variables: PYTHON (interpreter for the virtual environment), T (arguments for pytest), B (arguments for bench/run.py).

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.ONESHELL:
MAKEFLAGS += --no-builtin-rules

VENV := .venv
BIN := $(VENV)/bin
PYX := $(wildcard src/ocspd/*.pyx)
NATIVE := $(basename $(notdir $(PYX)))
STUBS := $(basename $(notdir $(wildcard src/ocspd/_*.pyi)))
# cython -X needs what setup.py hands to cythonize: with other directives the hints would differ.
DIRECTIVES := boundscheck=False,wraparound=False,cdivision=True,auto_pickle=False,freethreading_compatible=False

.PHONY: demo test check check-cython check-native coverage-native bench bench-large clean setup
.DEFAULT_GOAL := test

demo: setup
	@exec $(BIN)/ocspd demo

test: setup
	@$(BIN)/python -m pytest $(T)

setup: $(VENV)/.native

# First the packages, then the native modules: editing a .pyx costs a compilation, not an installation.
$(VENV)/.packages: pyproject.toml setup.py Makefile
	@python="$${PYTHON:-}"
	if [ -z "$$python" ]; then
	  for candidate in python3 python3.13 python3.12 python3.11; do
	    if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python="$$candidate"; break; fi
	  done
	fi
	hint="on Debian: apt-get install python3-dev python3-venv gcc make (or name an interpreter: make PYTHON=...)"
	[ -n "$$python" ] || { echo "ocspd needs Python 3.11 or newer; $$hint" >&2; exit 1; }
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$$python is not Python 3.11 or newer; $$hint" >&2; exit 1; }
	"$$python" -c 'import ensurepip' 2>/dev/null || { echo "$$python cannot make virtual environments; $$hint" >&2; exit 1; }
	"$$python" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' || { echo "the C headers of $$python are missing; $$hint" >&2; exit 1; }
	command -v "$${CC:-cc}" >/dev/null || { echo "no C compiler ($${CC:-cc}); $$hint" >&2; exit 1; }
	[ -x $(BIN)/python ] || { echo "making $(VENV) with $$("$$python" --version)"; "$$python" -m venv $(VENV); }
	echo "installing packages and building the native modules"
	# Without build isolation, Cython is installed once and the build below finds its own output up to date.
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' |
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check -r /dev/stdin
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation -e '.[dev]'
	touch $@

$(VENV)/.native: $(VENV)/.packages $(PYX) $(wildcard src/ocspd/*.pxd)
	@$(BIN)/python setup.py --quiet build_ext --inplace
	touch $@

check: setup check-cython
	@$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	MYPYPATH=src $(BIN)/stubtest --concise --allowlist tests/stubtest_allowlist.txt $(STUBS:%=ocspd.%)
	$(BIN)/python -m pytest --quiet tests/test_layering.py

# -Werror turns Cython's warnings into failures, but not its "performance hint" lines: those mean Python
# operations or exception checks where none should be.
check-cython: setup
	@out=$$(mktemp -d); trap 'rm -rf "$$out"' EXIT
	for module in $(NATIVE); do
	  $(BIN)/cython -3 -Werror -X $(DIRECTIVES) -o "$$out/$$module.c" "src/ocspd/$$module.pyx" 2>&1 | tee -a "$$out/log"
	done
	! grep -i 'performance hint' "$$out/log"

# A copy of the sources is built, so the normal build keeps its C files and libraries. libasan must come
# first in the process because the interpreter is not built with it; libstdc++ beside it lets its
# interceptors find __cxa_throw. Leaks are off: CPython keeps memory until exit on purpose.
SANITIZED := build/sanitized
check-native: setup
	@mkdir -p $(SANITIZED)
	cp -a --update setup.py pyproject.toml README.md LICENSE $(SANITIZED)/
	rm -rf $(SANITIZED)/src
	cp -a src $(SANITIZED)/src
	find $(SANITIZED)/src -name '*.so' -delete
	(cd $(SANITIZED) && OCSPD_SANITIZE=1 $(CURDIR)/$(BIN)/python setup.py --quiet build_ext --inplace)
	cc="$${CC:-cc}"
	LD_PRELOAD="$$($$cc -print-file-name=libasan.so) $$($$cc -print-file-name=libstdc++.so)" \
	  ASAN_OPTIONS=detect_leaks=0:strict_string_checks=1:detect_stack_use_after_return=1 \
	  UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	  PYTHONMALLOC=malloc PYTHONPATH=$(CURDIR)/$(SANITIZED)/src \
	  $(BIN)/python -m pytest -p no:cacheprovider -m "not growth" --timeout=300 tests/native $(T)

# Line tracing needs a build of its own: it makes every line several times slower.
TRACED := build/traced
coverage-native: setup
	@mkdir -p $(TRACED)
	cp -a --update setup.py pyproject.toml README.md LICENSE $(TRACED)/
	rm -rf $(TRACED)/src $(TRACED)/tests
	cp -a src tests $(TRACED)/
	find $(TRACED)/src -name '*.so' -delete
	printf '[run]\nplugins = Cython.Coverage\nsource = src/ocspd\n[report]\ninclude = src/ocspd/*.pyx\n' > $(TRACED)/coverage.ini
	cd $(TRACED)
	OCSPD_DEBUG=1 $(CURDIR)/$(BIN)/python setup.py --quiet build_ext --inplace
	export PYTHONPATH=$(CURDIR)/$(TRACED)/src COVERAGE_RCFILE=coverage.ini
	$(CURDIR)/$(BIN)/python -m coverage run -m pytest -p no:cacheprovider -m "not growth" --quiet --timeout=600 tests/native $(T)
	$(CURDIR)/$(BIN)/python -m coverage report --show-missing

bench: setup
	@$(BIN)/python -m bench.run $(B)

bench-large: setup
	@$(BIN)/python -m bench.run --large $(B)

clean:
	@rm -rf $(VENV) build dist bench/results/tmp .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage htmlcov
	rm -rf src/*.egg-info src/ocspd/*.so $(NATIVE:%=src/ocspd/%.c) $(NATIVE:%=src/ocspd/%.html)
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
