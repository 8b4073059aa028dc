# SPDX-License-Identifier: GPL-2.0
#
# Builds apple_dma_pci.ko for the kernel whose build directory is KDIR, and runs the tests.
# `make help` lists the targets.

KDIR ?= /lib/modules/$(shell uname -r)/build

.PHONY: modules clean help
modules:
	$(MAKE) -C '$(KDIR)' M='$(CURDIR)' modules

clean:
	$(MAKE) -C '$(KDIR)' M='$(CURDIR)' clean

help:
	@echo 'make [modules] KDIR=DIR   apple_dma_pci.ko for the kernel built in DIR;'
	@echo '                          ARCH=, CROSS_COMPILE= and KERNELRELEASE= as for the kernel'
	@echo 'make clean KDIR=DIR       remove what that made'

-include tests/tests.mk
