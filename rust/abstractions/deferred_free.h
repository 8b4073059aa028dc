/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _APPLE_DMA_PCI_DEFERRED_FREE_H
#define _APPLE_DMA_PCI_DEFERRED_FREE_H

#include <linux/types.h>

struct device;

void apple_dma_deferred_free(struct device *dev, size_t size, void *cpu_addr, dma_addr_t addr,
			     unsigned long attrs);
void apple_dma_deferred_free_flush(void);

#endif /* _APPLE_DMA_PCI_DEFERRED_FREE_H */
