// SPDX-License-Identifier: GPL-2.0
/*
 * C helpers; see helpers.h.
 */
#include "helpers.h"
#include "../version.h"

#include <linux/crash_dump.h>
#include <linux/io.h>
#include <linux/iommu-dma.h>
#include <linux/memory.h>
#include <linux/memory_hotplug.h>
#include <linux/memremap.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/panic_notifier.h>
#include <linux/preempt.h>
#include <linux/ratelimit.h>
#include <linux/slab.h>
#include <linux/smp.h>
#include <linux/spinlock.h>
#include <linux/swiotlb.h>

MODULE_VERSION(APPLE_DMA_PCI_VERSION);

void apple_dma_helper_raw_spin_lock_init(raw_spinlock_t *lock, const char *name,
					 struct lock_class_key *key)
{
#ifdef CONFIG_DEBUG_SPINLOCK
	__raw_spin_lock_init(lock, name, key, LD_WAIT_SPIN);
#else
	raw_spin_lock_init(lock);
#endif
}

unsigned long apple_dma_helper_raw_spin_lock_irqsave(raw_spinlock_t *lock)
{
	unsigned long flags;

	raw_spin_lock_irqsave(lock, flags);
	return flags;
}

bool apple_dma_helper_raw_spin_trylock_irqsave(raw_spinlock_t *lock, unsigned long *flags)
{
	return raw_spin_trylock_irqsave(lock, *flags);
}

void apple_dma_helper_raw_spin_unlock_irqrestore(raw_spinlock_t *lock, unsigned long flags)
{
	raw_spin_unlock_irqrestore(lock, flags);
}

void apple_dma_helper_lockdep_assert_held(raw_spinlock_t *lock)
{
	lockdep_assert_held(lock);
}

void apple_dma_helper_ratelimit_init(struct ratelimit_state *rs)
{
	ratelimit_default_init(rs);
	ratelimit_set_flags(rs, RATELIMIT_MSG_ON_RELEASE);
}

void apple_dma_helper_ratelimit_exit(struct ratelimit_state *rs)
{
	ratelimit_state_exit(rs);
}

void apple_dma_helper_dma_rmb(void)
{
	dma_rmb();
}

void apple_dma_helper_device_lock(struct device *dev)
{
	device_lock(dev);
}

void apple_dma_helper_device_unlock(struct device *dev)
{
	device_unlock(dev);
}

/*
 * Returns whether the link was added. It stays until one of the devices is removed. Not with
 * DL_FLAG_AUTOREMOVE_SUPPLIER: the driver core then writes to a link after dropping its reference,
 * when the link may already be freed.
 */
bool apple_dma_helper_device_link(struct device *consumer, struct device *supplier)
{
	return device_link_add(consumer, supplier, DL_FLAG_AUTOPROBE_CONSUMER);
}

/* Returns whether @cpu_addr, from dma_alloc_attrs() for a coherent device, is memory at @phys. */
bool apple_dma_helper_is_at(const void *cpu_addr, phys_addr_t phys, unsigned long attrs)
{
	/* @cpu_addr is a page then, unless memory must be shared with the host explicitly. */
	if ((attrs & DMA_ATTR_NO_KERNEL_MAPPING) && apple_dma_helper_page_is_at(cpu_addr, phys))
		return true;
	if (is_vmalloc_addr(cpu_addr))
		return page_to_phys(vmalloc_to_page(cpu_addr)) == (phys & PAGE_MASK);
	return virt_addr_valid(cpu_addr) && virt_to_phys((void *)cpu_addr) == phys;
}

/* Returns whether @page is that of the memory at @phys. */
bool apple_dma_helper_page_is_at(const struct page *page, phys_addr_t phys)
{
	return pfn_valid(PHYS_PFN(phys)) && page == pfn_to_page(PHYS_PFN(phys));
}

/* Returns zeroed pages, or NULL; does not try hard for an order that is not there. */
struct page *apple_dma_helper_alloc_block(unsigned int order)
{
	if (order > MAX_PAGE_ORDER)
		return NULL;
	return alloc_pages(GFP_KERNEL | __GFP_ZERO | __GFP_NOWARN | __GFP_NORETRY, order);
}

void apple_dma_helper_free_block(struct page *page, unsigned int order)
{
	__free_pages(page, order);
}

phys_addr_t apple_dma_helper_page_to_phys(struct page *page)
{
	return page_to_phys(page);
}

/* Returns whether @phys is in a page of the page allocator, which the kernel maps. */
static bool is_allocatable(phys_addr_t phys)
{
	struct page *page = pfn_to_online_page(PHYS_PFN(phys));

	return page && !PageReserved(page);
}

/*
 * Returns whether the memory from @first to @last can be copied. It is the memory of one buffer, so
 * that its ends tell.
 */
bool apple_dma_helper_is_copyable(phys_addr_t first, phys_addr_t last)
{
	BUILD_BUG_ON(IS_ENABLED(CONFIG_HIGHMEM));
	return is_allocatable(first) && is_allocatable(last);
}

