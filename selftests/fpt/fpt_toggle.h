/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A thread that flattens and unflattens spans all the time, while a test does what must
 * not notice. To be included behind the harness.
 */
#ifndef FPT_TOGGLE_H
#define FPT_TOGGLE_H

#include "fpt_process.h"

#define WINDOWS 512L		/* of 2 MiB, in a GiB */
#define SECONDS 4		/* of each race, */
#define TOGGLES 20		/* and that many changes of the span's tables, */
#define SECONDS_MOST 60		/* but not for ever: a host may be busy */
#define RACE_TEST(name) TEST_F_TIMEOUT(fpt, name, 300)

static volatile bool stop;
static volatile long wrong;

static inline unsigned int next(unsigned int *r)
{
	*r = *r * 1664525 + 1013904223;
	return *r >> 8;
}

static struct {
	unsigned long at[2];
	int spans;
	/* done, and refused for a reason that the test allows */
	volatile long flattened, unflattened, refused;
	volatile int other;	/* an error that it does not allow */
	int allowed[3];
} toggle;

static void count(int err, volatile long *done)
{
	unsigned int i;

	if (!err) {
		(*done)++;
		return;
	}
	for (i = 0; i < sizeof(toggle.allowed) / sizeof(toggle.allowed[0]); i++)
		if (err == toggle.allowed[i]) {
			toggle.refused++;
			return;
		}
	toggle.other = err;
}

static void *toggler(void *arg)
{
	unsigned int r = 99;

	while (!stop) {
		void *p = (void *)toggle.at[next(&r) % toggle.spans];

		/* a page says which span */
		count(flatten(p, PAGE), &toggle.flattened);
		if (next(&r) % 4 == 0)
			sched_yield();
		count(unflatten(p, PAGE), &toggle.unflattened);
	}
	return NULL;
}

static pthread_t toggling;

/* EAGAIN is always allowed: the span changed, or no 2 MiB are free */
static void start_toggling(struct __test_metadata *_metadata, unsigned long a, unsigned long b,
			   int allowed1, int allowed2)
{
	memset(&toggle, 0, sizeof(toggle));
	toggle.at[0] = a;
	toggle.at[1] = b;
	toggle.spans = b ? 2 : 1;
	toggle.allowed[0] = -EAGAIN;
	toggle.allowed[1] = allowed1;
	toggle.allowed[2] = allowed2;
	stop = false;
	wrong = 0;
	ASSERT_EQ(0, pthread_create(&toggling, NULL, toggler, NULL));
}

/* Is a race that is over at `end` to go on? */
static inline bool go_on(double end)
{
	return seconds() < end || (toggle.flattened < TOGGLES && seconds() < end + SECONDS_MOST);
}

static void end_toggling(struct __test_metadata *_metadata)
{
	stop = true;
	pthread_join(toggling, NULL);
	EXPECT_EQ(0, toggle.other) TH_LOG("an error that has no reason here");
	EXPECT_LT(0, toggle.flattened);
	EXPECT_LT(0, toggle.unflattened);
	EXPECT_EQ(0, wrong);
	EXPECT_TRUE(tables_ok(0));
	TH_LOG("%ld flattened, %ld unflattened, %ld refused", toggle.flattened, toggle.unflattened,
	       toggle.refused);
}

#endif
