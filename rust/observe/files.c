// SPDX-License-Identifier: GPL-2.0
/*
 * The files of a companion in debugfs and sysfs; see files.h.
 *
 * These are C's seq_file with an owner, so that an open file keeps the module loaded. A new file or
 * attribute gets its name here and its contents in rust/device/show.rs.
 */
#include "files.h"

#include <linux/debugfs.h>
#include <linux/device.h>
#include <linux/err.h>
#include <linux/fs.h>
#include <linux/kstrtox.h>
#include <linux/module.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/sysfs.h>

static const char *const kind_names[APPLE_DMA_FILES_KINDS] = {
	[APPLE_DMA_FILES_STATUS] = "status",
	[APPLE_DMA_FILES_COUNTERS] = "counters",
	[APPLE_DMA_FILES_DOORBELLS] = "doorbells",
	[APPLE_DMA_FILES_SIZES] = "sizes",
};

enum { MANAGED, MODE, BYTES, MAX_BYTES, ENTRIES, MAX_ENTRIES, PRESSURE, ATTRIBUTES };

static const char *const attribute_names[ATTRIBUTES] = {
	[MANAGED] = "managed",
	[MODE] = "mode",
	[BYTES] = "bytes",
	[MAX_BYTES] = "max_bytes",
	[ENTRIES] = "entries",
	[MAX_ENTRIES] = "max_entries",
	[PRESSURE] = "pressure",
};

static const char group_name[] = "apple_dma_pci";

struct kind_file {
	const struct apple_dma_files *files;
	unsigned int kind;
};

struct attribute_file {
	struct device_attribute attr;
	const struct apple_dma_files *files;
	unsigned int which;
};

struct apple_dma_files {
	const struct apple_dma_files_vtable *vtable;
	const void *subject;
	struct device *companion;
	struct dentry *dir;
	struct kind_file kinds[APPLE_DMA_FILES_KINDS];
	struct attribute_file attributes[ATTRIBUTES];
	struct attribute *list[ATTRIBUTES + 1];
	struct attribute_group group;
};

/* The parent of the companions' directories. */
static struct dentry *root;

static int kind_show(struct seq_file *m, void *v)
{
	const struct kind_file *file = m->private;

	return file->files->vtable->show(file->files->subject, file->kind, m);
}
DEFINE_SHOW_ATTRIBUTE(kind);

/* Position of a reader in the file of windows: the number of a window. Numbers have gaps. */
struct cursor {
	const struct apple_dma_files *files;
	struct apple_dma_files_window window;
};

static void *windows_start(struct seq_file *m, loff_t *pos)
{
	struct cursor *cursor = m->private;
	const struct apple_dma_files *files = cursor->files;
	u32 id = *pos;

	if (*pos > U32_MAX || !files->vtable->window(files->subject, &id, &cursor->window))
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

	seq_printf(m, "0x%llx 0x%llx %llu %u %u %s\n", window->gpa, window->dma_addr, window->len,
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

static ssize_t reset_peaks_write(struct file *file, const char __user *buf, size_t count,
				 loff_t *pos)
{
	const struct apple_dma_files *files = file->private_data;

	files->vtable->reset_peaks(files->subject);
	return count;
}

static const struct file_operations reset_peaks_fops = {
	.owner = THIS_MODULE,
	.open = simple_open,
	.write = reset_peaks_write,
	.llseek = noop_llseek,
};

static ssize_t attribute_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	const struct attribute_file *file = container_of(attr, struct attribute_file, attr);
	struct apple_dma_files_summary summary;

	if (file->which == PRESSURE)
		return sysfs_emit(buf, "%s\n", file->files->vtable->pressure(file->files->subject));
	file->files->vtable->summary(file->files->subject, &summary);
	switch (file->which) {
	case MANAGED:
		return sysfs_emit(buf, "%s\n", summary.managed);
	case MODE:
		return sysfs_emit(buf, "%s\n", summary.mode);
	case BYTES:
		return sysfs_emit(buf, "%llu\n", summary.bytes);
	case MAX_BYTES:
		return sysfs_emit(buf, "%llu\n", summary.max_bytes);
	case ENTRIES:
		return sysfs_emit(buf, "%llu\n", summary.entries);
	default:
		return sysfs_emit(buf, "%llu\n", summary.max_entries);
	}
}

static ssize_t limit_store(struct device *dev, struct device_attribute *attr, const char *buf,
			   size_t count)
{
	const struct attribute_file *file = container_of(attr, struct attribute_file, attr);
	u64 value;
	int error;

	if (kstrtou64(buf, 0, &value))
		value = 0;
	error = file->files->vtable->set_limit(file->files->subject, file->which == MAX_ENTRIES,
					       value);
	return error ?: count;
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
		if (which == MAX_BYTES || which == MAX_ENTRIES) {
			file->attr.attr.mode = 0644;
			file->attr.store = limit_store;
		}
		file->files = files;
		file->which = which;
		files->list[which] = &file->attr.attr;
	}
	files->group.name = group_name;
	files->group.attrs = files->list;
	return sysfs_create_group(&files->companion->kobj, &files->group);
}

