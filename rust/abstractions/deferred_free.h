/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _APPLE_DMA_PCI_DEFERRED_FREE_H
#define _APPLE_DMA_PCI_DEFERRED_FREE_H

#include <linux/types.h>

struct device;

/*
 * dma_free_attrs() for memory that was just allocated and that nobody else knows. Any context:
 * where interrupts are off the memory is freed later. @dev must be coherent and its DMA addresses
 * physical ones; it must stay until apple_dma_deferred_free_flush() has returned.
 */
void apple_dma_deferred_free(struct device *dev, size_t size, void *cpu_addr, dma_addr_t addr,
			 unsigned long attrs);

/* Waits until all memory is free that apple_dma_deferred_free() was called for before. May sleep. */
void apple_dma_deferred_free_flush(void);

#endif /* _APPLE_DMA_PCI_DEFERRED_FREE_H */
