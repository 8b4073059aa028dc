#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Streaming mappings: every function, in every context, with every alignment and direction. The
# engine must read what the CPU wrote, and the CPU what the engine wrote.

# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$(readlink -f "$0")")"/lib.sh

require_engine
read_rows <<'END'
dma_map_single, 1 to 64 bytes at every alignment: single len=1-64 off=0-4095 dir=any iter=400
dma_map_single, 6 bytes from the device: single len=6 off=0-4095 dir=from iter=200
dma_map_single, to the device: single len=1-64k off=0-4095 dir=to iter=50
dma_map_single, from the device: single len=1-64k off=0-4095 dir=from iter=50
dma_map_single, both ways: single len=1-64k off=0-4095 dir=bidir iter=50
dma_map_single, around a page: single len=4095-4097 off=0-4095 dir=any iter=100
dma_map_single, around a granule: single len=16383-16385 off=0-4095 dir=any iter=50
dma_map_single, over window edges: single len=262143-262145 off=0-65535 dir=any iter=20
dma_map_single, 1 to 3 MiB: single len=1M-3M off=0-4095 dir=any iter=8
dma_map_single, softirq: single len=1-64k off=0-4095 dir=any ctx=bh iter=50
dma_map_single, interrupts off: single len=1-64k off=0-4095 dir=any ctx=irqoff iter=50
dma_map_single, hardirq: single len=1-64k off=0-4095 dir=any ctx=hardirq iter=50
dma_map_single, all CPUs: single len=1-8k off=0-4095 dir=any ctx=any cpus=all iter=100
dma_map_page, offsets: page len=1-8k off=0-4095 dir=any iter=200
dma_map_page, softirq: page len=1-64k off=0-4095 dir=any ctx=bh iter=30
dma_map_page, interrupts off: page len=1-64k off=0-4095 dir=any ctx=irqoff iter=30
dma_map_page, hardirq: page len=1-64k off=0-4095 dir=any ctx=hardirq iter=30
dma_map_phys: phys len=1-64k off=0-4095 dir=any iter=100
dma_map_phys, any context, all CPUs: phys len=1-8k off=0-4095 dir=any ctx=any cpus=all iter=100
dma_sync_single, both ways: single len=1-8k off=0-4095 dir=any sync=4 iter=50
dma_sync_sg, both ways: sg n=1-32 len=1-4k dir=any sync=3 iter=15
DMA_ATTR_SKIP_CPU_SYNC: single len=1-8k off=0-4095 dir=any skip_sync=1 iter=50
DMA_ATTR_SKIP_CPU_SYNC, scatterlist: sg n=1-32 len=1-4k dir=any skip_sync=1 iter=15
two mappings at once, device to device: copy len=1-64k off=0-4095 ctx=any iter=50
dma_map_sg, 1 entry: sg n=1 len=1-64k api=sg dir=any iter=30
dma_map_sg, 2 entries: sg n=2 len=1-64k api=sg dir=any iter=30
dma_map_sg, 129 pages: sg n=129 len=4k off=0 api=sg dir=any iter=8
dma_map_sg, 512 entries in chained tables: sg n=512 len=1-4k api=sg layout=scattered dir=any iter=4
dma_map_sg, 512 adjacent entries: sg n=512 len=1-4k api=sg layout=adjacent dir=any iter=4
dma_map_sgtable, 1 to 512 entries: sg n=1-512 len=1-8k api=sgtable dir=any iter=8
dma_map_sg, several windows an entry: sg n=1-8 len=256k-1M off=0-4095 dir=any iter=4
scatterlists, softirq: sg n=1-128 len=1-4k dir=any ctx=bh iter=10
scatterlists, interrupts off: sg n=1-128 len=1-4k dir=any ctx=irqoff iter=10
scatterlists, hardirq: sg n=1-256 len=1-4k dir=any ctx=hardirq iter=10
scatterlists, all CPUs: sg n=1-64 len=1-4k dir=any ctx=any cpus=all iter=20
one buffer mapped 64 times, overlapping, any order: many n=64 len=1-64k ctx=any iter=8
one buffer mapped 1000 times: many n=1000 len=1-16k iter=1
5000 mappings at once, any order: hold n=5000 len=4k spread=2 dir=any check=200
mappings of 1 MiB all over RAM: hold n=150 len=1M off=0-4095 dir=any check=20
both ends of every block of RAM: ends len=1-300k iter=8
both ends of every block of RAM, unaligned: ends len=1-64k off=0-4095 ctx=any iter=8
everything mixed, any context, all CPUs: stress iter=150
END
run_rows
