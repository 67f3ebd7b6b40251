/*-------------------------------------------------------------------------
 *
 * test_blocktime.c
 *		For how long in all sessions have waited for another.
 *
 *-------------------------------------------------------------------------
 */
#include "model.h"
#include "model_time.h"
#include "scene.h"

#include "storage/proc.h"

#include "unit.h"

/* What a timer of a session shows, in ms. */
static int64
shows(int procno, LgTimer timer)
{
	LgNode	   *node = lg_node(graph, procno);

	return node == NULL ? 0 : lg_block_time(graph, view.times, node, timer) / MS;
}

/* A session that has all limits on blockers, of so many ms. */
static void
limit_blocker(int procno, int ms)
{
	set(procno, LG_IDLE_BLOCKER_TIMEOUT, ms);
	set(procno, LG_BLOCKER_TIMEOUT, ms);
	set(procno, LG_QUEUED_BLOCKER_TIMEOUT, ms);
	lg_incident_threshold = ms;
}

/* Time passes, with looks so many ms apart. */
static void
looks(int64 ms, int64 apart)
{
	for (int64 passed = 0; passed < ms; passed += apart)
		look_after(apart);
}

/*
 * Waiters that give up.
 */

/*
 * Session 1 waits for the transaction of session 0 for "patience" ms, gives up,
 * and comes again after "pause" ms, again and again.  After how long is session
 * 0 over a limit?  -1 = not within "most" ms.
 */
static int64
tries(int64 patience, int64 pause, int64 most, int64 apart)
{
	int64		began = clock_ns;
	int64		turn = clock_ns;

	waits_for(1, 0);
	while (clock_ns - began < most * MS)
	{
		judge_after(apart);
		if (verdicts.n > 0)
			return (clock_ns - began) / MS;
		if (proc_of(1)->waitLock != NULL && clock_ns - turn >= patience * MS)
		{
			gives_up(1);
			turn = clock_ns;
		}
		if (proc_of(1)->waitLock == NULL && clock_ns - turn >= pause * MS)
		{
			waits_for(1, 0);
			turn = clock_ns;
		}
	}
	return -1;
}

static void
impatient_waiter(void)
{
	static const struct
	{
		int			limit;
		int64		pause;
		int64		most;
		int64		earliest;
		int64		latest;
	}			cases[] =
	{
		{2000, 0, 10000, 2000, 2100},
		{2000, 500, 10000, 2500, 2600},
		{2000, 1900, 20000, 3900, 4000},
		{2000, 5000, 100000, -1, -1},
		{2000, 2100, 100000, -1, -1},
		{10000, 5000, 100000, 55000, 56000}
	};

	for (int idle = 0; idle < 2; idle++)
		for (int i = 0; i < (int) lengthof(cases); i++)
		{
			int64		ms;

			scene(2);
			set(0, idle ? LG_IDLE_BLOCKER_TIMEOUT : LG_BLOCKER_TIMEOUT, cases[i].limit);
			if (idle)
				sits_idle(0);
			ms = tries(1000, cases[i].pause, cases[i].most, 50);
			if (!CHECK(ms >= cases[i].earliest && ms <= cases[i].latest))
				printf("    case %d, idle %d: %lld ms\n", i, idle, (long long) ms);
			if (ms > 0)
				CHECK_ONLY_VERDICT(0, idle ? LG_IDLE_BLOCKER_TIMEOUT : LG_BLOCKER_TIMEOUT,
								   idle ? LG_DO_ROLLBACK : LG_DO_CANCEL);
		}
}

/* Waits shorter than the time between two looks are seen now and then. */
static void
short_waits(void)
{
	scene(2);
	limit_blocker(0, 1000);
	for (int i = 0; i < 200; i++)
	{
		waits_for(1, 0);
		look_after(4);
		gives_up(1);
		look_after(6);
	}
	waits_for(1, 0);
	look();

	CHECK_INT(shows(0, LG_ROOT_TIMER), 800);
	CHECK_INT(shows(0, LG_INCIDENT_TIMER), 800);
}

/* Ten whose tries overlap are no more than one that stays. */
static void
overlapping_waiters(void)
{
	scene(11);
	limit_blocker(0, 2000);
	for (int i = 0; i < 40; i++)
	{
		int			waiter = 1 + i % 10;

		if (proc_of(waiter)->waitLock != NULL)
			gives_up(waiter);
		waits_for(waiter, 0);
		look_after(50);
		CHECK_INT(shows(0, LG_ROOT_TIMER), 50 * (i + 1));
	}
}

