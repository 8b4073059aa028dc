// SPDX-License-Identifier: GPL-2.0
/*
 * Memory of processes, used by the device where it is (HMM); see helpers.h.
 */
#include <linux/dma-mapping.h>
#include <linux/err.h>
#include <linux/hmm.h>
#include <linux/mm.h>
#include <linux/mmu_notifier.h>
#include <linux/mutex.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>

#include "helpers.h"

#if IS_ENABLED(CONFIG_HMM_MIRROR)

/* The mapping of the pages from one of the mirror's on. */
struct part {
	dma_addr_t addr;
	unsigned long pages;	/* 0 where no mapping begins */
};

struct dma_test_mirror {
	struct mmu_interval_notifier notifier;
	struct device *dev;
	/* Guards everything below. While it is held, no page goes away. */
	struct mutex lock;
	unsigned long pages;
	unsigned long *pfns;
	struct part *parts;
	u64 unmapped;		/* pages, since the kernel invalidated them */
};

static unsigned long first_address(const struct dma_test_mirror *mirror)
{
	return mirror->notifier.interval_tree.start;
}

/* Unmaps what is mapped of the pages from @first to before @end, and of those around them. */
static void unmap(struct dma_test_mirror *mirror, unsigned long first, unsigned long end)
{
	unsigned long i;

	for (i = 0; i < end; i++) {
		struct part *part = &mirror->parts[i];

		if (!part->pages || i + part->pages <= first)
			continue;
		dma_unmap_page(mirror->dev, part->addr, part->pages << PAGE_SHIFT,
			       DMA_BIDIRECTIONAL);
		mirror->unmapped += part->pages;
		part->pages = 0;
	}
}

static bool invalidate(struct mmu_interval_notifier *notifier,
		       const struct mmu_notifier_range *range, unsigned long seq)
{
	struct dma_test_mirror *mirror = container_of(notifier, struct dma_test_mirror, notifier);
	unsigned long start = first_address(mirror), first, end;

	if (mmu_notifier_range_blockable(range))
		mutex_lock(&mirror->lock);
	else if (!mutex_trylock(&mirror->lock))
		return false;
	mmu_interval_set_seq(notifier, seq);
	first = range->start > start ? (range->start - start) >> PAGE_SHIFT : 0;
	end = range->end > start ? (range->end - start) >> PAGE_SHIFT : 0;
	unmap(mirror, first, min(end, mirror->pages));
	mutex_unlock(&mirror->lock);
	return true;
}

static const struct mmu_interval_notifier_ops notifier_ops = { .invalidate = invalidate };

/* Returns how many pages from number @i on the kernel has mapped as one. */
static unsigned long pages_in_one(const struct dma_test_mirror *mirror, unsigned long i)
{
	unsigned long pages = 1UL << hmm_pfn_to_map_order(mirror->pfns[i]);
	unsigned long pfn = page_to_pfn(hmm_pfn_to_page(mirror->pfns[i]));

	return min(pages - (pfn & (pages - 1)), mirror->pages - i);
}

/* Maps what is not mapped yet of the pages that pfns has. */
static int map(struct dma_test_mirror *mirror)
{
	unsigned long i, pages;

	for (i = 0; i < mirror->pages; i += pages) {
		struct part *part = &mirror->parts[i];

		pages = part->pages;
		if (pages)
			continue;
		/* Up to what is mapped already, in case a page of several was collapsed. */
		for (pages = 1; pages < pages_in_one(mirror, i); pages++)
			if (part[pages].pages)
				break;
		part->addr = dma_map_page(mirror->dev, hmm_pfn_to_page(mirror->pfns[i]), 0,
					  pages << PAGE_SHIFT, DMA_BIDIRECTIONAL);
		if (dma_mapping_error(mirror->dev, part->addr))
			return -EIO;
		part->pages = pages;
	}
	return 0;
}

