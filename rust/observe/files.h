/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The files of a companion in debugfs and sysfs, for Rust: their places, names and modes. Their
 * contents come from Rust, and are documented in docs/ABI/testing/.
 */
#ifndef _APPLE_DMA_PCI_FILES_H
#define _APPLE_DMA_PCI_FILES_H

#include <linux/types.h>

struct apple_dma_files;
struct device;
struct seq_file;

/**
 * enum apple_dma_files_kind - the files in debugfs that have lines of names and values
 * @APPLE_DMA_FILES_STATUS: configuration and use
 * @APPLE_DMA_FILES_COUNTERS: numbers of events
 * @APPLE_DMA_FILES_DOORBELLS: numbers of doorbells
 * @APPLE_DMA_FILES_SIZES: numbers of windows by size
 * @APPLE_DMA_FILES_KINDS: number of kinds
 */
enum apple_dma_files_kind {
	APPLE_DMA_FILES_STATUS,
	APPLE_DMA_FILES_COUNTERS,
	APPLE_DMA_FILES_DOORBELLS,
	APPLE_DMA_FILES_SIZES,
	APPLE_DMA_FILES_KINDS,
};

/**
 * struct apple_dma_files_window - a line of the file of windows
 * @gpa: guest-physical address of the first byte
 * @dma_addr: DMA address of the first byte
 * @len: length in bytes
 * @users: mappings that use the window now
 * @uses: mappings that have used the window, modulo 2^32
 * @state: name of the state
 */
struct apple_dma_files_window {
	u64 gpa;
	u64 dma_addr;
	u64 len;
	u32 users;
	u32 uses;
	const char *state;
};

/**
 * struct apple_dma_files_summary - the attributes in sysfs
 * @managed: PCI address of the managed device
 * @mode: name of the mode
 * @bytes: bytes mapped now
 * @max_bytes: limit of @bytes
 * @entries: windows now
 * @max_entries: limit of @entries
 */
struct apple_dma_files_summary {
	const char *managed;
	const char *mode;
	u64 bytes;
	u64 max_bytes;
	u64 entries;
	u64 max_entries;
};

/**
 * struct apple_dma_files_vtable - contents of the files
 * @show: writes the lines of the file of a kind; returns 0 or an error
 * @window: finds the first window whose number is at least *@id, and stores its number in *@id;
 *	returns false if there is none
 * @summary: fills in the attributes
 * @set_limit: sets max_entries, or else max_bytes, to the number that was written to the attribute,
 *	0 for other text; returns 0 or an error
 * @pressure: returns the name of the level of the pressure on the limits, which lives forever
 * @reset_peaks: sets all peaks to the values now
 *
 * Context of all functions: process; called by several threads at once.
 */
struct apple_dma_files_vtable {
	int (*show)(const void *subject, unsigned int kind, struct seq_file *file);
	bool (*window)(const void *subject, u32 *id, struct apple_dma_files_window *window);
	void (*summary)(const void *subject, struct apple_dma_files_summary *summary);
	int (*set_limit)(const void *subject, bool is_entries, u64 value);
	const char *(*pressure)(const void *subject);
	void (*reset_peaks)(const void *subject);
};

void apple_dma_files_init(void);
void apple_dma_files_exit(void);
struct apple_dma_files *apple_dma_files_create(struct device *companion,
					       const struct apple_dma_files_vtable *vtable,
					       const void *subject);
void apple_dma_files_destroy(struct apple_dma_files *files);
void apple_dma_files_notify_pressure(struct device *companion);
void apple_dma_files_driver(struct device *dev, char *name, size_t size);

#endif /* _APPLE_DMA_PCI_FILES_H */
