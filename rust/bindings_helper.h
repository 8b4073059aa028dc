/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Headers that bindgen reads: the wire, struct dma_map_ops and bus_dma_region, the argument of
 * memory notifiers, and the C code of this module. Everything else comes from the bindings of the
 * kernel.
 */
#include <linux/dma-direct.h>
#include <linux/dma-map-ops.h>
#include <linux/memory.h>

#include "../uapi/apple_dma_pci.h"
#include "abstractions/coherent_pool.h"
#include "abstractions/deferred_free.h"
#include "abstractions/helpers.h"
#include "observe/files.h"
#include "observe/trace.h"
#include "text_params.h"
