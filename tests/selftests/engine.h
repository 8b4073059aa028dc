/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Commands of the test driver, and the pattern that the engine writes and computes checksums of.
 */
#ifndef ENGINE_H
#define ENGINE_H

#include <dirent.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/types.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define DEBUGFS	"/sys/kernel/debug/apple_dma_test"

/* Opens the file for commands. Returns -1 if there is none. */
static int open_engine(void)
{
	char path[512];
	struct dirent *entry;
	DIR *dir = opendir(DEBUGFS);
	int fd = -1;

	if (!dir)
		return -1;
	while (fd < 0 && (entry = readdir(dir))) {
		if (entry->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), DEBUGFS "/%s/run", entry->d_name);
		fd = open(path, O_RDWR);
	}
	closedir(dir);
	return fd;
}

/* Returns 0, or the errno with which the command failed. */
static int command(int fd, const char *text)
{
	return write(fd, text, strlen(text)) < 0 ? errno : 0;
}

/* Returns word number i of the engine's pattern for a seed; see tests/uapi/dma_engine.h. */
static __u64 pattern_word(__u64 seed, size_t i)
{
	__u64 z = (seed + i + 1) * 0x9e3779b97f4a7c15;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
	return htole64(z ^ z >> 31);
}

/* Writes the pattern to memory that is aligned to words. */
static void write_pattern(__u8 *memory, size_t len, __u64 seed)
{
	__u64 word;
	size_t i;

	for (i = 0; i < len; i += sizeof(word)) {
		word = pattern_word(seed, i / sizeof(word));
		memcpy(memory + i, &word, len - i < sizeof(word) ? len - i : sizeof(word));
	}
}

/* Returns the number of bytes that differ from the pattern. */
static size_t count_wrong(const __u8 *memory, size_t len, __u64 seed)
{
	size_t i, n, wrong = 0;
	__u64 word;

	for (i = 0; i < len; i += sizeof(word)) {
		n = len - i < sizeof(word) ? len - i : sizeof(word);
		word = pattern_word(seed, i / sizeof(word));
		if (!memcmp(memory + i, &word, n))
			continue;
		while (n--)
			wrong += memory[i + n] != ((__u8 *)&word)[n];
	}
	return wrong;
}

#endif /* ENGINE_H */
