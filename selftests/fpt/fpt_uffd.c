// SPDX-License-Identifier: GPL-2.0
/* userfaultfd over borders of spans. */
#include "fpt_util.h"
#include <linux/userfaultfd.h>
#include <poll.h>
#include "../kselftest_harness.h"

FPT_FIXTURE

#define N 64
#define START (BASE + SPAN - N / 2 * PAGE)

struct handler {
	int fd;
	char *src;		/* page i of the range is copied from here */
	char *base;
	/* written by the handler while the test looks on */
	volatile uint64_t wp_seen, missing_seen, minor_seen, errors;
};

static int uffd_open(uint64_t features)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		return -errno;
	if (ioctl(fd, UFFDIO_API, &api) || (api.features & features) != features) {
		close(fd);
		return -EOPNOTSUPP;
	}
	return fd;
}

static int uffd_register(int fd, void *p, size_t len, uint64_t mode)
{
	struct uffdio_register r = { .range = { (unsigned long)p, len }, .mode = mode };

	return ioctl(fd, UFFDIO_REGISTER, &r) ? -errno : 0;
}

static int uffd_wp(int fd, void *p, size_t len, bool on)
{
	struct uffdio_writeprotect w = {
		.range = { (unsigned long)p, len },
		.mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
	};

	return ioctl(fd, UFFDIO_WRITEPROTECT, &w) ? -errno : 0;
}

static void *handle(void *arg)
{
	struct handler *h = arg;
	struct uffd_msg m;

	for (;;) {
		struct pollfd pfd = { h->fd, POLLIN, 0 };
		unsigned long a;

		poll(&pfd, 1, -1);
		if (read(h->fd, &m, sizeof(m)) != sizeof(m)) {
			if (errno == EAGAIN)
				continue;
			return NULL;
		}
		if (m.event != UFFD_EVENT_PAGEFAULT)
			continue;
		a = m.arg.pagefault.address & ~(PAGE - 1);
		if (m.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP) {
			h->wp_seen++;
			h->errors += uffd_wp(h->fd, (void *)a, PAGE, false) != 0;
		} else if (m.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_MINOR) {
			struct uffdio_continue c = { .range = { a, PAGE } };

			h->minor_seen++;
			h->errors += ioctl(h->fd, UFFDIO_CONTINUE, &c) != 0;
		} else {
			struct uffdio_copy c = {
				.dst = a, .len = PAGE,
				.src = (unsigned long)h->src + (a - (unsigned long)h->base),
			};

			h->missing_seen++;
			h->errors += ioctl(h->fd, UFFDIO_COPY, &c) != 0 && errno != EEXIST;
		}
	}
}

static int start(pthread_t *t, struct handler *h)
{
	return pthread_create(t, NULL, handle, h);
}

#define OPEN(features) ({						\
	int _fd = uffd_open(features);					\
	if (_fd < 0)							\
		SKIP(return, "userfaultfd: %s", strerror(-_fd));	\
	_fd; })

FPT_TEST(missing_pages_are_copied)
{
	struct handler h = { 0 };
	int fd = OPEN(0);
	char *p = map_at(START, N * PAGE), *src = map_at(0, N * PAGE);
	pthread_t t;

	ASSERT_NE(MAP_FAILED, p);
	fill(src, N, PAGE, 1);
	ASSERT_EQ(0, uffd_register(fd, p, N * PAGE, UFFDIO_REGISTER_MODE_MISSING));
	h = (struct handler){ .fd = fd, .src = src, .base = p };
	ASSERT_EQ(0, start(&t, &h));
	EXPECT_EQ(-1, bad(p, N, PAGE, 1));
	EXPECT_EQ(N, h.missing_seen);
	EXPECT_EQ(0, h.errors);
}

FPT_TEST(copy_ahead_and_zeropage)
{
	int fd = OPEN(0);
	char *p = map_at(START, N * PAGE), *src = map_at(0, N * PAGE);
	struct uffdio_copy c = { .dst = START, .len = N / 2 * PAGE + 4 * PAGE };
	struct uffdio_zeropage z = { .range = { START + N / 2 * PAGE + 4 * PAGE, N / 2 * PAGE - 4 * PAGE } };

	ASSERT_NE(MAP_FAILED, p);
	fill(src, N, PAGE, 2);
	c.src = (unsigned long)src;
	ASSERT_EQ(0, uffd_register(fd, p, N * PAGE, UFFDIO_REGISTER_MODE_MISSING));
	ASSERT_EQ(0, ioctl(fd, UFFDIO_COPY, &c));	/* crosses the border */
	EXPECT_EQ(c.len, c.copy);
	ASSERT_EQ(0, ioctl(fd, UFFDIO_ZEROPAGE, &z));
	EXPECT_EQ(-1, bad(p, N / 2 + 4, PAGE, 2));
	EXPECT_EQ(-1, bad_zero(p + (N / 2 + 4) * PAGE, N / 2 - 4, PAGE));
	c.len = PAGE;
	EXPECT_EQ(-1, ioctl(fd, UFFDIO_COPY, &c));
	EXPECT_EQ(EEXIST, errno);
}

FPT_TEST(write_protection)
{
	struct handler h = { 0 };
	int fd = OPEN(UFFD_FEATURE_PAGEFAULT_FLAG_WP);
	char *p = map_at(START, N * PAGE);
	pthread_t t;

	ASSERT_NE(MAP_FAILED, p);
	fill(p, N, PAGE, 3);
	ASSERT_EQ(0, uffd_register(fd, p, N * PAGE, UFFDIO_REGISTER_MODE_WP));
	ASSERT_EQ(0, uffd_wp(fd, p, N * PAGE, true));
	h = (struct handler){ .fd = fd, .base = p };
	ASSERT_EQ(0, start(&t, &h));
	EXPECT_EQ(-1, bad(p, N, PAGE, 3));
	EXPECT_EQ(0, h.wp_seen);
	fill(p, N, PAGE, 4);
	EXPECT_EQ(N, h.wp_seen);
	EXPECT_EQ(-1, bad(p, N, PAGE, 4));
	EXPECT_EQ(0, h.errors);
}

