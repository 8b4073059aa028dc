/* SPDX-License-Identifier: GPL-2.0 */
/*
 * C helpers: a function for each macro or inline function of the kernel that Rust needs and that
 * neither the kernel crate nor its bindings offer. Grouped by the headers that they stand for.
 * Decisions of the driver do not belong here.
 */
#ifndef _APPLE_DMA_PCI_HELPERS_H
#define _APPLE_DMA_PCI_HELPERS_H

#include <linux/device.h>
#include <linux/dma-map-ops.h>
#include <linux/notifier.h>
#include <linux/pci.h>
#include <linux/ratelimit_types.h>
#include <linux/scatterlist.h>
#include <linux/spinlock_types.h>
#include <linux/workqueue.h>

/* linux/spinlock.h */
void apple_dma_helper_raw_spin_lock_init(raw_spinlock_t *lock, const char *name,
					 struct lock_class_key *key);
unsigned long apple_dma_helper_raw_spin_lock_irqsave(raw_spinlock_t *lock);
bool apple_dma_helper_raw_spin_trylock_irqsave(raw_spinlock_t *lock, unsigned long *flags);
void apple_dma_helper_raw_spin_unlock_irqrestore(raw_spinlock_t *lock, unsigned long flags);
void apple_dma_helper_lockdep_assert_held(raw_spinlock_t *lock);

/* linux/ratelimit.h */
void apple_dma_helper_ratelimit_init(struct ratelimit_state *rs);
void apple_dma_helper_ratelimit_exit(struct ratelimit_state *rs);

/* asm/barrier.h */
void apple_dma_helper_dma_rmb(void);

/* linux/device.h */
void apple_dma_helper_device_lock(struct device *dev);
void apple_dma_helper_device_unlock(struct device *dev);
bool apple_dma_helper_may_allocate(void);
bool apple_dma_helper_device_link(struct device *consumer, struct device *supplier);

/* linux/mm.h */
bool apple_dma_helper_is_at(const void *cpu_addr, phys_addr_t phys, unsigned long attrs);
bool apple_dma_helper_page_is_at(const struct page *page, phys_addr_t phys);
struct page *apple_dma_helper_alloc_block(unsigned int order);
void apple_dma_helper_free_block(struct page *page, unsigned int order);
phys_addr_t apple_dma_helper_page_to_phys(struct page *page);
bool apple_dma_helper_is_copyable(phys_addr_t first, phys_addr_t last);
void apple_dma_helper_copy_phys(phys_addr_t to, phys_addr_t from, size_t len);
void apple_dma_helper_clear_phys(phys_addr_t phys, size_t len);

/* linux/smp.h */
unsigned int apple_dma_helper_processor(void);
bool apple_dma_helper_others_run(void);

/* linux/slab.h */
void *apple_dma_helper_memdup_nofail(const void *source, size_t size);

/* linux/dma-map-ops.h, linux/iommu-dma.h */
const struct dma_map_ops *apple_dma_helper_get_dma_ops(struct device *dev);
void apple_dma_helper_set_dma_ops(struct device *dev, const struct dma_map_ops *ops);
bool apple_dma_helper_has_iommu(struct device *dev);
bool apple_dma_helper_is_coherent(struct device *dev);
bool apple_dma_helper_is_translated(struct device *dev);

/* linux/swiotlb.h */
bool apple_dma_helper_bounce_buffers(struct device *dev, phys_addr_t *start, phys_addr_t *end);

/* linux/memory.h, linux/memory_hotplug.h */
int apple_dma_helper_register_memory_notifier(struct notifier_block *nb);
void apple_dma_helper_unregister_memory_notifier(struct notifier_block *nb);
phys_addr_t apple_dma_helper_memory_section_size(void);
bool apple_dma_helper_is_online(phys_addr_t phys);

/* linux/crash_dump.h */
bool apple_dma_helper_is_crash_kernel(void);

/* linux/panic_notifier.h */
int apple_dma_helper_register_panic_notifier(struct notifier_block *nb);
void apple_dma_helper_unregister_panic_notifier(struct notifier_block *nb);

/* linux/workqueue.h */
void apple_dma_helper_init_delayed_work(struct delayed_work *work, work_func_t func,
					bool deferrable);
void apple_dma_helper_queue_freezable_work(struct delayed_work *work, unsigned long delay);

/* linux/pci.h */
int apple_dma_helper_pci_domain_nr(struct pci_bus *bus);

/* linux/scatterlist.h, linux/pci-p2pdma.h */
phys_addr_t apple_dma_helper_sg_ram(struct scatterlist *sg);
bool apple_dma_helper_sg_is_p2pdma(struct scatterlist *sg);

#endif /* _APPLE_DMA_PCI_HELPERS_H */
