// SPDX-License-Identifier: GPL-2.0
/*
 * Tests of memory of processes that a device uses where it is (HMM). The test driver maps the pages
 * as drivers of accelerators do: in both directions, without synchronization, until the kernel
 * invalidates them. Whatever the kernel does with the pages meanwhile, the engine must read what
 * the process writes, and the other way round. mirror.sh runs these, with the drivers loaded.
 */

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "engine.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

/* One large page. */
#define LEN (2UL << 20)

static int mirror_memory(int engine, const void *memory, size_t len)
{
	char text[80];

	snprintf(text, sizeof(text), "mirror addr=%#lx len=%zu", (unsigned long)memory, len);
	return command(engine, text);
}

/* Runs a command on what is mirrored. Returns 0 or an errno. */
static int on_mirror(int engine, const char *what, unsigned long seed)
{
	char text[64];

	snprintf(text, sizeof(text), "%s seed=%lu", what, seed);
	return command(engine, text);
}

/* Returns a number of the last command's verdict, or -1. */
static long verdict(int engine, const char *name)
{
	char text[128] = "", *found;

	if (pread(engine, text, sizeof(text) - 1, 0) < 0)
		return -1;
	found = strstr(text, name);
	return found && found[strlen(name)] == '=' ? atol(found + strlen(name) + 1) : -1;
}

FIXTURE(mirror)
{
	int engine;
	size_t page;
	__u8 *memory;
};

FIXTURE_VARIANT(mirror)
{
	int flags;
	int advice;
};

FIXTURE_VARIANT_ADD(mirror, anonymous)
{
	.flags = MAP_PRIVATE | MAP_ANONYMOUS,
	.advice = MADV_NOHUGEPAGE,
};

FIXTURE_VARIANT_ADD(mirror, large_pages)
{
	.flags = MAP_PRIVATE | MAP_ANONYMOUS,
	.advice = MADV_HUGEPAGE,
};

FIXTURE_VARIANT_ADD(mirror, shared)
{
	.flags = MAP_SHARED | MAP_ANONYMOUS,
	.advice = MADV_NOHUGEPAGE,
};

FIXTURE_SETUP(mirror)
{
	__u8 *place;
	int error;

	self->engine = open_engine();
	if (self->engine < 0)
		SKIP(return, "no engine is bound to apple_dma_test");
	self->page = sysconf(_SC_PAGESIZE);
	/* Aligned, so that large pages are possible. */
	place = mmap(NULL, 2 * LEN, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, place);
	place += LEN - (unsigned long)place % LEN;
	self->memory = mmap(place, LEN, PROT_READ | PROT_WRITE, variant->flags | MAP_FIXED, -1, 0);
	ASSERT_NE(MAP_FAILED, self->memory);
	madvise(self->memory, LEN, variant->advice);
	error = mirror_memory(self->engine, self->memory, LEN);
	if (error == EOPNOTSUPP)
		SKIP(return, "the kernel has no HMM");
	ASSERT_EQ(0, error);
}

FIXTURE_TEARDOWN(mirror)
{
	EXPECT_EQ(0, command(self->engine, "mirror_release"));
	munmap(self->memory, LEN);
	close(self->engine);
}

TEST_F(mirror, both_sides_see_what_the_other_wrote)
{
	unsigned long seed;

	for (seed = 1; seed < 5; seed += 2) {
		write_pattern(self->memory, LEN, seed);
		EXPECT_EQ(0, on_mirror(self->engine, "mirror_checksum", seed));
		EXPECT_EQ(EIO, on_mirror(self->engine, "mirror_checksum", seed + 1));
		EXPECT_EQ(0, on_mirror(self->engine, "mirror_fill", seed + 1));
		EXPECT_EQ(0, count_wrong(self->memory, LEN, seed + 1));
	}
}

/* Pages that were never touched, or were dropped, are there when the engine needs them. */
TEST_F(mirror, pages_come_and_go)
{
	EXPECT_EQ(0, on_mirror(self->engine, "mirror_fill", 1));
	EXPECT_EQ(0, count_wrong(self->memory, LEN, 1));
	/* One page in the middle of a large one, then all. */
	ASSERT_EQ(0, madvise(self->memory + 3 * self->page, self->page, MADV_DONTNEED));
	write_pattern(self->memory, LEN, 2);
	EXPECT_EQ(0, on_mirror(self->engine, "mirror_checksum", 2));
	EXPECT_LE(1, verdict(self->engine, "unmapped"));
	ASSERT_EQ(0, madvise(self->memory, LEN, MADV_DONTNEED));
	EXPECT_EQ(0, on_mirror(self->engine, "mirror_fill", 3));
	EXPECT_LE(LEN / self->page, verdict(self->engine, "unmapped"));
	EXPECT_EQ(0, count_wrong(self->memory, LEN, 3));
}

/* The kernel moves small pages into a large one. */
TEST_F(mirror, pages_move)
{
	write_pattern(self->memory, LEN, 1);
	EXPECT_EQ(0, on_mirror(self->engine, "mirror_checksum", 1));
	madvise(self->memory, LEN, MADV_HUGEPAGE);
	if (madvise(self->memory, LEN, MADV_COLLAPSE))
		SKIP(return, "the kernel does not make large pages of these: %s", strerror(errno));
	EXPECT_EQ(0, on_mirror(self->engine, "mirror_checksum", 1));
	EXPECT_EQ(0, on_mirror(self->engine, "mirror_fill", 2));
	EXPECT_EQ(0, count_wrong(self->memory, LEN, 2));
}

