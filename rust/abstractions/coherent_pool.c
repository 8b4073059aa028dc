// SPDX-License-Identifier: GPL-2.0
/*
 * Coherent memory of one device, as firmware may reserve it: where a device has such a pool,
 * dma_alloc_coherent() takes memory from it, in any context, and from nowhere else.
 *
 * The kernel exports nothing that makes a pool, and has its layout in kernel/dma/coherent.c only.
 * It is repeated here for the kernels whose sources it was compared with, see kernel.mk; on others
 * there are no pools. apple_dma_coherent_works() checks it at run time.
 */
#include "coherent_pool.h"

#include <linux/bitmap.h>
#include <linux/device.h>
#include <linux/dma-mapping.h>
#include <linux/gfp.h>
#include <linux/log2.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/topology.h>

#if defined(CONFIG_DMA_DECLARE_COHERENT) && defined(APPLE_DMA_LINUX_IS_KNOWN)

struct dma_coherent_mem {
	void *virt_base;
	dma_addr_t device_base;
	unsigned long pfn_base;
	/* In pages. */
	int size;
	unsigned long *bitmap;
	/* Protects the bitmap. */
	spinlock_t spinlock;
	bool use_dev_dma_pfn_offset;
};

struct apple_dma_coherent_pool {
	struct dma_coherent_mem mem;
	/* A pool without memory, from which every allocation fails. */
	struct dma_coherent_mem none;
	struct page *pages;
};

/* Returns whether devices can have pools. */
bool apple_dma_coherent_is_possible(void)
{
	return true;
}

#ifdef CONFIG_CONTIG_ALLOC
static struct page *alloc_memory(size_t size)
{
	return alloc_contig_pages(size >> PAGE_SHIFT, GFP_KERNEL | __GFP_NOWARN, numa_mem_id(),
				  NULL);
}

static void free_memory(struct page *pages, size_t size)
{
	free_contig_range(page_to_pfn(pages), size >> PAGE_SHIFT);
}
#else
static struct page *alloc_memory(size_t size)
{
	if (get_order(size) > MAX_PAGE_ORDER)
		return NULL;
	return alloc_pages(GFP_KERNEL | __GFP_NOWARN, get_order(size));
}

static void free_memory(struct page *pages, size_t size)
{
	__free_pages(pages, get_order(size));
}
#endif

/*
 * Returns a pool of @size bytes, a power of two and at least a page, aligned to its size and
 * filled with zeroes; NULL if there is no such memory.
 */
struct apple_dma_coherent_pool *apple_dma_coherent_new(size_t size)
{
	unsigned int pages = size >> PAGE_SHIFT;
	struct apple_dma_coherent_pool *pool;

	if (!is_power_of_2(size) || size < PAGE_SIZE || size > SZ_1G)
		return NULL;
	pool = kzalloc_obj(*pool);
	if (!pool)
		return NULL;
	spin_lock_init(&pool->mem.spinlock);
	spin_lock_init(&pool->none.spinlock);
	pool->mem.size = pages;
	pool->mem.bitmap = bitmap_zalloc(pages, GFP_KERNEL);
	pool->none.bitmap = bitmap_zalloc(1, GFP_KERNEL);
	pool->pages = alloc_memory(size);
	if (!pool->mem.bitmap || !pool->none.bitmap || !pool->pages) {
		apple_dma_coherent_free(pool);
		return NULL;
	}
	pool->mem.virt_base = page_address(pool->pages);
	pool->mem.pfn_base = page_to_pfn(pool->pages);
	/* The device reaches all of it, whatever the memory held before. */
	memset(pool->mem.virt_base, 0, size);
	return pool;
}

/* Frees @pool. No device has it, and none reaches its memory. */
void apple_dma_coherent_free(struct apple_dma_coherent_pool *pool)
{
	if (pool->pages)
		free_memory(pool->pages, apple_dma_coherent_size(pool));
	bitmap_free(pool->mem.bitmap);
	bitmap_free(pool->none.bitmap);
	kfree(pool);
}

phys_addr_t apple_dma_coherent_start(const struct apple_dma_coherent_pool *pool)
{
	return PFN_PHYS(pool->mem.pfn_base);
}

