// SPDX-License-Identifier: GPL-2.0
/* The kernel reaching user pages by itself: GUP, GUP-fast, remote access. */
#include "fpt_util.h"
#include <sys/ptrace.h>
#include "../kselftest_harness.h"
#include "../../../../mm/gup_test.h"

FPT_FIXTURE

#define EDGE (BASE + SPAN)	/* border of GiB and of 512 GiB spans */

static char *around(unsigned long edge)
{
	return map_at(edge - 32 * PAGE, 64 * PAGE);
}

FPT_TEST(vmsplice_across_a_border)
{
	char *p = around(EDGE), buf[PAGE];
	struct iovec iov;
	int fd[2], i;

	ASSERT_NE(MAP_FAILED, p);
	ASSERT_EQ(0, pipe(fd));
	fcntl(fd[1], F_SETPIPE_SZ, 64 * PAGE);
	fill(p, 64, PAGE, 1);
	iov = (struct iovec){ p + 26 * PAGE, 12 * PAGE };
	ASSERT_EQ(12 * PAGE, vmsplice(fd[1], &iov, 1, 0));
	for (i = 0; i < 12; i++) {
		ASSERT_EQ(PAGE, read(fd[0], buf, PAGE));
		EXPECT_TRUE(page_ok(buf, 1, 26 + i)) TH_LOG("page %d", 26 + i);
	}
}

FPT_TEST(spliced_pages_outlive_their_mapping)
{
	char *p = around(EDGE), buf[PAGE];
	struct iovec iov = { (void *)(EDGE - 4 * PAGE), 8 * PAGE };
	int fd[2], i;

	ASSERT_NE(MAP_FAILED, p);
	ASSERT_EQ(0, pipe(fd));
	fill(p, 64, PAGE, 2);
	ASSERT_EQ(8 * PAGE, vmsplice(fd[1], &iov, 1, 0));
	ASSERT_EQ(0, munmap(p, 64 * PAGE));
	ASSERT_NE(MAP_FAILED, around(EDGE));
	fill(p, 64, PAGE, 3);
	for (i = 0; i < 8; i++) {
		ASSERT_EQ(PAGE, read(fd[0], buf, PAGE));
		EXPECT_TRUE(page_ok(buf, 2, 28 + i));
	}
	EXPECT_EQ(-1, bad(p, 64, PAGE, 3));
}

FPT_TEST(process_vm_readv_and_writev)
{
	char *p = around(EDGE), *buf = malloc(64 * PAGE);
	struct iovec r = { p, 64 * PAGE }, l = { buf, 64 * PAGE };
	int up[2], down[2];
	pid_t pid;
	char c;

	ASSERT_NE(MAP_FAILED, p);
	ASSERT_EQ(0, pipe(up));
	ASSERT_EQ(0, pipe(down));
	pid = fork();
	if (!pid) {
		fill(p, 64, PAGE, 4);
		CHILD_CHECK(write(up[1], "x", 1) == 1);
		CHILD_CHECK(read(down[0], &c, 1) == 1);
		CHILD_CHECK(bad(p, 64, PAGE, 5) == -1);
		_exit(0);
	}
	ASSERT_EQ(1, read(up[0], &c, 1));
	EXPECT_EQ(64 * PAGE, process_vm_readv(pid, &l, 1, &r, 1, 0));
	EXPECT_EQ(-1, bad(buf, 64, PAGE, 4));
	fill(buf, 64, PAGE, 5);
	EXPECT_EQ(64 * PAGE, process_vm_writev(pid, &l, 1, &r, 1, 0));
	ASSERT_EQ(1, write(down[1], "x", 1));
	EXPECT_EQ(0, reap(pid));
	EXPECT_EQ(-1, bad_zero(p, 64, PAGE));
}

FPT_TEST(remote_access_makes_the_tables)
{
	/* nobody touched the target before */
	char *p = around(EDGE), buf[2 * PAGE];
	struct iovec r = { (void *)(EDGE - PAGE), 2 * PAGE }, l = { buf, 2 * PAGE };

	ASSERT_NE(MAP_FAILED, p);
	fill(buf, 2, PAGE, 6);
	ASSERT_EQ(2 * PAGE, process_vm_writev(getpid(), &l, 1, &r, 1, 0));
	EXPECT_EQ(-1, bad((void *)(EDGE - PAGE), 2, PAGE, 6));
	EXPECT_EQ(-1, bad_zero(p, 31, PAGE));
}

