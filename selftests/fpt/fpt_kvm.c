// SPDX-License-Identifier: GPL-2.0
/*
 * A virtual machine's memory is this process's: KVM follows its page tables to
 * learn how large a page it may map (host_pfn_mapping_level()), and its
 * notifiers must hear of every change. Only the debug image has KVM.
 */
#include "fpt_util.h"
#include "../kselftest_harness.h"

#include <glob.h>
#include <linux/kvm.h>

FPT_FIXTURE;

#define LEN	(16 * HUGE)
#define FIRST	0x100000UL	/* what the guest writes begins here */
#define CODE	0x1000UL

/* 1: mov %eax,(%edi); add $0x1000,%edi; inc %eax; cmp %esi,%edi; jb 1b; hlt */
static const unsigned char code[] = {
	0x89, 0x07, 0x81, 0xc7, 0x00, 0x10, 0x00, 0x00, 0x40, 0x39, 0xf7, 0x72, 0xf3, 0xf4,
};

struct machine {
	int kvm, vm, cpu;
	struct kvm_run *run;
	size_t run_len;
	char *mem;
};

/* A count of the only virtual machine there is; -1: not there. */
static long kvm_stat(const char *name)
{
	char path[128], text[32];
	long value = -1;
	glob_t found;

	snprintf(path, sizeof(path), "/sys/kernel/debug/kvm/*/%s", name);
	if (!glob(path, 0, NULL, &found)) {
		if (read_text(found.gl_pathv[0], text, sizeof(text)) > 0)
			value = strtol(text, NULL, 10);
		globfree(&found);
	}
	return value;
}

/* 0, or the line at which it failed; -1: no KVM here. */
static int machine_start(struct machine *m, char *mem)
{
	struct kvm_userspace_memory_region region = {
		.memory_size = LEN,
		.userspace_addr = (unsigned long)mem,
	};
	struct kvm_segment flat = {
		.limit = 0xffffffff, .selector = 8, .type = 11, .present = 1,
		.db = 1, .s = 1, .g = 1,
	};
	struct kvm_sregs sregs;
	int len;

	m->mem = mem;
	m->kvm = open("/dev/kvm", O_RDWR);
	if (m->kvm < 0)
		return -1;
	m->vm = ioctl(m->kvm, KVM_CREATE_VM, 0);
	if (m->vm < 0 || ioctl(m->vm, KVM_SET_USER_MEMORY_REGION, &region))
		return __LINE__;
	m->cpu = ioctl(m->vm, KVM_CREATE_VCPU, 0);
	len = ioctl(m->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (m->cpu < 0 || len <= 0)
		return __LINE__;
	m->run_len = len;
	m->run = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, m->cpu, 0);
	if (m->run == MAP_FAILED || ioctl(m->cpu, KVM_GET_SREGS, &sregs))
		return __LINE__;
	/* 32 bits, flat, no paging */
	sregs.cs = flat;
	flat.type = 3;
	flat.selector = 16;
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = flat;
	sregs.cr0 |= 1;
	return ioctl(m->cpu, KVM_SET_SREGS, &sregs) ? __LINE__ : 0;
}

static void machine_end(struct machine *m)
{
	munmap(m->run, m->run_len);
	close(m->cpu);
	close(m->vm);
	close(m->kvm);
}

/*
 * The guest writes seed, seed + 1, ... into its pages. How many of them this
 * process does not see; -1: the guest did not get to its end.
 */
static long machine_bad(struct machine *m, unsigned int seed)
{
	struct kvm_regs regs = {
		.rip = CODE, .rflags = 2, .rax = seed, .rdi = FIRST, .rsi = LEN,
	};
	unsigned long at;
	long wrong = 0;

	memcpy(m->mem + CODE, code, sizeof(code));
	if (ioctl(m->cpu, KVM_SET_REGS, &regs) || ioctl(m->cpu, KVM_RUN, 0) ||
	    m->run->exit_reason != KVM_EXIT_HLT)
		return -1;
	for (at = FIRST; at < LEN; at += PAGE)
		wrong += *(volatile unsigned int *)(m->mem + at) != seed++;
	return wrong;
}