size_t apple_dma_coherent_size(const struct apple_dma_coherent_pool *pool)
{
	return (size_t)pool->mem.size << PAGE_SHIFT;
}

/*
 * Returns whether the kernel's allocator uses @pool as expected. @dev has no pool, and nothing else
 * uses its DMA meanwhile.
 */
bool apple_dma_coherent_works(struct apple_dma_coherent_pool *pool, struct device *dev)
{
	struct dma_coherent_mem *mem = &pool->mem;
	/* Any address, to be recognised. */
	const dma_addr_t address = 0x5a5a000000;
	void *first = NULL, *second = NULL, *third = NULL;
	dma_addr_t handle = 0, handles[2] = {};
	bool works;

	if (dev->dma_mem)
		return false;
	mem->device_base = address;
	dev->dma_mem = mem;
	first = dma_alloc_coherent(dev, PAGE_SIZE, &handle, GFP_KERNEL);
	/* Aligned to its size, which leaves a page free in between. */
	second = dma_alloc_coherent(dev, 2 * PAGE_SIZE, &handles[0], GFP_ATOMIC);
	dev->dma_mem = &pool->none;
	third = dma_alloc_coherent(dev, PAGE_SIZE, &handles[1], GFP_KERNEL);
	works = first == mem->virt_base && handle == address &&
		second == mem->virt_base + 2 * PAGE_SIZE && handles[0] == address + 2 * PAGE_SIZE &&
		!third && bitmap_weight(mem->bitmap, mem->size) == 3;
	if (third)
		dma_free_coherent(dev, PAGE_SIZE, third, handles[1]);
	dev->dma_mem = mem;
	if (first)
		dma_free_coherent(dev, PAGE_SIZE, first, handle);
	if (second)
		dma_free_coherent(dev, 2 * PAGE_SIZE, second, handles[0]);
	dev->dma_mem = NULL;
	return works && bitmap_empty(mem->bitmap, mem->size);
}

/* Sets the address at which devices reach @pool. */
void apple_dma_coherent_set_address(struct apple_dma_coherent_pool *pool, dma_addr_t address)
{
	pool->mem.device_base = address;
}

/* Gives @pool to @dev, or a pool without memory if it is not @usable. No driver uses @dev. */
void apple_dma_coherent_install(struct apple_dma_coherent_pool *pool, struct device *dev,
				bool usable)
{
	dev->dma_mem = usable ? &pool->mem : &pool->none;
}

/* Takes the pool from @dev, which no driver uses. */
void apple_dma_coherent_remove(struct device *dev)
{
	dev->dma_mem = NULL;
}

bool apple_dma_coherent_is_installed(const struct apple_dma_coherent_pool *pool,
				     const struct device *dev)
{
	return dev->dma_mem == &pool->mem || dev->dma_mem == &pool->none;
}

/* Returns whether @dev has another pool. */
bool apple_dma_coherent_is_foreign(const struct apple_dma_coherent_pool *pool,
				   const struct device *dev)
{
	return dev->dma_mem && !apple_dma_coherent_is_installed(pool, dev);
}

#else

bool apple_dma_coherent_is_possible(void)
{
	return false;
}

struct apple_dma_coherent_pool *apple_dma_coherent_new(size_t size)
{
	return NULL;
}

void apple_dma_coherent_free(struct apple_dma_coherent_pool *pool)
{
}

phys_addr_t apple_dma_coherent_start(const struct apple_dma_coherent_pool *pool)
{
	return 0;
}

size_t apple_dma_coherent_size(const struct apple_dma_coherent_pool *pool)
{
	return 0;
}

bool apple_dma_coherent_works(struct apple_dma_coherent_pool *pool, struct device *dev)
{
	return false;
}

void apple_dma_coherent_set_address(struct apple_dma_coherent_pool *pool, dma_addr_t address)
{
}

void apple_dma_coherent_install(struct apple_dma_coherent_pool *pool, struct device *dev,
				bool usable)
{
}

void apple_dma_coherent_remove(struct device *dev)
{
}

bool apple_dma_coherent_is_installed(const struct apple_dma_coherent_pool *pool,
				     const struct device *dev)
{
	return false;
}

bool apple_dma_coherent_is_foreign(const struct apple_dma_coherent_pool *pool,
				   const struct device *dev)
{
	return false;
}

#endif
