// SPDX-License-Identifier: GPL-2.0
/*
 * How long page faults take while kflatd may be moving the tables below them: the
 * median, the 99th, 99.9th and 99.99th percentile, and the worst, in nanoseconds of
 * the guest's clock. A figure, no test: see docs/reference/testing.md.
 *
 *   fpt_latency [-m MIB] [-r ROUNDS] [-s SEED]
 *
 * The first pass touches MIB of memory in order, which is when spans become dense
 * enough for a node. Each of the ROUNDS then gives back 4096 pages of it here and
 * there and touches them again, in what may be a node by then. Run it with
 * `--icount SEED`: the clock then counts instructions, and a host's load is not seen.
 */
#include "fpt_util.h"

static long mib = 1024, rounds = 32;
static uint64_t seed = 1;

static uint64_t now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ull + ts.tv_nsec;
}

static uint64_t next_random(void)
{
	/* xorshift64 */
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

static int by_size(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

static uint32_t timed_touch(char *page)
{
	uint64_t start = now();

	*(volatile char *)page = 1;
	start = now() - start;
	return start > UINT32_MAX ? UINT32_MAX : start;
}

static void say(const char *what, uint32_t *t, long n)
{
	struct fpt_nodes nodes = fpt_nodes(0);

	qsort(t, n, sizeof(*t), by_size);
	printf("%s: faults %ld median %u p99 %u p99.9 %u p99.99 %u worst %u nodes %ld\n",
	       what, n, t[n / 2], t[n - 1 - n / 100], t[n - 1 - n / 1000],
	       t[n - 1 - n / 10000], t[n - 1], nodes.bottom);
}

int main(int argc, char **argv)
{
	enum { SOME = 4096 };
	long pages, i, r, n = 0;
	uint32_t *first, *again;
	char *mem;
	int opt;

	while ((opt = getopt(argc, argv, "m:r:s:")) != -1) {
		switch (opt) {
		case 'm': mib = atol(optarg); break;
		case 'r': rounds = atol(optarg); break;
		case 's': seed = strtoull(optarg, NULL, 0) ?: 1; break;
		default: mib = 0;
		}
	}
	if (mib < 1 || rounds < 0 || optind != argc) {
		fprintf(stderr, "usage: fpt_latency [-m MIB] [-r ROUNDS] [-s SEED]\n");
		return 2;
	}
	pages = mib << 8;
	mem = map_at(BASE, pages * PAGE);
	first = map_at(BASE + 64 * GIB, pages * sizeof(*first));
	again = map_at(BASE + 96 * GIB, (rounds * SOME + 1) * sizeof(*again));
	if (mem == MAP_FAILED || first == MAP_FAILED || again == MAP_FAILED) {
		perror("fpt_latency: mmap");
		return 1;
	}
	/* Its own notes are not to fault in between. */
	memset(first, 1, pages * sizeof(*first));
	memset(again, 1, (rounds * SOME + 1) * sizeof(*again));
	madvise(mem, pages * PAGE, MADV_NOHUGEPAGE);

	for (i = 0; i < pages; i++)
		first[i] = timed_touch(mem + i * PAGE);
	say("first", first, pages);
	for (r = 0; r < rounds; r++)
		for (i = 0; i < SOME; i++) {
			char *page = mem + next_random() % pages * PAGE;

			madvise(page, PAGE, MADV_DONTNEED);
			again[n++] = timed_touch(page);
		}
	if (n)
		say("again", again, n);
	return 0;
}
