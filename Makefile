# SPDX-License-Identifier: GPL-2.0
#
# Builds apple_dma_pci.ko for the kernel whose build directory is KDIR, and runs the tests.
# `make help` lists the targets.

# The kernel to build for. With KDIR, what to build against; else that is found, or made, together
# with the compilers.
KVER ?= $(shell uname -r)

.PHONY: modules clean help
modules clean:
ifdef KDIR
	$(MAKE) -C '$(KDIR)' M='$(CURDIR)' $@
else
	@arguments=$$(packaging/rust-metadata arguments '$(KVER)') && \
		$(MAKE) --no-print-directory $$arguments $@
endif

help:
	@echo 'make [modules] [KVER=RELEASE]  apple_dma_pci.ko for the running kernel, or another'
	@echo 'make [modules] KDIR=DIR        for the kernel built in DIR; ARCH=, CROSS_COMPILE= and'
	@echo '                               KERNELRELEASE= as for the kernel'
	@echo 'make clean                     remove what that made'

-include packaging/install.mk
-include tests/tests.mk
