# Everything a contributor runs. `make demo` and `make test` work on a fresh clone; they need Python 3.11 or newer with venv and headers,
# and a C compiler. Nothing is installed outside of .venv, not even when run as root.
#   make demo          a CA and a responder on this machine, checked with openssl; the servers run until Ctrl-C
#   make test          all tests
#   make check         format, lint, types, stubs against the native modules, Cython warnings, layering
#   make check-native  the native modules under AddressSanitizer and UndefinedBehaviorSanitizer
#   make coverage-native   the lines of the native modules that tests reach
#   make simulate      10 000 simulated runs of signer, database, store and readers under faults (S: more arguments)
#   make bench         compare with nginx and CFSSL on this machine (under ten minutes)
#   make bench-large   the same with 100 million entries
#   make bench-openssl   measure a responder with openssl ocsp, which also verifies replies under full load
#   make clean         remove everything that was built
# Variables: PYTHON (interpreter for the virtual environment), T (arguments for pytest), B (arguments for bench/run.py),
# PEERS=no (do not fetch the programs that tests compare with).

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.ONESHELL:
MAKEFLAGS += --no-builtin-rules

VENV := .venv
BIN := $(VENV)/bin
PYX := $(wildcard src/ocspd/*.pyx src/ocspd/*/*.pyx)
PXD := $(wildcard src/ocspd/*.pxd src/ocspd/*/*.pxd)
STUBS := $(subst /,.,$(patsubst src/%.pyi,%,$(wildcard src/ocspd/_*.pyi src/ocspd/*/_*.pyi)))
# These must be the directives that setup.py gives to cythonize; with others the hints would differ.
DIRECTIVES := boundscheck=False,wraparound=False,cdivision=True,auto_pickle=False,freethreading_compatible=False

.PHONY: demo test peers check check-cython check-native coverage-native simulate bench bench-large bench-openssl clean setup
.DEFAULT_GOAL := test

demo: $(VENV)/.native
	@exec $(BIN)/ocspd demo

define announcement
echo "running all tests: about 25 minutes on two idle CPUs, and three more the first time to install what they need"
echo '    to run only some: make test T="tests/cli -k json"'
endef

test:
	@$(if $(T),,$(announcement))
	$(MAKE) --no-print-directory peers
	exec $(BIN)/python -m pytest $(T)

# The programs that tests compare with: where apt is available, missing ones are unpacked into .venv.
PEERS := yes
peers: setup
	@[ "$(PEERS)" = no ] || $(BIN)/python -m tests.peers

setup: $(VENV)/.native $(VENV)/.dev

# Without --quiet, pip also prints where it looks and what is in its cache; the names are enough.
define install
install() {
  $(BIN)/python -m pip install --disable-pip-version-check --progress-bar off "$$@" 2>&1 | tee $(VENV)/pip.log |
    sed -nu -e 's/^Collecting \([A-Za-z0-9._-]*\).*/    \1/p' -e 's/^Installing collected packages.*/    installing them/p' ||
    { tail -n 20 $(VENV)/pip.log >&2; echo "pip failed: can this machine reach a package index? The log is in $(VENV)/pip.log" >&2; exit 1; }
}
# Prints the members of lists in pyproject.toml, one per line.
listed() {
  $(BIN)/python -c 'import functools, sys, tomllib; all = tomllib.load(open("pyproject.toml", "rb")); [print(*functools.reduce(dict.get, name.split("."), all), sep="\n") for name in sys.argv[1:]]' "$$@"
}
endef

define build
echo "compiling the native modules (half a minute)"
$(BIN)/python setup.py --quiet build_ext --inplace
endef

# First the packages, then the native modules, so that editing a .pyx needs a compilation but no installation.
$(VENV)/.packages: pyproject.toml setup.py Makefile
	@python="$${PYTHON:-}"
	if [ -z "$$python" ]; then
	  for candidate in python3 python3.14 python3.13 python3.12 python3.11; do
	    if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python="$$candidate"; break; fi
	  done
	fi
	hint="on Debian: apt-get install git curl python3-dev python3-venv gcc make openssl (or choose an interpreter: make PYTHON=...)"
	[ -n "$$python" ] || { echo "ocspd needs Python 3.11 or newer; $$hint" >&2; exit 1; }
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$$python is not Python 3.11 or newer; $$hint" >&2; exit 1; }
	"$$python" -c 'import ensurepip' 2>/dev/null || { echo "$$python cannot make virtual environments (no ensurepip); $$hint" >&2; exit 1; }
	"$$python" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' || { echo "the C headers of $$python are missing; $$hint" >&2; exit 1; }
	command -v "$${CC:-cc}" >/dev/null || { echo "there is no C compiler ($${CC:-cc}); $$hint" >&2; exit 1; }
	[ -x $(BIN)/python ] || { echo "making $(VENV) with $$("$$python" --version)"; "$$python" -m venv $(VENV); }
	$(install)
	echo "installing what ocspd needs into $(VENV)"
	# Without build isolation, Cython is installed only once, and the editable installation finds the modules already built.
	listed build-system.requires project.dependencies > $(VENV)/needs.txt
	install -r $(VENV)/needs.txt
	$(build)
	install --no-build-isolation --no-deps -e .
	touch $@

$(VENV)/.native: $(VENV)/.packages $(PYX) $(PXD)
	@if [ -n "$$(find $(PYX) $(PXD) -newer $(VENV)/.packages)" ]; then
	  $(build)
	fi
	touch $@

$(VENV)/.dev: $(VENV)/.packages
	@$(install)
	echo "installing what the tests need into $(VENV) (a minute)"
	listed project.optional-dependencies.dev > $(VENV)/needs.txt
	install -r $(VENV)/needs.txt
	touch $@

check: setup check-cython
	@$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	MYPYPATH=src $(BIN)/stubtest --concise --allowlist tests/stubtest_allowlist.txt $(STUBS)
	$(BIN)/python -m pytest --quiet tests/test_layering.py tests/native/test_source.py

# -Werror turns Cython's warnings into failures, but not its "performance hint" lines, which point to Python operations or
# exception checks where none should be.
check-cython: setup
	@out=$$(mktemp -d); trap 'rm -rf "$$out"' EXIT
	for module in $(PYX); do
	  $(BIN)/cython -3 -Werror -X $(DIRECTIVES) -o "$$out/$$(basename "$$module" .pyx).c" "$$module" 2>&1 | tee -a "$$out/log"
	done
	! grep -i 'performance hint' "$$out/log"

# Builds a copy of the sources, so that the normal build keeps its C files and libraries. libasan must be loaded
# first because the interpreter is not built with it; with libstdc++ beside it its interceptors find __cxa_throw.
# Leak detection is off, because CPython deliberately keeps memory until it exits.
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

# Line tracing needs a separate build, because it makes every line several times slower.
TRACED := build/traced
coverage-native: setup
	@mkdir -p $(TRACED)
	cp -a --update setup.py pyproject.toml README.md LICENSE $(TRACED)/
	rm -rf $(TRACED)/src $(TRACED)/tests
	cp -a src tests $(TRACED)/
	find $(TRACED)/src -name '*.so' -delete
	printf '[run]\nplugins = Cython.Coverage\nsource = src/ocspd\n[report]\ninclude = src/ocspd/*.pyx,src/ocspd/*/*.pyx\n' > $(TRACED)/coverage.ini
	cd $(TRACED)
	OCSPD_DEBUG=1 $(CURDIR)/$(BIN)/python setup.py --quiet build_ext --inplace
	export PYTHONPATH=$(CURDIR)/$(TRACED)/src COVERAGE_RCFILE=coverage.ini
	$(CURDIR)/$(BIN)/python -m coverage run -m pytest -p no:cacheprovider -m "not growth" --quiet --timeout=600 tests/native $(T)
	$(CURDIR)/$(BIN)/python -m coverage report --show-missing

simulate: setup
	@$(BIN)/python -m tests.simulation --seeds 10000 $(S)

bench: setup
	@$(BIN)/python -m bench.run $(B)

bench-large: setup
	@$(BIN)/python -m bench.run --large $(B)

bench-openssl: setup
	@$(BIN)/python -m bench.openssl $(B)

clean:
	@rm -rf $(VENV) build dist bench/results/tmp .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage htmlcov
	rm -rf src/*.egg-info src/ocspd/*.so src/ocspd/*/*.so $(PYX:.pyx=.c) $(PYX:.pyx=.html)
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
