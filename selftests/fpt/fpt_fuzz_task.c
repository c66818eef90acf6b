// SPDX-License-Identifier: GPL-2.0
/* The fuzzer's calls that make processes and threads. */
#include "fpt_fuzz.h"
#include <sys/ptrace.h>

extern char **environ;

static void judge_child(struct world *w, pid_t pid)
{
	int code = reap(pid);

	if (code == EXIT_INTERNAL)
		_exit(EXIT_INTERNAL);
	if (code)
		mismatch(w, -1, "a child ended with code %d", code);
}

/* The child that lives beside its parent gets a few steps of it as company. */
void reap_kid(struct world *w, bool now)
{
	if (w->kid && (now || w->done >= w->kid_until)) {
		pid_t pid = w->kid;

		w->kid = 0;
		judge_child(w, pid);
	}
}

static bool fork_steps(struct world *w, enum child how)
{
	int steps = 4 + below(w, 12);
	pid_t pid;

	reap_kid(w, true);
	__atomic_fetch_add(&shared->children, 1, __ATOMIC_RELAXED);
	pid = fork();
	if (pid < 0)
		mismatch(w, -1, "fork: %s", strerror(errno));
	if (!pid) {
		child_model(w, how);
		run_child_steps(w, steps);
		check_all(w);
		_exit(0);
	}
	note(w, "fork, %s", how == WAITED ? "waits" : "goes on beside");
	if (how == WAITED) {
		judge_child(w, pid);
	} else {
		w->kid = pid;
		w->kid_until = w->done + 24;
	}
	return true;
}

static bool op_fork_wait(struct world *w)
{
	return fork_steps(w, WAITED);
}

static bool op_fork(struct world *w)
{
	return fork_steps(w, BESIDE);
}

/* A child that checks everything and does nothing */
static bool op_fork_exit(struct world *w)
{
	pid_t pid = fork();

	if (pid < 0)
		mismatch(w, -1, "fork: %s", strerror(errno));
	if (!pid) {
		child_model(w, WAITED);
		check_all(w);
		_exit(0);
	}
	note(w, "fork and exit");
	judge_child(w, pid);
	return true;
}

static bool op_vfork_exec(struct world *w)
{
	static char *const argv[] = { "fpt_fuzz", "--nothing", NULL };
	pid_t pid;

	note(w, "vfork and exec");
	pid = vfork();
	if (!pid) {
		execve("/proc/self/exe", argv, environ);
		_exit(EXIT_INTERNAL);
	}
	if (pid < 0)
		mismatch(w, -1, "vfork: %s", strerror(errno));
	judge_child(w, pid);
	return true;
}

/* A tracer writes into a stopped child, which then finds it, and only there. */
static bool op_ptrace(struct world *w)
{
	struct range r;
	uint64_t tag;
	int status;
	pid_t pid;

	if (!pick_cells(w, &r, 1, readable_remote, BIT(K_ANON) | BIT(K_PRIVATE) |
			(C_HUGETLB | C_DONTFORK) << 8))
		return false;
	tag = new_tag(w, r.i);
	note(w, "ptrace: poke %#lx in a child", w->at[r.i].addr);
	pid = fork();
	if (pid < 0)
		mismatch(w, -1, "fork: %s", strerror(errno));
	if (!pid) {
		int k;

		child_model(w, WAITED);
		if (ptrace(PTRACE_TRACEME, 0, 0, 0))
			_exit(EXIT_INTERNAL);
		raise(SIGSTOP);
		model_write(w, r.i, tag);
		for (k = r.i - 2; k <= r.i + 2; k++)
			check_read(w, k);
		_exit(0);
	}
	if (waitpid(pid, &status, 0) != pid || !WIFSTOPPED(status)) {
		if (WIFEXITED(status))
			_exit(WEXITSTATUS(status));
		mismatch(w, r.i, "a traced child does not stop");
	}
	if (ptrace(PTRACE_POKEDATA, pid, w->at[r.i].addr, tag) ||
	    ptrace(PTRACE_POKEDATA, pid, w->at[r.i].addr + PAGE - 8, ~tag))
		mismatch(w, r.i, "PTRACE_POKEDATA: %s", strerror(errno));
	errno = 0;
	if (ptrace(PTRACE_PEEKDATA, pid, w->at[r.i].addr, 0) != (long)tag || errno)
		mismatch(w, r.i, "PTRACE_PEEKDATA finds not what was poked");
	/* Signals of its checks are its own. */
	if (ptrace(PTRACE_DETACH, pid, 0, 0))
		mismatch(w, r.i, "PTRACE_DETACH: %s", strerror(errno));
	judge_child(w, pid);
	w->last = r;
	return true;
}

/* --- threads ----------------------------------------------------------------------------- */

#define WORKERS 2