/* A wait that no look has seen does not count; one of many looks counts once. */
static void
unseen_waits(void)
{
	scene(3);
	limit_blocker(0, 1000);
	waits_for(1, 0);
	pass(300);
	gives_up(1);
	look_after(1);
	waits_for(2, 0);
	look_after(10);
	CHECK_INT(shows(0, LG_ROOT_TIMER), 10);
	for (int i = 0; i < 10; i++)
		look();
	CHECK_INT(shows(0, LG_ROOT_TIMER), 10);

	/* What came after the last look that saw it does not count. */
	pass(100);
	gives_up(2);
	pass(100);
	waits_for(1, 0);
	look_after(10);
	CHECK_INT(shows(0, LG_ROOT_TIMER), 20);
}

/* Each timer begins anew after a gap as long as its own limit. */
static void
gaps(void)
{
	static const LgTimer timers[] = {LG_IDLE_TIMER, LG_ROOT_TIMER, LG_INCIDENT_TIMER};

	for (int gap = 499; gap <= 500; gap++)
		for (int i = 0; i < (int) lengthof(timers); i++)
		{
			scene(2);
			limit_blocker(0, 10000);
			if (i == 0)
				set(0, LG_IDLE_BLOCKER_TIMEOUT, 500);
			else if (i == 1)
				set(0, LG_BLOCKER_TIMEOUT, 500);
			else
				lg_incident_threshold = 500;
			sits_idle(0);
			waits_for(1, 0);
			look_after(50);
			look_after(50);
			gives_up(1);
			pass(gap);
			waits_for(1, 0);
			look_after(10);
			for (int j = 0; j < (int) lengthof(timers); j++)
				CHECK_INT(shows(0, timers[j]), i == j && gap == 500 ? 10 : 110);
		}
}

/* Whether the waits are to be seen at all is told to the worker. */
static void
attention(void)
{
	scene(2);
	waits_for(1, 0);
	look();
	CHECK_INT(watch_until, clock_ns);
	set(0, LG_BLOCKER_TIMEOUT, 3000);
	look_after(10);
	CHECK_INT(watch_until, clock_ns + 3000 * MS);
	set(0, LG_BLOCKER_TIMEOUT, 60000);
	look_after(10);
	CHECK_INT(watch_until, clock_ns + 10000 * MS);
	gives_up(1);
	look_after(10);
	CHECK_INT(watch_until, clock_ns);
}

/*
 * Whose time it is.
 */

/* Session 0 holds a lock for which session 1 has waited for 500 ms by now. */
static void
blocked_500ms(LOCK *lock)
{
	limit_blocker(0, 1000);
	alters(0, lock);
	waits_to_alter(1, lock);
	look();
	looks(500, 50);
	CHECK_INT(shows(0, LG_ROOT_TIMER), 500);
}

static LOCK *
advisory(void)
{
	return lock_on(LOCKTAG_ADVISORY, 1, 1);
}

/* After a moment another waiter comes, and has waited for session 0 for 100 ms. */
static void
another_waits(LOCK *lock)
{
	pass(10);
	waits_to_alter(2, lock);
	look();
	looks(100, 50);
}

/* Another transaction begins anew, whatever it locks. */
static void
another_transaction(void)
{
	for (int seen_between = 0; seen_between < 2; seen_between++)
		for (int same = 0; same < 2; same++)
		{
			LOCK	   *lock;

			scene(3);
			lock = same ? table : other_table;
			blocked_500ms(table);
			gives_up(1);
			releases_all(0);
			next_transaction(0);
			if (seen_between)
				look_after(10);
			alters(0, lock);
			another_waits(lock);
			CHECK_INT(shows(0, LG_ROOT_TIMER), 100);
			CHECK_INT(shows(0, LG_INCIDENT_TIMER), 100);
		}
}

/* The same if the look before has read the next transaction with the old locks. */
static void
transaction_read_late(void)
{
	scene(3);
	blocked_500ms(table);
	next_transaction(0);		/* the locks were copied before */
	look();
	gives_up(1);
	releases_all(0);
	alters(0, table);
	another_waits(table);
	CHECK_INT(shows(0, LG_ROOT_TIMER), 100);

	/* It had been counted for the new one by the old one's waits alone. */
	scene(3);
	alters(0, table);
	waits_to_alter(1, table);
	limit_blocker(0, 1000);
	pass(300);
	next_transaction(0);
	look();
	look_after(10);
	CHECK(shows(0, LG_ROOT_TIMER) <= 10);
}

