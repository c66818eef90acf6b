// SPDX-License-Identifier: GPL-2.0
/*
 * Situations in which a flush is needed, one for each place that does it.
 *
 *	fpt_tlb NAME [NUMBER]
 *
 * NUMBER is the mistake that a kernel with CONFIG_DEBUG_TLB_MUTANTS is asked for
 * while the situation lasts. What comes of it is for the emulator to say, which
 * watches TLBs: on a kernel without mistakes it finds nothing, and this program
 * only says whether it got there. No library but the C library's; static.
 */
#include "fpt_process.h"
#include <linux/futex.h>
#include <linux/membarrier.h>

#define MUTANT	"/sys/module/kernel/parameters/tlb_mutant"

static const char *mutant;	/* NULL: a kernel as it should be */

static void die(const char *what)
{
	printf("fpt_tlb: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void skip(const char *why)
{
	printf("fpt_tlb: not here: %s\n", why);
	exit(4);
}

/* From here on the kernel makes the mistake, or none any more. */
static void mistake(bool on)
{
	if (mutant && write_text(MUTANT, on ? mutant : "0"))
		die(MUTANT);
}

static void spin(unsigned int ms)
{
	struct timespec a, b;

	clock_gettime(CLOCK_MONOTONIC, &a);
	do {
		clock_gettime(CLOCK_MONOTONIC, &b);
	} while ((b.tv_sec - a.tv_sec) * 1000 + (b.tv_nsec - a.tv_nsec) / 1000000 < ms);
}

/*
 * What waits for a grace period is freed when this returns. The CPU may do something
 * else meanwhile: it is the other one that must be left alone.
 */
static void grace(void)
{
	int n;

	for (n = 0; n < 3; n++) {
		if (syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0))
			die("membarrier");
		usleep(20000);
	}
}

static void pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		skip("two CPUs are needed");
}

static char *map(unsigned long at, unsigned long size)
{
	char *p = mmap((void *)at, size, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE |
		       (at ? MAP_FIXED_NOREPLACE : 0), -1, 0);

	if (p == MAP_FAILED)
		die("mmap");
	return p;
}

/* -- another CPU, with the same address space -- */

static volatile int other_stops, other_there;
static char *volatile other_page;

/* It executes user code, and uses a page: reads, or writes as well. */
static void *other_runs(void *writes)
{
	pin(1);
	while (!other_stops) {
		char *page = other_page;

		if (page) {
			char old = *(volatile char *)page;

			if (writes)
				*(volatile char *)page = old;
		}
		other_there = 1;
	}
	return NULL;
}

/* It waits in the kernel: its CPU has nothing to do, and keeps the root. */
static int futex_word;

