// SPDX-License-Identifier: GPL-2.0
/*
 * Flat spans that become conventional: on demand (debugfs fpt/demote), and for
 * huge pages that have no place in them. Contents and accounting must not notice,
 * and after it the tables must hold huge pages.
 *
 * There are two ways out. A node is unflattened (counter "unflat") when an entry of
 * 2 MiB is stored beside its tables: hardware reads the index page from then on, and
 * the node stays. It is given up ("demotions") when hugetlb takes the table, when one
 * of its tables moves away or is collapsed, and on demand. Either happens when the
 * entry is stored, not when a mapping asks for huge pages.
 */
#include "fpt_util.h"
#include "../kselftest_harness.h"

FPT_FIXTURE

#define NEED_DEMOTE do {							\
	if (!fpt_can_demote())							\
		SKIP(return, "this kernel cannot demote");			\
} while (0)

static long below_root(pid_t pid)
{
	struct fpt_nodes n = fpt_nodes(pid);

	return n.mid + n.bottom;
}

/* KiB of the mapping at addr that /proc/self/smaps shows under this name */
static long smaps_kb(void *addr, const char *name)
{
	static char buf[1 << 20];
	char want[32];
	char *p;

	if (read_text("/proc/self/smaps", buf, sizeof(buf)) < 0)
		return -1;
	snprintf(want, sizeof(want), "%lx-", (unsigned long)addr);
	p = strstr(buf, want);
	return p ? find_value(strchr(p, '\n') + 1, name) : -1;
}

static void *map_huge_ok(unsigned long addr, size_t len)
{
	return mmap((void *)addr, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS |
		    MAP_FIXED_NOREPLACE, -1, 0);
}

/* Places that share spans and slices, or do not, and their borders. */
static const unsigned long places[] = {
	BASE, BASE + HUGE - PAGE, BASE + 5 * HUGE, BASE + GIB - PAGE, BASE + GIB,
	BASE + 3 * GIB + 7 * HUGE, BASE + SPAN - 2 * PAGE, BASE + SPAN,
};

FPT_TEST(on_request)
{
	long demotions = fpt_stat0("demotions"), live, kb, i, n = sizeof(places) / sizeof(places[0]);
	char *p[sizeof(places) / sizeof(places[0])];
	long before, after;

	NEED_DEMOTE;
	before = vmpte_kb(0);
	for (i = 0; i < n; i++) {
		p[i] = map_at(places[i], PAGE);
		ASSERT_NE(MAP_FAILED, p[i]);
		page_set(p[i], 1, i);
	}
	live = below_root(0);
	kb = vmpte_kb(0);
	EXPECT_EQ(0, fpt_demote(getpid(), 0));
	EXPECT_EQ(0, below_root(0));
	EXPECT_EQ(demotions + live, fpt_stat0("demotions"));
	if (live) {
		/* 2 MiB a node before; a few tables of 4 KiB after */
		EXPECT_LE(vmpte_kb(0), kb - live * 1024);
		EXPECT_GT(vmpte_kb(0), 0);
	} else {
		EXPECT_EQ(kb, vmpte_kb(0));
	}
	for (i = 0; i < n; i++) {
		EXPECT_TRUE(page_ok(p[i], 1, i)) TH_LOG("page %ld", i);
		page_set(p[i], 2, i);
		EXPECT_TRUE(page_ok(p[i], 2, i));
	}
	/* what is demoted stays so while anything is mapped there */
	page_set(map_at(BASE + 9 * HUGE, PAGE), 3, 0);
	EXPECT_TRUE(page_ok((void *)(BASE + 9 * HUGE), 3, 0));
	EXPECT_EQ(0, below_root(0));
	munmap((void *)(BASE + 9 * HUGE), PAGE);
	for (i = 0; i < n; i++)
		ASSERT_EQ(0, munmap(p[i], PAGE));
	after = vmpte_kb(0);
	/* what is left are the spans of program, libraries and stack */
	EXPECT_LE(after, before);
	/* and a new touch gets what a first one does */
	page_set(map_at(BASE, PAGE), 4, 0);
	if (self->mode == L3L2 || self->mode == L4L3_L2L1)
		EXPECT_LE(below_root(0), 1);
}