struct worker {
	pthread_t thread;
	struct world *w;
	struct range r;
	int first;
	volatile bool stop;
	uint64_t rounds;
};

static uint64_t round_tag(struct worker *k, uint64_t round, int i)
{
	return 0x7000000000000001 | round << 20 | (uint64_t)(i & 0xffff) << 4;
}

/* Every other page gets a growing number, as long as it may be written. */
static void *worker(void *arg)
{
	struct worker *k = arg;
	int i;

	while (!k->stop || !k->rounds) {
		k->rounds++;
		for (i = k->r.i + k->first; i < k->r.j; i += WORKERS)
			while (raw_store(cell_ptr(k->w, i), round_tag(k, k->rounds, i),
					 ~round_tag(k, k->rounds, i)))
				sched_yield();
	}
	return NULL;
}

/* What is write-protected must not change, in no thread's eyes. */
static void freeze(struct world *w, struct range r, int prot)
{
	uint64_t v[2], again[2];
	int i = r.i + below(w, r.j - r.i), n;

	if (mprotect(range_ptr(w, r), range_len(w, r), PROT_READ))
		mismatch(w, r.i, "mprotect beside threads: %s", strerror(errno));
	raw_load(cell_ptr(w, i), v);
	for (n = 0; n < 40; n++) {
		raw_load(cell_ptr(w, i), again);
		if (v[0] != again[0] || v[1] != again[1])
			mismatch(w, i, "a write-protected page changes from %#llx to %#llx",
				 (unsigned long long)v[0], (unsigned long long)again[0]);
	}
	if (mprotect(range_ptr(w, r), range_len(w, r), prot))
		mismatch(w, r.i, "mprotect beside threads: %s", strerror(errno));
}

/* A child's copy stands still whatever threads of its parent do. */
static void snapshot(struct world *w, struct range r)
{
	pid_t pid = fork();

	if (!pid) {
		uint64_t v[2], again[2];
		int i, n;

		for (n = 0; n < 8; n++) {
			for (i = r.i; i < r.j; i++) {
				raw_load(cell_ptr(w, i), v);
				raw_load(cell_ptr(w, i), again);
				if (v[0] != again[0] || v[1] != again[1])
					mismatch(w, i, "a child's private page changes from %#llx to %#llx",
						 (unsigned long long)v[0], (unsigned long long)again[0]);
			}
		}
		_exit(0);
	}
	judge_child(w, pid);
}

static bool op_threads(struct world *w)
{
	static const int advices[] = { MADV_COLD, MADV_PAGEOUT, MADV_WILLNEED };
	struct worker k[WORKERS];
	int i, n, turns = 1 + below(w, 3), prot;
	struct range r;

	if (!pick_cells(w, &r, 16, writable_here,
			BIT(K_ANON) | (C_HUGETLB | C_UFFD | C_LOCKED | C_DONTFORK | C_WIPE) << 8) ||
	    r.j - r.i < WORKERS)
		return false;
	prot = w->cell[r.i].prot;
	for (i = r.i; i < r.j; i++)
		if (w->cell[i].prot != prot)
			break;
	r.j = i;
	if (r.j - r.i < WORKERS)
		return false;
	w->last = r;
	note(w, "threads write to %s", range_text(w, r));
	for (n = 0; n < WORKERS; n++) {
		k[n] = (struct worker){ .w = w, .r = r, .first = n };
		if (pthread_create(&k[n].thread, NULL, worker, &k[n]))
			internal("pthread_create");
	}
	while (turns--) {
		switch (below(w, 4)) {
		case 0:
			snapshot(w, r);
			break;
		case 1:
			if (madvise(range_ptr(w, r), range_len(w, r), advices[below(w, 3)]))
				mismatch(w, r.i, "madvise beside threads: %s", strerror(errno));
			break;
		default:
			freeze(w, r, prot);
		}
	}
	for (n = 0; n < WORKERS; n++)
		k[n].stop = true;
	for (n = 0; n < WORKERS; n++)
		pthread_join(k[n].thread, NULL);
	for (i = r.i; i < r.j; i++) {
		struct worker *own = &k[(i - r.i) % WORKERS];

		model_write(w, i, round_tag(own, own->rounds, i));
		check_read(w, i);
	}
	return true;
}

const struct op task_ops[] = {
	{ "fork_wait", 20, op_fork_wait, OP_PARENT },
	{ "fork_beside", 40, op_fork, OP_PARENT },
	{ "fork_exit", 10, op_fork_exit, OP_PARENT },
	{ "vfork_exec", 12, op_vfork_exec, OP_PARENT },
	{ "ptrace_poke", 25, op_ptrace, OP_PARENT },
	{ "threads", 15, op_threads, OP_PARENT },
	{ NULL },
};
