/* SPDX-License-Identifier: GPL-2.0 */
/*
 * C functions for the Rust code: inline functions and macros of the kernel, and
 * the execution contexts that the kernel crate cannot enter.
 */
#ifndef _APPLE_DMA_TEST_HELPERS_H
#define _APPLE_DMA_TEST_HELPERS_H

#include <linux/dma-direction.h>
#include <linux/types.h>

struct device;
struct page;
struct scatterlist;
struct sg_table;

/* Inline functions of the DMA API, under their own names. */
dma_addr_t dma_test_map_single_attrs(struct device *dev, void *ptr, size_t size,
				     enum dma_data_direction dir,
				     unsigned long attrs);
void dma_test_unmap_single_attrs(struct device *dev, dma_addr_t addr,
				 size_t size, enum dma_data_direction dir,
				 unsigned long attrs);
int dma_test_mapping_error(struct device *dev, dma_addr_t addr);
void dma_test_sync_single_range_for_cpu(struct device *dev, dma_addr_t addr,
					unsigned long offset, size_t size,
					enum dma_data_direction dir);
void dma_test_sync_single_range_for_device(struct device *dev, dma_addr_t addr,
					   unsigned long offset, size_t size,
					   enum dma_data_direction dir);
void dma_test_sync_sg_for_cpu(struct device *dev, struct scatterlist *sg,
			      int nents, enum dma_data_direction dir);
void dma_test_sync_sg_for_device(struct device *dev, struct scatterlist *sg,
				 int nents, enum dma_data_direction dir);
bool dma_test_need_sync(struct device *dev, dma_addr_t addr);
bool dma_test_dev_need_sync(struct device *dev);
bool dma_test_has_ops(struct device *dev);

/* Pages and scatterlists. */
void *dma_test_page_address(struct page *page);
phys_addr_t dma_test_page_to_phys(struct page *page);
struct page *dma_test_nth_page(struct page *page, unsigned long n);
void dma_test_sg_set_page(struct scatterlist *sg, struct page *page,
			  unsigned int len, unsigned int offset);
struct page *dma_test_sg_page(struct scatterlist *sg);

/*
 * Finds block number @index of the guest's RAM, in the order of addresses, from
 * @start to before @end. Blocks are not adjacent. Returns -ENOENT if there are
 * not as many. May sleep.
 */
int dma_test_ram_block(unsigned int index, phys_addr_t *start,
		       phys_addr_t *end);

/* Addresses and pages of RAM in the kernel's linear mapping. */
void *dma_test_phys_to_virt(phys_addr_t phys);
struct page *dma_test_phys_to_page(phys_addr_t phys);

/*
 * Copies @len bytes of RAM at @phys, whatever they are used for. Any context.
 * Returns -EFAULT if the kernel has not mapped them.
 */
int dma_test_read_ram(phys_addr_t phys, void *to, size_t len);

/*
 * Allocate the @pages pages from @phys on, if they are free or can be freed, and
 * free them. May sleep.
 */
int dma_test_claim(phys_addr_t phys, unsigned long pages);
void dma_test_unclaim(phys_addr_t phys, unsigned long pages);

/*
 * Maps a coherent allocation into the calling process, which must have one
 * thread only. Returns the address, or an error as vm_mmap() does. The caller
 * unmaps with vm_munmap() before the allocation is freed.
 */
unsigned long dma_test_mmap(struct device *dev, void *cpu_addr, dma_addr_t addr,
			    size_t size, unsigned long attrs);

/*
 * Create a file that maps a coherent allocation into processes any number of
 * times; install a descriptor of it for the calling process; return whether a
 * process has it mapped. dma_test_unshare() rejects further mappings, waits
 * until no process has the allocation mapped, and drops the file: then the
 * allocation may be freed.
 */
struct file *dma_test_share(struct device *dev, void *cpu_addr, dma_addr_t addr,
			    size_t size, unsigned long attrs);
int dma_test_share_fd(struct file *file);
bool dma_test_share_is_mapped(struct file *file);
void dma_test_unshare(struct file *file);

/*
 * Import the buffer (dma-buf) of a descriptor of the calling process: map it for the device in both
 * directions until it is released. Returns an ERR_PTR() if that fails, -EOPNOTSUPP without dma-buf.
 * May sleep.
 */
struct dma_test_import *dma_test_import(struct device *dev, int fd);
const struct sg_table *dma_test_import_table(const struct dma_test_import *import);
void dma_test_import_release(struct dma_test_import *import);

/*
 * Mirror @len bytes of memory of the calling process from @start on, both whole pages, as drivers
 * of accelerators do (HMM). Pages are mapped for the device, in both directions, when it needs
 * them, and unmapped when the kernel invalidates them. Returns an ERR_PTR() if that fails,
 * -EOPNOTSUPP without HMM. May sleep.
 *
 * Between dma_test_mirror_begin(), which returns 0 or an errno, and _end() all pages are present
 * and mapped, and stay so. Meanwhile dma_test_mirror_segment() returns the length of the mapping
 * that begins @offset bytes behind @start, and sets @addr to its DMA address. Nothing between the
 * two may allocate memory. dma_test_mirror_unmapped() returns how many pages were unmapped.
 */
struct dma_test_mirror *dma_test_mirror(struct device *dev, unsigned long start, size_t len);
int dma_test_mirror_begin(struct dma_test_mirror *mirror);
size_t dma_test_mirror_segment(const struct dma_test_mirror *mirror, size_t offset,
			       dma_addr_t *addr);
u64 dma_test_mirror_unmapped(const struct dma_test_mirror *mirror);
void dma_test_mirror_end(struct dma_test_mirror *mirror);
void dma_test_mirror_release(struct dma_test_mirror *mirror);

/*
 * Call @fn(@arg) once, in the context of the function's name, and return after
 * @fn returned. Must be called where sleeping is allowed.
 */
void dma_test_in_softirq(void (*fn)(void *arg), void *arg);
void dma_test_in_irqoff(void (*fn)(void *arg), void *arg);
void dma_test_in_hardirq(void (*fn)(void *arg), void *arg);

/*
 * Calls @fn(@arg, 0) to @fn(@arg, @count - 1) at once, each in a thread of its
 * own, the threads spread over the online CPUs. Returns after all calls
 * returned: 0, or an error if some threads, and so their calls, were not started.
 */
int dma_test_on_cpus(unsigned int count,
		     void (*fn)(void *arg, unsigned int worker), void *arg);
unsigned int dma_test_online_cpus(void);

/*
 * Time one call of the function of the DMA API at the end of the name, and
 * nothing else, with interrupts disabled: @ns is set to the nanoseconds between
 * a reading of the clock before the call and one after it.
 * dma_test_time_nothing() has no call between the two: the difference to its
 * time is the duration of the call.
 */
void dma_test_time_nothing(u64 *ns);
dma_addr_t dma_test_time_map_page(struct device *dev, struct page *page,
				  size_t offset, size_t size,
				  enum dma_data_direction dir, u64 *ns);
void dma_test_time_unmap_page(struct device *dev, dma_addr_t addr, size_t size,
			      enum dma_data_direction dir, u64 *ns);
unsigned int dma_test_time_map_sg(struct device *dev, struct scatterlist *sg,
				  int nents, enum dma_data_direction dir,
				  u64 *ns);
void dma_test_time_unmap_sg(struct device *dev, struct scatterlist *sg,
			    int nents, enum dma_data_direction dir, u64 *ns);

/* Sorts @values; unlike the sorts of Rust's core, this one cannot panic. */
void dma_test_sort(u64 *values, size_t count);

#endif /* _APPLE_DMA_TEST_HELPERS_H */
