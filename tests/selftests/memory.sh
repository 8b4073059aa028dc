#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Memory that the DMA API allocates: zeroed, aligned, the same for CPU and device.

# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$(readlink -f "$0")")"/lib.sh

# 16 MiB in one piece is more than the page allocator has: only CMA can allocate it.
large="coherent len=16M iter=2"
cma_kb=$(awk '/^CmaTotal:/ { print $2 }' /proc/meminfo)
if [ "${cma_kb:-0}" -lt $((32 << 10)) ]; then
	large="SKIP needs 32 MiB of CMA (CONFIG_DMA_CMA, cma=64M), there are ${cma_kb:-0} KiB"
fi

require_engine
read_rows <<END
dma_alloc_coherent, 8 bytes: coherent len=8 iter=50
dma_alloc_coherent, 8 bytes to 64 KiB: coherent len=8-64k iter=80
dma_alloc_coherent, 1 to 2 MiB: coherent len=1M-2M iter=4
dma_alloc_coherent, 4 MiB: coherent len=4M iter=2
dma_alloc_coherent, 16 MiB: $large
dma_alloc_coherent, softirq: coherent len=8-64k ctx=bh iter=30
dma_alloc_coherent, interrupts off: coherent len=8-64k ctx=irqoff iter=30
dma_alloc_coherent, hardirq: coherent len=8-64k ctx=hardirq iter=30
dma_alloc_coherent, all CPUs: coherent len=8-64k ctx=any cpus=all iter=50
DMA_ATTR_NO_KERNEL_MAPPING: coherent len=8-1M attr=no_kernel_mapping iter=20
DMA_ATTR_WRITE_COMBINE: coherent len=8-1M attr=write_combine iter=20
DMA_ATTR_FORCE_CONTIGUOUS: coherent len=8-1M attr=force_contiguous iter=20
DMA_ATTR_ALLOC_SINGLE_PAGES: coherent len=8-1M attr=single_pages iter=20
DMA_ATTR_WEAK_ORDERING: coherent len=8-64k attr=weak_ordering iter=20
dma_alloc_pages: pages len=1-256k dir=any iter=50
dma_alloc_pages, dma_sync_single: pages len=1-64k dir=any sync=3 iter=20
dma_alloc_noncontiguous: noncontig len=1-1M dir=any iter=15
dma_alloc_noncontiguous, dma_sync_sgtable: noncontig len=1-64k dir=any sync=3 iter=15
dma_pool, 64 bytes: pool n=1-64 len=64 iter=20
dma_pool, aligned, with a boundary: pool n=1-64 len=192 align=64 boundary=4096 iter=20
dma_pool, any context, all CPUs: pool n=1-32 len=256 ctx=any cpus=all iter=20
dma_get_sgtable: sgtable len=1-1M iter=20
dma_mmap_coherent: mmap len=1-128k iter=6
dma_mmap_attrs, write-combining: mmap len=1-32k attr=write_combine iter=6
END
run_rows
