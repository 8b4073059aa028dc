/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Tracepoints. docs/ABI/testing/tracefs-driver-apple-dma-pci documents their meaning, and lists
 * every event and field.
 *
 * Names are arrays rather than dynamic strings, so that all tools can filter and count by them.
 * They are padded with zeros, since some tools compare the whole array.
 *
 * Events on the paths of map and unmap calls register apple_dma_trace_begin() and
 * apple_dma_trace_end().
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM apple_dma_pci

#if !defined(_APPLE_DMA_PCI_EVENTS_H) || defined(TRACE_HEADER_MULTI_READ)
#define _APPLE_DMA_PCI_EVENTS_H

#include <linux/string.h>
#include <linux/tracepoint.h>

#include "trace.h"

/* TP_STRUCT__entry(), TP_fast_assign() and TP_printk() with the fields that all events have. */
#define ORIGIN_STRUCT__entry(args...)					\
	TP_STRUCT__entry(						\
		__array(char, companion, APPLE_DMA_PCI_NAME)		\
		__array(char, device, APPLE_DMA_PCI_NAME)		\
		args							\
	)

#define ORIGIN_fast_assign(args...)					\
	TP_fast_assign(							\
		memcpy(__entry->companion, origin->companion, APPLE_DMA_PCI_NAME); \
		memcpy(__entry->device, origin->device, APPLE_DMA_PCI_NAME); \
		args							\
	)

#define ORIGIN_printk(fmt, args...)					\
	TP_printk("companion=%s device=%s " fmt, __entry->companion, __entry->device, args)

TRACE_EVENT_FN(map,
	TP_PROTO(const struct apple_dma_pci_origin *origin, u64 gpa, u64 dma, u64 size, u64 ns,
		 u32 index, u32 entries, const char *source, const char *copyable),
	TP_ARGS(origin, gpa, dma, size, ns, index, entries, source, copyable),
	ORIGIN_STRUCT__entry(
		__field(u64, gpa)
		__field(u64, dma)
		__field(u64, size)
		__field(u64, ns)
		__field(u32, entry)
		__field(u32, entries)
		__array(char, source, APPLE_DMA_PCI_WORD)
		__array(char, copyable, APPLE_DMA_PCI_WORD)
	),
	ORIGIN_fast_assign(
		__entry->gpa = gpa;
		__entry->dma = dma;
		__entry->size = size;
		__entry->ns = ns;
		__entry->entry = index;
		__entry->entries = entries;
		strscpy_pad(__entry->source, source, APPLE_DMA_PCI_WORD);
		strscpy_pad(__entry->copyable, copyable, APPLE_DMA_PCI_WORD);
	),
	ORIGIN_printk(
		"gpa=0x%llx dma=0x%llx size=%llu ns=%llu entry=%u entries=%u source=%s copyable=%s",
		__entry->gpa, __entry->dma, __entry->size, __entry->ns, __entry->entry,
		__entry->entries, __entry->source, __entry->copyable
	),
	apple_dma_trace_begin, apple_dma_trace_end
);

TRACE_EVENT_FN(unmap,
	TP_PROTO(const struct apple_dma_pci_origin *origin, u64 gpa, u64 dma, u64 size, u64 ns,
		 u32 index, u32 entries),
	TP_ARGS(origin, gpa, dma, size, ns, index, entries),
	ORIGIN_STRUCT__entry(
		__field(u64, gpa)
		__field(u64, dma)
		__field(u64, size)
		__field(u64, ns)
		__field(u32, entry)
		__field(u32, entries)
	),
	ORIGIN_fast_assign(
		__entry->gpa = gpa;
		__entry->dma = dma;
		__entry->size = size;
		__entry->ns = ns;
		__entry->entry = index;
		__entry->entries = entries;
	),
	ORIGIN_printk("gpa=0x%llx dma=0x%llx size=%llu ns=%llu entry=%u entries=%u",
		      __entry->gpa, __entry->dma, __entry->size, __entry->ns, __entry->entry,
		      __entry->entries),
	apple_dma_trace_begin, apple_dma_trace_end
);

#define WINDOW_PROTO							\
	TP_PROTO(const struct apple_dma_pci_origin *origin, u64 gpa, u64 dma, u64 size, u32 uses)
#define WINDOW_ARGS							\
	TP_ARGS(origin, gpa, dma, size, uses)

DECLARE_EVENT_CLASS(window,
	WINDOW_PROTO, WINDOW_ARGS,
	ORIGIN_STRUCT__entry(
		__field(u64, gpa)
		__field(u64, dma)
		__field(u64, size)
		__field(u32, uses)
	),
	ORIGIN_fast_assign(
		__entry->gpa = gpa;
		__entry->dma = dma;
		__entry->size = size;
		__entry->uses = uses;
	),
	ORIGIN_printk("gpa=0x%llx dma=0x%llx size=%llu uses=%u",
		      __entry->gpa, __entry->dma, __entry->size, __entry->uses)
);