/* A lock of the session's: a wait that goes on takes the time along. */
static void
session_lock(void)
{
	/* The wait goes on over three transactions. */
	scene(3);
	blocked_500ms(advisory());
	for (int i = 0; i < 3; i++)
	{
		next_transaction(0);
		look_after(50);
	}
	CHECK_INT(shows(0, LG_ROOT_TIMER), 650);
	CHECK_INT(shows(0, LG_INCIDENT_TIMER), 650);

	/* It goes on while the session is in no transaction. */
	scene(3);
	blocked_500ms(advisory());
	session_state(0, STATE_IDLE);
	look_after(50);
	look_after(50);
	CHECK_INT(shows(0, LG_ROOT_TIMER), 600);
	CHECK_INT(shows(0, LG_IDLE_TIMER), 100);
	runs(0);
	look_after(50);
	look_after(50);
	CHECK_INT(shows(0, LG_ROOT_TIMER), 700);
	CHECK_INT(shows(0, LG_IDLE_TIMER), 0);

	/* It has ended. */
	scene(3);
	blocked_500ms(advisory());
	gives_up(1);
	next_transaction(0);
	another_waits(advisory());
	CHECK_INT(shows(0, LG_ROOT_TIMER), 100);

	/* Another had begun before that one ended. */
	scene(3);
	blocked_500ms(advisory());
	waits_to_alter(2, advisory());
	look_after(25);
	look_after(25);
	gives_up(1);
	next_transaction(0);
	look_after(50);
	look_after(50);
	CHECK_INT(shows(0, LG_ROOT_TIMER), 650);
}

/* It has released what was waited for, in one transaction. */
static void
released(void)
{
	LOCK	   *lock;

	/* Another has had it in between. */
	scene(3);
	lock = advisory();
	blocked_500ms(lock);
	releases(0, lock, AccessExclusiveLock);
	CHECK_INT(held_by(lock, 1), LOCKBIT_ON(AccessExclusiveLock));
	releases_all(1);
	CHECK(acquires(0, lock, AccessExclusiveLock));
	another_waits(lock);
	CHECK_INT(shows(0, LG_ROOT_TIMER), 100);
	CHECK_INT(shows(0, LG_INCIDENT_TIMER), 100);

	/* None has; that cannot be told. */
	scene(3);
	lock = advisory();
	blocked_500ms(lock);
	gives_up(1);
	releases(0, lock, AccessExclusiveLock);
	CHECK(acquires(0, lock, AccessExclusiveLock));
	another_waits(lock);
	CHECK_INT(shows(0, LG_ROOT_TIMER), 100);

	/*
	 * Back to a savepoint, and to the same table: its entry in the lock table
	 * is another one here.  (A server may use the same memory for it, and
	 * then it cannot be told.)
	 */
	scene(3);
	blocked_500ms(table);
	gives_up(1);
	releases(0, table, AccessExclusiveLock);
	alters(0, table);
	another_waits(table);
	CHECK_INT(shows(0, LG_ROOT_TIMER), 100);

	/* Back to a savepoint, and on to another table. */
	scene(3);
	blocked_500ms(table);
	gives_up(1);
	releases(0, table, AccessExclusiveLock);
	alters(0, other_table);
	another_waits(other_table);
	CHECK_INT(shows(0, LG_ROOT_TIMER), 100);

	/* Back to a savepoint; another waits for what it had before that. */
	scene(3);
	alters(0, other_table);
	blocked_500ms(table);
	another_waits(other_table);
	releases(0, table, AccessExclusiveLock);
	look_after(50);
	CHECK_INT(shows(0, LG_ROOT_TIMER), 150);

	/* It holds both: the time goes on. */
	scene(3);
	blocked_500ms(table);
	gives_up(1);
	alters(0, other_table);
	another_waits(other_table);
	CHECK_INT(shows(0, LG_ROOT_TIMER), 600);
}

/* While it is idle it cannot release an advisory lock. */
static void
idle_with_advisory_lock(void)
{
	scene(3);
	sits_idle(0);
	blocked_500ms(advisory());
	gives_up(1);
	pass(50);
	another_waits(advisory());
	CHECK_INT(shows(0, LG_ROOT_TIMER), 600);
	CHECK_INT(shows(0, LG_IDLE_TIMER), 600);

	/* It was not all the time. */
	gives_up(2);
	pass(10);
	runs(0);
	sits_idle(0);
	pass(40);
	another_waits(advisory());
	CHECK_INT(shows(0, LG_ROOT_TIMER), 100);
	CHECK_INT(shows(0, LG_IDLE_TIMER), 100);
}