FPT_TEST(remote_access_stops_at_a_hole)
{
	char *p = around(EDGE), *buf = malloc(64 * PAGE);
	struct iovec r = { p, 64 * PAGE }, l = { buf, 64 * PAGE };

	ASSERT_NE(MAP_FAILED, p);
	fill(p, 64, PAGE, 7);
	ASSERT_EQ(0, munmap((void *)EDGE, PAGE));
	EXPECT_EQ(32 * PAGE, process_vm_readv(getpid(), &l, 1, &r, 1, 0));
	EXPECT_EQ(-1, bad(buf, 32, PAGE, 7));
	r.iov_base = (void *)EDGE;
	r.iov_len = l.iov_len = PAGE;
	EXPECT_EQ(-1, process_vm_readv(getpid(), &l, 1, &r, 1, 0));
	EXPECT_EQ(EFAULT, errno);
}

FPT_TEST(proc_mem)
{
	char *p = around(EDGE), buf[PAGE];
	int fd = open("/proc/self/mem", O_RDWR), i;

	ASSERT_LE(0, fd);
	ASSERT_NE(MAP_FAILED, p);
	fill(p, 64, PAGE, 8);
	for (i = 0; i < 64; i++) {
		ASSERT_EQ(PAGE, pread(fd, buf, PAGE, (unsigned long)p + i * PAGE));
		EXPECT_TRUE(page_ok(buf, 8, i));
		page_set(buf, 9, i);
		ASSERT_EQ(PAGE, pwrite(fd, buf, PAGE, (unsigned long)p + i * PAGE));
	}
	EXPECT_EQ(-1, bad(p, 64, PAGE, 9));
	/* FOLL_FORCE writes through read-only protection by copying */
	ASSERT_EQ(0, mprotect(p, 64 * PAGE, PROT_READ));
	page_set(buf, 10, 0);
	EXPECT_EQ(PAGE, pwrite(fd, buf, PAGE, (unsigned long)p));
	EXPECT_TRUE(page_ok(p, 10, 0));
}

FPT_TEST(ptrace_peek_and_poke)
{
	char *p = around(EDGE);
	int status;
	pid_t pid;
	long i;

	ASSERT_NE(MAP_FAILED, p);
	fill(p, 64, PAGE, 11);
	pid = fork();
	if (!pid) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		raise(SIGSTOP);
		CHILD_CHECK(page_ok(p, 12, 0));
		CHILD_CHECK(page_ok(p + 63 * PAGE, 12, 63));
		_exit(0);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	for (i = 0; i < 64; i++)
		EXPECT_EQ((long)pat(11, i), ptrace(PTRACE_PEEKDATA, pid, p + i * PAGE, 0));
	for (i = 0; i < 64; i += 63) {
		ptrace(PTRACE_POKEDATA, pid, p + i * PAGE, pat(12, i));
		ptrace(PTRACE_POKEDATA, pid, p + i * PAGE + 4088, ~pat(12, i));
	}
	ptrace(PTRACE_CONT, pid, 0, 0);
	EXPECT_EQ(0, reap(pid));
	EXPECT_EQ(-1, bad(p, 64, PAGE, 11));
}

FPT_TEST(direct_io)
{
	char *p = around(EDGE), path[] = "/tmp/fpt-dio-XXXXXX";
	int fd = mkstemp(path);

	ASSERT_LE(0, fd);
	close(fd);
	fd = open(path, O_RDWR | O_DIRECT);
	unlink(path);
	if (fd < 0)
		SKIP(return, "no O_DIRECT on /tmp");
	ASSERT_NE(MAP_FAILED, p);
	fill(p, 64, PAGE, 13);
	ASSERT_EQ(64 * PAGE, pwrite(fd, p, 64 * PAGE, 0));
	ASSERT_EQ(0, munmap(p, 64 * PAGE));
	p = around(EDGE + GIB);
	ASSERT_NE(MAP_FAILED, p);
	ASSERT_EQ(64 * PAGE, pread(fd, p, 64 * PAGE, 0));
	EXPECT_EQ(-1, bad(p, 64, PAGE, 13));
}

