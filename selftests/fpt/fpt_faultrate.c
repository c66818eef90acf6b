// SPDX-License-Identifier: GPL-2.0
/*
 * Page faults per second of threads that touch other pages of one span at a time.
 * A figure, no test: run it in each mode and compare, see docs/testing.md.
 *
 *   fpt_faultrate [-j THREADS] [-n PAGES] [-r ROUNDS]
 *
 * Each thread is bound to a CPU of its own. Within a round thread t touches pages
 * t, t + THREADS, t + 2 * THREADS, ... of a mapping in one GiB, so that neighbours
 * meet in every table; then all is unmapped again. Prints the best round.
 */
#include "fpt_util.h"

#define MAXT 64

static long threads = 2, pages = 32768, rounds = 9;
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
	for (r = 0; r < rounds; r++) {
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

int main(int argc, char **argv)
{
	pthread_t th[MAXT];
	cpu_set_t all;
	double best = 0;
	long t, r;
	int opt, cpu, n = 0;

	while ((opt = getopt(argc, argv, "j:n:r:")) != -1) {
		switch (opt) {
		case 'j': threads = atol(optarg); break;
		case 'n': pages = atol(optarg); break;
		case 'r': rounds = atol(optarg); break;
		default: threads = 0; break;
		}
	}
	if (threads < 1 || threads > MAXT || rounds < 1 || pages < threads ||
	    pages > (long)(GIB / PAGE)) {
		fprintf(stderr, "usage: fpt_faultrate [-j THREADS] [-n PAGES] [-r ROUNDS]\n"
			"1 to %d threads, as many pages at least, 1 GiB at most\n", MAXT);
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
	pthread_barrier_init(&bar, NULL, threads + 1);
	for (t = 0; t < threads; t++)
		if (pthread_create(&th[t], NULL, touches, (void *)t)) {
			perror("fpt_faultrate: pthread_create");
			return 1;
		}
	for (r = 0; r < rounds; r++) {
		double start, s;

		where = map_at(BASE, GIB);
		if (where == MAP_FAILED) {
			perror("fpt_faultrate: mmap");
			return 1;
		}
		/* the tables of the span, not their allocation, are what is shared */
		*(volatile char *)(where + GIB - PAGE) = 1;
		pthread_barrier_wait(&bar);
		start = now();
		pthread_barrier_wait(&bar);
		s = now() - start;
		if (pages / s > best)
			best = pages / s;
		munmap(where, GIB);
	}
	for (t = 0; t < threads; t++)
		pthread_join(th[t], NULL);
	printf("mode %s, %ld threads, %ld pages: %.0f faults/s (best of %ld rounds)\n",
	       fpt_mode_names[fpt_mode()], threads, pages, best, rounds);
	return 0;
}
