# SPDX-License-Identifier: GPL-2.0
#
# The targets that install, with DKMS or without, and that make packages; included by the top-level
# Makefile.

.PHONY: install uninstall install-sources install-common install-dkms deb modules-deb install-help

pkgversion := $(shell sed -n 's/^.define APPLE_DMA_PCI_VERSION "\(.*\)"/\1/p' $(CURDIR)/rust/version.h)

# --- without DKMS, for one kernel -------------------------------------------

modprobe_d := /etc/modprobe.d/apple-dma-pci.conf
initramfs_hook := /etc/initramfs-tools/hooks/apple-dma-pci
dracut_conf := /etc/dracut.conf.d/apple-dma-pci.conf
installed = $(DESTDIR)/lib/modules/$(KVER)/updates/apple_dma_pci.ko

install: modules
	install -D -m 644 apple_dma_pci.ko '$(installed)'
	install -D -m 644 packaging/modprobe.conf '$(DESTDIR)$(modprobe_d)'
	install -D -m 755 packaging/initramfs-hook '$(DESTDIR)$(initramfs_hook)'
	install -D -m 644 packaging/dracut.conf '$(DESTDIR)$(dracut_conf)'
	$(if $(DESTDIR),,depmod '$(KVER)')
	$(if $(DESTDIR),,packaging/refresh-initramfs '$(KVER)')

# What other kernels have stays usable: the files in /etc go with the last one.
uninstall:
	rm -f '$(installed)'
	rmdir --ignore-fail-on-non-empty '$(dir $(installed))' 2>/dev/null || true
	ls $(DESTDIR)/lib/modules/*/updates/apple_dma_pci.ko >/dev/null 2>&1 || \
		rm -f '$(DESTDIR)$(modprobe_d)' '$(DESTDIR)$(initramfs_hook)' '$(DESTDIR)$(dracut_conf)'
	$(if $(DESTDIR),,packaging/rust-metadata remove '$(KVER)')
	$(if $(DESTDIR),,depmod '$(KVER)')
	$(if $(DESTDIR),,packaging/refresh-initramfs --always '$(KVER)')

# --- for DKMS ---------------------------------------------------------------

PREFIX ?= /usr
sources := $(DESTDIR)$(PREFIX)/src/apple-dma-pci-$(pkgversion)
library := $(DESTDIR)$(PREFIX)/lib/apple-dma-pci

# All that the packages have but their documentation and dkms.conf.
install-sources: install-common install-dkms

# However the module comes.
install-common:
	install -D -m 755 packaging/refresh-initramfs '$(library)/refresh-initramfs'
	install -D -m 644 packaging/modprobe.conf \
		'$(DESTDIR)$(PREFIX)/lib/modprobe.d/apple-dma-pci.conf'
	install -D -m 755 packaging/initramfs-hook \
		'$(DESTDIR)$(PREFIX)/share/initramfs-tools/hooks/apple-dma-pci'
	install -D -m 644 packaging/dracut.conf \
		'$(DESTDIR)$(PREFIX)/lib/dracut/dracut.conf.d/50-apple-dma-pci.conf'

install-dkms:
	install -d '$(sources)/packaging'
	cp -R Makefile Kbuild apple_dma_pci.rs rust uapi '$(sources)/'
	install -m 755 packaging/dkms-build '$(sources)/packaging/'
	install -D -m 755 packaging/rust-metadata '$(library)/rust-metadata'
	install -D -m 755 packaging/kernel-hook \
		'$(DESTDIR)$(PREFIX)/share/kernel/postinst.d/apple-dma-pci'
	install -D -m 755 packaging/kernel-hook \
		'$(DESTDIR)$(PREFIX)/share/kernel/header_postinst.d/apple-dma-pci'
	install -D -m 755 packaging/headers-hook \
		'$(DESTDIR)$(PREFIX)/share/kernel/header_postinst.d/zz-apple-dma-pci'
	install -D -m 755 packaging/kernel-removed \
		'$(DESTDIR)$(PREFIX)/share/kernel/postrm.d/apple-dma-pci'

# --- Debian's packages ------------------------------------------------------

deb:
	@packaging/deb

# With the module itself, for machines without compilers.
modules-deb: modules
	@packaging/modules-package '$(KVER)' apple_dma_pci.ko build/deb

help: install-help
install-help:
	@echo 'make install [KVER=RELEASE]    for one kernel, without DKMS; make uninstall'
	@echo 'make deb                       the Debian packages, in build/deb'
	@echo 'make modules-deb [KVER=…]      a Debian package of the module for one kernel, for'
	@echo '                               machines without compilers'