FPT_TEST(direct_io_block_device)
{
	/* the block layer pins pages with GUP-fast; tmpfs above does not */
	char *p = around(EDGE);
	int fd = open("/dev/ram1", O_RDWR | O_DIRECT);

	if (fd < 0)
		SKIP(return, "no /dev/ram1");
	ASSERT_NE(MAP_FAILED, p);
	fill(p, 64, PAGE, 14);
	ASSERT_EQ(64 * PAGE, pwrite(fd, p, 64 * PAGE, 0));
	fill(p, 64, PAGE, 15);
	ASSERT_EQ(64 * PAGE, pread(fd, p, 64 * PAGE, 0));
	EXPECT_EQ(-1, bad(p, 64, PAGE, 14));
	ASSERT_EQ(0, munmap(p, 64 * PAGE));
	/* into memory that nobody touched */
	p = around(EDGE + GIB);
	ASSERT_NE(MAP_FAILED, p);
	ASSERT_EQ(64 * PAGE, pread(fd, p, 64 * PAGE, 0));
	EXPECT_EQ(-1, bad(p, 64, PAGE, 14));
}

static void gup(struct __test_metadata *_metadata, unsigned int cmd, bool write)
{
	struct gup_test g = { 0 };
	char *p = around(EDGE);
	int fd = open("/sys/kernel/debug/gup_test", O_RDWR);

	if (fd < 0)
		SKIP(return, "kernel without GUP_TEST");
	ASSERT_NE(MAP_FAILED, p);
	fill(p, 64, PAGE, 16);
	g.addr = (unsigned long)p;
	g.size = 64 * PAGE;
	g.nr_pages_per_call = 64;
	g.gup_flags = write ? 1 : 0;
	ASSERT_EQ(0, ioctl(fd, cmd, &g));
	EXPECT_EQ(64 * PAGE, g.size);
	EXPECT_EQ(-1, bad(p, 64, PAGE, 16));
	close(fd);
}

FPT_TEST(gup_fast_read) { gup(_metadata, GUP_FAST_BENCHMARK, false); }
FPT_TEST(gup_fast_write) { gup(_metadata, GUP_FAST_BENCHMARK, true); }
FPT_TEST(pin_fast_write) { gup(_metadata, PIN_FAST_BENCHMARK, true); }
FPT_TEST(gup_basic) { gup(_metadata, GUP_BASIC_TEST, true); }
FPT_TEST(pin_longterm) { gup(_metadata, PIN_LONGTERM_BENCHMARK, true); }

FPT_TEST(gate_page)
{
	char buf[16];
	struct iovec r = { (void *)0xffffffffff600000UL, 16 }, l = { buf, 16 };
	ssize_t n = process_vm_readv(getpid(), &l, 1, &r, 1, 0);

	/* readable or not (vsyscall=), but no crash and no other length */
	EXPECT_TRUE(n == 16 || (n == -1 && errno == EFAULT));
}

FPT_TEST(a_pinned_page_is_copied_at_fork)
{
	char *p = around(EDGE), buf[PAGE];
	struct iovec iov = { (void *)(EDGE - PAGE), 2 * PAGE };
	int fd[2];
	pid_t pid;

	ASSERT_NE(MAP_FAILED, p);
	ASSERT_EQ(0, pipe(fd));
	fill(p, 64, PAGE, 17);
	ASSERT_EQ(2 * PAGE, vmsplice(fd[1], &iov, 1, 0));
	pid = fork();
	if (!pid) {
		fill(p, 64, PAGE, 18);
		_exit(0);
	}
	EXPECT_EQ(0, reap(pid));
	ASSERT_EQ(PAGE, read(fd[0], buf, PAGE));
	EXPECT_TRUE(page_ok(buf, 17, 31));
	ASSERT_EQ(PAGE, read(fd[0], buf, PAGE));
	EXPECT_TRUE(page_ok(buf, 17, 32));
}

TEST_HARNESS_MAIN