FPT_TEST(one_node_by_address)
{
	struct fpt_nodes a, b;
	char *p, *q;

	NEED_DEMOTE;
	p = map_at(BASE, PAGE);
	q = map_at(BASE + SPAN, PAGE);
	page_set(p, 1, 0);
	page_set(q, 1, 1);
	a = fpt_nodes(0);
	EXPECT_EQ(0, fpt_demote(getpid(), BASE + 17 * HUGE));
	b = fpt_nodes(0);
	EXPECT_LE(a.mid + a.bottom - b.mid - b.bottom, 1);
	EXPECT_EQ(0, fpt_demote(getpid(), BASE + 17 * HUGE));
	EXPECT_EQ(b.mid + b.bottom, below_root(0));
	EXPECT_TRUE(page_ok(p, 1, 0));
	EXPECT_TRUE(page_ok(q, 1, 1));
	EXPECT_EQ(b.root, fpt_nodes(0).root);
}

FPT_TEST(nonsense)
{
	NEED_DEMOTE;
	EXPECT_EQ(-EINVAL, write_text(FPT_DEBUGFS "demote", "x"));
	EXPECT_EQ(-EINVAL, write_text(FPT_DEBUGFS "demote", "1 0xffff800000000000"));
	EXPECT_EQ(-ESRCH, write_text(FPT_DEBUGFS "demote", "4194303"));
	EXPECT_EQ(-ESRCH, write_text(FPT_DEBUGFS "demote", "-1"));
	/* a kernel thread */
	EXPECT_EQ(-ESRCH, write_text(FPT_DEBUGFS "demote", "2"));
}

FPT_TEST(of_another_process)
{
	int up[2], down[2];
	pid_t pid;
	char c;

	NEED_DEMOTE;
	ASSERT_EQ(0, pipe(up));
	ASSERT_EQ(0, pipe(down));
	pid = fork();
	if (!pid) {
		char *p = map_at(BASE, 600 * PAGE);

		CHILD_CHECK(p != MAP_FAILED);
		fill(p, 600, PAGE, 1);
		CHILD_CHECK(write(up[1], "a", 1) == 1 && read(down[0], &c, 1) == 1);
		CHILD_CHECK(bad(p, 600, PAGE, 1) == -1);
		fill(p, 600, PAGE, 2);
		CHILD_CHECK(bad(p, 600, PAGE, 2) == -1);
		/* copy on write from conventional tables */
		pid = fork();
		if (!pid) {
			CHILD_CHECK(bad(p, 600, PAGE, 2) == -1);
			fill(p, 600, PAGE, 3);
			_exit(0);
		}
		CHILD_CHECK(reap(pid) == 0);
		CHILD_CHECK(bad(p, 600, PAGE, 2) == -1);
		_exit(0);
	}
	ASSERT_EQ(1, read(up[0], &c, 1));
	EXPECT_EQ(0, fpt_demote(pid, 0));
	EXPECT_EQ(0, below_root(pid));
	EXPECT_EQ(1, write(down[1], "b", 1));
	EXPECT_EQ(0, reap(pid));
}

/*
 * KiB of all page tables, once they are within 64 KiB of what is wanted. The unused
 * tables of a node that was given up are freed after an RCU period, as a walk without
 * locks may still be on its way to them. At most five seconds.
 */
static long settled_tables_kb(long want)
{
	long kb;
	int i;

	for (i = 0; i < 100; i++) {
		kb = all_tables_kb();
		if (labs(kb - want) <= 64)
			break;
		msleep(50);
	}
	return kb;
}