/* Errors are ignored, as is usual for debugfs: a kernel without it has no such files. */
static void create_debugfs(struct apple_dma_files *files)
{
	unsigned int kind;

	files->dir = debugfs_create_dir(dev_name(files->companion), root);
	for (kind = 0; kind < APPLE_DMA_FILES_KINDS; kind++) {
		struct kind_file *file = &files->kinds[kind];

		file->files = files;
		file->kind = kind;
		debugfs_create_file(kind_names[kind], 0400, files->dir, file, &kind_fops);
	}
	debugfs_create_file("windows", 0400, files->dir, files, &windows_fops);
	debugfs_create_file("reset_peaks", 0200, files->dir, files, &reset_peaks_fops);
}

/**
 * apple_dma_files_create - create the files of a companion
 * @companion: the companion, which has no such files yet
 * @vtable: contents of the files
 * @subject: argument of all functions of @vtable
 *
 * @vtable and @subject must stay valid until apple_dma_files_destroy() has returned.
 *
 * Context: Process context. May sleep.
 * Return: The files, or an ERR_PTR().
 */
struct apple_dma_files *apple_dma_files_create(struct device *companion,
					       const struct apple_dma_files_vtable *vtable,
					       const void *subject)
{
	struct apple_dma_files *files = kzalloc(sizeof(*files), GFP_KERNEL);
	int error;

	if (!files)
		return ERR_PTR(-ENOMEM);
	files->vtable = vtable;
	files->subject = subject;
	files->companion = companion;
	error = create_attributes(files);
	if (error) {
		kfree(files);
		return ERR_PTR(error);
	}
	create_debugfs(files);
	return files;
}

/**
 * apple_dma_files_destroy - remove the files of a companion
 * @files: the files
 *
 * Waits for reads and writes that are under way. No function of the vtable is called after the
 * return.
 *
 * Context: Process context. May sleep.
 */
void apple_dma_files_destroy(struct apple_dma_files *files)
{
	debugfs_remove(files->dir);
	sysfs_remove_group(&files->companion->kobj, &files->group);
	kfree(files);
}

/**
 * apple_dma_files_init - create the module's directory in debugfs
 *
 * Context: Process context. May sleep.
 */
void apple_dma_files_init(void)
{
	root = debugfs_create_dir("apple_dma_pci", NULL);
}

/**
 * apple_dma_files_exit - remove the module's directory in debugfs
 *
 * Context: Process context. May sleep.
 */
void apple_dma_files_exit(void)
{
	debugfs_remove(root);
}

/**
 * apple_dma_files_notify_pressure - wake up those that poll the attribute "pressure"
 * @companion: the companion; nothing happens if it has no files
 *
 * Context: Process context. May sleep.
 */
void apple_dma_files_notify_pressure(struct device *companion)
{
	sysfs_notify(&companion->kobj, group_name, attribute_names[PRESSURE]);
}

/**
 * apple_dma_files_driver - copy the name of a device's driver
 * @dev: the device
 * @name: where to copy the name to: "-" without a driver, "?" while the driver changes
 * @size: size of @name
 *
 * Context: Process context. Does not sleep.
 */
void apple_dma_files_driver(struct device *dev, char *name, size_t size)
{
	if (!device_trylock(dev)) {
		strscpy(name, "?", size);
		return;
	}
	strscpy(name, dev->driver ? dev->driver->name : "-", size);
	device_unlock(dev);
}
