// SPDX-License-Identifier: GPL-2.0
/*
 * Page faults per second of threads that touch other pages of one span at a time,
 * below flattened nodes and below conventional tables of the same kernel.
 * A figure, no test: see docs/reference/testing.md.
 *
 *   fpt_faultrate [-j THREADS] [-n PAGES] [-r ROUNDS]
 *
 * Each thread is bound to a CPU of its own. Thread t touches pages t, t + THREADS,
 * t + 2 * THREADS, ... of a mapping in one GiB, so that neighbours meet in every
 * table. A round is one process with nodes and one without (fpt.cap_percent is 0
 * while it lives), in turn first, so that what a host does meanwhile meets both.
 * Printed is the median of the rounds' ratios; in mode radix both halves are alike,
 * which shows the noise.
 */
#include "fpt_util.h"

#define MAXT 64
#define MAXR 999
#define TURNS 3
#define CAP FPT_PARAMS "cap_percent"

static long threads = 2, pages = 32768, rounds = 21;
static pthread_barrier_t bar;
static char *where;
static int cpus[MAXT];

static void *touches(void *arg)
{
	long t = (long)arg, r, i;
	cpu_set_t one;

	CPU_ZERO(&one);
	CPU_SET(cpus[t], &one);
	if (sched_setaffinity(0, sizeof(one), &one)) {
		perror("fpt_faultrate: sched_setaffinity");
		exit(1);
	}
	for (r = 0; r < TURNS; r++) {
		pthread_barrier_wait(&bar);
		for (i = t; i < pages; i += threads)
			*(volatile char *)(where + i * PAGE) = 1;
		pthread_barrier_wait(&bar);
	}
	return NULL;
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

static void start_threads(void)
{
	pthread_t th;
	long t;

	pthread_barrier_init(&bar, NULL, threads + 1);
	for (t = 0; t < threads; t++)
		if (pthread_create(&th, NULL, touches, (void *)t)) {
			perror("fpt_faultrate: pthread_create");
			_exit(1);
		}
}

/* The best of a few turns of one process; exits */
static void child(int out, bool flat, enum fpt_mode mode)
{
	struct fpt_nodes n, before = fpt_nodes(0);
	double best = 0;
	long r, made;

	start_threads();
	for (r = 0; r < TURNS; r++) {
		double start, s;

		where = map_at(BASE, GIB);
		if (where == MAP_FAILED) {
			perror("fpt_faultrate: mmap");
			_exit(1);
		}
		/*
		 * The tables of the span, not their allocation, are what is shared. (Conventional
		 * PTE tables are still allocated later, one for each 512 pages.)
		 */
		*(volatile char *)(where + GIB - PAGE) = 1;
		pthread_barrier_wait(&bar);
		start = now();
		pthread_barrier_wait(&bar);
		s = now() - start;
		if (pages / s > best)
			best = pages / s;
		n = fpt_nodes(0);
		made = n.mid + n.bottom - before.mid - before.bottom;
		if (flat ? mode != RADIX && made < 1 && !(mode == L4L3 && n.root) :
			   n.root + n.mid + n.bottom) {
			fprintf(stderr, "fpt_faultrate: %ld nodes more, roots: %ld, asked for %s\n",
				made, n.root, flat ? "nodes" : "none");
			_exit(1);
		}
		munmap(where, GIB);
	}
	if (write(out, &best, sizeof(best)) != sizeof(best))
		_exit(1);
	_exit(0);
}

/* Faults per second of a process of its own, with nodes or without; 0 on failure */
static double measure(bool flat, enum fpt_mode mode, const char *cap)
{
	double rate = 0;
	int fd[2];
	pid_t pid;

	if (pipe(fd))
		return 0;
	if (mode != RADIX && write_text(CAP, flat ? cap : "0")) {
		perror("fpt_faultrate: " CAP);
		return 0;
	}
	pid = fork();
	if (!pid) {
		close(fd[0]);
		child(fd[1], flat, mode);
	}
	close(fd[1]);
	if (read(fd[0], &rate, sizeof(rate)) != sizeof(rate))
		rate = 0;
	close(fd[0]);
	if (pid < 0 || reap(pid))
		rate = 0;
	if (mode != RADIX)
		write_text(CAP, cap);
	return rate;
}

static int up(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
	double flat[MAXR], plain[MAXR], ratio[MAXR];
	enum fpt_mode mode = fpt_mode();
	char cap[32] = "";
	cpu_set_t all;
	int opt, cpu, n = 0;
	long r;

	while ((opt = getopt(argc, argv, "j:n:r:")) != -1) {
		switch (opt) {
		case 'j': threads = atol(optarg); break;
		case 'n': pages = atol(optarg); break;
		case 'r': rounds = atol(optarg); break;
		default: threads = 0; break;
		}
	}
	if (threads < 1 || threads > MAXT || rounds < 1 || rounds > MAXR || pages < threads ||
	    pages > (long)(GIB / PAGE)) {
		fprintf(stderr, "usage: fpt_faultrate [-j THREADS] [-n PAGES] [-r ROUNDS]\n"
			"1 to %d threads, as many pages at least, 1 GiB at most, 1 to %d rounds\n",
			MAXT, MAXR);
		return 2;
	}
	if (sched_getaffinity(0, sizeof(all), &all)) {
		perror("fpt_faultrate: sched_getaffinity");
		return 1;
	}
	for (cpu = 0; cpu < CPU_SETSIZE && n < threads; cpu++)
		if (CPU_ISSET(cpu, &all))
			cpus[n++] = cpu;
	if (n < threads) {
		fprintf(stderr, "fpt_faultrate: %ld threads need as many CPUs, there are %d\n", threads, n);
		return 1;
	}
	if (mode != RADIX && read_text(CAP, cap, sizeof(cap)) <= 0) {
		perror("fpt_faultrate: " CAP);
		return 1;
	}
	for (r = 0; r < rounds; r++) {
		bool first = r % 2;
		double a = measure(first, mode, cap), b = measure(!first, mode, cap);

		flat[r] = first ? a : b;
		plain[r] = first ? b : a;
		if (flat[r] <= 0 || plain[r] <= 0)
			return 1;
		ratio[r] = flat[r] / plain[r];
	}
	qsort(flat, rounds, sizeof(*flat), up);
	qsort(plain, rounds, sizeof(*plain), up);
	qsort(ratio, rounds, sizeof(*ratio), up);
	printf("mode %s, %ld threads, %ld pages, %ld rounds: %.0f faults/s with nodes, %.0f without (medians); "
	       "ratio %.3f, half of the rounds from %.3f to %.3f\n",
	       fpt_mode_names[mode], threads, pages, rounds, flat[rounds / 2], plain[rounds / 2],
	       ratio[rounds / 2], ratio[rounds / 4], ratio[rounds * 3 / 4]);
	return 0;
}
