/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _APPLE_DMA_PCI_COHERENT_POOL_H
#define _APPLE_DMA_PCI_COHERENT_POOL_H

#include <linux/types.h>

struct apple_dma_coherent_pool;
struct device;

bool apple_dma_coherent_is_possible(void);
struct apple_dma_coherent_pool *apple_dma_coherent_new(size_t size);
void apple_dma_coherent_free(struct apple_dma_coherent_pool *pool);
phys_addr_t apple_dma_coherent_start(const struct apple_dma_coherent_pool *pool);
size_t apple_dma_coherent_size(const struct apple_dma_coherent_pool *pool);
bool apple_dma_coherent_works(struct apple_dma_coherent_pool *pool, struct device *dev);
void apple_dma_coherent_set_address(struct apple_dma_coherent_pool *pool, dma_addr_t address);
void apple_dma_coherent_install(struct apple_dma_coherent_pool *pool, struct device *dev,
				bool usable);
void apple_dma_coherent_remove(struct device *dev);
bool apple_dma_coherent_is_installed(const struct apple_dma_coherent_pool *pool,
				     const struct device *dev);
bool apple_dma_coherent_is_foreign(const struct apple_dma_coherent_pool *pool,
				   const struct device *dev);

#endif /* _APPLE_DMA_PCI_COHERENT_POOL_H */
