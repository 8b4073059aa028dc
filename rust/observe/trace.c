// SPDX-License-Identifier: GPL-2.0
/*
 * Tracepoints; see trace.h and apple_dma_events.h. Only code that needs the C macros of tracepoints
 * belongs here.
 */
#include "trace.h"

#define CREATE_TRACE_POINTS
#include "apple_dma_events.h"

DEFINE_STATIC_KEY_FALSE(apple_dma_trace_key);

/*
 * Called when an event on the paths of map and unmap calls is enabled. Returns 0: it is never
 * refused.
 */
int apple_dma_trace_begin(void)
{
	static_branch_inc(&apple_dma_trace_key);
	return 0;
}

/* Called when an event on the paths of map and unmap calls is disabled. */
void apple_dma_trace_end(void)
{
	static_branch_dec(&apple_dma_trace_key);
}

/* Defines the function of an event. */
#define TRACE_FN(event, proto, args)		\
	void apple_dma_trace_##event(proto)	\
	{					\
		trace_##event(args);		\
	}

TRACE_FN(map,
	 TP_PROTO(const struct apple_dma_pci_origin *origin, u64 gpa, u64 dma, u64 size, u64 ns,
		  u32 entry, u32 entries, const char *source, const char *copyable),
	 TP_ARGS(origin, gpa, dma, size, ns, entry, entries, source, copyable))

TRACE_FN(unmap,
	 TP_PROTO(const struct apple_dma_pci_origin *origin, u64 gpa, u64 dma, u64 size, u64 ns,
		  u32 entry, u32 entries),
	 TP_ARGS(origin, gpa, dma, size, ns, entry, entries))

TRACE_FN(window_created, WINDOW_PROTO, WINDOW_ARGS)
TRACE_FN(window_reused, WINDOW_PROTO, WINDOW_ARGS)
TRACE_FN(window_returned, WINDOW_PROTO, WINDOW_ARGS)

TRACE_FN(doorbell,
	 TP_PROTO(const struct apple_dma_pci_origin *origin, const char *command, u32 entries,
		  const char *status, u64 ns),
	 TP_ARGS(origin, command, entries, status, ns))

TRACE_FN(refusal,
	 TP_PROTO(const struct apple_dma_pci_origin *origin, u64 gpa, u64 size, u32 entries,
		  u64 limit, const char *cause, u64 ns),
	 TP_ARGS(origin, gpa, size, entries, limit, cause, ns))

TRACE_FN(host_error,
	 TP_PROTO(const struct apple_dma_pci_origin *origin, const char *command, u64 gpa,
		  u64 size, const char *cause),
	 TP_ARGS(origin, command, gpa, size, cause))

TRACE_FN(pressure,
	 TP_PROTO(const struct apple_dma_pci_origin *origin, const char *level, u64 bytes,
		  u64 windows),
	 TP_ARGS(origin, level, bytes, windows))

TRACE_FN(misuse,
	 TP_PROTO(const struct apple_dma_pci_origin *origin, u64 dma, u64 size),
	 TP_ARGS(origin, dma, size))