/* Growth of all page tables, in KiB, over so many processes that demote */
static long growth(struct __test_metadata *_metadata, int n, long *bytes)
{
	long tables, b;

	fpt_calm();
	b = fpt_stat0("flat_bytes");
	tables = all_tables_kb();
	while (n--) {
		pid_t pid = fork();

		if (!pid) {
			char *p = map_at(BASE + 13 * HUGE, 8 * HUGE);

			page_set(p, 1, 1);
			page_set(p + 5 * HUGE, 1, 2);
			CHILD_CHECK(fpt_demote(getpid(), 0) == 0);
			CHILD_CHECK(page_ok(p, 1, 1) && page_ok(p + 5 * HUGE, 1, 2));
			page_set(p + 7 * HUGE, 1, 3);
			_exit(0);
		}
		EXPECT_EQ(0, reap(pid));
	}
	*bytes = fpt_settle("flat_bytes", b) - b;
	return settled_tables_kb(tables) - tables;
}

FPT_TEST(accounting_over_many)
{
	long d = 0, b = 0;
	int i;

	NEED_DEMOTE;
	/*
	 * Others may touch a span meanwhile, but hardly each time. A page lost per
	 * demotion would be 400 KiB.
	 */
	for (i = 0; i < 4; i++) {
		d = growth(_metadata, 100, &b);
		if (!b && d < 390 && d > -390)
			break;
	}
	EXPECT_EQ(0, b) TH_LOG("flat_bytes changed by %ld", b);
	EXPECT_LT(d, 390) TH_LOG("PageTables grew by %ld KiB", d);
	EXPECT_GT(d, -390) TH_LOG("PageTables shrank by %ld KiB", -d);
}

#define CGROUP "/sys/fs/cgroup/fpt_demote"

/*
 * What memory.stat says of page tables, once it is at most @most. The kernel
 * keeps up to 64 pages a CPU back and adds them every two seconds.
 */
static long cgroup_tables(long most)
{
	long bytes;
	int i;

	for (i = 0; i < 50; i++) {
		bytes = file_value(CGROUP "/memory.stat", "pagetables");
		if (bytes <= most)
			break;
		msleep(100);
	}
	return bytes;
}

/* The charge of a node is split with it, and all of it is given back. */
FPT_TEST(memory_cgroup)
{
	NEED_THP;
	long tables, huge, after, kb = 0;
	int up[2], down[2], i;
	pid_t pid;
	char c;

	NEED_DEMOTE;
	write_text("/sys/fs/cgroup/cgroup.subtree_control", "+memory");
	rmdir(CGROUP);
	if (mkdir(CGROUP, 0755) || access(CGROUP "/memory.stat", R_OK)) {
		rmdir(CGROUP);
		SKIP(return, "no memory controller");
	}
	ASSERT_EQ(0, pipe(up));
	ASSERT_EQ(0, pipe(down));
	pid = fork();
	if (!pid) {
		CHILD_CHECK(write_text(CGROUP "/cgroup.procs", "0") == 0);
		for (i = 0; i < 8; i++)
			page_set(map_at(BASE + i * (SPAN + GIB) + i * HUGE, PAGE), 1, i);
		CHILD_CHECK(write(up[1], "a", 1) == 1 && read(down[0], &c, 1) == 1);
		CHILD_CHECK(fpt_demote(getpid(), 0) == 0);
		CHILD_CHECK(write(up[1], "b", 1) == 1 && read(down[0], &c, 1) == 1);
		_exit(0);
	}
	close(up[1]);
	close(down[0]);
	ASSERT_EQ(1, read(up[0], &c, 1));
	huge = file_value(CGROUP "/memory.stat", "pagetables");
	i = fpt_nodes(pid).mid + fpt_nodes(pid).bottom;
	ASSERT_EQ(1, write(down[1], "a", 1));
	ASSERT_EQ(1, read(up[0], &c, 1));
	kb = vmpte_kb(pid);
	/* what came from before the cgroup is not in it, nor is the kernel's part */
	tables = cgroup_tables((kb + 64) * 1024);
	if (i) {
		EXPECT_GT(huge, tables);
	}
	EXPECT_LE(tables, (kb + 64) * 1024);
	EXPECT_LE(0, tables);
	ASSERT_EQ(1, write(down[1], "b", 1));
	EXPECT_EQ(0, reap(pid));
	after = cgroup_tables(0);
	TH_LOG("pagetables: %ld KiB with nodes, %ld demoted, %ld after exit", huge / 1024,
	       tables / 1024, after / 1024);
	EXPECT_EQ(0, after);
	EXPECT_EQ(0, rmdir(CGROUP));
}

