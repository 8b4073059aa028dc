/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What bindgen reads: the wire, struct dma_map_ops and bus_dma_region, the memory notifier's
 * argument, and our own C. Everything else comes from the kernel's own bindings.
 */
#include <linux/dma-direct.h>
#include <linux/dma-map-ops.h>
#include <linux/memory.h>

#include "../uapi/apple_dma_pci.h"
#include "abstractions/helpers.h"
#include "abstractions/deferred_free.h"
#include "observe/files.h"
#include "observe/trace.h"
