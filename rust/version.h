/* SPDX-License-Identifier: GPL-2.0 */
/* Version of the module and of its package; the same as in debian/changelog. */

#ifndef APPLE_DMA_PCI_RUST_VERSION_H
#define APPLE_DMA_PCI_RUST_VERSION_H

#define APPLE_DMA_PCI_VERSION "0.1.0"

#endif