FPT_TEST(write_protection_of_untouched_memory)
{
	struct handler h = { 0 };
	int fd = OPEN(UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_UNPOPULATED);
	char *p = map_at(START, N * PAGE);
	pthread_t t;

	ASSERT_NE(MAP_FAILED, p);
	ASSERT_EQ(0, uffd_register(fd, p, N * PAGE, UFFDIO_REGISTER_MODE_WP));
	ASSERT_EQ(0, uffd_wp(fd, p, N * PAGE, true));	/* makes tables for markers */
	h = (struct handler){ .fd = fd, .base = p };
	ASSERT_EQ(0, start(&t, &h));
	fill(p, N, PAGE, 5);
	EXPECT_EQ(N, h.wp_seen);
	EXPECT_EQ(-1, bad(p, N, PAGE, 5));
}

FPT_TEST(minor_faults_on_shared_memory)
{
	struct handler h = { 0 };
	int fd = OPEN(UFFD_FEATURE_MINOR_SHMEM), mem = memfd_create("fpt", 0);
	char *p, *w;
	pthread_t t;

	ASSERT_EQ(0, ftruncate(mem, N * PAGE));
	w = mmap(NULL, N * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, mem, 0);
	fill(w, N, PAGE, 6);
	p = mmap((void *)START, N * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED_NOREPLACE, mem, 0);
	ASSERT_EQ((void *)START, p);
	ASSERT_EQ(0, uffd_register(fd, p, N * PAGE, UFFDIO_REGISTER_MODE_MINOR));
	h = (struct handler){ .fd = fd, .base = p };
	ASSERT_EQ(0, start(&t, &h));
	EXPECT_EQ(-1, bad(p, N, PAGE, 6));
	EXPECT_LE(1, h.minor_seen);
	EXPECT_EQ(0, h.errors);
}

FPT_TEST(poison)
{
	int fd = OPEN(UFFD_FEATURE_POISON);
	char *p = map_at(START, N * PAGE);
	struct uffdio_poison po = { .range = { START + N / 2 * PAGE - PAGE, 2 * PAGE } };

	ASSERT_NE(MAP_FAILED, p);
	ASSERT_EQ(0, uffd_register(fd, p, N * PAGE, UFFDIO_REGISTER_MODE_MISSING));
	ASSERT_EQ(0, ioctl(fd, UFFDIO_POISON, &po));
	EXPECT_EQ(SIGBUS, try_access(p + N / 2 * PAGE - PAGE, false));
	EXPECT_EQ(SIGBUS, try_access(p + N / 2 * PAGE, false));
}

#ifdef UFFDIO_MOVE
static void move(struct __test_metadata *_metadata, unsigned long src, unsigned long dst, size_t len,
		 bool thp)
{
	int fd = uffd_open(UFFD_FEATURE_MOVE);
	struct uffdio_move m = { .dst = dst, .src = src, .len = len };
	char *p, *q;
	long n = len / PAGE;

	if (fd < 0)
		SKIP(return, "userfaultfd move: %s", strerror(-fd));
	p = map_at(src, len);
	q = map_at(dst, len);
	ASSERT_NE(MAP_FAILED, p);
	ASSERT_NE(MAP_FAILED, q);
	if (thp)
		madvise(p, len, MADV_HUGEPAGE);
	fill(p, n, PAGE, 7);
	ASSERT_EQ(0, uffd_register(fd, q, len, UFFDIO_REGISTER_MODE_MISSING));
	ASSERT_EQ(0, ioctl(fd, UFFDIO_MOVE, &m));
	EXPECT_EQ((long)len, m.move);
	EXPECT_EQ(-1, bad(q, n, PAGE, 7));
	EXPECT_EQ(-1, bad_zero(p, n, PAGE));
}

FPT_TEST(move_pages) { move(_metadata, START, START + SPAN + GIB, N * PAGE, false); }
FPT_TEST(move_a_pmd) { move(_metadata, BASE, BASE + SPAN + 3 * HUGE, HUGE, false); }
FPT_TEST(move_a_huge_page) { move(_metadata, BASE, BASE + SPAN + 3 * HUGE, 2 * HUGE, true); }
#endif

FPT_TEST(fork_keeps_the_child_unregistered)
{
	struct handler h = { 0 };
	int fd = OPEN(0);
	char *p = map_at(START, N * PAGE), *src = map_at(0, N * PAGE);
	pthread_t t;
	pid_t pid;

	ASSERT_NE(MAP_FAILED, p);
	fill(src, N, PAGE, 8);
	ASSERT_EQ(0, uffd_register(fd, p, N * PAGE, UFFDIO_REGISTER_MODE_MISSING));
	h = (struct handler){ .fd = fd, .src = src, .base = p };
	ASSERT_EQ(0, start(&t, &h));
	EXPECT_EQ(-1, bad(p, N / 2 + 1, PAGE, 8));
	pid = fork();
	if (!pid) {
		CHILD_CHECK(bad(p, N / 2 + 1, PAGE, 8) == -1);
		CHILD_CHECK(bad_zero(p + (N / 2 + 1) * PAGE, N / 2 - 1, PAGE) == -1);
		_exit(0);
	}
	EXPECT_EQ(0, reap(pid));
	EXPECT_EQ(-1, bad(p, N, PAGE, 8));
}

TEST_HARNESS_MAIN
