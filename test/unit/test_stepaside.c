/*-------------------------------------------------------------------------
 *
 * test_stepaside.c
 *		Lock requests that let others pass.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "scene.h"

#include "unit.h"

#include "../../src/proof.h"
#include "../../src/stepaside.h"

#define MAX_PROCS	12

static LgAside asides[MAX_PROCS];
static LgAside *stepping[MAX_PROCS];
static LgEntry entries[MAX_PROCS][MAX_PROCS];
static PGPROC *queue_room[MAX_PROCS + 100];
static bool steps_room[MAX_PROCS + 100];
static int	waiting_room[MAX_PROCS + 100];
static bool goes_on_room[MAX_PROCS + 100];
static const LgStepRoom room = {queue_room, steps_room, waiting_room, goes_on_room};

/* This waiter's request begins to yield; false if it waits for none. */
static bool
yields(int procno)
{
	LgAside    *aside = &asides[procno];
	PGPROC	   *proc = proc_of(procno);
	int			wanted;

	memset(aside, 0, sizeof(*aside));
	if (proc->waitLock == NULL)
		return false;
	aside->procno = procno;
	aside->pid = proc->pid;
	aside->wait_start = wait_start_of(procno);
	aside->tag = proc->waitLock->tag;
	aside->mode = proc->waitLockMode;
	aside->lock = proc->waitLock;
	aside->entries = entries[procno];
	aside->max_entries = MAX_PROCS;
	return lg_aside_begin(aside, &wanted);
}

/* A step with these; those of one lock. */
static int
step(int n,...)
{
	va_list		args;

	va_start(args, n);
	for (int i = 0; i < n; i++)
		stepping[i] = &asides[va_arg(args, int)];
	va_end(args);
	return lg_step_aside(stepping, n, &room);
}

static bool
is_waiting(int procno)
{
	return proc_of(procno)->waitLock != NULL;
}

/* The place of a waiter in its queue, from 0. */
static int
place(int procno)
{
	int			n = 0;

	for (PGPROC *queued = lg_first_waiter(proc_of(procno)->waitLock);
		 queued != proc_of(procno); queued = lg_next_waiter(queued->waitLock, queued))
		n++;
	return n;
}

/* An ALTER waits for a reader, and three more readers for the ALTER. */
static void
readers_pass(void)
{
	scene(6);
	reads(0, table);
	waits_to_alter(1, table);
	for (int i = 2; i < 5; i++)
		waits_to_read(i, table);
	CHECK(yields(1));
	CHECK(lg_aside_is_followed(&asides[1]));
	CHECK_INT(step(1, 1), 3);
	CHECK_INT(asides[1].result, LG_STEP_DONE);
	CHECK(is_waiting(1));
	for (int i = 2; i < 5; i++)
		CHECK_INT(held_by(table, i), LOCKBIT_ON(AccessShareLock));

	/* No session is behind it. */
	CHECK(!lg_aside_is_followed(&asides[1]));
	CHECK_INT(step(1, 1), 0);
	CHECK_INT(asides[1].result, LG_STEP_NOT_YET);

	/* It stands when the first reader is gone, not those that have passed. */
	waits_to_read(5, table);
	releases_all(0);
	CHECK_INT(step(1, 1), 0);
	CHECK_INT(asides[1].result, LG_STEP_STANDS);
	CHECK(is_waiting(5));

	/* The second time those count that are there by then. */
	CHECK(yields(1));
	CHECK_INT(asides[1].nentries, 4);
	CHECK_INT(step(1, 1), 1);
	for (int i = 2; i < 5; i++)
	{
		CHECK_INT(step(1, 1), 0);
		CHECK_INT(asides[1].result, LG_STEP_NOT_YET);
		releases_all(i);
		if (i == 3)
			reads(i, table);	/* in another transaction */
	}
	CHECK_INT(step(1, 1), 0);
	CHECK_INT(asides[1].result, LG_STEP_STANDS);
	releases_all(5);
	CHECK(is_waiting(1));
	releases_all(3);
	CHECK(!is_waiting(1));
	CHECK_INT(step(1, 1), 0);
	CHECK_INT(asides[1].result, LG_STEP_OVER);
}

