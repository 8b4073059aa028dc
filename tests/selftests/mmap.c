// SPDX-License-Identifier: GPL-2.0
/*
 * Tests of coherent memory in user space, mapped by dma_mmap_attrs(). The tests map and access
 * memory that the test driver shares: the engine must read the data that they write, and the other
 * way round. With the command "mmap" the test driver does both, in the process that writes the
 * command; these tests add the address spaces before and after, several processes, threads, limits
 * and signals. mmap.sh runs them, with the drivers loaded.
 */

#include <errno.h>
#include <fcntl.h>
#include <linux/types.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "engine.h"

/* Runs a command of the engine on the shared memory. Returns 0 or an errno. */
static int engine_does(int fd, const char *what, __u64 seed)
{
	char text[64];

	snprintf(text, sizeof(text), "%s seed=%llu", what, (unsigned long long)seed);
	return command(fd, text);
}

/* Shares new memory. Returns the file that maps it, or a negative errno. */
static int new_share(int fd, size_t len, const char *attr)
{
	char text[64] = "";
	int error, shared;

	snprintf(text, sizeof(text), "share len=%zu attr=%s", len, attr);
	error = command(fd, text);
	if (error)
		return -error;
	memset(text, 0, sizeof(text));
	if (pread(fd, text, sizeof(text) - 1, 0) < 0)
		return -errno;
	return sscanf(text, "ok fd=%d", &shared) == 1 ? shared : -EPROTO;
}

static void *map(int shared, size_t len)
{
	return mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, shared, 0);
}

/* Returns the number of mappings of this process. */
static int count_mappings(void)
{
	FILE *maps = fopen("/proc/self/maps", "r");
	int c, lines = 0;

	if (!maps)
		return -1;
	while ((c = fgetc(maps)) != EOF)
		lines += c == '\n';
	fclose(maps);
	return lines;
}

FIXTURE(engine)
{
	int fd;
};

FIXTURE_SETUP(engine)
{
	self->fd = open_engine();
	if (self->fd < 0)
		SKIP(return, "no engine is bound to apple_dma_test");
}

FIXTURE_TEARDOWN(engine)
{
	close(self->fd);
}

FIXTURE_VARIANT(engine)
{
	const char *attr;
};

FIXTURE_VARIANT_ADD(engine, coherent) { .attr = "none" };
FIXTURE_VARIANT_ADD(engine, write_combine) { .attr = "write_combine" };
FIXTURE_VARIANT_ADD(engine, force_contiguous) { .attr = "force_contiguous" };

TEST_F(engine, content)
{
	static const unsigned int len[] = { 1, 7, 4095, 4096, 4097, 65536, 65537, 200000 };
	char text[64];
	size_t i;

	for (i = 0; i < ARRAY_SIZE(len); i++) {
		snprintf(text, sizeof(text), "mmap len=%u attr=%s seed=%zu", len[i],
			 variant->attr, i);
		EXPECT_EQ(0, command(self->fd, text)) TH_LOG("%s", text);
	}
}

TEST_F(engine, access)
{
	static const size_t len[] = { 1, 7, 4095, 4096, 4097, 65536, 200000 };
	__u8 *memory;
	__u64 seed = 1;
	int shared;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(len); i++) {
		shared = new_share(self->fd, len[i], variant->attr);
		ASSERT_LE(0, shared);
		memory = map(shared, len[i]);
		ASSERT_NE(MAP_FAILED, memory);

		write_pattern(memory, len[i], ++seed);
		EXPECT_EQ(0, engine_does(self->fd, "shared_checksum", seed));
		EXPECT_EQ(0, engine_does(self->fd, "shared_fill", ++seed));
		EXPECT_EQ(0, count_wrong(memory, len[i], seed));
		/* A single byte makes the comparison fail, also the last one. */
		memory[len[i] - 1]++;
		EXPECT_EQ(EIO, engine_does(self->fd, "shared_checksum", seed));
		memory[len[i] - 1]--;
		EXPECT_EQ(0, engine_does(self->fd, "shared_checksum", seed));

		ASSERT_EQ(0, munmap(memory, len[i]));
		ASSERT_EQ(0, close(shared));
		EXPECT_EQ(0, command(self->fd, "unshare"));
	}
}

TEST_F(engine, access_from_two_processes)
{
	const size_t len = 20000;
	__u8 *memory;
	int shared, status;
	pid_t child;

	shared = new_share(self->fd, len, variant->attr);
	ASSERT_LE(0, shared);
	memory = map(shared, len);
	ASSERT_NE(MAP_FAILED, memory);
	child = fork();
	ASSERT_LE(0, child);
	if (!child) {
		/* The mapping is not inherited, the file is. */
		memory = map(shared, len);
		if (memory == MAP_FAILED)
			_exit(1);
		write_pattern(memory, len, 3);
		_exit(0);
	}
	ASSERT_EQ(child, waitpid(child, &status, 0));
	EXPECT_EQ(0, status);
	EXPECT_EQ(0, count_wrong(memory, len, 3));
	EXPECT_EQ(0, engine_does(self->fd, "shared_checksum", 3));
	ASSERT_EQ(0, munmap(memory, len));
	EXPECT_EQ(0, command(self->fd, "unshare"));
	close(shared);
}

