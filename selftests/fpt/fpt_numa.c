// SPDX-License-Identifier: GPL-2.0
/*
 * Nodes of NUMA: a flattened node comes from the memory of the CPU that needs it, one
 * that kflatd makes from where most of the tables are, and one that was freed goes back
 * to its own pool. What is where is told by PageTables of each NUMA node. A machine with
 * one is no test; profile numa has two with `run --numa-nodes 2`.
 */
#include "fpt_process.h"
#include "../kselftest_harness.h"

#define NUMA "/sys/devices/system/node/node%d/"
#define NODE_KB 2048
#define MPOL_DEFAULT 0
#define MPOL_BIND 2

FPT_FIXTURE

static long tables_kb(int node)
{
	char path[96], name[32];

	snprintf(path, sizeof(path), NUMA "meminfo", node);
	snprintf(name, sizeof(name), "Node %d PageTables", node);
	return file_value(path, name);
}

/*
 * The lowest CPU that takes its memory from a NUMA node, or -1. Lists of CPUs do not
 * tell: with numa=fake each node lists every CPU, and all of them are on node 0.
 */
static int cpu_of(int node)
{
	unsigned int on;
	cpu_set_t one, all;
	int cpu, found = -1;

	if (sched_getaffinity(0, sizeof(all), &all))
		return -1;
	for (cpu = 0; cpu < CPU_SETSIZE && found < 0; cpu++) {
		if (!CPU_ISSET(cpu, &all))
			continue;
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		if (!sched_setaffinity(0, sizeof(one), &one) &&
		    !syscall(SYS_getcpu, NULL, &on, NULL) && on == (unsigned int)node)
			found = cpu;
	}
	sched_setaffinity(0, sizeof(all), &all);
	return found;
}

/* A CPU of each node, found before the process is bound to one */
static int cpus[2];

static bool stay_on(int node)
{
	cpu_set_t one;

	CPU_ZERO(&one);
	CPU_SET(cpus[node], &one);
	return !sched_setaffinity(0, sizeof(one), &one);
}

/* Memory, tables among it, from this NUMA node; -1: from anywhere */
static bool memory_from(int node)
{
	unsigned long mask = 1UL << (node < 0 ? 0 : node);

	return !syscall(SYS_set_mempolicy, node < 0 ? MPOL_DEFAULT : MPOL_BIND,
			node < 0 ? NULL : &mask, node < 0 ? 0 : 64);
}

#define NEED_TWO do {								\
	cpus[0] = cpu_of(0);							\
	cpus[1] = cpu_of(1);							\
	if (cpus[0] < 0 || cpus[1] < 0)						\
		SKIP(return, "there are no two NUMA nodes with CPUs");		\
} while (0)

/* By how many kB the tables of a NUMA node grew, if at once or a little later */
static long grown(int node, long before, long want)
{
	long kb = 0, i;

	for (i = 0; i < 50; i++) {
		kb = tables_kb(node) - before;
		if (kb >= want)
			break;
		msleep(100);
	}
	return kb;
}

FPT_TEST(first_touch_on_either_node)
{
	int node;

	NEED_TWO;
	if (self->mode != L4L3_L2L1)
		SKIP(return, "only l4l3-l2l1 makes an L2+L1 node for a first touch");
	for (node = 0; node < 2; node++) {
		long before[2], i;
		char *p;

		fpt_drain();
		ASSERT_TRUE(stay_on(node));
		before[0] = tables_kb(0);
		before[1] = tables_kb(1);
		ASSERT_LE(0, before[0]);
		p = map_at(BASE, 8 * GIB);
		ASSERT_NE(MAP_FAILED, p);
		for (i = 0; i < 8; i++)
			page_set(p + i * GIB, 1, i);
		EXPECT_LE(8 * NODE_KB, grown(node, before[node], 8 * NODE_KB));
		EXPECT_GT(NODE_KB, tables_kb(!node) - before[!node]);
		EXPECT_EQ(-1, bad(p, 8, GIB, 1));
		EXPECT_TRUE(tables_ok(getpid()));
		ASSERT_EQ(0, munmap(p, 8 * GIB));
	}
}

FPT_TEST(freed_nodes_go_to_their_own_pool)
{
	long before, i;
	char *p;

	NEED_TWO;
	if (self->mode != L4L3_L2L1)
		SKIP(return, "only l4l3-l2l1 makes an L2+L1 node for a first touch");
	/* Eight of node 1 get into its pool. */
	fpt_drain();
	ASSERT_TRUE(stay_on(1));
	p = map_at(BASE, 8 * GIB);
	ASSERT_NE(MAP_FAILED, p);
	for (i = 0; i < 8; i++)
		p[i * GIB] = 1;
	ASSERT_TRUE(stay_on(0));
	ASSERT_EQ(0, munmap(p, 8 * GIB));
	/* Who is on node 0 does not get them. */
	before = tables_kb(0);
	p = map_at(BASE, 8 * GIB);
	ASSERT_NE(MAP_FAILED, p);
	for (i = 0; i < 8; i++)
		p[i * GIB] = 1;
	EXPECT_LE(8 * NODE_KB, grown(0, before, 8 * NODE_KB));
	EXPECT_EQ(0, munmap(p, 8 * GIB));
}

FPT_TEST(tables_move_to_where_most_of_them_are)
{
	int node;

	NEED_TWO;
	if (self->mode != MIXED)
		SKIP(return, "kflatd moves tables by itself under mixed only");
	for (node = 0; node < 2; node++) {
		long before[2], i;
		char *p;

		fpt_drain();
		/* The tables are elsewhere than the CPU. */
		ASSERT_TRUE(stay_on(!node));
		before[0] = tables_kb(0);
		before[1] = tables_kb(1);
		p = map_at(BASE, GIB);
		ASSERT_NE(MAP_FAILED, p);
		ASSERT_TRUE(memory_from(node));
		fill(p, GIB / PAGE, PAGE, 3);
		ASSERT_TRUE(memory_from(-1));
		for (i = 0; i < 600 && !fpt_nodes(0).bottom; i++)
			msleep(100);
		EXPECT_EQ(1, fpt_nodes(0).bottom);
		EXPECT_LE(NODE_KB, grown(node, before[node], NODE_KB));
		EXPECT_GT(NODE_KB, tables_kb(!node) - before[!node]);
		EXPECT_TRUE(tables_ok(getpid()));
		ASSERT_EQ(0, munmap(p, GIB));
	}
}

TEST_HARNESS_MAIN