/* Makes all pages present and writable. Returns with the lock held if it succeeds. */
static int fault(struct dma_test_mirror *mirror)
{
	struct mm_struct *mm = mirror->notifier.mm;
	struct hmm_range range = {
		.notifier = &mirror->notifier,
		.start = first_address(mirror),
		.end = first_address(mirror) + (mirror->pages << PAGE_SHIFT),
		.hmm_pfns = mirror->pfns,
		.default_flags = HMM_PFN_REQ_FAULT | HMM_PFN_REQ_WRITE,
	};
	int error;

	do {
		range.notifier_seq = mmu_interval_read_begin(range.notifier);
		mmap_read_lock(mm);
		error = hmm_range_fault(&range);
		mmap_read_unlock(mm);
		if (error == -EBUSY)
			continue;
		if (error)
			return error;
		mutex_lock(&mirror->lock);
		if (!mmu_interval_read_retry(range.notifier, range.notifier_seq))
			return 0;
		mutex_unlock(&mirror->lock);
		error = -EBUSY;
	} while (error && !fatal_signal_pending(current));
	return -EINTR;
}

int dma_test_mirror_begin(struct dma_test_mirror *mirror)
{
	struct mm_struct *mm = mirror->notifier.mm;
	int error;

	if (!mmget_not_zero(mm))
		return -ESRCH;
	error = fault(mirror);
	mmput(mm);
	if (error)
		return error;
	error = map(mirror);
	if (error)
		mutex_unlock(&mirror->lock);
	return error;
}

size_t dma_test_mirror_segment(const struct dma_test_mirror *mirror, size_t offset,
			       dma_addr_t *addr)
{
	unsigned long i = offset >> PAGE_SHIFT;

	if (i >= mirror->pages)
		return 0;
	*addr = mirror->parts[i].addr;
	return mirror->parts[i].pages << PAGE_SHIFT;
}

u64 dma_test_mirror_unmapped(const struct dma_test_mirror *mirror)
{
	return mirror->unmapped;
}

void dma_test_mirror_end(struct dma_test_mirror *mirror)
{
	mutex_unlock(&mirror->lock);
}

static void free_mirror(struct dma_test_mirror *mirror)
{
	kvfree(mirror->pfns);
	kvfree(mirror->parts);
	mutex_destroy(&mirror->lock);
	kfree(mirror);
}

struct dma_test_mirror *dma_test_mirror(struct device *dev, unsigned long start, size_t len)
{
	struct dma_test_mirror *mirror = kzalloc(sizeof(*mirror), GFP_KERNEL);
	int error = -ENOMEM;

	if (!mirror)
		return ERR_PTR(error);
	if (!len || !PAGE_ALIGNED(start | len) || !current->mm) {
		kfree(mirror);
		return ERR_PTR(-EINVAL);
	}
	mutex_init(&mirror->lock);
	mirror->dev = dev;
	mirror->pages = len >> PAGE_SHIFT;
	mirror->pfns = kvcalloc(mirror->pages, sizeof(*mirror->pfns), GFP_KERNEL);
	mirror->parts = kvcalloc(mirror->pages, sizeof(*mirror->parts), GFP_KERNEL);
	if (mirror->pfns && mirror->parts)
		error = mmu_interval_notifier_insert(&mirror->notifier, current->mm, start, len,
						     &notifier_ops);
	if (error) {
		free_mirror(mirror);
		return ERR_PTR(error);
	}
	return mirror;
}

void dma_test_mirror_release(struct dma_test_mirror *mirror)
{
	mmu_interval_notifier_remove(&mirror->notifier);
	mutex_lock(&mirror->lock);
	unmap(mirror, 0, mirror->pages);
	mutex_unlock(&mirror->lock);
	free_mirror(mirror);
}

#else

struct dma_test_mirror *dma_test_mirror(struct device *dev, unsigned long start, size_t len)
{
	return ERR_PTR(-EOPNOTSUPP);
}

int dma_test_mirror_begin(struct dma_test_mirror *mirror)
{
	return -EOPNOTSUPP;
}

size_t dma_test_mirror_segment(const struct dma_test_mirror *mirror, size_t offset,
			       dma_addr_t *addr)
{
	return 0;
}

u64 dma_test_mirror_unmapped(const struct dma_test_mirror *mirror)
{
	return 0;
}

void dma_test_mirror_end(struct dma_test_mirror *mirror)
{
}

void dma_test_mirror_release(struct dma_test_mirror *mirror)
{
}

#endif
