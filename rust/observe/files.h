/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A companion's files in debugfs and sysfs, for Rust: docs/ABI/testing/ says what is in them. Here
 * is where they are and who may read them; what they say comes from Rust.
 */
#ifndef _APPLE_DMA_PCI_FILES_H
#define _APPLE_DMA_PCI_FILES_H

#include <linux/types.h>

#include "trace.h"

struct apple_dma_files;
struct device;
struct seq_file;

/* The files of names and values. */
enum apple_dma_files_kind {
	APPLE_DMA_FILES_STATUS,
	APPLE_DMA_FILES_COUNTERS,
	APPLE_DMA_FILES_DOORBELLS,
	APPLE_DMA_FILES_SIZES,
	APPLE_DMA_FILES_KINDS,
};

/* A line of the file of windows. */
struct apple_dma_files_window {
	u64 gpa;
	u64 dma;
	u64 bytes;
	u32 users;
	u32 uses;
	const char *state;
};

/* What sysfs shows. */
struct apple_dma_files_summary {
	const char *managed;
	const char *mode;
	u64 bytes;
	u64 max_bytes;
	u64 entries;
	u64 max_entries;
};

/* What the files say. All are called in process context, from several threads at once. */
struct apple_dma_files_vtable {
	int (*show)(const void *subject, unsigned int page, struct seq_file *file);
	/* The first window from the number *@id on, and its number; false if there is none. */
	bool (*window)(const void *subject, u32 *id, struct apple_dma_files_window *window);
	void (*summary)(const void *subject, struct apple_dma_files_summary *summary);
};

/* All of these may sleep. */
void apple_dma_files_init(void);
void apple_dma_files_exit(void);
struct apple_dma_files *apple_dma_files_create(struct device *companion,
					     const struct apple_dma_files_vtable *from,
					     const void *subject);
void apple_dma_files_destroy(struct apple_dma_files *files);
void apple_dma_files_driver(struct device *dev, char *name, size_t size);

#endif /* _APPLE_DMA_PCI_FILES_H */
