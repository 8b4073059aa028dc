// SPDX-License-Identifier: GPL-2.0
/*
 * Parameters that are text; see text_params.h. params.rs checks them.
 */
#include "text_params.h"

#include <linux/module.h>

static char *managed;
module_param(managed, charp, 0);
MODULE_PARM_DESC(managed,
		 "Managed devices, if not those that the host names: COMPANION=DEVICE[,...], PCI addresses");

const char *apple_dma_param_managed(void)
{
	return managed;
}