/* A child's memory is a copy, unless it is shared, whichever side writes. */
TEST_F(mirror, children_have_copies)
{
	bool shared = variant->flags & MAP_SHARED;
	int go[2], status;
	char c = 0;
	pid_t pid;

	write_pattern(self->memory, LEN, 1);
	EXPECT_EQ(0, on_mirror(self->engine, "mirror_checksum", 1));
	ASSERT_EQ(0, pipe(go));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		close(go[1]);
		if (read(go[0], &c, 1))
			_exit(2);
		_exit(!!count_wrong(self->memory, LEN, shared ? 2 : 1));
	}
	close(go[0]);
	EXPECT_EQ(0, on_mirror(self->engine, "mirror_fill", 2));
	close(go[1]);
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	EXPECT_EQ(0, count_wrong(self->memory, LEN, 2));
}

/* What the process has no longer, or may not write, the engine does not get. */
TEST_F(mirror, pages_that_are_not_there)
{
	__u8 *middle = self->memory + LEN / 2;

	EXPECT_EQ(0, on_mirror(self->engine, "mirror_fill", 1));
	ASSERT_EQ(0, mprotect(middle, self->page, PROT_READ));
	EXPECT_NE(0, on_mirror(self->engine, "mirror_fill", 2));
	EXPECT_EQ(0, count_wrong(self->memory, LEN, 1));
	ASSERT_EQ(0, mprotect(middle, self->page, PROT_READ | PROT_WRITE));
	EXPECT_EQ(0, on_mirror(self->engine, "mirror_checksum", 1));
	ASSERT_EQ(0, munmap(middle, self->page));
	EXPECT_EQ(EFAULT, on_mirror(self->engine, "mirror_fill", 3));
	EXPECT_EQ(0, count_wrong(self->memory, LEN / 2, 1));
}

/* What another thread does to the pages while the engine uses them. */
struct disturbance {
	__u8 *memory;
	bool stop;
	unsigned long turns;
};

static void *disturb(void *arg)
{
	struct disturbance *disturbance = arg;
	__u8 *memory = disturbance->memory;

	while (!__atomic_load_n(&disturbance->stop, __ATOMIC_RELAXED)) {
		/* Invalidates the pages, and leaves the data. */
		mprotect(memory, LEN, PROT_READ);
		mprotect(memory, LEN, PROT_READ | PROT_WRITE);
		if (disturbance->turns++ % 4 == 0)
			madvise(memory, LEN, MADV_COLLAPSE);
		usleep(1000);
	}
	return NULL;
}

TEST_F(mirror, pages_that_go_while_they_are_used)
{
	struct disturbance disturbance = { .memory = self->memory };
	unsigned long seed = 1, tries = 0;
	pthread_t thread;
	int error = 0;

	ASSERT_EQ(0, pthread_create(&thread, NULL, disturb, &disturbance));
	for (seed = 1; seed <= 5; seed++) {
		/* The pages may be read-only just then. */
		do
			error = on_mirror(self->engine, "mirror_fill", seed);
		while (error && error != EIO && ++tries < 10000);
		EXPECT_EQ(0, error);
		EXPECT_EQ(0, count_wrong(self->memory, LEN, seed));
	}
	EXPECT_LE(1, verdict(self->engine, "unmapped"));
	__atomic_store_n(&disturbance.stop, true, __ATOMIC_RELAXED);
	ASSERT_EQ(0, pthread_join(thread, NULL));
	EXPECT_LE(1, disturbance.turns);
}

/* A mirror outlives its process. */
TEST(the_process_ends)
{
	int engine = open_engine(), status;
	pid_t pid;

	if (engine < 0)
		SKIP(return, "no engine is bound to apple_dma_test");
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		void *memory = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
				    -1, 0);
		int error = mirror_memory(engine, memory, LEN);

		_exit(error ? error : on_mirror(engine, "mirror_fill", 1));
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	ASSERT_TRUE(WIFEXITED(status));
	if (WEXITSTATUS(status) == EOPNOTSUPP)
		SKIP(return, "the kernel has no HMM");
	EXPECT_EQ(0, WEXITSTATUS(status));
	EXPECT_EQ(ESRCH, on_mirror(engine, "mirror_fill", 2));
	EXPECT_EQ(0, command(engine, "mirror_release"));
	close(engine);
}

TEST(what_is_no_memory_is_refused)
{
	long page = sysconf(_SC_PAGESIZE);
	int engine = open_engine(), error;
	__u8 *memory;

	if (engine < 0)
		SKIP(return, "no engine is bound to apple_dma_test");
	memory = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, memory);
	error = mirror_memory(engine, memory, page);
	if (error == EOPNOTSUPP)
		SKIP(return, "the kernel has no HMM");
	ASSERT_EQ(0, error);
	EXPECT_EQ(EBUSY, mirror_memory(engine, memory + page, page));
	EXPECT_EQ(0, command(engine, "mirror_release"));
	EXPECT_EQ(ENOENT, command(engine, "mirror_release"));
	EXPECT_EQ(ENOENT, on_mirror(engine, "mirror_checksum", 1));
	EXPECT_EQ(EINVAL, mirror_memory(engine, memory + 8, page));
	EXPECT_EQ(EINVAL, mirror_memory(engine, memory, page - 1));
	EXPECT_EQ(EINVAL, mirror_memory(engine, memory, 0));
	ASSERT_EQ(0, munmap(memory, 2 * page));
	ASSERT_EQ(0, mirror_memory(engine, memory, page));
	EXPECT_EQ(EFAULT, on_mirror(engine, "mirror_checksum", 1));
	EXPECT_EQ(0, command(engine, "mirror_release"));
	close(engine);
}

TEST_HARNESS_MAIN
