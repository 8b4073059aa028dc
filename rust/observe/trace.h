/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The tracepoints as functions, for Rust. What is called on the paths where mappings are made and
 * given up is to be called only if apple_dma_trace_key is on, which is a no-op to find out.
 */
#ifndef _APPLE_DMA_PCI_TRACE_H
#define _APPLE_DMA_PCI_TRACE_H

#include <linux/jump_label.h>
#include <linux/types.h>

/* Room for a PCI device's address, and for a word of ours. */
#define APPLE_DMA_PCI_NAME	20
#define APPLE_DMA_PCI_WORD	16

/* Where an event is: both are strings, and zeros behind. */
struct apple_dma_pci_origin {
	char companion[APPLE_DMA_PCI_NAME];
	char device[APPLE_DMA_PCI_NAME];
};

/* Whether one of map, unmap, window_reused and refusal is on. */
extern struct static_key_false apple_dma_trace_key;

int apple_dma_trace_begin(void);
void apple_dma_trace_end(void);

void apple_dma_trace_map(const struct apple_dma_pci_origin *origin, u64 gpa, u64 dma, u64 size,
			 u64 ns, u32 entry, u32 entries, const char *source);
void apple_dma_trace_unmap(const struct apple_dma_pci_origin *origin, u64 gpa, u64 dma, u64 size,
			   u64 ns, u32 entry, u32 entries);
void apple_dma_trace_created(const struct apple_dma_pci_origin *origin, u64 gpa, u64 dma, u64 size,
			     u32 uses);
void apple_dma_trace_reused(const struct apple_dma_pci_origin *origin, u64 gpa, u64 dma, u64 size,
			    u32 uses);
void apple_dma_trace_returned(const struct apple_dma_pci_origin *origin, u64 gpa, u64 dma, u64 size,
			      u32 uses);
void apple_dma_trace_doorbell(const struct apple_dma_pci_origin *origin, const char *command,
			      u32 entries, const char *status, u64 ns);
void apple_dma_trace_refusal(const struct apple_dma_pci_origin *origin, u64 gpa, u64 size,
			     u32 entries, u64 limit, const char *cause, u64 ns);
void apple_dma_trace_host_error(const struct apple_dma_pci_origin *origin, const char *command,
				u64 gpa, u64 size, const char *cause);
void apple_dma_trace_misuse(const struct apple_dma_pci_origin *origin, u64 dma, u64 size);

#endif /* _APPLE_DMA_PCI_TRACE_H */