DEFINE_EVENT(window, window_created, WINDOW_PROTO, WINDOW_ARGS);

DEFINE_EVENT_FN(window, window_reused, WINDOW_PROTO, WINDOW_ARGS,
	apple_dma_trace_begin, apple_dma_trace_end
);

DEFINE_EVENT(window, window_returned, WINDOW_PROTO, WINDOW_ARGS);

TRACE_EVENT(doorbell,
	TP_PROTO(const struct apple_dma_pci_origin *origin, const char *command, u32 entries,
		 const char *status, u64 ns),
	TP_ARGS(origin, command, entries, status, ns),
	ORIGIN_STRUCT__entry(
		__array(char, command, APPLE_DMA_PCI_WORD)
		__field(u32, entries)
		__array(char, status, APPLE_DMA_PCI_WORD)
		__field(u64, ns)
	),
	ORIGIN_fast_assign(
		strscpy_pad(__entry->command, command, APPLE_DMA_PCI_WORD);
		__entry->entries = entries;
		strscpy_pad(__entry->status, status, APPLE_DMA_PCI_WORD);
		__entry->ns = ns;
	),
	ORIGIN_printk("command=%s entries=%u status=%s ns=%llu",
		      __entry->command, __entry->entries, __entry->status, __entry->ns)
);

TRACE_EVENT_FN(refusal,
	TP_PROTO(const struct apple_dma_pci_origin *origin, u64 gpa, u64 size, u32 entries,
		 u64 limit, const char *cause, u64 ns),
	TP_ARGS(origin, gpa, size, entries, limit, cause, ns),
	ORIGIN_STRUCT__entry(
		__field(u64, gpa)
		__field(u64, size)
		__field(u32, entries)
		__field(u64, limit)
		__array(char, cause, APPLE_DMA_PCI_WORD)
		__field(u64, ns)
	),
	ORIGIN_fast_assign(
		__entry->gpa = gpa;
		__entry->size = size;
		__entry->entries = entries;
		__entry->limit = limit;
		strscpy_pad(__entry->cause, cause, APPLE_DMA_PCI_WORD);
		__entry->ns = ns;
	),
	ORIGIN_printk("gpa=0x%llx size=%llu entries=%u limit=0x%llx cause=%s ns=%llu",
		      __entry->gpa, __entry->size, __entry->entries, __entry->limit, __entry->cause,
		      __entry->ns),
	apple_dma_trace_begin, apple_dma_trace_end
);

TRACE_EVENT(host_error,
	TP_PROTO(const struct apple_dma_pci_origin *origin, const char *command, u64 gpa,
		 u64 size, const char *cause),
	TP_ARGS(origin, command, gpa, size, cause),
	ORIGIN_STRUCT__entry(
		__array(char, command, APPLE_DMA_PCI_WORD)
		__field(u64, gpa)
		__field(u64, size)
		__array(char, cause, APPLE_DMA_PCI_WORD)
	),
	ORIGIN_fast_assign(
		strscpy_pad(__entry->command, command, APPLE_DMA_PCI_WORD);
		__entry->gpa = gpa;
		__entry->size = size;
		strscpy_pad(__entry->cause, cause, APPLE_DMA_PCI_WORD);
	),
	ORIGIN_printk("command=%s gpa=0x%llx size=%llu cause=%s",
		      __entry->command, __entry->gpa, __entry->size, __entry->cause)
);

TRACE_EVENT(pressure,
	TP_PROTO(const struct apple_dma_pci_origin *origin, const char *level, u64 bytes,
		 u64 windows),
	TP_ARGS(origin, level, bytes, windows),
	ORIGIN_STRUCT__entry(
		__array(char, level, APPLE_DMA_PCI_WORD)
		__field(u64, bytes)
		__field(u64, windows)
	),
	ORIGIN_fast_assign(
		strscpy_pad(__entry->level, level, APPLE_DMA_PCI_WORD);
		__entry->bytes = bytes;
		__entry->windows = windows;
	),
	ORIGIN_printk("level=%s bytes=%llu windows=%llu",
		      __entry->level, __entry->bytes, __entry->windows)
);

TRACE_EVENT(misuse,
	TP_PROTO(const struct apple_dma_pci_origin *origin, u64 dma, u64 size),
	TP_ARGS(origin, dma, size),
	ORIGIN_STRUCT__entry(
		__field(u64, dma)
		__field(u64, size)
	),
	ORIGIN_fast_assign(
		__entry->dma = dma;
		__entry->size = size;
	),
	ORIGIN_printk("dma=0x%llx size=%llu",
		      __entry->dma, __entry->size)
);

#endif /* _APPLE_DMA_PCI_EVENTS_H */

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE apple_dma_events
#include <trace/define_trace.h>
