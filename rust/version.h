/* SPDX-License-Identifier: GPL-2.0 */
/* The version of the module and of its package; packaging/debian/changelog has the same. */

#ifndef APPLE_DMA_PCI_RUST_VERSION_H
#define APPLE_DMA_PCI_RUST_VERSION_H

#define APPLE_DMA_PCI_VERSION "0.1.0"

#endif
