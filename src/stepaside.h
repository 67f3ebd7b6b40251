/*-------------------------------------------------------------------------
 *
 * stepaside.h
 *		Lets those behind a lock request pass: the only change that lockguard makes
 *		to the lock manager's state.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOCKGUARD_STEPASIDE_H
#define LOCKGUARD_STEPASIDE_H

#include "storage/lock.h"
#include "storage/proc.h"

/* What has come of a step for one request. */
typedef enum LgStepResult
{
	LG_STEP_NOT_YET,			/* none is behind it, or it must not step now */
	LG_STEP_DONE,				/* it was taken out and put back */
	LG_STEP_STANDS,				/* those that it waited for are gone */
	LG_STEP_WANTED,				/* others want what it holds */
	LG_STEP_OVER				/* it waits no more */
} LgStepResult;

/* An entry of a lock, as it was when a request began to yield. */
typedef struct LgEntry
{
	const PROCLOCK *proclock;	/* to compare only, until it is found again */
	bool		counts;			/* held the lock against the request */
} LgEntry;

/* A lock request that steps aside. */
typedef struct LgAside
{
	/* Which wait it is. */
	int			procno;
	int			pid;
	TimestampTz wait_start;
	LOCKTAG		tag;
	LOCKMODE	mode;
	LOCK	   *lock;

	/*
	 * The lock's entries that have been there since it began to yield: all
	 * ahead of its own, and these behind it, in their order.
	 */
	int			nentries;
	int			max_entries;
	LgEntry    *entries;

	LgStepResult result;		/* of the last step */
} LgAside;

/* Memory for a step: one of each per PGPROC; all zero between two steps. */
typedef struct LgStepRoom
{
	PGPROC	  **queue;
	bool	   *steps;			/* by procno: steps aside */
	int		   *waiting;		/* by leader: members of its group that wait */
	bool	   *goes_on;		/* the same: one of them goes on to wait */
} LgStepRoom;

extern bool lg_aside_begin(LgAside *aside, int *wanted);
extern bool lg_aside_is_over(const LgAside *aside);
extern bool lg_aside_holds(const LgAside *aside);
extern bool lg_aside_is_followed(const LgAside *aside);
extern bool lg_find_obstacles(const LgAside *aside, bool *obstacles);
extern bool lg_is_obstacle(const LgAside *aside, const PROCLOCK *proclock);
extern int	lg_step_aside(LgAside **asides, int n, const LgStepRoom *room);

#endif							/* LOCKGUARD_STEPASIDE_H */