TEST_F(engine, mapping_keeps_the_memory)
{
	const size_t page = sysconf(_SC_PAGESIZE), len = 3 * page;
	__u8 *memory;
	int shared;

	shared = new_share(self->fd, len, variant->attr);
	ASSERT_LE(0, shared);
	/* More than the file has. */
	EXPECT_EQ(MAP_FAILED, map(shared, len + page));
	memory = map(shared, len);
	ASSERT_NE(MAP_FAILED, memory);
	EXPECT_EQ(EBUSY, command(self->fd, "unshare"));
	EXPECT_EQ(EBUSY, command(self->fd, "share len=4k"));
	/* A hole makes it two mappings. */
	ASSERT_EQ(0, munmap(memory + page, page));
	ASSERT_EQ(0, munmap(memory, page));
	EXPECT_EQ(EBUSY, command(self->fd, "unshare"));
	memory[2 * page]++;
	ASSERT_EQ(0, munmap(memory + 2 * page, page));
	EXPECT_EQ(0, command(self->fd, "unshare"));
	EXPECT_EQ(MAP_FAILED, map(shared, len));
	EXPECT_EQ(ENODEV, errno);
	EXPECT_EQ(ENOENT, engine_does(self->fd, "shared_checksum", 0));
	close(shared);
}

TEST_F(engine, mapping_goes)
{
	char text[64];
	int i, before;

	snprintf(text, sizeof(text), "mmap len=8k attr=%s", variant->attr);
	ASSERT_EQ(0, command(self->fd, text));
	before = count_mappings();
	ASSERT_LT(0, before);
	for (i = 0; i < 16; i++)
		ASSERT_EQ(0, command(self->fd, text));
	EXPECT_EQ(before, count_mappings());
}

FIXTURE(process)
{
	int fd;
};

FIXTURE_SETUP(process)
{
	self->fd = open_engine();
	if (self->fd < 0)
		SKIP(return, "no engine is bound to apple_dma_test");
}

FIXTURE_TEARDOWN(process)
{
	close(self->fd);
}

TEST_F(process, several_at_once)
{
	int i, status;

	for (i = 0; i < 4; i++) {
		pid_t child = fork();

		ASSERT_LE(0, child);
		if (!child) {
			char text[64];
			int turn;

			for (turn = 0; turn < 8; turn++) {
				snprintf(text, sizeof(text), "mmap len=1-8k seed=%d",
					 i * 8 + turn);
				if (command(self->fd, text))
					_exit(1);
			}
			_exit(0);
		}
	}
	while (wait(&status) > 0)
		EXPECT_EQ(0, status);
}

static void *wait_for_pipe(void *arg)
{
	char byte;

	while (read(*(int *)arg, &byte, 1) < 0 && errno == EINTR)
		;
	return NULL;
}

TEST_F(process, threads_are_refused)
{
	pthread_t thread;
	int ends[2], tries, error;

	ASSERT_EQ(0, pipe(ends));
	ASSERT_EQ(0, pthread_create(&thread, NULL, wait_for_pipe, &ends[0]));
	EXPECT_EQ(EBUSY, command(self->fd, "mmap len=4k"));
	close(ends[1]);
	ASSERT_EQ(0, pthread_join(thread, NULL));
	/* The joined thread may not have left the kernel yet. */
	for (tries = 0; tries < 500; tries++) {
		error = command(self->fd, "mmap len=4k");
		if (error != EBUSY)
			break;
		usleep(10000);
	}
	EXPECT_EQ(0, error);
}

TEST_F(process, address_space_is_limited)
{
	struct rlimit unlimited, small;

	ASSERT_EQ(0, getrlimit(RLIMIT_AS, &unlimited));
	small = unlimited;
	small.rlim_cur = 1 << 20;
	ASSERT_EQ(0, setrlimit(RLIMIT_AS, &small));
	EXPECT_EQ(ENOMEM, command(self->fd, "mmap len=64k"));
	ASSERT_EQ(0, setrlimit(RLIMIT_AS, &unlimited));
	EXPECT_EQ(0, command(self->fd, "mmap len=64k"));
}

TEST_F(process, killed_on_the_way)
{
	int i, status;

	for (i = 0; i < 10; i++) {
		pid_t child = fork();

		ASSERT_LE(0, child);
		if (!child) {
			while (!command(self->fd, "mmap len=8k iter=10"))
				;
			_exit(0);
		}
		usleep(5000 + 7919 * i);
		ASSERT_EQ(0, kill(child, SIGKILL));
		ASSERT_EQ(child, waitpid(child, &status, 0));
		EXPECT_TRUE(WIFSIGNALED(status)) TH_LOG("a command failed");
	}
	EXPECT_EQ(0, command(self->fd, "mmap len=64k"));
}

TEST_F(process, nonsense_is_refused)
{
	static const char * const text[] = {
		"mmp", "mmap len=", "mmap nonsense=1", "mmap ctx=hardirq", "mmap cpus=2",
		"mmap len=8-4",
	};
	size_t i;

	for (i = 0; i < ARRAY_SIZE(text); i++) {
		int error = command(self->fd, text[i]);

		EXPECT_EQ(EINVAL, error) TH_LOG("%s", text[i]);
	}
	EXPECT_EQ(0, command(self->fd, "mmap len=4k"));
}

TEST_HARNESS_MAIN
