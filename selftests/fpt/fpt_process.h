/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Tables chosen per process and per range: the numbers of the kernel's interface,
 * and what several tests of it need. docs/reference/pgtables.md has the text.
 */
#ifndef FPT_PROCESS_H
#define FPT_PROCESS_H

#include "fpt_util.h"

#define PR_SET_PGTABLES	0x46505401
#define PR_GET_PGTABLES	0x46505402
#define MADV_FLATTEN	0x46505403
#define MADV_UNFLATTEN	0x46505404

/* Requests of prctl */
enum pgt { PGT_SYSTEM, PGT_RADIX, PGT_L4L3, PGT_L3L2, PGT_L4L3_L2L1, PGT_AUTO, PGT_COUNT };

static const char *const pgt_names[] = {
	"system", "radix", "l4l3", "l3l2", "l4l3-l2l1", "auto",
};

/* When: bits */
#define PGT_NOW		1	/* tables that are made from now on */
#define PGT_EXEC	2	/* from the next exec on, the root included */

static inline int pgt_set(enum pgt request, unsigned long when)
{
	return prctl(PR_SET_PGTABLES, (unsigned long)request, when, 0UL, 0UL) ? -errno : 0;
}

/* The request, or a negative errno */
static inline int pgt_get(unsigned long when)
{
	int got = prctl(PR_GET_PGTABLES, when, 0UL, 0UL, 0UL);

	return got < 0 ? -errno : got;
}

/* NULL, or why this boot knows no choice per process */
static inline const char *pgt_why_not(enum fpt_mode boot)
{
	int got = pgt_get(PGT_NOW);

	/* one with FPT that does not know the call is to fail, not to be passed over */
	if (got == -EINVAL && !fpt_debugfs())
		return "a kernel without FPT has no PR_GET_PGTABLES";
	if (got == -EOPNOTSUPP && boot == RADIX)
		return "boot mode radix: no process chooses its tables";
	return NULL;
}

/* Has a boot nodes of each kind that the request needs? */
static inline bool pgt_offered(enum fpt_mode boot, enum pgt request)
{
	bool root = boot == L4L3 || boot == L4L3_L2L1 || boot == MIXED;
	bool mid = boot == L3L2 || boot == MIXED;
	bool bottom = boot == L4L3_L2L1 || boot == MIXED;

	switch (request) {
	case PGT_SYSTEM:
	case PGT_RADIX:
		return boot != RADIX;
	case PGT_L4L3:
		return root;
	case PGT_L3L2:
		return mid;
	case PGT_L4L3_L2L1:
		return root && bottom;
	default:
		return bottom;
	}
}

static inline int flatten(void *p, size_t len)
{
	return madvise(p, len, MADV_FLATTEN) ? -errno : 0;
}

static inline int unflatten(void *p, size_t len)
{
	return madvise(p, len, MADV_UNFLATTEN) ? -errno : 0;
}

/* NULL, or why no range can be flattened in this boot */
static inline const char *flatten_why_not(enum fpt_mode boot)
{
	static char why[128];

	if (boot == L4L3_L2L1 || boot == MIXED)
		return NULL;
	snprintf(why, sizeof(why), "boot mode %s has no L2L1 nodes", fpt_mode_names[boot]);
	return why;
}

#define NEED_CHOICE do {							\
	const char *_why = pgt_why_not(self->mode);				\
	if (_why)								\
		SKIP(return, "%s", _why);					\
} while (0)

#define NEED_FLATTEN do {							\
	const char *_why = flatten_why_not(self->mode);				\
	if (_why)								\
		SKIP(return, "%s", _why);					\
} while (0)

static inline double seconds(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

static inline bool tables_ok(pid_t pid)
{
	const char *say = fpt_check(pid);

	if (say)
		fprintf(stderr, "# fpt/check: %s\n", say);
	return !say;
}

/* A module parameter of the kernel's; -1: there is none of this name */
static inline long fpt_param(const char *name)
{
	char path[128], buf[64];

	snprintf(path, sizeof(path), FPT_PARAMS "%s", name);
	return read_text(path, buf, sizeof(buf)) < 0 ? -1 : atol(buf);
}

static inline bool fpt_set_param(const char *name, long v)
{
	char path[128], buf[64];

	snprintf(path, sizeof(path), FPT_PARAMS "%s", name);
	snprintf(buf, sizeof(buf), "%ld", v);
	return !write_text(path, buf);
}

#endif