/* What was there before the request counts over transactions. */
static void
session_lock(void)
{
	scene(3);
	reads(0, table);
	waits_to_alter(1, table);
	waits_to_read(2, table);
	CHECK(yields(1));
	next_transaction(0);
	CHECK_INT(step(1, 1), 1);

	/* Released and taken again, it has passed. */
	releases(0, table, AccessShareLock);
	holds(0, table, AccessShareLock);
	releases_all(2);
	CHECK_INT(step(1, 1), 0);
	CHECK_INT(asides[1].result, LG_STEP_STANDS);

	/* So does what has passed before it began to yield anew. */
	holds(2, table, AccessShareLock);
	releases_all(0);
	CHECK(yields(1));
	next_transaction(2);
	waits_to_read(0, table);
	CHECK_INT(step(1, 1), 1);
	releases(2, table, AccessShareLock);
	holds(2, table, AccessShareLock);
	CHECK_INT(step(1, 1), 0);
	CHECK_INT(asides[1].result, LG_STEP_STANDS);
}

/*
 * Two that hold the lock by turns, each in the place in memory that the other had
 * before, have both passed.
 */
static void
same_places(void)
{
	PROCLOCK   *first;

	scene(4);
	reads(2, table);
	waits_to_alter(1, table);
	reads(0, table);
	reads(3, table);
	CHECK(yields(1));
	CHECK_INT(asides[1].nentries, 2);
	first = (PROCLOCK *) entries[1][0].proclock;
	releases_all(2);

	/* As if released and taken again, the first behind the second. */
	moves_to_the_end(table, first);
	CHECK_INT(step(1, 1), 0);
	CHECK_INT(asides[1].nentries, 1);
	releases_all(3);
	CHECK_INT(step(1, 1), 0);
	CHECK_INT(asides[1].result, LG_STEP_STANDS);
}

/* Those that stood ahead still do, and those that stay behind keep their order. */
static void
keeps_its_place(void)
{
	scene(8);
	reads(0, table);
	waits_to_alter(1, table);	/* does not yield */
	waits_to_alter(2, table);
	waits_to_alter(3, table);
	waits_to_read(4, table);
	CHECK(yields(2));
	CHECK_INT(step(1, 2), 0);
	CHECK_INT(asides[2].result, LG_STEP_DONE);
	for (int i = 1; i < 5; i++)
		CHECK_INT(place(i), i - 1);

	/* All of them together. */
	CHECK(yields(1));
	CHECK(yields(3));
	CHECK_INT(step(3, 3, 1, 2), 1);
	CHECK(!is_waiting(4));
	for (int i = 1; i < 4; i++)
		CHECK_INT(place(i), i - 1);
}

/* One that yields passes another, if it can be granted the lock. */
static void
passes_another(void)
{
	scene(5);
	reads(0, table);
	waits_to_alter(1, table);
	waits(2, table, ShareLock);
	waits_to_read(3, table);
	CHECK(yields(1));
	CHECK(yields(2));
	CHECK_INT(step(2, 1, 2), 2);
	CHECK_INT(held_by(table, 2), LOCKBIT_ON(ShareLock));
	CHECK_INT(asides[2].result, LG_STEP_DONE);
	CHECK_INT(step(2, 1, 2), 0);
	CHECK_INT(asides[2].result, LG_STEP_OVER);

	/* But not ahead of those that do not yield. */
	scene(5);
	reads(0, table);
	waits_to_alter(1, table);
	waits(2, table, ShareLock);
	waits_to_write(3, table);
	CHECK(yields(1));
	CHECK(yields(2));
	CHECK_INT(step(2, 1, 2), 1);
	CHECK(!is_waiting(3));
	CHECK_INT(place(2), 1);
}

/* A session that wants what the request's holds must not wait for longer. */
static void
holds_what_others_want(void)
{
	scene(5);
	reads(0, table);
	reads(1, table);
	waits_to_alter(1, table);
	waits_to_read(2, table);
	CHECK(yields(1));
	CHECK_INT(step(1, 1), 1);
	waits_to_alter(3, table);
	waits_to_read(4, table);
	CHECK_INT(step(1, 1), 0);
	CHECK_INT(asides[1].result, LG_STEP_WANTED);
	CHECK(is_waiting(4));
}

