/* SPDX-License-Identifier: GPL-2.0 */
/* Input of bindgen for bindings_generated.rs. */
#include <linux/crc32.h>

#include "../uapi/dma_engine.h"
#include "helpers.h"
