// SPDX-License-Identifier: GPL-2.0
/*
 * The kernel's benchmark of DMA mappings, for kernels without
 * CONFIG_DMA_MAP_BENCHMARK. The kernel can only have it built in; this file adds
 * the needs of a module.
 */
#include <linux/kthread.h>
#include <linux/sched.h>

/* Not exported. The threads that it binds have not run yet. */
#define kthread_bind_mask(task, mask)	set_cpus_allowed_ptr(task, mask)

#include <kernel/dma/map_benchmark.c>

MODULE_LICENSE("GPL");
