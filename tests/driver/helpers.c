// SPDX-License-Identifier: GPL-2.0

#include <linux/anon_inodes.h>
#include <linux/completion.h>
#include <linux/cpumask.h>
#include <linux/dma-map-ops.h>
#include <linux/dma-mapping.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/irq_work.h>
#include <linux/ioport.h>
#include <linux/irqflags.h>
#include <linux/kthread.h>
#include <linux/ktime.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/slab.h>
#include <linux/sort.h>
#include <linux/spinlock.h>
#include <linux/uaccess.h>
#include <linux/workqueue.h>

#include "helpers.h"

dma_addr_t dma_test_map_single_attrs(struct device *dev, void *ptr, size_t size,
				     enum dma_data_direction dir,
				     unsigned long attrs)
{
	return dma_map_single_attrs(dev, ptr, size, dir, attrs);
}

void dma_test_unmap_single_attrs(struct device *dev, dma_addr_t addr,
				 size_t size, enum dma_data_direction dir,
				 unsigned long attrs)
{
	dma_unmap_single_attrs(dev, addr, size, dir, attrs);
}

int dma_test_mapping_error(struct device *dev, dma_addr_t addr)
{
	return dma_mapping_error(dev, addr);
}

void dma_test_sync_single_range_for_cpu(struct device *dev, dma_addr_t addr,
					unsigned long offset, size_t size,
					enum dma_data_direction dir)
{
	dma_sync_single_range_for_cpu(dev, addr, offset, size, dir);
}

void dma_test_sync_single_range_for_device(struct device *dev, dma_addr_t addr,
					   unsigned long offset, size_t size,
					   enum dma_data_direction dir)
{
	dma_sync_single_range_for_device(dev, addr, offset, size, dir);
}

void dma_test_sync_sg_for_cpu(struct device *dev, struct scatterlist *sg,
			      int nents, enum dma_data_direction dir)
{
	dma_sync_sg_for_cpu(dev, sg, nents, dir);
}

void dma_test_sync_sg_for_device(struct device *dev, struct scatterlist *sg,
				 int nents, enum dma_data_direction dir)
{
	dma_sync_sg_for_device(dev, sg, nents, dir);
}

bool dma_test_need_sync(struct device *dev, dma_addr_t addr)
{
	return dma_need_sync(dev, addr);
}

/* Returns whether synchronizing may do something for the device, whatever the address. */
bool dma_test_dev_need_sync(struct device *dev)
{
	return dma_dev_need_sync(dev);
}

/* Returns whether the kernel asks the device alone, and not the address as well. */
bool dma_test_has_ops(struct device *dev)
{
	return get_dma_ops(dev);
}

void *dma_test_page_address(struct page *page)
{
	return page_address(page);
}

phys_addr_t dma_test_page_to_phys(struct page *page)
{
	return page_to_phys(page);
}

struct page *dma_test_nth_page(struct page *page, unsigned long n)
{
	return pfn_to_page(page_to_pfn(page) + n);
}

void dma_test_sg_set_page(struct scatterlist *sg, struct page *page,
			  unsigned int len, unsigned int offset)
{
	sg_set_page(sg, page, len, offset);
}

struct page *dma_test_sg_page(struct scatterlist *sg)
{
	return sg_page(sg);
}

struct ram_walk {
	unsigned int index; /* blocks before the wanted one */
	bool found;
	phys_addr_t start;
	phys_addr_t end;
};

/* Adjacent ranges are one block: @walk->end is the end of the range before. */
static int ram_walk(struct resource *res, void *data)
{
	struct ram_walk *walk = data;

	if (walk->found && res->start != walk->end) {
		if (!walk->index)
			return 1;
		walk->index--;
		walk->found = false;
	}
	if (!walk->found)
		walk->start = res->start;
	walk->found = true;
	walk->end = res->end + 1;
	return 0;
}

