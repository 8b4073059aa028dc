/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * apple-dma-pci: the protocol between a guest and the companion device.
 *
 * This header is the only definition of the registers and of the structures in
 * guest memory. The bindings of the kernel module and of the simulated host
 * are generated from it. docs/protocol.md describes what they mean together.
 *
 * All registers are 32 bits wide, little-endian, and accessed four bytes at a
 * time. All structures are little-endian.
 */
#ifndef _UAPI_LINUX_APPLE_DMA_PCI_H
#define _UAPI_LINUX_APPLE_DMA_PCI_H

#include <linux/types.h>

/* PCI identity: class 0x0880, one 32-bit memory BAR, no interrupt. */
#define APPLE_DMA_PCI_VENDOR_ID		0x1b36
#define APPLE_DMA_PCI_DEVICE_ID		0x0015
#define APPLE_DMA_PCI_BAR		0
#define APPLE_DMA_PCI_BAR_SIZE		0x1000

/* The protocol version that this header describes. */
#define APPLE_DMA_PCI_VERSION		2

/* Protocol version. Read-only. */
#define APPLE_DMA_PCI_REG_VERSION	0x00
/*
 * PCI address of the managed device in the guest, bus << 8 | devfn. Read-only.
 * As of the creation of the device: the bus may be 0 behind a bridge.
 */
#define APPLE_DMA_PCI_REG_MANAGED_BDF	0x04
/* Most requests in one batch. Read-only. */
#define APPLE_DMA_PCI_REG_MAX_ENTRIES	0x08
/* Status of the last doorbell, APPLE_DMA_PCI_STATUS_*. Read-only. */
#define APPLE_DMA_PCI_REG_STATUS	0x0c
/* Guest-physical address of the command block, bits 31:0 and 63:32. Write-only. */
#define APPLE_DMA_PCI_REG_CMD_GPA_LO	0x10
#define APPLE_DMA_PCI_REG_CMD_GPA_HI	0x14
/* Doorbell: a write of any value processes the command block. Write-only. */
#define APPLE_DMA_PCI_REG_DOORBELL	0x18

/* Values of apple_dma_pci_cmd.type. */
#define APPLE_DMA_PCI_CMD_MAP		1
#define APPLE_DMA_PCI_CMD_UNMAP		2

/*
 * Status of a batch and of a request. A batch is IOERR if at least one request
 * failed; those that succeeded are in force. The responses of a batch that is
 * INVAL are not written. 2 is not assigned: no published host writes it.
 */
#define APPLE_DMA_PCI_STATUS_OK		0
#define APPLE_DMA_PCI_STATUS_IOERR	1
#define APPLE_DMA_PCI_STATUS_INVAL	3

/**
 * struct apple_dma_pci_cmd - the command block
 * @type:	APPLE_DMA_PCI_CMD_*
 * @count:	entries of both arrays, 1 to MAX_ENTRIES
 * @status:	APPLE_DMA_PCI_STATUS_*, written by the device at the end of the batch
 * @reserved:	0
 * @req_gpa:	guest-physical address of the request array, not 0
 * @resp_gpa:	guest-physical address of the response array, not 0
 *
 * Both arrays are contiguous guest RAM.
 */
struct apple_dma_pci_cmd {
	__le32 type;
	__le32 count;
	__le32 status;
	__le32 reserved;
	__le64 req_gpa;
	__le64 resp_gpa;
};

/*
 * There are two dialects of map requests and responses with the same version:
 * u32, of the series for QEMU that was published first, and u64, of a later
 * fork of it. A batch of one request with a length below 4 GiB and flags of 0
 * reads the same in both; the bytes of the response that the device wrote tell
 * its dialect.
 */

/**
 * struct apple_dma_pci_map_req32 - a map request, u32 dialect
 * @gpa:	first byte of the range, and the key of the mapping
 * @len:	length in bytes
 * @flags:	0
 */
struct apple_dma_pci_map_req32 {
	__le64 gpa;
	__le32 len;
	__le32 flags;
};

/**
 * struct apple_dma_pci_map_resp32 - a map response, u32 dialect
 * @id:		key of the mapping: the gpa of the request
 * @dma_addr:	IOVA of the first byte
 * @dma_len:	length that was mapped, in bytes
 * @status:	APPLE_DMA_PCI_STATUS_*; the only field written on failure
 */
struct apple_dma_pci_map_resp32 {
	__le64 id;
	__le64 dma_addr;
	__le32 dma_len;
	__le32 status;
};

/**
 * struct apple_dma_pci_map_req64 - a map request, u64 dialect
 * @gpa:	first byte of the range, and the key of the mapping
 * @len:	length in bytes
 * @flags:	0
 */
struct apple_dma_pci_map_req64 {
	__le64 gpa;
	__le64 len;
	__le32 flags;
} __attribute__((packed));

/**
 * struct apple_dma_pci_map_resp64 - a map response, u64 dialect
 * @id:		key of the mapping: the gpa of the request
 * @dma_addr:	IOVA of the first byte
 * @dma_len:	length that was mapped, in bytes
 * @status:	APPLE_DMA_PCI_STATUS_*; the only field written on failure
 */
struct apple_dma_pci_map_resp64 {
	__le64 id;
	__le64 dma_addr;
	__le64 dma_len;
	__le32 status;
} __attribute__((packed));

/**
 * struct apple_dma_pci_unmap_req - an unmap request, both dialects
 * @id:		key of the mapping
 * @size:	length of the mapping in bytes
 */
struct apple_dma_pci_unmap_req {
	__le64 id;
	__le64 size;
};

/**
 * struct apple_dma_pci_unmap_resp - an unmap response, both dialects
 * @id:		key of the mapping
 * @status:	APPLE_DMA_PCI_STATUS_*
 * @reserved:	0
 */
struct apple_dma_pci_unmap_resp {
	__le64 id;
	__le32 status;
	__le32 reserved;
};

#endif /* _UAPI_LINUX_APPLE_DMA_PCI_H */
