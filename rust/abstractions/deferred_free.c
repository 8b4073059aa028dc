// SPDX-License-Identifier: GPL-2.0
/*
 * Freeing of DMA memory in contexts where dma_free_attrs() is forbidden: dma_alloc_attrs() works
 * with interrupts disabled, dma_free_attrs() does not.
 */
#include "deferred_free.h"

#include <linux/dma-mapping.h>
#include <linux/io.h>
#include <linux/irqflags.h>
#include <linux/llist.h>
#include <linux/workqueue.h>

/* Arguments of dma_free_attrs(). Stored in the memory to be freed, so nothing is allocated. */
struct deferred_free {
	struct llist_node node;
	struct device *dev;
	size_t size;
	void *cpu_addr;
	dma_addr_t addr;
	unsigned long attrs;
};

static LLIST_HEAD(deferred);

static void free_deferred(struct work_struct *work)
{
	struct deferred_free *entry, *next;

	llist_for_each_entry_safe(entry, next, llist_del_all(&deferred), node) {
		/* A copy, since the entry is in the memory that is freed. */
		struct deferred_free args = *entry;

		dma_free_attrs(args.dev, args.size, args.cpu_addr, args.addr, args.attrs);
	}
}

static DECLARE_WORK(deferred_work, free_deferred);

/**
 * apple_dma_deferred_free - dma_free_attrs() for memory that was never used
 * @dev: device that the memory was allocated for
 * @size: as for dma_free_attrs()
 * @cpu_addr: as for dma_free_attrs()
 * @addr: as for dma_free_attrs()
 * @attrs: as for dma_free_attrs()
 *
 * The memory must have been allocated just before, and have no other users. @dev must be coherent,
 * its DMA addresses must be physical addresses, and it must stay until
 * apple_dma_deferred_free_flush() has returned.
 *
 * Context: Any context. With interrupts disabled the memory is freed later.
 */
void apple_dma_deferred_free(struct device *dev, size_t size, void *cpu_addr, dma_addr_t addr,
			     unsigned long attrs)
{
	struct deferred_free *entry;

	/* Allocations are whole pages in the linear mapping, whatever @cpu_addr is. */
	BUILD_BUG_ON(sizeof(*entry) > PAGE_SIZE);
	if (!irqs_disabled()) {
		dma_free_attrs(dev, size, cpu_addr, addr, attrs);
		return;
	}
	entry = phys_to_virt(addr);
	entry->dev = dev;
	entry->size = size;
	entry->cpu_addr = cpu_addr;
	entry->addr = addr;
	entry->attrs = attrs;
	llist_add(&entry->node, &deferred);
	schedule_work(&deferred_work);
}

/**
 * apple_dma_deferred_free_flush - wait until deferred memory is freed
 *
 * Waits for all memory for which apple_dma_deferred_free() was called before.
 *
 * Context: Process context. May sleep.
 */
void apple_dma_deferred_free_flush(void)
{
	flush_work(&deferred_work);
}