/* Another process in the same PGPROC. */
static void
another_process(void)
{
	scene(3);
	blocked_500ms(table);
	gives_up(1);
	releases_all(0);
	session_ends(0);
	session_begins(0, 777, B_BACKEND);
	runs(0);
	limit_blocker(0, 1000);
	alters(0, table);
	another_waits(table);
	CHECK_INT(shows(0, LG_ROOT_TIMER), 100);
}

/*
 * What does not count.
 */

/* Its own waits: the timers stand still, and that is no gap. */
static void
own_waits(void)
{
	scene(4);
	blocked_500ms(table);
	waits_for(0, 3);
	looks(5000, 50);
	gives_up(0);
	look();
	CHECK_INT(shows(0, LG_ROOT_TIMER), 500);
	looks(100, 50);
	CHECK_INT(shows(0, LG_ROOT_TIMER), 600);
	CHECK_INT(shows(0, LG_INCIDENT_TIMER), 600);

	/* None waits for it meanwhile, nor for a moment before and after. */
	gives_up(1);
	look_after(50);
	waits_for(0, 3);
	looks(5000, 50);
	gives_up(0);
	look_after(50);
	another_waits(table);
	CHECK_INT(shows(0, LG_ROOT_TIMER), 700);
	CHECK_INT(shows(0, LG_INCIDENT_TIMER), 700);

	/* Both gaps together are too long. */
	gives_up(2);
	look_after(600);
	waits_for(0, 3);
	looks(5000, 50);
	gives_up(0);
	look_after(600);
	another_waits(table);
	CHECK_INT(shows(0, LG_ROOT_TIMER), 100);

	/* A wait that has begun and ended between two looks of others' waits. */
	scene(4);
	blocked_500ms(table);
	waits_for(0, 3);
	look_after(50);
	gives_up(0);
	look_after(50);
	CHECK(shows(0, LG_ROOT_TIMER) <= 550);
}

/* A wait of a parallel worker is its leader's. */
static void
wait_of_worker(void)
{
	scene(4);
	comes(5, B_BG_WORKER);
	joins_group(5, 0);
	blocked_500ms(table);
	waits_for(5, 3);
	looks(5000, 50);
	pass(49);
	gives_up(5);
	look_after(1);
	CHECK(shows(0, LG_ROOT_TIMER) >= 500 && shows(0, LG_ROOT_TIMER) <= 501);
	looks(100, 50);
	CHECK(shows(0, LG_ROOT_TIMER) >= 600 && shows(0, LG_ROOT_TIMER) <= 601);

	/* It has ended since. */
	waits_for(5, 3);
	look_after(50);
	gives_up(5);
	session_ends(5);
	proc_of(5)->lockGroupLeader = NULL;
	look_after(50);
	CHECK(shows(0, LG_ROOT_TIMER) <= 601);
}

/*
 * A wait of its own that began while locks were copied, and ended before the
 * next look.
 */
static void
begins_to_wait(LWLock *lock)
{
	waits_to_alter(0, other_table);
}

static void
own_wait_begins_in_look(void)
{
	scene(5);
	alters(0, table);
	limit_blocker(0, 1000);
	alters(3, other_table);
	waits_to_alter(4, other_table);
	waits_to_alter(1, table);
	look();
	looks(500, 50);
	CHECK_INT(shows(0, LG_ROOT_TIMER), 500);
	on_lwlock = begins_to_wait;
	look();
	pass(99);
	gives_up(0);
	look_after(1);
	CHECK(shows(0, LG_ROOT_TIMER) <= 501);
}

/* Sessions 0 and 1 in a deadlock of 1 s; session 2 waits for what 1 holds. */
static void
in_deadlock(void)
{
	scene(4);
	limit_blocker(0, 2000);
	limit_blocker(1, 2000);
	alters(0, table);
	alters(1, other_table);
	waits_to_alter(2, other_table);
	look();
	looks(500, 50);
	CHECK_INT(shows(1, LG_ROOT_TIMER), 500);
	waits_to_alter(0, other_table);
	waits_to_alter(1, table);
	look();
	looks(1000, 50);
	CHECK_INT(shows(0, LG_QUEUED_TIMER), 0);
	CHECK_INT(shows(1, LG_QUEUED_TIMER), 0);
}

