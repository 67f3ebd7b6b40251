/*-------------------------------------------------------------------------
 *
 * clock.c
 *		The monotonic clock and the wall clock, and moments of theirs.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <time.h>

#include "utils/timestamp.h"

#include "clock.h"
#include "shared.h"
#include "types.h"

/*
 * Monotonic time in nanoseconds, from an arbitrary start.  It never steps, but
 * leaves out the time that the server has stood still, once the worker has
 * found that out; see account_for_gap() in worker.c.  To the wall clock that
 * looks like a step, and is treated like one: what began before it cannot be
 * told to have lasted longer.
 */
int64
lg_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64) ts.tv_sec * LG_NANOS_PER_SEC + ts.tv_nsec - lg_frozen_time();
}

/* How long the server has stood still in all, as far as is known, in ns. */
int64
lg_frozen_time(void)
{
	return lg_shared ? (int64) pg_atomic_read_u64(&lg_shared->frozen) : 0;
}

/*
 * Read both clocks at one moment.  If the process was descheduled between the
 * reads, tries again, as that would look like a step.
 */
static void
read_clocks(int64 *now, TimestampTz *wall)
{
	int64		before;
	int			tries = 0;

	do
	{
		before = lg_now();
		*wall = GetCurrentTimestamp();
		*now = lg_now();
	} while (*now - before > LG_NANOS_PER_MS && ++tries < 10);
}

/* Has the wall clock stepped between the last reading and this one? */
static bool
has_stepped(const LgClock *clock, int64 now, TimestampTz wall)
{
	int64		drift = (wall - clock->wall) * 1000 - (now - clock->now);

	return drift > LG_CLOCK_STEP || drift < -LG_CLOCK_STEP;
}

/*
 * Read both clocks, and notice if the wall clock has stepped since the last
 * time.
 */
void
lg_clock_read(LgClock *clock)
{
	int64		now;
	TimestampTz wall;

	read_clocks(&now, &wall);
	if (!clock->started)
		clock->stepped = PG_INT64_MIN;
	else if (has_stepped(clock, now, wall))
		clock->stepped = now;

	clock->started = true;
	clock->now = now;
	clock->wall = wall;
	clock->frozen = lg_frozen_time();
}

/*
 * The monotonic time of a moment of the wall clock: never in the future, and
 * never before a step of the wall clock, since what was before it cannot be
 * told.  So a step can make something look younger, not older.
 */
int64
lg_clock_at(const LgClock *clock, TimestampTz wall)
{
	int64		at;
	int64		now;
	TimestampTz wall_now;

	/* What begins during the look is younger than its beginning. */
	if (wall >= clock->wall)
		return lg_now();

	/*
	 * The clock may have been put back since, and this moment come after
	 * that.
	 */
	read_clocks(&now, &wall_now);
	if (has_stepped(clock, now, wall_now))
		return now;
	at = clock->now - (clock->wall - wall) * 1000;
	return Max(at, clock->stepped);
}

/* The same, remembered from when this moment was first seen. */
int64
lg_moment(const LgClock *clock, LgMoment *moment, TimestampTz wall)
{
	if (moment->wall != wall || moment->at == 0)
	{
		moment->wall = wall;
		moment->at = lg_clock_at(clock, wall);
	}
	return moment->at;
}

/* A monotonic time as one of the wall clock, for display. */
TimestampTz
lg_clock_wall(const LgClock *clock, int64 at)
{
	return clock->wall - (clock->now - at) / 1000;
}

/* For qsort(): moments or durations (int64), the earliest or shortest first. */
int
lg_compare_times(const void *a, const void *b)
{
	int64		x = *(const int64 *) a;
	int64		y = *(const int64 *) b;

	return x < y ? -1 : x > y;
}
