/*-------------------------------------------------------------------------
 *
 * clock.h
 *		The monotonic clock and the wall clock, and moments of theirs.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOCKGUARD_CLOCK_H
#define LOCKGUARD_CLOCK_H

#include "postgres.h"

#include "datatype/timestamp.h"

#include "types.h"

/*
 * Two clocks read together.  Durations are measured on the monotonic one, less
 * the time that the server has stood still; PostgreSQL's shared memory has
 * moments of the wall clock only.
 */
typedef struct LgClock
{
	int64		now;			/* monotonic, ns */
	TimestampTz wall;			/* wall clock, us */
	int64		stepped;		/* when the wall clock was last seen to step */
	int64		frozen;			/* of LgShared, at that moment */
	bool		started;
} LgClock;

/* A moment of the wall clock and what it was taken for when first seen. */
typedef struct LgMoment
{
	TimestampTz wall;
	int64		at;
} LgMoment;

/* A wall clock that moved this much against the monotonic one has stepped (ns). */
#define LG_CLOCK_STEP	(5 * LG_NANOS_PER_MS)

extern int64 lg_now(void);
extern int64 lg_frozen_time(void);
extern void lg_clock_read(LgClock *clock);
extern int64 lg_clock_at(const LgClock *clock, TimestampTz wall);
extern int64 lg_moment(const LgClock *clock, LgMoment *moment, TimestampTz wall);
extern TimestampTz lg_clock_wall(const LgClock *clock, int64 at);
extern int	lg_compare_times(const void *a, const void *b);

#endif							/* LOCKGUARD_CLOCK_H */