static void *other_sleeps(void *unused)
{
	pin(1);
	other_there = 1;
	syscall(SYS_futex, &futex_word, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
	/* Back in user mode */
	spin(100);
	return NULL;
}

static pthread_t other;

static void other_begins(void *(*what)(void *), void *arg)
{
	pin(0);
	if (pthread_create(&other, NULL, what, arg))
		die("pthread_create");
	while (!other_there)
		;
	spin(100);
}

static void other_ends(void)
{
	other_stops = 1;
	futex_word = 1;
	syscall(SYS_futex, &futex_word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
	pthread_join(other, NULL);
}

/* -- situations -- */

/* A GiB with one node, and neighbours that keep the tables above it */
static char *a_gib(void)
{
	char *p = map(BASE, 3 * GIB);
	unsigned long i;

	p[GIB - PAGE] = 1;
	p[2 * GIB] = 1;
	for (i = 0; i < 8; i++)
		p[GIB + i * HUGE] = 1;
	return p + GIB;
}

static void node_lazy(void)
{
	char *p = a_gib();

	other_begins(other_sleeps, NULL);
	mistake(true);
	munmap(p, GIB);
	mistake(false);
	other_ends();
}

/* The node gets into another process, which the pool hands it to. */
static void node_again(void)
{
	char *p = a_gib();
	pid_t pid;

	other_begins(other_sleeps, NULL);
	mistake(true);
	munmap(p, GIB);
	pid = fork();
	if (!pid) {
		*map(BASE + 16 * GIB, GIB) = 1;
		*map(BASE + 20 * GIB, GIB) = 1;
		_exit(0);
	}
	if (pid < 0)
		die("fork");
	waitpid(pid, NULL, 0);
	mistake(false);
	other_ends();
}

static void node(void)
{
	char *p = a_gib();

	mistake(true);
	munmap(p, GIB);
	mistake(false);
}

static void demote(void)
{
	char text[64];

	snprintf(text, sizeof(text), "%d %lx", getpid(), (unsigned long)a_gib());
	pin(0);
	mistake(true);
	if (write_text(FPT_DEBUGFS "demote", text))
		skip("no nodes in this kernel");
	/* Slices that nobody uses go after a grace period. */
	spin(1500);
	mistake(false);
}

/* Tables that are none of a node's move into one, and go after a grace period. */
static void move_in(bool lazy)
{
	char *p = a_gib();
	int err = unflatten(p, GIB);

	if (err == -EINVAL || err == -EOPNOTSUPP)
		skip("no L2L1 nodes in this boot");
	/* Not before: a flush because of tables makes a lazy CPU leave the address space. */
	if (lazy)
		other_begins(other_sleeps, NULL);
	pin(0);
	/* What the old node leaves behind goes first. */
	spin(500);
	mistake(true);
	err = err ? err : flatten(p, GIB);
	if (err) {
		errno = -err;
		die("MADV_FLATTEN");
	}
	/* Without another CPU this one must not do anything else. */
	if (lazy)
		grace();
	else
		spin(1500);
	mistake(false);
}

static void move_in_here(void)
{
	move_in(false);
}

static void move_in_lazy(void)
{
	move_in(true);
	other_ends();
}

/* Somebody keeps the address space of a process that ends: the root shrinks under its last CPU. */
static void root(void)
{
	char path[64];
	int gate[2], fd;
	pid_t pid;

	if (pipe(gate))
		die("pipe");
	pid = fork();
	if (!pid) {
		close(gate[1]);
		(void)!read(gate[0], path, 1);
		_exit(0);
	}
	snprintf(path, sizeof(path), "/proc/%d/mem", pid);
	fd = open(path, O_RDONLY);
	if (fd < 0)
		die(path);
	mistake(true);
	close(gate[1]);
	waitpid(pid, NULL, 0);
	mistake(false);
	close(fd);
}

static void move_node(void)
{
	char *p = a_gib();

	mistake(true);
	if (mremap(p, GIB, GIB, MREMAP_MAYMOVE | MREMAP_FIXED, BASE + 8 * GIB) == MAP_FAILED)
		die("mremap");
	mistake(false);
}

static void move_pages(void)
{
	char *p = map(BASE, HUGE);

	memset(p, 1, 8 * PAGE);
	mistake(true);
	if (mremap(p, 4 * PAGE, 4 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
		   BASE + GIB + 16 * PAGE) == MAP_FAILED)
		die("mremap");
	mistake(false);
}

static void table_lazy(void)
{
	char *p = map(BASE, 3 * HUGE);

	p[HUGE - PAGE] = 1;
	p[HUGE] = 1;
	p[2 * HUGE] = 1;
	other_begins(other_sleeps, NULL);
	mistake(true);
	munmap(p + HUGE, HUGE);
	mistake(false);
	other_ends();
}

/* The table of a file's pages gives way to a large page. */
static void collapse(void)
{
	int fd = memfd_create("fpt_tlb", 0);
	unsigned long i;
	char *p;

	if (fd < 0 || ftruncate(fd, HUGE))
		die("memfd");
	p = mmap((void *)BASE, HUGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
	if (p == MAP_FAILED)
		die("mmap");
	for (i = 0; i < HUGE; i += PAGE)
		p[i] = 1;
	/* Not before: the pages are to be small at first. */
	if (write_text("/sys/kernel/mm/transparent_hugepage/shmem_enabled", "advise") ||
	    madvise(p, HUGE, MADV_HUGEPAGE))
		die("huge pages of files");
	other_begins(other_sleeps, NULL);
	mistake(true);
	if (madvise(p, HUGE, MADV_COLLAPSE))
		die("MADV_COLLAPSE");
	/* The table goes after a grace period. */
	grace();
	mistake(false);
	other_ends();
}

static void page_lazy(void)
{
	char *p = map(BASE, HUGE);

	memset(p, 1, 8 * PAGE);
	other_begins(other_sleeps, NULL);
	mistake(true);
	madvise(p, 4 * PAGE, MADV_DONTNEED);
	other_ends();
	mistake(false);
}

static void page_used(void)
{
	char *p = map(BASE, HUGE);
	unsigned long i;

	memset(p, 1, HUGE);
	other_begins(other_runs, NULL);
	mistake(true);
	/* Often, as the other CPU may just have an interrupt. */
	for (i = 0; i + 4 * PAGE <= HUGE; i += 4 * PAGE)
		madvise(p + i, 4 * PAGE, MADV_DONTNEED);
	mistake(false);
	other_ends();
}

/* Reclaim of a page that need not be written anywhere */
static void reclaim(void)
{
	char *p = map(BASE, HUGE);

	memset(p, 1, 64 * PAGE);
	other_begins(other_runs, NULL);
	if (madvise(p, 64 * PAGE, MADV_FREE))
		die("MADV_FREE");
	other_page = p;
	spin(100);
	mistake(true);
	if (madvise(p, 64 * PAGE, MADV_PAGEOUT))
		die("MADV_PAGEOUT");
	mistake(false);
	spin(50);
	other_ends();
}

#ifndef MADV_SOFT_OFFLINE
#define MADV_SOFT_OFFLINE 101
#endif

/* A page moves elsewhere while another CPU writes to it. */
static void migrate(void)
{
	char *p = map(BASE, HUGE);

	memset(p, 1, 8 * PAGE);
	other_page = p;
	other_begins(other_runs, p);
	mistake(true);
	if (madvise(p, PAGE, MADV_SOFT_OFFLINE))
		die("MADV_SOFT_OFFLINE");
	mistake(false);
	spin(50);
	other_ends();
}

struct hmm_cmd {
	uint64_t addr, ptr, npages, cpages, faults;
};

#define HMM_TO_DEV	_IOWR('H', 0x02, struct hmm_cmd)

static void device(void)
{
	char *p = map(BASE, HUGE), *copy = map(0, 8 * PAGE);
	struct hmm_cmd cmd = { 0, (uint64_t)copy, 4, 0, 0 };
	unsigned long i;
	int gate[2];
	pid_t pid;
	int fd = open("/dev/hmm_dmirror0", O_RDWR);

	if (fd < 0)
		skip("no test_hmm");
	memset(p, 1, HUGE);
	/* A page that is nobody else's has a flush of its own. */
	if (pipe(gate))
		die("pipe");
	pid = fork();
	if (!pid) {
		close(gate[1]);
		(void)!read(gate[0], &cmd, 1);
		_exit(0);
	}
	mistake(true);
	/* Often, as somebody else may run on this CPU before it goes on. */
	for (i = 0; i < 16; i++) {
		cmd.addr = (uint64_t)p + 8 * i * PAGE;
		if (ioctl(fd, HMM_TO_DEV, &cmd) && errno != ENOENT)
			die("HMM_DMIRROR_MIGRATE_TO_DEV");
	}
	mistake(false);
	close(gate[1]);
	waitpid(pid, NULL, 0);
	close(fd);
}

static void write_copy(void)
{
	char *p = map(BASE, HUGE);
	int gate[2];
	pid_t pid;

	memset(p, 1, 8 * PAGE);
	if (pipe(gate))
		die("pipe");
	pid = fork();
	if (!pid) {
		close(gate[1]);
		(void)!read(gate[0], p + PAGE * 7, 1);
		_exit(0);
	}
	mistake(true);
	p[0] = 2;
	mistake(false);
	close(gate[1]);
	waitpid(pid, NULL, 0);
}

static void protect(void)
{
	char *p = map(BASE, HUGE);

	memset(p, 1, 8 * PAGE);
	mistake(true);
	mprotect(p, 4 * PAGE, PROT_READ);
	mistake(false);
}

static void copy_all(void)
{
	char *p = map(BASE, HUGE);
	pid_t pid;
	int n;

	pin(0);
	mistake(true);
	/* Often: a child that runs first is a switch, and a switch flushes. */
	for (n = 0; n < 16; n++) {
		memset(p, 1, 8 * PAGE);
		pid = fork();
		if (!pid)
			_exit(0);
		if (pid < 0)
			die("fork");
		waitpid(pid, NULL, 0);
	}
	mistake(false);
}

static void vmap_as(const char *what)
{
	mistake(true);
	if (write_text("/sys/kernel/debug/tlb_vmap", what))
		skip("no tlb_vmap in this kernel");
	mistake(false);
}

static void vmap_large(void)
{
	vmap_as("1");
}

static void vmap_again(void)
{
	vmap_as("0");
}

static const struct {
	const char *name;
	void (*run)(void);
} situations[] = {
	{ "node-lazy", node_lazy },	{ "node-again", node_again },
	{ "node", node },		{ "demote", demote },
	{ "root", root },		{ "move-node", move_node },
	{ "move-pages", move_pages },	{ "table-lazy", table_lazy },
	{ "collapse", collapse },	{ "page-lazy", page_lazy },
	{ "page-used", page_used },	{ "reclaim", reclaim },
	{ "migrate", migrate },		{ "device", device },
	{ "write-copy", write_copy },	{ "protect", protect },
	{ "copy-all", copy_all },	{ "vmap-large", vmap_large },
	{ "vmap-again", vmap_again },	{ "move-in", move_in_here },
	{ "move-in-lazy", move_in_lazy },
};

int main(int argc, char **argv)
{
	size_t i;

	if (argc < 2) {
		printf("usage: fpt_tlb NAME [NUMBER]; names:");
		for (i = 0; i < sizeof(situations) / sizeof(situations[0]); i++)
			printf(" %s", situations[i].name);
		printf("\n");
		return 2;
	}
	mutant = argc > 2 ? argv[2] : NULL;
	for (i = 0; i < sizeof(situations) / sizeof(situations[0]); i++) {
		if (!strcmp(argv[1], situations[i].name)) {
			situations[i].run();
			printf("fpt_tlb: %s: done\n", argv[1]);
			return 0;
		}
	}
	printf("fpt_tlb: no situation %s\n", argv[1]);
	return 2;
}
