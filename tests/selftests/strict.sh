#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# In strict mode the device must not reach unmapped memory. The faults are announced to the engine,
# which counts them apart from unannounced ones.

# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$(readlink -f "$0")")"/lib.sh

require_engine
# A module that is loaded already stays as it is.
if ! is_loaded apple_dma_pci; then
	MODES=("strict=1")
elif [ "$(engine_mode)" != strict ]; then
	skip_all "apple_dma_pci is loaded, and the engine's mode is '$(engine_mode)', not 'strict'"
fi
read_rows <<'END'
after unmapping a byte: use_after_unmap len=1 off=0-4095 dir=any iter=50
after unmapping up to 64 KiB: use_after_unmap len=1-64k off=0-4095 dir=any iter=50
after unmapping several windows: use_after_unmap len=1M-2M off=0-4095 dir=any iter=4
after unmapping in softirq: use_after_unmap len=1-64k dir=any ctx=bh iter=20
after unmapping with interrupts off: use_after_unmap len=1-64k dir=any ctx=irqoff iter=20
after unmapping in hardirq: use_after_unmap len=1-64k dir=any ctx=hardirq iter=20
a new mapping of the same memory works: single len=1-64k off=0-4095 dir=any iter=20
END
run_rows
