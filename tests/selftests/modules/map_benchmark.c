// SPDX-License-Identifier: GPL-2.0
/*
 * The kernel's benchmark of DMA mappings, for kernels without
 * CONFIG_DMA_MAP_BENCHMARK. There it can only be built in; what a module needs
 * besides is here.
 */
#include <linux/kthread.h>
#include <linux/sched.h>

/* Not exported, and the threads that are bound with it have not run yet. */
#define kthread_bind_mask(task, mask)	set_cpus_allowed_ptr(task, mask)

#include <kernel/dma/map_benchmark.c>

MODULE_LICENSE("GPL");
