/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The module's parameters that are text, which the kernel crate does not have, and what belongs to
 * them.
 */
#ifndef _APPLE_DMA_PCI_TEXT_PARAMS_H
#define _APPLE_DMA_PCI_TEXT_PARAMS_H

/* Returns the parameter "copy", or NULL; it stays the same while the module is loaded. */
const char *apple_dma_param_copy(void);

/* Returns the parameter "copy_bytes". */
unsigned long long apple_dma_param_copy_bytes(void);

/* Returns the parameter "managed", or NULL; it stays the same while the module is loaded. */
const char *apple_dma_param_managed(void);

#endif /* _APPLE_DMA_PCI_TEXT_PARAMS_H */