int dma_test_ram_block(unsigned int index, phys_addr_t *start, phys_addr_t *end)
{
	struct ram_walk walk = { .index = index };
	int ret;

	ret = walk_iomem_res_desc(IORES_DESC_NONE,
				  IORESOURCE_SYSTEM_RAM | IORESOURCE_BUSY, 0,
				  -1, &walk, ram_walk);
	if (ret < 0)
		return ret;
	if (!walk.found || walk.index)
		return -ENOENT;
	*start = walk.start;
	*end = walk.end;
	return 0;
}

void *dma_test_phys_to_virt(phys_addr_t phys)
{
	return phys_to_virt(phys);
}

struct page *dma_test_phys_to_page(phys_addr_t phys)
{
	return pfn_to_page(PHYS_PFN(phys));
}

int dma_test_read_ram(phys_addr_t phys, void *to, size_t len)
{
	return copy_from_kernel_nofault(to, phys_to_virt(phys), len);
}

#ifdef CONFIG_CONTIG_ALLOC
int dma_test_claim(phys_addr_t phys, unsigned long pages)
{
	return alloc_contig_range(PHYS_PFN(phys), PHYS_PFN(phys) + pages,
				  ACR_FLAGS_NONE, GFP_KERNEL | __GFP_NOWARN);
}

void dma_test_unclaim(phys_addr_t phys, unsigned long pages)
{
	free_contig_range(PHYS_PFN(phys), pages);
}
#else
int dma_test_claim(phys_addr_t phys, unsigned long pages)
{
	return -EOPNOTSUPP;
}

void dma_test_unclaim(phys_addr_t phys, unsigned long pages)
{
}
#endif

/*
 * The clock is read out of line, lest the compiler move parts of the reading,
 * and only one call is made between two readings.
 */
static noinline u64 look_at_clock(void)
{
	return ktime_get_ns();
}

void dma_test_time_nothing(u64 *ns)
{
	unsigned long flags;
	u64 start;

	local_irq_save(flags);
	start = look_at_clock();
	*ns = look_at_clock() - start;
	local_irq_restore(flags);
}

dma_addr_t dma_test_time_map_page(struct device *dev, struct page *page,
				  size_t offset, size_t size,
				  enum dma_data_direction dir, u64 *ns)
{
	unsigned long flags;
	dma_addr_t addr;
	u64 start;

	local_irq_save(flags);
	start = look_at_clock();
	addr = dma_map_page_attrs(dev, page, offset, size, dir, 0);
	*ns = look_at_clock() - start;
	local_irq_restore(flags);
	return addr;
}

void dma_test_time_unmap_page(struct device *dev, dma_addr_t addr, size_t size,
			      enum dma_data_direction dir, u64 *ns)
{
	unsigned long flags;
	u64 start;

	local_irq_save(flags);
	start = look_at_clock();
	dma_unmap_page_attrs(dev, addr, size, dir, 0);
	*ns = look_at_clock() - start;
	local_irq_restore(flags);
}

unsigned int dma_test_time_map_sg(struct device *dev, struct scatterlist *sg,
				  int nents, enum dma_data_direction dir,
				  u64 *ns)
{
	unsigned int segments;
	unsigned long flags;
	u64 start;

	local_irq_save(flags);
	start = look_at_clock();
	segments = dma_map_sg_attrs(dev, sg, nents, dir, 0);
	*ns = look_at_clock() - start;
	local_irq_restore(flags);
	return segments;
}

void dma_test_time_unmap_sg(struct device *dev, struct scatterlist *sg,
			    int nents, enum dma_data_direction dir, u64 *ns)
{
	unsigned long flags;
	u64 start;

	local_irq_save(flags);
	start = look_at_clock();
	dma_unmap_sg_attrs(dev, sg, nents, dir, 0);
	*ns = look_at_clock() - start;
	local_irq_restore(flags);
}

struct mmap_call {
	struct device *dev;
	void *cpu_addr;
	dma_addr_t addr;
	size_t size;
	unsigned long attrs;
};

static int mmap_call(struct file *file, struct vm_area_struct *vma)
{
	struct mmap_call *call = file->private_data;

	vm_flags_set(vma, VM_DONTCOPY | VM_DONTEXPAND);
	return dma_mmap_attrs(call->dev, vma, call->cpu_addr, call->addr,
			      call->size, call->attrs);
}

