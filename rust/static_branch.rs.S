/* SPDX-License-Identifier: GPL-2.0 */
#include <linux/jump_label.h>

/*
 * What trace.rs makes a static branch of. The kernel's own copy is not in all distributions'
 * headers.
 */

// Cut here.

::kernel::concat_literals!(ARCH_STATIC_BRANCH_ASM("{key} + {offset} + {likely}", "{on}"))