/*
 * MADV_HUGEPAGE in a span that is flat: the next touch gets a huge page. The advice
 * itself changes no table, as on any kernel; the first huge page unflattens the node,
 * which is kept, and the others find it so.
 */
FPT_TEST(madvise_hugepage)
{
	NEED_THP;
	long demotions = fpt_stat0("demotions"), unflat = fpt_stat0("unflat"), kb;
	char *t = map_at(BASE, PAGE), *p;
	long flat;

	NEED_DEMOTE;
	flat = fpt_nodes(0).bottom;
	page_set(t, 1, 0);
	flat = fpt_nodes(0).bottom - flat;
	p = map_huge_ok(BASE + 8 * HUGE, 4 * HUGE);
	ASSERT_EQ((void *)(BASE + 8 * HUGE), p);
	page_set(p + 3 * HUGE, 1, 9);
	kb = vmpte_kb(0);
	ASSERT_EQ(0, madvise(p, 3 * HUGE, MADV_HUGEPAGE));
	EXPECT_EQ(kb, vmpte_kb(0));
	EXPECT_EQ(unflat, fpt_stat0("unflat"));
	fill(p, 3 * 512, PAGE, 2);
	EXPECT_EQ(3 * 2048, smaps_kb(p, "AnonHugePages"));
	EXPECT_EQ(unflat + (flat ? 1 : 0), fpt_stat0("unflat"));
	EXPECT_EQ(demotions, fpt_stat0("demotions"));
	EXPECT_EQ(-1, bad(p, 3 * 512, PAGE, 2));
	EXPECT_TRUE(page_ok(p + 3 * HUGE, 1, 9));
	EXPECT_TRUE(page_ok(t, 1, 0));
	/* and back to small ones */
	ASSERT_EQ(0, mprotect(p + HUGE + PAGE, PAGE, PROT_READ));
	EXPECT_EQ(-1, bad(p, 3 * 512, PAGE, 2));
}

FPT_TEST(madv_collapse)
{
	NEED_THP;
	long demotions = fpt_stat0("demotions");
	char *t = map_at(BASE, PAGE), *p;
	long flat;

	NEED_DEMOTE;
	flat = fpt_nodes(0).bottom;
	page_set(t, 1, 0);
	flat = fpt_nodes(0).bottom - flat;
	p = map_huge_ok(BASE + 8 * HUGE, 2 * HUGE);
	ASSERT_EQ((void *)(BASE + 8 * HUGE), p);
	fill(p, 1024, PAGE, 2);
	EXPECT_EQ(0, madvise(p, 2 * HUGE, MADV_COLLAPSE)) TH_LOG("%s", strerror(errno));
	EXPECT_EQ(2 * 2048, smaps_kb(p, "AnonHugePages"));
	if (flat)
		EXPECT_EQ(demotions + 1, fpt_stat0("demotions"));
	EXPECT_EQ(-1, bad(p, 1024, PAGE, 2));
	EXPECT_TRUE(page_ok(t, 1, 0));
	fill(p, 1024, PAGE, 3);
	ASSERT_EQ(0, munmap(p + HUGE + 5 * PAGE, PAGE));
	EXPECT_EQ(-1, bad(p, 512 + 5, PAGE, 3));
	EXPECT_EQ(SIGSEGV, try_access(p + HUGE + 5 * PAGE, false));
}