void apple_dma_helper_copy_phys(phys_addr_t to, phys_addr_t from, size_t len)
{
	memcpy(phys_to_virt(to), phys_to_virt(from), len);
}

void apple_dma_helper_clear_phys(phys_addr_t phys, size_t len)
{
	memset(phys_to_virt(phys), 0, len);
}

/* Returns the number of this processor, or, where preemption is on, of one before. */
unsigned int apple_dma_helper_processor(void)
{
	return raw_smp_processor_id();
}

/* Returns whether anything may run while this processor waits. */
bool apple_dma_helper_others_run(void)
{
	return !irqs_disabled() || num_online_cpus() > 1;
}

/* Returns whether memory may be allocated: on PREEMPT_RT even GFP_ATOMIC takes sleeping locks. */
bool apple_dma_helper_may_allocate(void)
{
	return !IS_ENABLED(CONFIG_PREEMPT_RT) || preemptible();
}

/* Sleeps until there is memory, so @size must be small. To be freed by kfree(). */
void *apple_dma_helper_memdup_nofail(const void *source, size_t size)
{
	return memcpy(kmalloc(size, GFP_KERNEL | __GFP_NOFAIL), source, size);
}

const struct dma_map_ops *apple_dma_helper_get_dma_ops(struct device *dev)
{
#ifdef CONFIG_ARCH_HAS_DMA_OPS
	return dev->dma_ops;
#else
	return NULL;
#endif
}

void apple_dma_helper_set_dma_ops(struct device *dev, const struct dma_map_ops *ops)
{
	set_dma_ops(dev, ops);
	/* A driver that sets no mask would have the setting of the one before. */
	if (ops && ops->sync_single_for_cpu)
		dma_reset_need_sync(dev);
}

bool apple_dma_helper_has_iommu(struct device *dev)
{
	return use_dma_iommu(dev);
}

bool apple_dma_helper_is_coherent(struct device *dev)
{
	return dev_is_dma_coherent(dev);
}

/* Returns whether DMA addresses of the device differ from guest-physical addresses. */
bool apple_dma_helper_is_translated(struct device *dev)
{
	return dev->dma_range_map;
}

/*
 * Returns whether @dev has bounce buffers of the kernel, all of which are from *@start to *@end for
 * good. With CONFIG_SWIOTLB_DYNAMIC there may be more later, anywhere.
 */
bool apple_dma_helper_bounce_buffers(struct device *dev, phys_addr_t *start, phys_addr_t *end)
{
#if defined(CONFIG_SWIOTLB) && !defined(CONFIG_SWIOTLB_DYNAMIC)
	const struct io_tlb_mem *mem = dev->dma_io_tlb_mem;

	if (!mem || !mem->nslabs)
		return false;
	*start = mem->defpool.start;
	*end = mem->defpool.end;
	return true;
#else
	return false;
#endif
}

int apple_dma_helper_register_memory_notifier(struct notifier_block *nb)
{
	return register_memory_notifier(nb);
}

void apple_dma_helper_unregister_memory_notifier(struct notifier_block *nb)
{
	unregister_memory_notifier(nb);
}

/* Returns the unit of memory hotplug; 0 if the kernel has no memory hotplug. */
phys_addr_t apple_dma_helper_memory_section_size(void)
{
#ifdef CONFIG_SPARSEMEM
	return PFN_PHYS(PAGES_PER_SECTION);
#else
	return 0;
#endif
}

/* Returns whether the memory at @phys is online, so drivers may use it. */
bool apple_dma_helper_is_online(phys_addr_t phys)
{
	return pfn_to_online_page(PHYS_PFN(phys));
}

bool apple_dma_helper_is_crash_kernel(void)
{
	return is_kdump_kernel();
}

int apple_dma_helper_register_panic_notifier(struct notifier_block *nb)
{
	return atomic_notifier_chain_register(&panic_notifier_list, nb);
}

void apple_dma_helper_unregister_panic_notifier(struct notifier_block *nb)
{
	atomic_notifier_chain_unregister(&panic_notifier_list, nb);
}

void apple_dma_helper_init_delayed_work(struct delayed_work *work, work_func_t func,
					bool deferrable)
{
	if (deferrable)
		INIT_DEFERRABLE_WORK(work, func);
	else
		INIT_DELAYED_WORK(work, func);
}

void apple_dma_helper_queue_freezable_work(struct delayed_work *work, unsigned long delay)
{
	queue_delayed_work(system_freezable_power_efficient_wq, work, delay);
}

int apple_dma_helper_pci_domain_nr(struct pci_bus *bus)
{
	return pci_domain_nr(bus);
}

/* Returns the address of the entry in RAM; PHYS_ADDR_MAX if it is another device's memory. */
phys_addr_t apple_dma_helper_sg_ram(struct scatterlist *sg)
{
	if (is_pci_p2pdma_page(sg_page(sg)))
		return PHYS_ADDR_MAX;
	return sg_phys(sg);
}

bool apple_dma_helper_sg_is_p2pdma(struct scatterlist *sg)
{
	return is_pci_p2pdma_page(sg_page(sg));
}
