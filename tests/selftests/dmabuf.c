// SPDX-License-Identifier: GPL-2.0
/*
 * Tests of buffers that drivers share (dma-buf). The test driver imports buffers of the kernel's
 * own exporters as a driver of a display does: it maps them in both directions, for long, and never
 * synchronizes them. While they are imported, the engine must read what processes write, and the
 * other way round. dmabuf.sh runs these, with the drivers loaded.
 */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/dma-buf.h>
#include <linux/dma-heap.h>
#include <linux/memfd.h>
#include <linux/types.h>
#include <linux/udmabuf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "engine.h"

#define LEN (1024 * 1024)

/* A buffer, with its memory in this process. */
struct buffer {
	int fd;
	__u8 *memory;
};

/* Returns the number of the import of a buffer, or a negative errno. */
static int import_buffer(int engine, int fd)
{
	char text[64] = "";
	int error, number;

	snprintf(text, sizeof(text), "import fd=%d", fd);
	error = command(engine, text);
	if (error)
		return -error;
	memset(text, 0, sizeof(text));
	if (pread(engine, text, sizeof(text) - 1, 0) < 0)
		return -errno;
	return sscanf(text, "ok import=%d", &number) == 1 ? number : -EPROTO;
}

/* Runs a command on an import. Returns 0 or an errno. */
static int on_import(int engine, const char *what, int number, __u64 seed)
{
	char text[64];

	snprintf(text, sizeof(text), "%s import=%d seed=%llu", what, number,
		 (unsigned long long)seed);
	return command(engine, text);
}

/* Begins or ends access of the CPU. */
static int cpu_access(const struct buffer *buffer, __u64 flags)
{
	struct dma_buf_sync sync = { .flags = flags | DMA_BUF_SYNC_RW };

	return ioctl(buffer->fd, DMA_BUF_IOCTL_SYNC, &sync);
}

static int write_buffer(const struct buffer *buffer, __u64 seed)
{
	if (cpu_access(buffer, DMA_BUF_SYNC_START))
		return -1;
	write_pattern(buffer->memory, LEN, seed);
	return cpu_access(buffer, DMA_BUF_SYNC_END);
}

/* Returns the number of bytes that differ from the pattern, or -1. */
static long wrong_in(const struct buffer *buffer, __u64 seed)
{
	long wrong;

	if (cpu_access(buffer, DMA_BUF_SYNC_START))
		return -1;
	wrong = count_wrong(buffer->memory, LEN, seed);
	return cpu_access(buffer, DMA_BUF_SYNC_END) ? -1 : wrong;
}

/* Makes a buffer of pages of a file in memory, in steps of some pages, the last ones first. */
static int new_udmabuf(struct buffer *buffer)
{
	const size_t step = 8 * sysconf(_SC_PAGESIZE), steps = LEN / step;
	struct udmabuf_create_list *list;
	int device, file;
	size_t i;

	device = open("/dev/udmabuf", O_RDWR);
	if (device < 0)
		return -1;
	list = calloc(1, sizeof(*list) + steps * sizeof(list->list[0]));
	file = syscall(SYS_memfd_create, "dmabuf", MFD_ALLOW_SEALING);
	if (!list || file < 0 || ftruncate(file, LEN) || fcntl(file, F_ADD_SEALS, F_SEAL_SHRINK))
		return -1;
	list->count = steps;
	for (i = 0; i < steps; i++) {
		list->list[i].memfd = file;
		list->list[i].offset = (steps - 1 - i) * step;
		list->list[i].size = step;
	}
	buffer->fd = ioctl(device, UDMABUF_CREATE_LIST, list);
	free(list);
	close(file);
	close(device);
	return buffer->fd < 0 ? -1 : 0;
}

static int new_heap_buffer(struct buffer *buffer)
{
	struct dma_heap_allocation_data data = { .len = LEN, .fd_flags = O_RDWR | O_CLOEXEC };
	int heap = open("/dev/dma_heap/system", O_RDWR);

	if (heap < 0 || ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &data))
		return -1;
	close(heap);
	buffer->fd = data.fd;
	return 0;
}

FIXTURE(dmabuf)
{
	int engine;
	struct buffer buffer;
};