static const struct file_operations mmap_fops = {
	.owner = THIS_MODULE,
	.mmap = mmap_call,
};

unsigned long dma_test_mmap(struct device *dev, void *cpu_addr, dma_addr_t addr,
			    size_t size, unsigned long attrs)
{
	struct mmap_call call = {
		.dev = dev,
		.cpu_addr = cpu_addr,
		.addr = addr,
		.size = size,
		.attrs = attrs,
	};
	unsigned long user;
	struct file *file;

	/* No other thread may access the mapping. */
	if (!current->mm || get_nr_threads(current) != 1)
		return (unsigned long)-EBUSY;

	file = anon_inode_getfile("[apple_dma_test]", &mmap_fops, &call, O_RDWR);
	if (IS_ERR(file))
		return PTR_ERR(file);
	user = vm_mmap(file, 0, size, PROT_READ | PROT_WRITE, MAP_SHARED, 0);
	/* The mapping holds the file, which must not refer to this function. */
	file->private_data = NULL;
	fput(file);
	return user;
}

/* Private data of a file of shared memory, freed with the file. */
struct share {
	struct mmap_call call;
	struct mutex lock; /* protects the members below */
	unsigned int mappings;
	bool over;
	struct completion unmapped; /* completed when over is set and no mapping is left */
};

static void share_vma_open(struct vm_area_struct *vma)
{
	struct share *share = vma->vm_private_data;

	mutex_lock(&share->lock);
	share->mappings++;
	mutex_unlock(&share->lock);
}

/* The mapping holds the file, and so the share, until this returns. */
static void share_vma_close(struct vm_area_struct *vma)
{
	struct share *share = vma->vm_private_data;

	mutex_lock(&share->lock);
	share->mappings--;
	if (share->over && !share->mappings)
		complete(&share->unmapped);
	mutex_unlock(&share->lock);
}

static const struct vm_operations_struct share_vm_ops = {
	.open = share_vma_open,
	.close = share_vma_close,
};

static int share_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct share *share = file->private_data;
	struct mmap_call *call = &share->call;
	int ret;

	vm_flags_set(vma, VM_DONTCOPY | VM_DONTEXPAND);
	mutex_lock(&share->lock);
	if (share->over)
		ret = -ENODEV;
	else
		ret = dma_mmap_attrs(call->dev, vma, call->cpu_addr, call->addr,
				     call->size, call->attrs);
	if (!ret) {
		vma->vm_ops = &share_vm_ops;
		vma->vm_private_data = share;
		share->mappings++;
	}
	mutex_unlock(&share->lock);
	return ret;
}

static int share_release(struct inode *inode, struct file *file)
{
	kfree(file->private_data);
	return 0;
}

static const struct file_operations share_fops = {
	.owner = THIS_MODULE,
	.mmap = share_mmap,
	.release = share_release,
};

struct file *dma_test_share(struct device *dev, void *cpu_addr, dma_addr_t addr,
			    size_t size, unsigned long attrs)
{
	struct share *share = kzalloc(sizeof(*share), GFP_KERNEL);
	struct file *file;

	if (!share)
		return ERR_PTR(-ENOMEM);
	share->call.dev = dev;
	share->call.cpu_addr = cpu_addr;
	share->call.addr = addr;
	share->call.size = size;
	share->call.attrs = attrs;
	mutex_init(&share->lock);
	init_completion(&share->unmapped);

	file = anon_inode_getfile("[apple_dma_test]", &share_fops, share, O_RDWR);
	if (IS_ERR(file))
		kfree(share);
	return file;
}

int dma_test_share_fd(struct file *file)
{
	int fd = get_unused_fd_flags(O_CLOEXEC);

	if (fd >= 0)
		fd_install(fd, get_file(file));
	return fd;
}

bool dma_test_share_is_mapped(struct file *file)
{
	struct share *share = file->private_data;
	bool mapped;

	mutex_lock(&share->lock);
	mapped = share->mappings;
	mutex_unlock(&share->lock);
	return mapped;
}