FPT_TEST(madv_collapse_of_a_file)
{
	NEED_THP;
	int fd = memfd_create("fpt", 0);
	char *t = map_at(BASE, PAGE), *p;

	NEED_DEMOTE;
	page_set(t, 1, 0);
	ASSERT_EQ(0, ftruncate(fd, 2 * HUGE));
	p = mmap((void *)(BASE + 8 * HUGE), 2 * HUGE, PROT_READ | PROT_WRITE, MAP_SHARED |
		 MAP_FIXED_NOREPLACE, fd, 0);
	ASSERT_EQ((void *)(BASE + 8 * HUGE), p);
	fill(p, 1024, PAGE, 2);
	EXPECT_EQ(0, madvise(p, 2 * HUGE, MADV_COLLAPSE)) TH_LOG("%s", strerror(errno));
	EXPECT_EQ(2 * 2048, smaps_kb(p, "ShmemPmdMapped"));
	EXPECT_EQ(-1, bad(p, 1024, PAGE, 2));
	EXPECT_TRUE(page_ok(t, 1, 0));
	ASSERT_EQ(0, fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 7 * PAGE, PAGE));
	EXPECT_TRUE(page_zero(p + 7 * PAGE));
	EXPECT_EQ(-1, bad(p, 7, PAGE, 2));
	EXPECT_TRUE(page_ok(p + 8 * PAGE, 2, 8));
}

#define THP "/sys/kernel/mm/transparent_hugepage/"

/* A span that was touched while nothing in it was eligible for huge pages. */
FPT_TEST(khugepaged)
{
	NEED_THP;
	char enabled[128] = "", sleep_ms[32] = "", alloc_ms[32] = "";
	char *t = map_at(BASE, PAGE), *p, *word;
	long flat, nodes, kb = 0;
	int i;

	NEED_DEMOTE;
	nodes = fpt_nodes(0).bottom;
	page_set(t, 1, 0);
	flat = fpt_nodes(0).bottom - nodes;
	p = map_huge_ok(BASE + 8 * HUGE, 2 * HUGE);
	ASSERT_EQ((void *)(BASE + 8 * HUGE), p);
	fill(p, 1024, PAGE, 2);
	nodes = fpt_nodes(0).bottom;
	read_text(THP "enabled", enabled, sizeof(enabled));
	read_text(THP "khugepaged/scan_sleep_millisecs", sleep_ms, sizeof(sleep_ms));
	read_text(THP "khugepaged/alloc_sleep_millisecs", alloc_ms, sizeof(alloc_ms));
	if (write_text(THP "enabled", "always"))
		SKIP(return, "cannot switch THP on");
	write_text(THP "khugepaged/scan_sleep_millisecs", "10");
	write_text(THP "khugepaged/alloc_sleep_millisecs", "10");
	/* a huge fault elsewhere makes khugepaged know this process */
	EXPECT_NE(MAP_FAILED, map_huge_ok(BASE + SPAN, 2 * HUGE));
	page_set((void *)(BASE + SPAN), 1, 1);
	/* no node for it; on a busy machine khugepaged has demoted the other already */
	EXPECT_GE(nodes, fpt_nodes(0).bottom);
	for (i = 0; i < 400 && kb != 2 * 2048; i++) {
		msleep(50);
		kb = smaps_kb(p, "AnonHugePages");
	}
	word = strchr(enabled, '[');
	if (word) {
		word[strcspn(word, "]")] = 0;
		write_text(THP "enabled", word + 1);
	}
	write_text(THP "khugepaged/scan_sleep_millisecs", sleep_ms);
	write_text(THP "khugepaged/alloc_sleep_millisecs", alloc_ms);
	EXPECT_EQ(2 * 2048, kb);
	EXPECT_EQ(-1, bad(p, 1024, PAGE, 2));
	EXPECT_TRUE(page_ok(t, 1, 0));
	if (flat)
		EXPECT_GT(nodes, fpt_nodes(0).bottom);
}

