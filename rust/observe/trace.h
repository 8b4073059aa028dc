/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Tracepoints as functions, for Rust: apple_dma_trace_<event>() for each event.
 *
 * Those of map, unmap, window_reused and refusal lie on the paths of map and unmap calls. They are
 * called only if apple_dma_trace_key is enabled, which costs a no-op to check while it is not.
 */
#ifndef _APPLE_DMA_PCI_TRACE_H
#define _APPLE_DMA_PCI_TRACE_H

#include <linux/jump_label.h>
#include <linux/types.h>

/* Bytes of the address of a PCI device, and of a name in an event. */
#define APPLE_DMA_PCI_NAME	20
#define APPLE_DMA_PCI_WORD	16

/**
 * struct apple_dma_pci_origin - the fields that all events have
 * @companion:	PCI address of the companion, padded with zeros
 * @device:	PCI address of the managed device, padded with zeros
 */
struct apple_dma_pci_origin {
	char companion[APPLE_DMA_PCI_NAME];
	char device[APPLE_DMA_PCI_NAME];
};

/* Enabled while one of map, unmap, window_reused and refusal is. */
extern struct static_key_false apple_dma_trace_key;

int apple_dma_trace_begin(void);
void apple_dma_trace_end(void);

void apple_dma_trace_map(const struct apple_dma_pci_origin *origin, u64 gpa, u64 dma, u64 size,
			 u64 ns, u32 entry, u32 entries, const char *source,
			 const char *copyable);
void apple_dma_trace_unmap(const struct apple_dma_pci_origin *origin, u64 gpa, u64 dma, u64 size,
			   u64 ns, u32 entry, u32 entries);
void apple_dma_trace_window_created(const struct apple_dma_pci_origin *origin, u64 gpa, u64 dma,
				    u64 size, u32 uses);
void apple_dma_trace_window_reused(const struct apple_dma_pci_origin *origin, u64 gpa, u64 dma,
				   u64 size, u32 uses);
void apple_dma_trace_window_returned(const struct apple_dma_pci_origin *origin, u64 gpa, u64 dma,
				     u64 size, u32 uses);
void apple_dma_trace_doorbell(const struct apple_dma_pci_origin *origin, const char *command,
			      u32 entries, const char *status, u64 ns);
void apple_dma_trace_refusal(const struct apple_dma_pci_origin *origin, u64 gpa, u64 size,
			     u32 entries, u64 limit, const char *cause, u64 ns);
void apple_dma_trace_host_error(const struct apple_dma_pci_origin *origin, const char *command,
				u64 gpa, u64 size, const char *cause);
void apple_dma_trace_pressure(const struct apple_dma_pci_origin *origin, const char *level,
			      u64 bytes, u64 windows);
void apple_dma_trace_misuse(const struct apple_dma_pci_origin *origin, u64 dma, u64 size);

#endif /* _APPLE_DMA_PCI_TRACE_H */
