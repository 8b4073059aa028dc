# SPDX-License-Identifier: GPL-2.0
#
# The targets that set up and test; included by the top-level Makefile. All work is done by
# the scripts in tests/env, in a root of its own: the machine needs apt, root and make.

env := $(CURDIR)/tests/env
in_root := $(env)/in-root

.PHONY: setup update demo check check-unit check-guest check-kernel check-package matrix deb fuzz
.PHONY: soak kselftest bench lint test-help

setup:
	@$(env)/setup

update:
	@$(env)/setup --update

demo: setup
	@$(in_root) $(env)/guest demo

check: setup
	@$(env)/package-roots
	@$(env)/check

check-unit: setup
	@$(env)/check unit

# FILTER=REGEX picks cases by name, ARCH/SCENARIO.
check-guest: setup
	@$(env)/check guest -- $(if $(FILTER),--filter '$(FILTER)')

# All that is not about another kernel, on kernel NAME: see tests/env/kernel.
check-kernel: setup
	@$(env)/check guest -- --kernel '$(NAME)' $(if $(ARCH),--arch '$(ARCH)') \
		$(if $(FILTER),--filter '$(FILTER)')

# Of the package, and of guests that it is installed in.
check-package: setup
	@$(env)/package-roots
	@$(env)/check package

deb: setup
	@$(env)/package-roots package
	@$(env)/package deb

# The core of the guest tests on each kernel that is supported; FILTER=REGEX picks some, by ARCH/NAME.
matrix: setup
	@$(in_root) $(env)/matrix $(if $(FILTER),'$(FILTER)')

# Half an hour at least, and ten million accesses.
soak: setup
	@$(env)/check guest -- --soak

# For each target; what is found is in build/fuzz/.
SECONDS ?= 600
fuzz: setup
	@$(in_root) $(env)/fuzz $(SECONDS)

# In a booted guest; in a guest of your own see tests/selftests/README.md.
kselftest: setup
	@$(env)/check guest -- --filter '/kselftest'

# FILTER=REGEX picks guests of tests/guest/bench.toml.
bench: setup
	@$(in_root) $(env)/build-modules arm64 >/dev/null
	@$(in_root) cargo build --quiet --release --locked --manifest-path tests/Cargo.toml \
		-p apple-dma-guest -p apple-dma-mac
	@$(in_root) cargo run --quiet --release --locked --manifest-path tests/Cargo.toml \
		-p apple-dma-guest -- bench $(if $(FILTER),--filter '$(FILTER)')

lint: setup
	@$(in_root) $(env)/lint

help: test-help
test-help:
	@echo 'make demo                 a disk in a guest without the module, and with it'
	@echo 'make check                all tests; check-unit and check-guest [FILTER=REGEX]: parts of them'
	@echo 'make check-kernel NAME=debug ARCH=amd64   guests on another kernel, e.g. 7.3 or 16k'
	@echo 'make deb                  the Debian packages, in build/deb'
	@echo 'make check-package        installs it, upgrades and removes it, and boots what was installed'
	@echo 'make matrix               the core of the guest tests on every kernel that is supported'
	@echo 'make soak                 a guest that works for half an hour, and is often disturbed'
	@echo 'make bench                what mapping costs next to direct mapping; build/bench.json has all figures'
	@echo 'make fuzz [SECONDS=N]     feeds the answer decoder and the engine at random, 600 s each'
	@echo 'make kselftest            the kselftest, in guests'
	@echo 'make lint                 formatting, lints and style'
	@echo 'make setup                what these need, which they do first; make update: newer packages'