/* mremap of huge pages into a span that is flat */
static void move_into_flat(struct __test_metadata *_metadata, char *p, bool thp)
{
	char *to = (char *)BASE + 2 * SPAN + 6 * HUGE, *t = map_at(BASE + 2 * SPAN, PAGE), *q;

	fill(p, 1024, PAGE, 2);
	page_set(t, 1, 0);
	/* something where it goes, too */
	page_set(map_at((unsigned long)to, HUGE), 1, 1);
	q = mremap(p, 2 * HUGE, 2 * HUGE, MREMAP_MAYMOVE | MREMAP_FIXED, to);
	ASSERT_EQ(to, q) TH_LOG("%s", strerror(errno));
	EXPECT_EQ(-1, bad(q, 1024, PAGE, 2));
	EXPECT_TRUE(page_ok(t, 1, 0));
	if (thp)
		EXPECT_EQ(2 * 2048, smaps_kb(q, "AnonHugePages"));
	fill(q, 1024, PAGE, 3);
	EXPECT_EQ(-1, bad(q, 1024, PAGE, 3));
	EXPECT_EQ(0, munmap(q, 2 * HUGE));
	EXPECT_TRUE(page_ok(t, 1, 0));
}

FPT_TEST(mremap_of_thp)
{
	NEED_THP;
	char *p = map_huge_ok(BASE, 2 * HUGE);

	NEED_DEMOTE;
	ASSERT_EQ((void *)BASE, p);
	ASSERT_EQ(0, madvise(p, 2 * HUGE, MADV_HUGEPAGE));
	move_into_flat(_metadata, p, true);
}

FPT_TEST(mremap_of_hugetlb)
{
	char *t, *p;

	NEED_DEMOTE;
	if (file_value("/proc/meminfo", "HugePages_Free") < 2)
		SKIP(return, "needs 2 huge pages");
	/* the place it goes to is flat before the first huge page comes */
	t = map_at(BASE + 2 * SPAN + GIB - HUGE, PAGE);
	page_set(t, 1, 5);
	p = mmap((void *)BASE, 2 * HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS |
		 MAP_HUGETLB | MAP_FIXED_NOREPLACE, -1, 0);
	ASSERT_EQ((void *)BASE, p);
	move_into_flat(_metadata, p, false);
	EXPECT_TRUE(page_ok(t, 1, 5));
}

/* hugetlb in a flat span while its neighbours fault, and signals come. */
static volatile bool stop;
static volatile long wrong;

static void *toucher(void *arg)
{
	char *p = arg;
	long round;

	for (round = 1; !stop; round++) {
		char *q = mmap(p, HUGE / 2, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS |
			       MAP_FIXED, -1, 0);

		fill(q, 4, 64 * PAGE, round);
		if (bad(q, 4, 64 * PAGE, round) != -1)
			wrong++;
	}
	return NULL;
}

static void nothing(int sig)
{
}

FPT_TEST(hugetlb_beside_faults)
{
	struct itimerspec every = { .it_interval.tv_nsec = 700000, .it_value.tv_nsec = 700000 };
	struct sigaction sa = { .sa_handler = nothing };
	struct sigevent ev = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGALRM };
	long demotions = fpt_stat0("demotions");
	pthread_t th[3];
	timer_t timer;
	int i, j, fails = 0;

	NEED_DEMOTE;
	if (file_value("/proc/meminfo", "HugePages_Free") < 2)
		SKIP(return, "needs 2 huge pages");
	/* each round in a child: an address space is flat only before its first huge page */
	for (i = 0; i < 20; i++) {
		pid_t pid = fork();

		if (!pid) {
			char *p;

			for (j = 0; j < 3; j++)
				CHILD_CHECK(!pthread_create(&th[j], NULL, toucher,
							    (char *)BASE + j * 7 * HUGE));
			msleep(10 + i);
			sigaction(SIGALRM, &sa, NULL);
			CHILD_CHECK(!timer_create(CLOCK_MONOTONIC, &ev, &timer));
			timer_settime(timer, 0, &every, NULL);
			p = mmap((char *)BASE + 3 * HUGE, 2 * HUGE, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_FIXED_NOREPLACE,
				 -1, 0);
			CHILD_CHECK(p == (char *)BASE + 3 * HUGE);
			fill(p, 1024, PAGE, 4);
			msleep(5);
			CHILD_CHECK(bad(p, 1024, PAGE, 4) == -1);
			stop = true;
			for (j = 0; j < 3; j++)
				pthread_join(th[j], NULL);
			CHILD_CHECK(!wrong);
			_exit(0);
		}
		if (reap(pid))
			fails++;
	}
	EXPECT_EQ(0, fails);
	if (self->mode == L4L3_L2L1)
		EXPECT_LT(demotions, fpt_stat0("demotions"));
}

