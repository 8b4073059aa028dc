// SPDX-License-Identifier: GPL-2.0
/*
 * A companion's files in debugfs and sysfs; see files.h. An open file keeps the module.
 */
#include "files.h"

#include <linux/debugfs.h>
#include <linux/device.h>
#include <linux/err.h>
#include <linux/fs.h>
#include <linux/module.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/sysfs.h>

static const char *const page_names[APPLE_DMA_FILES_KINDS] = {
	[APPLE_DMA_FILES_STATUS] = "status",
	[APPLE_DMA_FILES_COUNTERS] = "counters",
	[APPLE_DMA_FILES_DOORBELLS] = "doorbells",
	[APPLE_DMA_FILES_SIZES] = "sizes",
};

enum { MANAGED, MODE, BYTES, MAX_BYTES, ENTRIES, MAX_ENTRIES, ATTRIBUTES };

static const char *const attribute_names[ATTRIBUTES] = {
	[MANAGED] = "managed",
	[MODE] = "mode",
	[BYTES] = "bytes",
	[MAX_BYTES] = "max_bytes",
	[ENTRIES] = "entries",
	[MAX_ENTRIES] = "max_entries",
};

struct page_file {
	const struct apple_dma_files *files;
	unsigned int page;
};

struct attribute_file {
	struct device_attribute attr;
	const struct apple_dma_files *files;
	unsigned int which;
};

struct apple_dma_files {
	const struct apple_dma_files_vtable *from;
	const void *subject;
	struct device *companion;
	struct dentry *dir;
	struct page_file pages[APPLE_DMA_FILES_KINDS];
	struct attribute_file attributes[ATTRIBUTES];
	struct attribute *list[ATTRIBUTES + 1];
	struct attribute_group group;
};

/* The directory of all companions' directories. */
static struct dentry *root;

static int page_show(struct seq_file *m, void *v)
{
	const struct page_file *file = m->private;

	return file->files->from->show(file->files->subject, file->page, m);
}
DEFINE_SHOW_ATTRIBUTE(page);

/* How far a reader of the windows is: positions are their numbers, which have gaps. */
struct cursor {
	const struct apple_dma_files *files;
	struct apple_dma_files_window window;
};

static void *windows_start(struct seq_file *m, loff_t *pos)
{
	struct cursor *cursor = m->private;
	const struct apple_dma_files *files = cursor->files;
	u32 id = *pos;

	if (*pos > U32_MAX || !files->from->window(files->subject, &id, &cursor->window))
		return NULL;
	*pos = id;
	return cursor;
}

static void *windows_next(struct seq_file *m, void *v, loff_t *pos)
{
	++*pos;
	return windows_start(m, pos);
}

static void windows_stop(struct seq_file *m, void *v)
{
}

static int windows_show(struct seq_file *m, void *v)
{
	const struct cursor *cursor = v;
	const struct apple_dma_files_window *window = &cursor->window;

	seq_printf(m, "0x%llx 0x%llx %llu %u %u %s\n", window->gpa, window->dma, window->bytes,
		   window->users, window->uses, window->state);
	return 0;
}

static const struct seq_operations windows_ops = {
	.start = windows_start,
	.next = windows_next,
	.stop = windows_stop,
	.show = windows_show,
};

static int windows_open(struct inode *inode, struct file *file)
{
	struct cursor *cursor = __seq_open_private(file, &windows_ops, sizeof(*cursor));

	if (!cursor)
		return -ENOMEM;
	cursor->files = inode->i_private;
	return 0;
}

static const struct file_operations windows_fops = {
	.owner = THIS_MODULE,
	.open = windows_open,
	.read = seq_read,
	.llseek = seq_lseek,
	.release = seq_release_private,
};

static ssize_t attribute_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	const struct attribute_file *file = container_of(attr, struct attribute_file, attr);
	struct apple_dma_files_summary now;

	file->files->from->summary(file->files->subject, &now);
	switch (file->which) {
	case MANAGED:
		return sysfs_emit(buf, "%s\n", now.managed);
	case MODE:
		return sysfs_emit(buf, "%s\n", now.mode);
	case BYTES:
		return sysfs_emit(buf, "%llu\n", now.bytes);
	case MAX_BYTES:
		return sysfs_emit(buf, "%llu\n", now.max_bytes);
	case ENTRIES:
		return sysfs_emit(buf, "%llu\n", now.entries);
	default:
		return sysfs_emit(buf, "%llu\n", now.max_entries);
	}
}

static int create_attributes(struct apple_dma_files *files)
{
	unsigned int which;

	for (which = 0; which < ATTRIBUTES; which++) {
		struct attribute_file *file = &files->attributes[which];

		sysfs_attr_init(&file->attr.attr);
		file->attr.attr.name = attribute_names[which];
		file->attr.attr.mode = 0444;
		file->attr.show = attribute_show;
		file->files = files;
		file->which = which;
		files->list[which] = &file->attr.attr;
	}
	files->group.name = "apple_dma_pci";
	files->group.attrs = files->list;
	return sysfs_create_group(&files->companion->kobj, &files->group);
}

/* Who has no debugfs does without. */
static void create_pages(struct apple_dma_files *files)
{
	unsigned int page;

	files->dir = debugfs_create_dir(dev_name(files->companion), root);
	for (page = 0; page < APPLE_DMA_FILES_KINDS; page++) {
		struct page_file *file = &files->pages[page];

		file->files = files;
		file->page = page;
		debugfs_create_file(page_names[page], 0400, files->dir, file, &page_fops);
	}
	debugfs_create_file("windows", 0400, files->dir, files, &windows_fops);
}

struct apple_dma_files *apple_dma_files_create(struct device *companion,
					     const struct apple_dma_files_vtable *from,
					     const void *subject)
{
	struct apple_dma_files *files = kzalloc(sizeof(*files), GFP_KERNEL);
	int error;

	if (!files)
		return ERR_PTR(-ENOMEM);
	files->from = from;
	files->subject = subject;
	files->companion = companion;
	error = create_attributes(files);
	if (error) {
		kfree(files);
		return ERR_PTR(error);
	}
	create_pages(files);
	return files;
}

/* Nobody is reading any more when this returns. */
void apple_dma_files_destroy(struct apple_dma_files *files)
{
	debugfs_remove(files->dir);
	sysfs_remove_group(&files->companion->kobj, &files->group);
	kfree(files);
}

void apple_dma_files_init(void)
{
	root = debugfs_create_dir("apple_dma_pci", NULL);
}

void apple_dma_files_exit(void)
{
	debugfs_remove(root);
}

/* The name of the device's driver; "-" without one, "?" while that changes. */
void apple_dma_files_driver(struct device *dev, char *name, size_t size)
{
	if (!device_trylock(dev)) {
		strscpy(name, "?", size);
		return;
	}
	strscpy(name, dev->driver ? dev->driver->name : "-", size);
	device_unlock(dev);
}