static void
deadlocks(void)
{
	/* The other one gets the error, and ends; this one begins anew. */
	in_deadlock();
	gives_up(0);
	releases_all(0);
	CHECK(proc_of(1)->waitLock == NULL);
	look();
	CHECK_INT(shows(1, LG_ROOT_TIMER), 0);
	looks(100, 50);
	CHECK_INT(shows(1, LG_ROOT_TIMER), 100);
	CHECK_INT(shows(1, LG_INCIDENT_TIMER), 100);

	/* This one gets the error: its time goes on. */
	in_deadlock();
	gives_up(1);
	look();
	CHECK_INT(shows(1, LG_ROOT_TIMER), 500);
	looks(100, 50);
	CHECK_INT(shows(1, LG_ROOT_TIMER), 600);

	/* An escalation that has begun goes on, too. */
	in_deadlock();
	view.tracks[1].open_action = 1;
	gives_up(0);
	releases_all(0);
	look();
	CHECK_INT(shows(1, LG_ROOT_TIMER), 500);

	/* The other one keeps what this one waits for: a queued blocker. */
	in_deadlock();
	gives_up(0);
	look();
	CHECK_INT(shows(1, LG_QUEUED_TIMER), 0);
	looks(100, 50);
	CHECK_INT(shows(1, LG_QUEUED_TIMER), 100);
}

/*
 * When this one is out of it, none waits for it for a moment.  Then it gives up
 * another wait, which is no error of that deadlock.
 */
static void
deadlock_of_old(void)
{
	for (int seen = 0; seen < 3; seen++)
	{
		in_deadlock();
		gives_up(2);
		gives_up(0);
		releases_all(0);
		look_after(50);
		CHECK(lg_node(graph, 1) == NULL);
		waits_for(1, 3);
		if (seen > 0)
			look_at_waits_from(seen > 1 ? 0 : 1000 * MS);
		gives_up(1);
		waits_to_alter(2, other_table);
		look_after(50);
		look_after(50);
		CHECK(shows(1, LG_ROOT_TIMER) <= 100);
	}
}

/* Another prepared transaction in the same PGPROC. */
static void
another_prepared_transaction(void)
{
	int			prepared;

	scene(3);
	prepared = prepares("one");
	limit_blocker(prepared, 1000);
	alters(prepared, table);
	waits_to_alter(1, table);
	look();
	looks(500, 50);
	CHECK_INT(shows(prepared, LG_INCIDENT_TIMER), 500);
	gives_up(1);
	releases_all(prepared);
	prepare_transaction(prepared, proc_of(prepared)->xid + 10, "two");
	alters(prepared, table);
	another_waits(table);
	CHECK_INT(shows(prepared, LG_INCIDENT_TIMER), 100);
}

/* The timer of idle_blocker_timeout is for one idle period. */
static void
idle_period(void)
{
	scene(2);
	blocked_500ms(table);
	CHECK_INT(shows(0, LG_IDLE_TIMER), 0);
	pass(20);
	sits_idle(0);
	look_after(30);
	CHECK_INT(shows(0, LG_IDLE_TIMER), 30);
	CHECK_INT(shows(0, LG_ROOT_TIMER), 550);
	look_after(50);
	CHECK_INT(shows(0, LG_IDLE_TIMER), 80);
	runs(0);
	look_after(50);
	CHECK_INT(shows(0, LG_IDLE_TIMER), 0);
	sits_idle(0);
	look_after(50);
	CHECK_INT(shows(0, LG_IDLE_TIMER), 50);

	/* Another one, without a look in between. */
	runs(0);
	pass(10);
	sits_idle(0);
	look_after(50);
	CHECK_INT(shows(0, LG_IDLE_TIMER), 50);
	CHECK_INT(shows(0, LG_ROOT_TIMER), 760);
}

/*
 * Queued blockers.
 */
static void
queued_blocker(void)
{
	scene(6);
	limit_blocker(1, 1000);
	reads(0, table);
	waits_to_alter(1, table);
	look();
	looks(500, 50);
	CHECK_INT(shows(1, LG_QUEUED_TIMER), 0);

	/* One after the other waits behind it. */
	for (int i = 0; i < 4; i++)
	{
		waits_to_read(2 + i, table);
		look_after(100);
		gives_up(2 + i);
		look_after(50);
	}
	waits_to_read(2, table);
	look();
	CHECK_INT(shows(1, LG_QUEUED_TIMER), 400);

	/* As a root it begins with nothing. */
	CHECK_INT(shows(1, LG_ROOT_TIMER), 0);
	releases_all(0);
	look();
	CHECK_INT(shows(1, LG_ROOT_TIMER), 0);
	look_after(50);
	CHECK_INT(shows(1, LG_ROOT_TIMER), 50);
}