FIXTURE_VARIANT(dmabuf)
{
	const char *device;
	int (*new)(struct buffer *buffer);
};

FIXTURE_VARIANT_ADD(dmabuf, udmabuf)
{
	.device = "/dev/udmabuf",
	.new = new_udmabuf,
};

FIXTURE_VARIANT_ADD(dmabuf, system_heap)
{
	.device = "/dev/dma_heap/system",
	.new = new_heap_buffer,
};

FIXTURE_SETUP(dmabuf)
{
	struct buffer *buffer = &self->buffer;

	self->engine = open_engine();
	if (self->engine < 0)
		SKIP(return, "no engine is bound to apple_dma_test");
	if (faccessat(AT_FDCWD, variant->device, F_OK, 0))
		SKIP(return, "the kernel has no %s", variant->device);
	ASSERT_EQ(0, variant->new(buffer));
	buffer->memory = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_SHARED, buffer->fd, 0);
	ASSERT_NE(MAP_FAILED, buffer->memory);
}

FIXTURE_TEARDOWN(dmabuf)
{
	munmap(self->buffer.memory, LEN);
	close(self->buffer.fd);
	close(self->engine);
}

TEST_F(dmabuf, both_sides_see_what_the_other_wrote)
{
	int number = import_buffer(self->engine, self->buffer.fd);
	__u64 seed;

	ASSERT_LE(0, number);
	for (seed = 1; seed < 9; seed += 2) {
		ASSERT_EQ(0, write_buffer(&self->buffer, seed));
		EXPECT_EQ(0, on_import(self->engine, "import_checksum", number, seed));
		EXPECT_EQ(EIO, on_import(self->engine, "import_checksum", number, seed + 1));
		EXPECT_EQ(0, on_import(self->engine, "import_fill", number, seed + 1));
		EXPECT_EQ(0, wrong_in(&self->buffer, seed + 1));
	}
	EXPECT_EQ(0, on_import(self->engine, "import_release", number, 0));
	EXPECT_EQ(ENOENT, on_import(self->engine, "import_checksum", number, 0));
}

/* The same memory is mapped several times, and what is left works in whatever order they go. */
TEST_F(dmabuf, imported_several_times_and_released_in_reverse)
{
	int number[4], i;

	for (i = 0; i < 4; i++) {
		number[i] = import_buffer(self->engine, self->buffer.fd);
		ASSERT_LE(0, number[i]);
	}
	for (i = 3; i >= 0; i--) {
		EXPECT_EQ(0, on_import(self->engine, "import_fill", number[i], 20 + i));
		EXPECT_EQ(0, wrong_in(&self->buffer, 20 + i));
		EXPECT_EQ(0, on_import(self->engine, "import_checksum", number[0], 20 + i));
		EXPECT_EQ(0, on_import(self->engine, "import_release", number[i], 0));
	}
}

/* The importer keeps the buffer. */
TEST_F(dmabuf, outlives_its_descriptor)
{
	int number = import_buffer(self->engine, self->buffer.fd);

	ASSERT_LE(0, number);
	ASSERT_EQ(0, write_buffer(&self->buffer, 5));
	ASSERT_EQ(0, munmap(self->buffer.memory, LEN));
	ASSERT_EQ(0, close(self->buffer.fd));
	EXPECT_EQ(0, on_import(self->engine, "import_checksum", number, 5));
	EXPECT_EQ(0, on_import(self->engine, "import_release", number, 0));
	self->buffer.fd = -1;
}

TEST(what_is_no_buffer_is_refused)
{
	int engine = open_engine(), file = open("/dev/null", O_RDWR), error;

	if (engine < 0)
		SKIP(return, "no engine is bound to apple_dma_test");
	error = import_buffer(engine, file);
	if (error == -EOPNOTSUPP)
		SKIP(return, "the kernel has no dma-buf");
	EXPECT_EQ(-EINVAL, error);
	close(file);
	EXPECT_EQ(-EBADF, import_buffer(engine, file));
	EXPECT_EQ(ENOENT, on_import(engine, "import_release", 99, 0));
	close(engine);
}

TEST_HARNESS_MAIN
