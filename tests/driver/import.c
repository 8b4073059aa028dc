// SPDX-License-Identifier: GPL-2.0
/*
 * Import of buffers of other drivers (dma-buf); see helpers.h.
 */
#include <linux/dma-buf.h>
#include <linux/dma-mapping.h>
#include <linux/err.h>
#include <linux/module.h>
#include <linux/slab.h>

#include "helpers.h"

#if IS_ENABLED(CONFIG_DMA_SHARED_BUFFER)

MODULE_IMPORT_NS("DMA_BUF");

struct dma_test_import {
	struct dma_buf_attachment *attachment;
	struct sg_table *table;
};

static struct sg_table *attach(struct dma_test_import *import, struct dma_buf *buffer,
			       struct device *dev)
{
	import->attachment = dma_buf_attach(buffer, dev);
	if (IS_ERR(import->attachment))
		return ERR_CAST(import->attachment);
	import->table = dma_buf_map_attachment_unlocked(import->attachment, DMA_BIDIRECTIONAL);
	if (IS_ERR(import->table))
		dma_buf_detach(buffer, import->attachment);
	return import->table;
}

struct dma_test_import *dma_test_import(struct device *dev, int fd)
{
	struct dma_test_import *import = kzalloc(sizeof(*import), GFP_KERNEL);
	struct dma_buf *buffer;
	struct sg_table *table;

	if (!import)
		return ERR_PTR(-ENOMEM);
	buffer = dma_buf_get(fd);
	if (IS_ERR(buffer)) {
		kfree(import);
		return ERR_CAST(buffer);
	}
	table = attach(import, buffer, dev);
	if (IS_ERR(table)) {
		dma_buf_put(buffer);
		kfree(import);
		return ERR_CAST(table);
	}
	return import;
}

const struct sg_table *dma_test_import_table(const struct dma_test_import *import)
{
	return import->table;
}

void dma_test_import_release(struct dma_test_import *import)
{
	struct dma_buf *buffer = import->attachment->dmabuf;

	dma_buf_unmap_attachment_unlocked(import->attachment, import->table, DMA_BIDIRECTIONAL);
	dma_buf_detach(buffer, import->attachment);
	dma_buf_put(buffer);
	kfree(import);
}

#else

struct dma_test_import *dma_test_import(struct device *dev, int fd)
{
	return ERR_PTR(-EOPNOTSUPP);
}

const struct sg_table *dma_test_import_table(const struct dma_test_import *import)
{
	return NULL;
}

void dma_test_import_release(struct dma_test_import *import)
{
}

#endif
