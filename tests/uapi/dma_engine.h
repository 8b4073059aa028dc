/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * The simulated DMA engine: a PCI device for tests that moves bytes between
 * its own memory and any IOVA range, on command.
 *
 * This header is the one definition of its registers; the bindings of the
 * test driver and of the simulator are generated from it.
 *
 * BAR0 holds a block of global registers and one block per channel. Channels
 * work independently of each other and of the CPU that rang them, each with its
 * own memory and its own MSI-X vector (vector number = channel number). All
 * registers are 32 bits wide, little-endian, accessed four bytes at a time.
 */
#ifndef _TESTS_UAPI_DMA_ENGINE_H
#define _TESTS_UAPI_DMA_ENGINE_H

#define DMA_ENGINE_VENDOR_ID		0x1234
#define DMA_ENGINE_DEVICE_ID		0xd3a0
#define DMA_ENGINE_CLASS		0x088000
#define DMA_ENGINE_BAR			0
#define DMA_ENGINE_BAR_SIZE		0x1000

/* Global, read-only. */
#define DMA_ENGINE_REG_MAGIC		0x00
#define DMA_ENGINE_MAGIC		0x454d4144	/* "DAME" */
#define DMA_ENGINE_REG_CHANNELS		0x04	/* number of channels */
#define DMA_ENGINE_REG_MEM_SIZE		0x08	/* bytes of memory per channel */

/* Channel N's block is at BASE + N * STRIDE. */
#define DMA_ENGINE_CHANNEL_BASE		0x100
#define DMA_ENGINE_CHANNEL_STRIDE	0x40

#define DMA_ENGINE_CH_SRC_LO		0x00
#define DMA_ENGINE_CH_SRC_HI		0x04
#define DMA_ENGINE_CH_DST_LO		0x08
#define DMA_ENGINE_CH_DST_HI		0x0c
#define DMA_ENGINE_CH_LEN		0x10	/* bytes, at least 1 */
#define DMA_ENGINE_CH_SEED_LO		0x14
#define DMA_ENGINE_CH_SEED_HI		0x18
/* A write starts the command; ignored while the channel is BUSY. */
#define DMA_ENGINE_CH_CMD		0x1c
/* Read-only: state of the channel. */
#define DMA_ENGINE_CH_STATUS		0x20
/* Read-only: CRC-32 (IEEE, as zlib's crc32) of a CHECKSUM. */
#define DMA_ENGINE_CH_RESULT		0x24
/* Read-only: first IOVA that faulted, valid when STATUS is FAULT. */
#define DMA_ENGINE_CH_FAULT_LO		0x28
#define DMA_ENGINE_CH_FAULT_HI		0x2c
/* Read-only: commands completed since reset, wraps. */
#define DMA_ENGINE_CH_COMPLETED		0x30

/* Commands, bits 7:0 of CMD. SRC and DST are IOVAs unless said otherwise. */
#define DMA_ENGINE_CMD_READ		1	/* SRC -> channel memory at offset DST */
#define DMA_ENGINE_CMD_WRITE		2	/* channel memory at offset SRC -> DST */
#define DMA_ENGINE_CMD_COPY		3	/* SRC -> DST, any overlap */
#define DMA_ENGINE_CMD_FILL		4	/* pattern of SEED -> DST */
#define DMA_ENGINE_CMD_CHECKSUM		5	/* CRC-32 of SRC -> RESULT */
/*
 * Flag of CMD: this command is meant to fault. The fault is counted apart from
 * those that fail a test; the channel's STATUS is FAULT as ever.
 */
#define DMA_ENGINE_CMD_EXPECT_FAULT	0x100
/* Flag of CMD: raise the channel's interrupt at the end. */
#define DMA_ENGINE_CMD_IRQ		0x200
/*
 * Flag of CMD: repeat the command, except CHECKSUM, until a reset, a fault, or
 * until bus mastering is off. The channel is IDLE after the latter.
 */
#define DMA_ENGINE_CMD_REPEAT		0x400

#define DMA_ENGINE_STATUS_IDLE		0	/* nothing done since reset */
#define DMA_ENGINE_STATUS_BUSY		1
#define DMA_ENGINE_STATUS_DONE		2
#define DMA_ENGINE_STATUS_FAULT		3	/* the DART refused an access */
#define DMA_ENGINE_STATUS_INVAL		4	/* unknown command or bad length */

/*
 * FILL pattern: byte I of the range is byte (I % 8), least significant first,
 * of mix(SEED + I / 8), where mix is the output function of SplitMix64:
 *
 *	z = (x + 1) * 0x9e3779b97f4a7c15
 *	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9
 *	z = (z ^ (z >> 27)) * 0x94d049bb133111eb
 *	mix(x) = z ^ (z >> 31)
 *
 * all modulo 2^64.
 */

#endif /* _TESTS_UAPI_DMA_ENGINE_H */