void dma_test_unshare(struct file *file)
{
	struct share *share = file->private_data;
	bool mapped;

	mutex_lock(&share->lock);
	share->over = true;
	mapped = share->mappings;
	mutex_unlock(&share->lock);
	if (mapped)
		wait_for_completion(&share->unmapped);
	fput(file);
}

struct softirq_call {
	struct work_struct work;
	void (*fn)(void *arg);
	void *arg;
};

static void softirq_call(struct work_struct *work)
{
	struct softirq_call *call = container_of(work, struct softirq_call, work);

	call->fn(call->arg);
}

void dma_test_in_softirq(void (*fn)(void *arg), void *arg)
{
	struct softirq_call call = { .fn = fn, .arg = arg };

	INIT_WORK_ONSTACK(&call.work, softirq_call);
	queue_work(system_bh_wq, &call.work);
	flush_work(&call.work);
	destroy_work_on_stack(&call.work);
}

/* As drivers do: with a lock of their own held and interrupts disabled. */
void dma_test_in_irqoff(void (*fn)(void *arg), void *arg)
{
	unsigned long flags;
	spinlock_t lock; /* Protects no data; creates the context. */

	spin_lock_init(&lock);
	spin_lock_irqsave(&lock, flags);
	fn(arg);
	spin_unlock_irqrestore(&lock, flags);
}

struct hardirq_call {
	struct irq_work work;
	struct completion done;
	void (*fn)(void *arg);
	void *arg;
};

static void hardirq_call(struct irq_work *work)
{
	struct hardirq_call *call = container_of(work, struct hardirq_call, work);

	call->fn(call->arg);
	complete(&call->done);
}

void dma_test_in_hardirq(void (*fn)(void *arg), void *arg)
{
	struct hardirq_call call = {
		.work = IRQ_WORK_INIT(hardirq_call),
		.fn = fn,
		.arg = arg,
	};

	init_completion(&call.done);
	irq_work_queue(&call.work);
	wait_for_completion(&call.done);
	/* The core accesses the work after its function returned. */
	irq_work_sync(&call.work);
}

struct worker {
	struct task_struct *task;
	struct completion done;
	void (*fn)(void *arg, unsigned int worker);
	void *arg;
	unsigned int index;
};

static int worker_thread(void *data)
{
	struct worker *worker = data;

	worker->fn(worker->arg, worker->index);
	complete(&worker->done);
	/* kthread_stop() demands that the thread lives until it is called. */
	while (!kthread_should_stop()) {
		set_current_state(TASK_IDLE);
		if (!kthread_should_stop())
			schedule();
		__set_current_state(TASK_RUNNING);
	}
	return 0;
}

int dma_test_on_cpus(unsigned int count,
		     void (*fn)(void *arg, unsigned int worker), void *arg)
{
	unsigned int cpu = cpumask_first(cpu_online_mask);
	struct worker *workers;
	unsigned int i, started;
	int ret = 0;

	workers = kcalloc(count, sizeof(*workers), GFP_KERNEL);
	if (!workers)
		return -ENOMEM;

	for (started = 0; started < count; started++) {
		struct worker *worker = &workers[started];

		worker->fn = fn;
		worker->arg = arg;
		worker->index = started;
		init_completion(&worker->done);
		worker->task = kthread_create_on_cpu(worker_thread, worker, cpu,
						     "apple_dma_test/%u");
		if (IS_ERR(worker->task)) {
			ret = PTR_ERR(worker->task);
			break;
		}
		cpu = cpumask_next_wrap(cpu, cpu_online_mask);
	}

	/* All at once, so that the calls overlap. */
	for (i = 0; i < started; i++)
		wake_up_process(workers[i].task);
	for (i = 0; i < started; i++) {
		wait_for_completion(&workers[i].done);
		kthread_stop(workers[i].task);
	}

	kfree(workers);
	return ret;
}

unsigned int dma_test_online_cpus(void)
{
	return num_online_cpus();
}

static int compare_values(const void *a, const void *b)
{
	return cmp_int(*(const u64 *)a, *(const u64 *)b);
}

void dma_test_sort(u64 *values, size_t count)
{
	sort(values, count, sizeof(*values), compare_values, NULL);
}