#define START(m, mem) do {						\
	int _line = machine_start(m, mem);				\
	if (_line < 0)							\
		SKIP(return, "no /dev/kvm");				\
	ASSERT_EQ(0, _line);						\
} while (0)

/* Nothing of this process stays flat below its root. */
#define DEMOTE_ALL do {							\
	struct fpt_nodes _n;						\
									\
	if (fpt_can_demote())						\
		ASSERT_EQ(0, fpt_demote(getpid(), 0));			\
	_n = fpt_nodes(0);						\
	EXPECT_EQ(0, _n.mid + _n.bottom);				\
} while (0)

FPT_TEST(small_pages)
{
	char *mem = map_at(BASE + 16 * HUGE, LEN);
	struct machine m;
	pid_t pid;

	ASSERT_NE(MAP_FAILED, (void *)mem);
	START(&m, mem);
	EXPECT_EQ(0, machine_bad(&m, 100));
	EXPECT_EQ(0, kvm_stat("pages_2m"));
	EXPECT_LE((long)((LEN - FIRST) / PAGE), kvm_stat("pages_4k"));
	DEMOTE_ALL;
	EXPECT_EQ(0, machine_bad(&m, 20000));

	/* The child shares the pages; what the guest writes from now on is not the child's. */
	pid = fork();
	if (!pid) {
		msleep(200);
		_exit(*(volatile unsigned int *)(mem + FIRST) == 20000 ? 0 : 1);
	}
	EXPECT_EQ(0, machine_bad(&m, 40000));
	EXPECT_EQ(0, reap(pid));

	/* gone from both sides */
	ASSERT_EQ(0, madvise(mem, LEN, MADV_DONTNEED));
	EXPECT_EQ(0, kvm_stat("pages_4k"));
	EXPECT_EQ(0, machine_bad(&m, 60000));
	ASSERT_EQ(0, mprotect(mem + 8 * HUGE, HUGE, PROT_READ));
	EXPECT_EQ(-1, machine_bad(&m, 80000));
	ASSERT_EQ(0, mprotect(mem + 8 * HUGE, HUGE, PROT_READ | PROT_WRITE));
	EXPECT_EQ(0, machine_bad(&m, 90000));
	machine_end(&m);
}

/* KVM maps a huge page by one entry, also beside a span that was flat before. */
FPT_TEST(huge_pages)
{
	NEED_THP;
	char *touched = map_at(BASE, PAGE), *mem = map_at(BASE + 16 * HUGE, LEN);
	struct machine m;

	ASSERT_NE(MAP_FAILED, (void *)touched);
	ASSERT_NE(MAP_FAILED, (void *)mem);
	page_set(touched, 1, 1);
	ASSERT_EQ(0, madvise(mem, LEN, MADV_HUGEPAGE));
	START(&m, mem);
	EXPECT_EQ(0, machine_bad(&m, 100));
	EXPECT_EQ((long)(LEN / HUGE), proc_kb(0, "smaps_rollup", "AnonHugePages") / 2048);
	EXPECT_EQ((long)(LEN / HUGE), kvm_stat("pages_2m"));
	DEMOTE_ALL;
	EXPECT_EQ(0, machine_bad(&m, 20000));
	EXPECT_EQ((long)(LEN / HUGE), kvm_stat("pages_2m"));
	EXPECT_TRUE(page_ok(touched, 1, 1));
	machine_end(&m);
}

/* Small pages that become huge while the guest has them. */
FPT_TEST(collapse)
{
	NEED_THP;
	char *mem = map_at(BASE + 16 * HUGE, LEN);
	struct machine m;

	ASSERT_NE(MAP_FAILED, (void *)mem);
	START(&m, mem);
	EXPECT_EQ(0, machine_bad(&m, 100));
	EXPECT_EQ(0, kvm_stat("pages_2m"));
	ASSERT_EQ(0, madvise(mem, LEN, MADV_HUGEPAGE));
	ASSERT_EQ(0, madvise(mem, LEN, MADV_COLLAPSE));
	EXPECT_EQ(0, kvm_stat("pages_4k"));
	EXPECT_EQ(0, machine_bad(&m, 20000));
	EXPECT_EQ((long)(LEN / HUGE), kvm_stat("pages_2m"));
	machine_end(&m);
}

TEST_HARNESS_MAIN