/*
 * The stress: threads fault, unmap and fork in spans that they share, others
 * truncate and punch the file that is mapped there, GUP-fast pins, and a process
 * demotes whatever it finds all the time.
 */
#define PAGES	256		/* of each thread, in one span with the others' */
#define STRESSORS 4
#define FILE_PAGES 1024

static char *file_at;
static int file_fd;
static volatile long counts[8];

static unsigned long place(int thread)
{
	return BASE + (thread + 1) * 40 * HUGE - HUGE / 2;
}

static void *private_pages(void *arg)
{
	int id = (long)arg, pipefd[2];
	char buf[PAGE];
	long round;

	if (pipe(pipefd)) {
		wrong++;
		return NULL;
	}
	for (round = 1; !stop; round++) {
		long i;

		/* a span for itself that comes and goes, and one that all share */
		char *p = map_at(place(id) + (round % 2 ? (2 + id) * SPAN : 0), PAGES * PAGE * 8);

		if (p == MAP_FAILED) {
			wrong++;
			break;
		}
		fill(p, PAGES, 8 * PAGE, round);
		for (i = 0; i < PAGES; i += 37) {
			struct iovec v = { p + i * 8 * PAGE, PAGE };

			/* GUP-fast, and what it pinned */
			if (vmsplice(pipefd[1], &v, 1, 0) != (ssize_t)PAGE ||
			    read(pipefd[0], buf, PAGE) != (ssize_t)PAGE || !page_ok(buf, round, i))
				wrong++;
		}
		if (bad(p, PAGES, 8 * PAGE, round) != -1)
			wrong++;
		if (round % 8 == 3) {
			madvise(p, PAGES * PAGE * 4, MADV_DONTNEED);
			if (bad_zero(p, PAGES / 2, 8 * PAGE) != -1)
				wrong++;
		}
		if (round % 16 == 5) {
			pid_t pid = fork();

			if (!pid)
				_exit(bad(p, PAGES, 8 * PAGE, round) != -1);
			if (reap(pid))
				wrong++;
		}
		if (munmap(p, PAGES * PAGE * 8))
			wrong++;
		counts[0]++;
	}
	return NULL;
}

/* A page of the file holds its number, or is a hole; past the end is SIGBUS. */
static void *file_reader(void *arg)
{
	unsigned int r = 12345;

	while (!stop) {
		int i = (r = r * 1664525 + 1013904223) / 4 % FILE_PAGES, sig;
		volatile uint64_t *q = (void *)(file_at + i * PAGE);

		sig = try_access(q, false);
		if (sig && sig != SIGBUS)
			wrong++;
		fault_armed = 1;
		if (!sigsetjmp(fault_env, 1)) {
			uint64_t v = q[0];

			if (v && v != (uint64_t)i + 1)
				wrong++;
			q[0] = i + 1;
		}
		fault_armed = 0;
		counts[1]++;
	}
	return NULL;
}

