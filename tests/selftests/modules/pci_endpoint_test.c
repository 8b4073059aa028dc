// SPDX-License-Identifier: GPL-2.0
/*
 * The kernel's driver for PCI endpoint tests, as it is, for kernels without
 * CONFIG_PCI_ENDPOINT_TEST.
 */
#include <drivers/misc/pci_endpoint_test.c>