/* A gap as long as the limit. */
static void
queued_blocker_gap(void)
{
	for (int gap = 999; gap <= 1000; gap++)
	{
		scene(3);
		limit_blocker(1, 1000);
		reads(0, table);
		waits_to_alter(1, table);
		waits_to_read(2, table);
		look_after(400);
		gives_up(2);
		pass(gap);
		waits_to_read(2, table);
		look_after(10);
		CHECK_INT(shows(1, LG_QUEUED_TIMER), gap == 999 ? 410 : 10);
	}
}

/* A request that has let others pass begins anew, and nothing from before counts. */
static void
request_that_yields(void)
{
	scene(3);
	limit_blocker(1, 1000);
	set(1, LG_QUEUE_YIELD_TIMEOUT, 1000);
	reads(0, table);
	waits_to_alter(1, table);
	waits_to_read(2, table);
	look_after(400);
	CHECK_INT(shows(1, LG_YIELD_TIMER), 400);
	lg_restart_yield_time(&view.times[1], clock_ns);
	look_after(100);
	CHECK_INT(shows(1, LG_YIELD_TIMER), 100);

	/* Between two looks. */
	pass(60);
	lg_restart_yield_time(&view.times[1], clock_ns);
	look_after(40);
	CHECK_INT(shows(1, LG_YIELD_TIMER), 40);
	CHECK_INT(shows(1, LG_QUEUED_TIMER), 600);
}

/* Each wait of its own begins anew. */
static void
queued_blocker_again(void)
{
	scene(3);
	limit_blocker(1, 1000);
	reads(0, table);
	waits_to_alter(1, table);
	waits_to_read(2, table);
	look_after(400);
	CHECK_INT(shows(1, LG_QUEUED_TIMER), 400);
	gives_up(1);
	releases_all(2);
	pass(10);
	waits_to_alter(1, table);
	waits_to_read(2, table);
	look_after(50);
	CHECK_INT(shows(1, LG_QUEUED_TIMER), 50);
}

/* A remedy has worked: all begin anew but that of the incident, which goes on. */
static void
restart(void)
{
	scene(3);
	blocked_500ms(table);
	lg_restart_block_time(&view.times[0], clock_ns);
	CHECK_INT(shows(0, LG_ROOT_TIMER), 0);
	looks(100, 50);
	CHECK_INT(shows(0, LG_ROOT_TIMER), 100);
	CHECK_INT(shows(0, LG_INCIDENT_TIMER), 600);
	CHECK_INT(view.times[0].began[LG_ROOT_TIMER], clock_ns - 100 * MS);

	scene(3);
	limit_blocker(1, 1000);
	reads(0, table);
	waits_to_alter(1, table);
	waits_to_read(2, table);
	look_after(400);
	lg_restart_block_time(&view.times[1], clock_ns);
	look_after(10);
	CHECK_INT(shows(1, LG_QUEUED_TIMER), 10);
}

/* Between two waits: does the timer go on? */
static bool
goes_on(LgTimer timer)
{
	LgSession	session;

	lg_read_session(0, &session);
	return lg_block_time_goes_on(&view.times[0], &session, timer, values_of(0), clock_ns);
}

static void
between_waits(void)
{
	scene(2);
	limit_blocker(0, 1000);
	CHECK(!goes_on(LG_ROOT_TIMER));
	blocked_500ms(table);
	gives_up(1);
	look();
	CHECK(goes_on(LG_ROOT_TIMER) && goes_on(LG_INCIDENT_TIMER));
	look_after(999);
	CHECK(goes_on(LG_ROOT_TIMER));
	set(0, LG_BLOCKER_TIMEOUT, 999);
	CHECK(!goes_on(LG_ROOT_TIMER) && goes_on(LG_INCIDENT_TIMER));
	look_after(1);
	CHECK(!goes_on(LG_INCIDENT_TIMER));

	scene(2);
	blocked_500ms(table);
	gives_up(1);
	releases(0, table, AccessExclusiveLock);
	CHECK(!goes_on(LG_ROOT_TIMER));

	scene(2);
	blocked_500ms(table);
	gives_up(1);
	next_transaction(0);
	CHECK(!goes_on(LG_ROOT_TIMER));
}

/*
 * Random histories, against the definition.
 */
#define NLOCKS	8

static LOCK *locks[NLOCKS];
static bool of_session[NLOCKS][MAX_NODES];

