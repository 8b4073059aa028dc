// SPDX-License-Identifier: GPL-2.0
/*
 * Parameters that are text, and what belongs to them; see text_params.h. params.rs checks them.
 */
#include "text_params.h"

#include <linux/module.h>

static char *managed;
module_param(managed, charp, 0);
MODULE_PARM_DESC(managed,
		 "Managed devices, if not those that the host names: COMPANION=DEVICE[,...], PCI addresses");

static char *copy;
module_param(copy, charp, 0);
MODULE_PARM_DESC(copy, "Copy instead of mapping: auto (default), never or always");

static unsigned long long copy_bytes;
module_param(copy_bytes, ullong, 0);
MODULE_PARM_DESC(copy_bytes, "Bytes of each device's pool for copying (0: by the amount of RAM)");

const char *apple_dma_param_copy(void)
{
	return copy;
}

unsigned long long apple_dma_param_copy_bytes(void)
{
	return copy_bytes;
}

const char *apple_dma_param_managed(void)
{
	return managed;
}
