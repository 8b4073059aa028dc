/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What bindgen reads: the wire, struct dma_map_ops and the C helpers. Everything else comes from
 * the kernel's own bindings.
 */
#include <linux/dma-map-ops.h>

#include "../uapi/apple_dma_pci.h"
#include "helpers.h"
#include "late_free.h"
