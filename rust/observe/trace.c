// SPDX-License-Identifier: GPL-2.0
/*
 * The tracepoints; see trace.h and apple_dma_events.h.
 */
#include "trace.h"

#define CREATE_TRACE_POINTS
#include "apple_dma_events.h"

DEFINE_STATIC_KEY_FALSE(apple_dma_trace_key);

/* An event that has it on is switched on. */
int apple_dma_trace_begin(void)
{
	static_branch_inc(&apple_dma_trace_key);
	return 0;
}

void apple_dma_trace_end(void)
{
	static_branch_dec(&apple_dma_trace_key);
}

void apple_dma_trace_map(const struct apple_dma_pci_origin *origin, u64 gpa, u64 dma, u64 size,
			 u64 ns, u32 entry, u32 entries, const char *source)
{
	trace_map(origin, gpa, dma, size, ns, entry, entries, source);
}

void apple_dma_trace_unmap(const struct apple_dma_pci_origin *origin, u64 gpa, u64 dma, u64 size,
			   u64 ns, u32 entry, u32 entries)
{
	trace_unmap(origin, gpa, dma, size, ns, entry, entries);
}

void apple_dma_trace_created(const struct apple_dma_pci_origin *origin, u64 gpa, u64 dma, u64 size,
			     u32 uses)
{
	trace_window_created(origin, gpa, dma, size, uses);
}

void apple_dma_trace_reused(const struct apple_dma_pci_origin *origin, u64 gpa, u64 dma, u64 size,
			    u32 uses)
{
	trace_window_reused(origin, gpa, dma, size, uses);
}

void apple_dma_trace_returned(const struct apple_dma_pci_origin *origin, u64 gpa, u64 dma, u64 size,
			      u32 uses)
{
	trace_window_returned(origin, gpa, dma, size, uses);
}

void apple_dma_trace_doorbell(const struct apple_dma_pci_origin *origin, const char *command,
			      u32 entries, const char *status, u64 ns)
{
	trace_doorbell(origin, command, entries, status, ns);
}

void apple_dma_trace_refusal(const struct apple_dma_pci_origin *origin, u64 gpa, u64 size,
			     u32 entries, u64 limit, const char *cause, u64 ns)
{
	trace_refusal(origin, gpa, size, entries, limit, cause, ns);
}

void apple_dma_trace_host_error(const struct apple_dma_pci_origin *origin, const char *command,
				u64 gpa, u64 size, const char *cause)
{
	trace_host_error(origin, command, gpa, size, cause);
}

void apple_dma_trace_misuse(const struct apple_dma_pci_origin *origin, u64 dma, u64 size)
{
	trace_misuse(origin, dma, size);
}