/* The locks of its transaction go, or all. */
static void
release_locks(int i, bool all)
{
	if (proc_of(i)->waitLock != NULL)
		gives_up(i);
	for (int l = 0; l < NLOCKS; l++)
	{
		LOCKMASK	held = held_by(locks[l], i);

		if (of_session[l][i] && !all)
			continue;
		of_session[l][i] = false;
		for (int mode = 1; mode <= MaxLockMode; mode++)
			if (held & LOCKBIT_ON(mode))
				releases(i, locks[l], mode);
	}
}

static void
takes_a_lock(int i)
{
	int			l = random_below(NLOCKS);
	LockTagType type = locks[l]->tag.locktag_type;

	if (proc_of(i)->waitLock != NULL)
		return;
	if (status_of(i)->st_state != STATE_RUNNING)
		runs(i);
	if (type == LOCKTAG_TRANSACTION)
	{
		/* An id is locked by its own transaction alone. */
		if (locks[l]->nGranted != 0)
		{
			if (held_by(locks[l], i) == 0)
				(void) acquires(i, locks[l], ShareLock);
		}
		else if (lg_first_waiter(locks[l]) == NULL)
			holds(i, locks[l], ExclusiveLock);
		return;
	}
	if (acquires(i, locks[l], one_in(2) ? AccessExclusiveLock : 1 + random_below(MaxLockMode)) &&
		type == LOCKTAG_ADVISORY && one_in(2))
		of_session[l][i] = true;
}

/* Back to a savepoint, or pg_advisory_unlock() and the like: one of its locks goes. */
static void
releases_a_lock(int i)
{
	int			l = random_below(NLOCKS);
	LOCKMASK	held = held_by(locks[l], i);

	if (proc_of(i)->waitLock != NULL || status_of(i)->st_state != STATE_RUNNING ||
		locks[l]->tag.locktag_type == LOCKTAG_TRANSACTION)
		return;
	of_session[l][i] = false;
	for (int mode = 1; mode <= MaxLockMode; mode++)
		if (held & LOCKBIT_ON(mode))
			releases(i, locks[l], mode);
}

/* A session that has waited for the end of a transaction does not keep that lock. */
static void
release_ended_transactions(int nprocs)
{
	for (int l = 0; l < NLOCKS; l++)
		for (int i = 0; i < nprocs && locks[l]->tag.locktag_type == LOCKTAG_TRANSACTION; i++)
			if (held_by(locks[l], i) & LOCKBIT_ON(ShareLock))
				releases(i, locks[l], ShareLock);
}

/*
 * Does it wait for a shorter time than all that are ahead of it?  If the deadlock
 * detector put an older one back ahead, it would count as if it always was.
 */
static bool
is_younger(int i)
{
	for (PGPROC *queued = lg_first_waiter(proc_of(i)->waitLock); queued != proc_of(i);
		 queued = lg_next_waiter(proc_of(i)->waitLock, queued))
		if (wait_start_of(lg_proc_number(queued)) >= wait_start_of(i))
			return false;
	return true;
}

static void
something_happens(int nprocs, int *next_pid)
{
	int			i = random_below(nprocs);
	LOCK	   *lock = proc_of(i)->waitLock;

	switch (random_below(12))
	{
		case 0:
		case 1:
		case 2:
		case 3:
			takes_a_lock(i);
			break;
		case 4:
			if (lock == NULL && status_of(i)->st_state == STATE_RUNNING)
				sits_idle(i);
			break;
		case 5:
		case 6:
		case 7:
			if (lock == NULL)
				break;
			gives_up(i);
			if (one_in(2) && lock->nGranted != 0)
				(void) acquires(i, lock, lock->tag.locktag_type == LOCKTAG_TRANSACTION ?
								ShareLock : AccessExclusiveLock);
			break;
		case 8:
			release_locks(i, false);
			session_state(i, STATE_IDLE);
			if (one_in(2))
				runs(i);
			break;
		case 9:
			releases_a_lock(i);
			break;
		case 10:
			if (one_in(4))
			{
				LgValues	values = *values_of(i);

				release_locks(i, true);
				session_ends(i);
				session_begins(i, (*next_pid)++, B_BACKEND);
				*values_of(i) = values;
			}
			break;
		case 11:
			if (lock != NULL && one_in(3) && is_younger(i))
			{
				moves_ahead(i);
				order_changed();
			}
			break;
	}
	release_ended_transactions(nprocs);
}