/* A parallel worker whose leader, or another worker, waits elsewhere. */
static void
lock_groups(void)
{
	for (int same = 0; same < 3; same++)
	{
		scene(8);
		reads(0, table);
		alters(5, other_table);
		joins_group(3, 2);
		waits_to_alter(1, table);
		waits_to_read(3, table);
		waits_to_read(4, table);
		if (same == 0)
			waits_to_read(2, other_table);
		else
			waits_to_read(2, table);
		if (same == 2)
			waits_to_alter(6, table);	/* so that not all pass */
		CHECK(yields(1));
		CHECK_INT(step(1, 1), same == 1 ? 3 : 0);
		CHECK_INT(asides[1].result, same == 1 ? LG_STEP_DONE : LG_STEP_NOT_YET);
		CHECK(is_waiting(3) == (same != 1));
	}
}

/* The wait has ended, and another one has begun. */
static void
another_wait(void)
{
	for (int how = 0; how < 5; how++)
	{
		scene(5);
		reads(0, table);
		waits_to_alter(1, table);
		waits_to_read(2, table);
		CHECK(yields(1));
		pass(5);
		switch (how)
		{
			case 0:
				gives_up(1);
				break;
			case 1:
				gives_up(1);
				waits_to_alter(1, table);
				waits_to_read(3, table);
				break;
			case 2:
				releases_all(0);
				break;
			case 3:
				gives_up(1);
				alters(3, other_table);
				waits_to_alter(1, other_table);
				break;
			case 4:
				set_wait_start(1, wait_start_of(1));
				proc_of(1)->pid++;
				break;
		}
		CHECK(lg_aside_is_over(&asides[1]));
		CHECK_INT(step(1, 1), 0);
		CHECK_INT(asides[1].result, LG_STEP_OVER);
	}
}

/*
 * Those that have passed a request end soon: to remove the one that it waits for
 * is not in vain because of them, neither when that is judged nor when it is
 * proved again.
 */
static void
holders_that_have_passed(void)
{
	static LgAside *published[] = {&asides[1]};

	for (int yielding = 0; yielding < 2; yielding++)
	{
		TimestampTz acted_at;

		scene(5);
		set(0, LG_IDLE_BLOCKER_TIMEOUT, 1000);
		reads(0, table);
		sits_idle(0);
		waits_to_alter(1, table);
		waits_to_read(2, table);
		CHECK(yields(1));
		CHECK_INT(step(1, 1), 1);
		view.asides = published;
		view.nasides = yielding;
		for (int i = 0; i < 12; i++)
			judge_after(100);
		CHECK_INT(verdict_on(0)->brake, yielding ? LG_NO_BRAKE : LG_BRAKE_IN_VAIN);
		if (!yielding)
			continue;
		reads(3, table);
		CHECK_INT(lg_prove_and_signal(verdict_on(0), NULL, &acted_at), LG_NO_BRAKE);
	}
}

/*
 * Random queues, and what should come of a step by the definition.
 */

/* By procno: what each holds of the table, and what it waits for (0 = nothing). */
static LOCKMASK model_held[MAX_PROCS];
static LOCKMODE model_wants[MAX_PROCS];
static TimestampTz model_start[MAX_PROCS];
static int	model_queue[MAX_PROCS];
static int	model_length;

static void
read_model(int n)
{
	model_length = 0;
	for (int i = 0; i < n; i++)
	{
		model_held[i] = held_by(table, i);
		model_wants[i] = 0;
		model_start[i] = wait_start_of(i);
	}
	for (PGPROC *queued = lg_first_waiter(table); queued; queued = lg_next_waiter(table, queued))
	{
		model_queue[model_length++] = lg_proc_number(queued);
		model_wants[lg_proc_number(queued)] = queued->waitLockMode;
	}
}

static bool
model_conflicts(int n, int procno, LOCKMASK ahead)
{
	for (int i = 0; i < n; i++)
		if (node_of(i) != node_of(procno))
			ahead |= model_held[i];
	return (lock_conflicts[model_wants[procno]] & ahead) != 0;
}

/* Does another member of its lock group wait? */
static bool
model_group_waits(int n, int procno)
{
	for (int i = 0; i < n; i++)
		if (i != procno && node_of(i) == node_of(procno) && model_wants[i] != 0)
			return true;
	return false;
}

static void
model_grant(int procno)
{
	model_held[procno] |= LOCKBIT_ON(model_wants[procno]);
	model_wants[procno] = 0;
}

