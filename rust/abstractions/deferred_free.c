// SPDX-License-Identifier: GPL-2.0
/*
 * Memory that was allocated in vain where freeing is forbidden: dma_alloc_attrs() works with
 * interrupts off, dma_free_attrs() does not.
 */
#include "deferred_free.h"

#include <linux/dma-mapping.h>
#include <linux/io.h>
#include <linux/irqflags.h>
#include <linux/llist.h>
#include <linux/workqueue.h>

/* Lies in the memory that it is about: there is none to ask for, and nobody else uses it. */
struct late_free {
	struct llist_node node;
	struct device *dev;
	size_t size;
	void *cpu_addr;
	dma_addr_t addr;
	unsigned long attrs;
};

static LLIST_HEAD(late_frees);

static void free_all(struct work_struct *work)
{
	struct late_free *entry, *next;

	llist_for_each_entry_safe(entry, next, llist_del_all(&late_frees), node) {
		struct late_free late = *entry;

		dma_free_attrs(late.dev, late.size, late.cpu_addr, late.addr, late.attrs);
	}
}

static DECLARE_WORK(late_free_work, free_all);

void apple_dma_deferred_free(struct device *dev, size_t size, void *cpu_addr, dma_addr_t addr,
			 unsigned long attrs)
{
	struct late_free *late;

	/* Allocations are of whole pages, and in the linear mapping, whatever @cpu_addr is. */
	BUILD_BUG_ON(sizeof(*late) > PAGE_SIZE);
	if (!irqs_disabled()) {
		dma_free_attrs(dev, size, cpu_addr, addr, attrs);
		return;
	}
	late = phys_to_virt(addr);
	late->dev = dev;
	late->size = size;
	late->cpu_addr = cpu_addr;
	late->addr = addr;
	late->attrs = attrs;
	llist_add(&late->node, &late_frees);
	schedule_work(&late_free_work);
}

void apple_dma_deferred_free_flush(void)
{
	flush_work(&late_free_work);
}