static void
check_times(int nprocs)
{
	for (int i = 0; i < nprocs; i++)
		for (int timer = 0; timer < LG_NUM_TIMERS; timer++)
		{
			LgNode	   *node = lg_node(graph, i);
			int64		counted = node == NULL ? 0 :
				lg_block_time(graph, view.times, node, (LgTimer) timer);
			int64		most = most_time(i, (LgTimer) timer);
			int64		least = least_time(i, (LgTimer) timer);

			/* What it was as a root is not shown while it waits, nor used. */
			if (node == NULL || node->waiting != LG_IS_QUEUE_TIMER(timer))
				continue;
			if (CHECK(counted <= most) && CHECK(counted >= least))
				continue;
			printf("    session %d, timer %d at %lld: %lld, not %lld to %lld\n", i, timer,
				   (long long) clock_ns, (long long) counted, (long long) least, (long long) most);
			return;
		}
}

static void
random_limits(int procno)
{
	static const int times[] = {20, 50, 100, 200, 500, 2000};

	set(procno, LG_IDLE_BLOCKER_TIMEOUT, times[random_below(lengthof(times))]);
	set(procno, LG_BLOCKER_TIMEOUT, times[random_below(lengthof(times))]);
	set(procno, LG_QUEUED_BLOCKER_TIMEOUT, times[random_below(lengthof(times))]);
	set(procno, LG_QUEUE_YIELD_TIMEOUT, times[random_below(lengthof(times))]);
}

static void
random_histories(void)
{
	for (int round = 0; round < rounds && !has_failed(); round++)
	{
		int			nprocs;
		int			next_pid = 1000;
		int			pace;

		random_seed(round);
		nprocs = 2 + random_below(8);
		pace = 1000 * (1 + random_below(40));
		scene(nprocs);
		lg_incident_threshold = 20 + random_below(300);
		for (int i = 0; i < nprocs; i++)
			random_limits(i);
		memset(of_session, 0, sizeof(of_session));
		locks[0] = table;
		locks[1] = other_table;
		locks[2] = row;
		locks[3] = lock_on(LOCKTAG_ADVISORY, 1, 1);
		locks[4] = lock_on(LOCKTAG_ADVISORY, 1, 2);
		locks[5] = lock_on(LOCKTAG_OBJECT, 1, 1);
		locks[6] = lock_on(LOCKTAG_TRANSACTION, 1, 0);
		locks[7] = lock_on(LOCKTAG_TRANSACTION, 2, 0);
		time_begins(nprocs, locks, NLOCKS);

		for (int event = 0; event < 200 && !has_failed(); event++)
		{
			clock_ns += 1000 * (1 + random_below(pace));
			before_event();
			something_happens(nprocs, &next_pid);
			after_event();
			if (one_in(3))
				continue;
			clock_ns += 1000 * random_below(pace);
			before_event();
			look();
			after_look();
			check_times(nprocs);
			if (has_failed())
				printf("    in round %d, event %d, %d sessions\n", round, event, nprocs);
		}
	}
}

const Test	blocktime_tests[] = {
	{"blocktime: one waiter that gives up and comes again", impatient_waiter},
	{"blocktime: short waits", short_waits},
	{"blocktime: ten waiters that overlap", overlapping_waiters},
	{"blocktime: waits that no look has seen", unseen_waits},
	{"blocktime: gaps", gaps},
	{"blocktime: until when waits should be seen", attention},
	{"blocktime: another transaction", another_transaction},
	{"blocktime: another transaction with the old locks", transaction_read_late},
	{"blocktime: a lock of the session", session_lock},
	{"blocktime: released and taken again", released},
	{"blocktime: an advisory lock of an idle session", idle_with_advisory_lock},
	{"blocktime: a lock request that yields", request_that_yields},
	{"blocktime: another process", another_process},
	{"blocktime: its own waits", own_waits},
	{"blocktime: the wait of a parallel worker", wait_of_worker},
	{"blocktime: its own wait that began in a look", own_wait_begins_in_look},
	{"blocktime: deadlocks", deadlocks},
	{"blocktime: a deadlock that is long over", deadlock_of_old},
	{"blocktime: another prepared transaction", another_prepared_transaction},
	{"blocktime: one idle period", idle_period},
	{"blocktime: a queued blocker", queued_blocker},
	{"blocktime: a queued blocker, and a gap", queued_blocker_gap},
	{"blocktime: a queued blocker that waits again", queued_blocker_again},
	{"blocktime: a remedy that has worked", restart},
	{"blocktime: between two waits", between_waits},
	{"blocktime: random histories", random_histories},
	{NULL, NULL}
};