/* Those that step aside are granted nothing in the first pass. */
static int
model_step(int n, const bool *steps)
{
	int			granted = 0;

	for (int pass = 0; pass < 2; pass++)
	{
		LOCKMASK	ahead = 0;

		for (int i = 0; i < model_length; i++)
		{
			int			procno = model_queue[i];

			if (model_wants[procno] == 0 || (pass == 0 && steps[procno]))
				continue;
			if ((pass == 1) == steps[procno] && !model_conflicts(n, procno, ahead) &&
				!(steps[procno] && model_group_waits(n, procno)))
			{
				model_grant(procno);
				granted++;
			}
			else if (!steps[procno])
				ahead |= LOCKBIT_ON(model_wants[procno]);
		}
	}
	return granted;
}

/* Does the server's table look as the model does? */
static void
check_model(int n)
{
	PGPROC	   *queued = lg_first_waiter(table);

	for (int i = 0; i < n; i++)
		CHECK_INT(held_by(table, i), model_held[i]);
	for (int i = 0; i < model_length; i++)
	{
		if (model_wants[model_queue[i]] == 0)
			continue;
		if (!CHECK(queued != NULL))
			return;
		CHECK_INT(lg_proc_number(queued), model_queue[i]);
		queued = lg_next_waiter(table, queued);
	}
	CHECK(queued == NULL);
}

static void
random_queues(void)
{
	for (int round = 0; round < rounds && !has_failed(); round++)
	{
		int			n;
		int			nmodes;

		random_seed(round);
		n = 3 + random_below(MAX_PROCS - 3);
		nmodes = 1 + random_below(MaxLockMode);
		scene(n);
		for (int i = 1; i < n; i++)
			if (one_in(6))
				joins_group(i, node_of(i - 1));
		for (int act = 0; act < 60 && !has_failed(); act++)
		{
			int			i = random_below(n);
			int			nsteps = 0;
			bool		steps[MAX_PROCS] = {false};
			int			passed;
			bool		done = false;

			pass(1);
			if (is_waiting(i))
			{
				if (one_in(4))
					gives_up(i);
				else if (one_in(2))
					(void) yields(i);
			}
			else if (one_in(3))
				releases_all(i);
			else
				(void) acquires(i, table, one_in(3) ? AccessExclusiveLock :
								1 + random_below(nmodes));

			for (int j = 0; j < n; j++)
				if (asides[j].pid != 0 && one_in(2))
					stepping[nsteps++] = &asides[j];
			if (nsteps == 0 || stepping[0]->lock != table)
				continue;
			read_model(n);
			passed = lg_step_aside(stepping, nsteps, &room);
			for (int j = 0; j < nsteps; j++)
			{
				int			procno = stepping[j]->procno;

				steps[procno] = stepping[j]->result == LG_STEP_DONE;
				done |= steps[procno];
				CHECK((stepping[j]->result == LG_STEP_OVER) ==
					  (model_start[procno] != stepping[j]->wait_start));
				if (stepping[j]->result == LG_STEP_OVER)
					stepping[j]->pid = 0;
			}
			if (done)
				CHECK_INT(passed, model_step(n, steps));
			else
				CHECK_INT(passed, 0);
			check_model(n);

			/* What has passed waits for nothing, nor does its lock group. */
			for (int j = 0; j < n; j++)
			{
				CHECK(!steps_room[j]);
				if (model_start[j] != 0 && !is_waiting(j))
					CHECK(!model_group_waits(n, j));
			}
		}
		memset(asides, 0, sizeof(asides));
		if (has_failed())
			printf("    in round %d, %d sessions\n", round, n);
	}
}

const Test	stepaside_tests[] = {
	{"step aside: readers pass an ALTER", readers_pass},
	{"step aside: a lock of the session", session_lock},
	{"step aside: entries made anew in the same places", same_places},
	{"step aside: requests keep their places", keeps_its_place},
	{"step aside: one that yields passes another", passes_another},
	{"step aside: others want what the session holds", holds_what_others_want},
	{"step aside: lock groups", lock_groups},
	{"step aside: another wait", another_wait},
	{"step aside: holders that have passed", holders_that_have_passed},
	{"step aside: random queues", random_queues},
	{NULL, NULL}
};