static void *truncater(void *arg)
{
	long i;

	for (i = 0; !stop; i++) {
		if (ftruncate(file_fd, (i % 7) * 100 * PAGE) || ftruncate(file_fd, FILE_PAGES * PAGE))
			wrong++;
		counts[2]++;
		usleep(300);
	}
	return NULL;
}

static void *puncher(void *arg)
{
	long i;

	for (i = 0; !stop; i++) {
		fallocate(file_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			  i * 61 % FILE_PAGES * PAGE, 70 * PAGE);
		counts[3]++;
		usleep(100);
	}
	return NULL;
}

/* Spans become flat again only when they are empty: the file's moves in and out. */
static void *mover(void *arg)
{
	long i;

	for (i = 0; !stop; i++) {
		/* over itself: there is always something there for the readers */
		if (mmap(file_at, FILE_PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
			 file_fd, 0) != file_at)
			wrong++;
		counts[4]++;
		usleep(2000);
	}
	return NULL;
}

TEST_F_TIMEOUT(fpt, stress, 3600)
{
	struct sigaction sa = { .sa_handler = fault_handler };
	void *(*fn[])(void *) = { file_reader, file_reader, truncater, puncher, mover };
	long before, after, demotions = fpt_stat0("demotions"), done = 0, failed = 0;
	const char *env = getenv("FPT_STRESS_SECONDS");
	pthread_t th[STRESSORS + 5];
	struct fpt_nodes nodes;
	time_t end;
	long i;

	NEED_DEMOTE;
	/* the span of program and stack must not be in the way of the comparison */
	EXPECT_EQ(0, fpt_demote(getpid(), 0));
	file_fd = memfd_create("fpt", 0);
	ASSERT_EQ(0, ftruncate(file_fd, FILE_PAGES * PAGE));
	before = vmpte_kb(0);
	file_at = mmap((void *)(BASE + GIB - FILE_PAGES / 2 * PAGE), FILE_PAGES * PAGE,
		       PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED_NOREPLACE, file_fd, 0);
	ASSERT_NE(MAP_FAILED, file_at);
	sigaction(SIGBUS, &sa, NULL);
	sigaction(SIGSEGV, &sa, NULL);
	for (i = 0; i < STRESSORS; i++)
		ASSERT_EQ(0, pthread_create(&th[i], NULL, private_pages, (void *)i));
	for (i = 0; i < 5; i++)
		ASSERT_EQ(0, pthread_create(&th[STRESSORS + i], NULL, fn[i], NULL));
	end = time(NULL) + (env ? atol(env) : 10);
	while (time(NULL) < end && !wrong) {
		int err = fpt_demote(getpid(), 0);

		if (err && err != -EINTR && err != -ENOMEM)
			failed++;
		done++;
		usleep(1000);
	}
	stop = true;
	for (i = 0; i < STRESSORS + 5; i++)
		pthread_join(th[i], NULL);
	EXPECT_EQ(0, wrong);
	EXPECT_EQ(0, failed);
	for (i = 0; i < 5; i++)
		EXPECT_LT(0, counts[i]) TH_LOG("worker %ld did nothing", i);
	if (self->mode == L3L2 || self->mode == L4L3_L2L1)
		EXPECT_LT(demotions, fpt_stat0("demotions"));
	TH_LOG("%ld requests, %ld demotions, %ld rounds, %ld file accesses, %ld truncations, %ld holes",
	       done, fpt_stat0("demotions") - demotions, counts[0], counts[1], counts[2], counts[3]);
	ASSERT_EQ(0, munmap(file_at, FILE_PAGES * PAGE));
	EXPECT_EQ(0, fpt_demote(getpid(), 0));
	nodes = fpt_nodes(0);
	EXPECT_EQ(0, nodes.mid + nodes.bottom);
	/* stacks and arenas of the threads have left a few tables */
	after = vmpte_kb(0);
	EXPECT_LT(after, before + 64) TH_LOG("VmPTE %ld KiB before, %ld KiB after", before, after);
}

TEST_HARNESS_MAIN
