/*-------------------------------------------------------------------------
 *
 * test_limit.c
 *		What each limit measures: when a session passes it, and which does not.
 *
 *-------------------------------------------------------------------------
 */
#include "scene.h"

#include "storage/proc.h"
#include "utils/timestamp.h"

#include "unit.h"

/*
 * Every limit exactly at its border: at "due" minus 1 ns there is no verdict, at
 * "due" there is one.  The wall clock is not that exact, so what it tells of is
 * seen now.
 */
static void
at_border(int64 due, int procno, int limit, LgActionKind action)
{
	judge();
	CHECK_NO_VERDICT();
	pass_until(due - 1);
	judge();
	CHECK_NO_VERDICT();
	CHECK(verdicts.next_due > clock_ns && verdicts.next_due <= due);
	pass_until(due);
	judge();
	CHECK_ONLY_VERDICT(procno, limit, action);
}

/* The same of session 0, for the limits on ages. */
static void
age_at_border(int64 due, int limit, LgActionKind action)
{
	judge_ages(0);
	CHECK_NO_VERDICT();
	pass_until(due - 1);
	judge_ages(0);
	CHECK_NO_VERDICT();
	CHECK_INT(verdicts.next_due, due);
	pass_until(due);
	judge_ages(0);
	CHECK_ONLY_VERDICT(0, limit, action);
}

static const int borders[] = {1, 2, 999, 5000, INT_MAX - 1, INT_MAX};

/* When a session passes its next limit, and which, after a look. */
static int64
next_limit_of(int procno, int *limit)
{
	LgNode	   *node = lg_node(graph, procno);
	LgSubject	subject;

	lg_load_node(graph, node);
	subject = (LgSubject)
	{
		&node->known->session, &node->known->values, &view.tracks[procno], node
	};
	return lg_next_limit(&view, &subject, limit);
}

/* Session 0 reads, 1 waits to alter, and 2 to 4 wait to read behind that. */
static void
queue_behind_reader(void)
{
	reads(0, table);
	waits_to_alter(1, table);
	for (int i = 2; i < 5; i++)
		waits_to_read(i, table);
}

/*
 * Limits on blockers and waiters.
 */
static void
idle_blocker(void)
{
	for (int i = 0; i < (int) lengthof(borders); i++)
	{
		int			ms = borders[i];

		/* First idle, then blocking. */
		scene(2);
		set(0, LG_IDLE_BLOCKER_TIMEOUT, ms);
		sits_idle(0);
		pass(7);
		waits_for(1, 0);
		at_border(clock_ns + ms * MS, 0, LG_IDLE_BLOCKER_TIMEOUT, LG_DO_ROLLBACK);

		/* First blocking, then idle. */
		scene(2);
		set(0, LG_IDLE_BLOCKER_TIMEOUT, ms);
		waits_for(1, 0);
		pass(7);
		session_state(0, STATE_IDLEINTRANSACTION_ABORTED);
		at_border(clock_ns + ms * MS, 0, LG_IDLE_BLOCKER_TIMEOUT, LG_DO_ROLLBACK);
	}

	/* An active one is none of its business. */
	scene(2);
	set(0, LG_IDLE_BLOCKER_TIMEOUT, 1);
	waits_for(1, 0);
	judge_after(1000);
	CHECK_NO_VERDICT();
}

/* A client that has stopped reading; and one that reads slowly. */
static void
idle_blocker_stalled(void)
{
	for (int moving = 0; moving < 2; moving++)
	{
		scene(2);
		set(0, LG_IDLE_BLOCKER_TIMEOUT, 100);
		stalls(0);
		waits_for(1, 0);
		judge_after(10);
		for (int i = 0; i < 9; i++)
		{
			traffic.taken += moving;
			judge_after(10);
			CHECK_NO_VERDICT();
		}
		traffic.taken += moving;
		judge_after(10);
		if (moving)
			CHECK_NO_VERDICT();
		else
			CHECK_ONLY_VERDICT(0, LG_IDLE_BLOCKER_TIMEOUT, LG_DO_TERMINATE);
	}

	/* Where the system cannot tell, it is not idle. */
	scene(2);
	set(0, LG_IDLE_BLOCKER_TIMEOUT, 100);
	stalls(0);
	traffic_known = false;
	waits_for(1, 0);
	CHECK_NO_VERDICT_IN(50, 10);
}

/* A session that waits for its client is no idle root before that is known. */
static void
moving_reader(void)
{
	for (int stalled = 0; stalled < 2; stalled++)
	{
		scene(5);
		stalls(0);
		queue_behind_reader();
		set(0, LG_IDLE_BLOCKER_TIMEOUT, 2 * DeadlockTimeout);
		look();
		set(0, LG_MAX_BLOCKED_SESSIONS, 1);
		set(1, LG_MAX_BLOCKED_SESSIONS, 1);
		judge_after((stalled ? 2 : 1) * DeadlockTimeout + 1);
		if (stalled)
			CHECK_ONLY_VERDICT(0, LG_IDLE_BLOCKER_TIMEOUT, LG_DO_TERMINATE);
		else
			CHECK_ONLY_VERDICT(1, LG_MAX_BLOCKED_SESSIONS, LG_DO_CANCEL);
	}
}

/*
 * Others wake its process all the time: it is looked at often then, and a
 * signal is sent when enough of the time is known.
 */
static void
disturbed_client(void)
{
	int64		last = 0;
	int64		began;
	int			looks = 0;

	scene(2);
	set(0, LG_IDLE_BLOCKER_TIMEOUT, 100);
	stalls(0);
	traffic.counted = false;
	waits_for(1, 0);
	began = clock_ns;
	judge();
	for (int ms = 0; ms < 3000 && verdicts.n == 0; ms++)
	{
		pass(1);

		if (ms % 50 == 49)
			disturb();
		if (clock_ns < verdicts.next_due)
			continue;
		CHECK(last == 0 || clock_ns - last >= 20 * MS);
		last = clock_ns;
		looks++;
		judge();
	}
	CHECK_ONLY_VERDICT(0, LG_IDLE_BLOCKER_TIMEOUT, LG_DO_TERMINATE);

	/* Ten limits in all, and not much more than what is not known. */
	CHECK(clock_ns - began >= 1100 * MS);
	CHECK(clock_ns - began <= 2500 * MS);
	CHECK(looks < 150);
}

/* Others work on the session's behalf. */
static void
exporter(void)
{
	for (int exports = 0; exports < 2; exports++)
	{
		int			limit;

		scene(5);
		sits_idle(0);
		if (exports)
			exports_snapshot(0);
		queue_behind_reader();
		set(0, LG_IDLE_BLOCKER_TIMEOUT, 100);
		judge();
		judge_after(99);
		CHECK_NO_VERDICT();
		CHECK_INT(files_asked_for, 0);
		look();
		CHECK_INT(next_limit_of(0, &limit), exports ? LG_NEVER : clock_ns + MS);
		judge_after(1);
		if (exports)
			CHECK_NO_VERDICT();
		else
			CHECK_ONLY_VERDICT(0, LG_IDLE_BLOCKER_TIMEOUT, LG_DO_ROLLBACK);
		for (int i = 0; i < 5; i++)
			judge_after(10);
		CHECK_INT(files_asked_for, 1);

		/* It blocks all the same; but the queued blocker is chosen then. */
		pass(2 * DeadlockTimeout);
		set(0, LG_IDLE_BLOCKER_TIMEOUT, 0);
		set(0, LG_MAX_BLOCKED_SESSIONS, 1);
		set(1, LG_MAX_BLOCKED_SESSIONS, 1);
		judge();
		if (exports)
			CHECK_ONLY_VERDICT(1, LG_MAX_BLOCKED_SESSIONS, LG_DO_CANCEL);
		else
			CHECK_ONLY_VERDICT(0, LG_MAX_BLOCKED_SESSIONS, LG_DO_ROLLBACK);
		set(1, LG_MAX_BLOCKED_SESSIONS, 0);
		judge();
		CHECK_ONLY_VERDICT(0, LG_MAX_BLOCKED_SESSIONS, LG_DO_ROLLBACK);
		set(0, LG_MAX_BLOCKED_SESSIONS, 0);
		set(0, LG_BLOCKER_TIMEOUT, 1);
		judge();
		CHECK_ONLY_VERDICT(0, LG_BLOCKER_TIMEOUT, LG_DO_ROLLBACK);

		/* Idle in transaction, blocking or not. */
		set(0, LG_IDLE_IN_TRANSACTION_TIMEOUT, 1);
		judge_ages(0);
		if (exports)
			CHECK_NO_VERDICT();
		else
			CHECK_ONLY_VERDICT(0, LG_IDLE_IN_TRANSACTION_TIMEOUT, LG_DO_TERMINATE);
	}
}

static void
blocker(void)
{
	for (int i = 0; i < (int) lengthof(borders); i++)
		for (int idle = 0; idle < 3; idle++)
		{
			scene(2);
			set(0, LG_BLOCKER_TIMEOUT, borders[i]);
			if (idle == 1)
				sits_idle(0);
			else if (idle == 2)
				stalls(0);
			waits_for(1, 0);
			at_border(clock_ns + borders[i] * MS, 0, LG_BLOCKER_TIMEOUT,
					  idle == 0 ? LG_DO_CANCEL : idle == 1 ? LG_DO_ROLLBACK : LG_DO_TERMINATE);
		}
}

static void
queued_blocker(void)
{
	for (int i = 0; i < (int) lengthof(borders); i++)
	{
		scene(3);
		set(1, LG_QUEUED_BLOCKER_TIMEOUT, borders[i]);
		reads(0, table);
		waits_to_alter(1, table);
		pass(9);
		waits_to_read(2, table);
		at_border(clock_ns + borders[i] * MS, 1, LG_QUEUED_BLOCKER_TIMEOUT, LG_DO_CANCEL);
	}

	/* Not one that waits for a row. */
	scene(3);
	set(1, LG_QUEUED_BLOCKER_TIMEOUT, 1);
	waits_for(1, 0);
	waits(2, xid_of(0), ExclusiveLock);
	judge_after(1000);
	CHECK_NO_VERDICT();
}

static void
blocked_sessions(void)
{
	for (int max = 1; max < 6; max++)
		for (int behind = 1; behind < 8; behind++)
		{
			int64		due = LG_NEVER;

			scene(10);
			set(0, LG_MAX_BLOCKED_SESSIONS, max);
			for (int i = 1; i <= behind; i++)
			{
				pass(1);
				waits_for(i, 0);
				if (i == max + 1)
					due = clock_ns + DeadlockTimeout * MS + 1;
			}
			if (due != LG_NEVER)
			{
				at_border(due, 0, LG_MAX_BLOCKED_SESSIONS, LG_DO_CANCEL);
				CHECK_INT(verdict_on(0)->measured, max + 1);
			}
			else
			{
				judge_after(10000);
				CHECK_NO_VERDICT();
			}
		}

	scene(3);
	set(0, LG_MAX_BLOCKED_SESSIONS, INT_MAX);
	waits_for(1, 0);
	judge_after(10000);
	CHECK_NO_VERDICT();
	CHECK_INT(verdicts.next_due, LG_NEVER);
}

/* A session that inherits a queue has deadlock_timeout to release the lock. */
static void
blocked_sessions_successor(void)
{
	int64		got_it;

	scene(6);
	alters(0, table);
	for (int i = 1; i < 6; i++)
		waits_to_alter(i, table);
	set(1, LG_MAX_BLOCKED_SESSIONS, 2);
	for (int i = 0; i < 50; i++)
		judge_after(100);
	releases_all(0);
	got_it = clock_ns;
	judge();
	while (clock_ns < got_it + 1000 * MS)
	{
		CHECK(verdict_on(1) == NULL);
		judge_after(100);
	}
	CHECK(verdict_on(1) != NULL);
}

static void
lock_wait(void)
{
	for (int i = 0; i < (int) lengthof(borders); i++)
	{
		scene(2);
		set(1, LG_LOCK_WAIT_TIMEOUT, borders[i]);
		waits_for(1, 0);
		at_border(clock_ns + borders[i] * MS, 1, LG_LOCK_WAIT_TIMEOUT, LG_DO_CANCEL);
	}

	/* Per wait: another one begins anew. */
	scene(2);
	set(1, LG_LOCK_WAIT_TIMEOUT, 100);
	waits_for(1, 0);
	judge_after(99);
	gives_up(1);
	pass(1);
	waits_for(1, 0);
	judge_after(99);
	CHECK_NO_VERDICT();

	/* Never one that is still logging in. */
	scene(2);
	set(1, LG_LOCK_WAIT_TIMEOUT, 1);
	status_of(1)->st_procpid = 0;
	waits_for(1, 0);
	judge_after(1000);
	CHECK_NO_VERDICT();

	/*
	 * Nor one that runs event triggers on login: it has reported no state
	 * yet.
	 */
	scene(2);
	set(1, LG_LOCK_WAIT_TIMEOUT, 1);
	waits_for(1, 0);
	status_of(1)->st_state = STATE_UNDEFINED;
	judge_after(1000);
	CHECK_NO_VERDICT();
	status_of(1)->st_state = STATE_RUNNING;
	judge();
	CHECK_INT(verdicts.n, 1);
}

/*
 * Limits on ages, and on what is held.
 */
static void
ages(void)
{
	for (int i = 0; i < (int) lengthof(borders); i++)
	{
		int			ms = borders[i];

		scene(1);
		set(0, LG_TRANSACTION_TIMEOUT, ms);
		age_at_border(clock_ns + ms * MS, LG_TRANSACTION_TIMEOUT, LG_DO_CANCEL);

		scene(1);
		set(0, LG_STATEMENT_TIMEOUT, ms);
		pass(1);
		runs(0);
		age_at_border(clock_ns + ms * MS, LG_STATEMENT_TIMEOUT, LG_DO_CANCEL);

		scene(1);
		set(0, LG_IDLE_IN_TRANSACTION_TIMEOUT, ms);
		pass(1);
		sits_idle(0);
		age_at_border(clock_ns + ms * MS, LG_IDLE_IN_TRANSACTION_TIMEOUT, LG_DO_TERMINATE);

		scene(1);
		set(0, LG_IDLE_SESSION_TIMEOUT, ms);
		pass(1);
		session_state(0, STATE_IDLE);
		age_at_border(clock_ns + ms * MS, LG_IDLE_SESSION_TIMEOUT, LG_DO_TERMINATE);
	}
}

/* Each limit on ages in each state: which it is about, and which not. */
static void
ages_by_state(void)
{
	static const LgSetting limits[] = {
		LG_TRANSACTION_TIMEOUT, LG_IDLE_IN_TRANSACTION_TIMEOUT,
		LG_STATEMENT_TIMEOUT, LG_IDLE_SESSION_TIMEOUT
	};
	static const struct
	{
		BackendState state;
		bool		over[4];
	}			states[] =
	{
		{STATE_RUNNING, {true, false, true, false}},
		{STATE_FASTPATH, {true, false, true, false}},
		{STATE_IDLEINTRANSACTION, {true, true, false, false}},
		{STATE_IDLEINTRANSACTION_ABORTED, {true, true, false, false}},
		{STATE_IDLE, {false, false, false, true}}
	};

	for (int s = 0; s < (int) lengthof(states); s++)
		for (int l = 0; l < (int) lengthof(limits); l++)
		{
			scene(1);
			set(0, limits[l], 100);
			session_state(0, states[s].state);
			judge_ages_after(0, 1000);
			CHECK_INT(verdicts.n, states[s].over[l]);
		}

	/* A cancel would not reach it. */
	scene(1);
	set(0, LG_TRANSACTION_TIMEOUT, 100);
	sits_idle(0);
	judge_ages_after(0, 1000);
	CHECK_ONLY_VERDICT(0, LG_TRANSACTION_TIMEOUT, LG_DO_ROLLBACK);

	/* An aborted transaction has no start any more. */
	scene(1);
	set(0, LG_TRANSACTION_TIMEOUT, 100);
	session_state(0, STATE_IDLEINTRANSACTION_ABORTED);
	status_of(0)->st_xact_start_timestamp = 0;
	judge_ages_after(0, 1000);
	CHECK_NO_VERDICT();
}

/* track_activities = off: only what was seen counts. */
static void
ages_without_activity(void)
{
	int64		first;

	scene(1);
	status_of(0)->st_state = STATE_DISABLED;
	slot_of(0)->statement_start = wall_now();
	pass(1000);
	set(0, LG_TRANSACTION_TIMEOUT, 100);
	first = clock_ns;
	judge_ages(0);
	CHECK_NO_VERDICT();
	age_at_border(first + 100 * MS, LG_TRANSACTION_TIMEOUT, LG_DO_CANCEL);

	set(0, LG_TRANSACTION_TIMEOUT, 0);
	set(0, LG_STATEMENT_TIMEOUT, 100);
	first = clock_ns;
	judge_ages(0);
	CHECK_NO_VERDICT();
	age_at_border(first + 100 * MS, LG_STATEMENT_TIMEOUT, LG_DO_CANCEL);

	/* Between two statements it waits for its client. */
	set(0, LG_STATEMENT_TIMEOUT, 100);
	session_state(0, STATE_DISABLED);
	judge_ages_after(0, 1000);
	CHECK_NO_VERDICT();
	set(0, LG_STATEMENT_TIMEOUT, 0);
	set(0, LG_IDLE_IN_TRANSACTION_TIMEOUT, 100);
	first = clock_ns;
	judge_ages(0);
	CHECK_NO_VERDICT();
	age_at_border(first + 100 * MS, LG_IDLE_IN_TRANSACTION_TIMEOUT, LG_DO_TERMINATE);
}

static void
locks_held(void)
{
	for (int max = 1; max < 20; max += 6)
	{
		scene(1);
		set(0, LG_MAX_LOCKS, max);
		for (int i = 0; i < max; i++)
			reads(0, lock_on(LOCKTAG_RELATION, 1, i));
		writes(0, lock_on(LOCKTAG_RELATION, 1, 0));
		judge_ages(0);
		CHECK_NO_VERDICT();
		reads(0, lock_on(LOCKTAG_RELATION, 1, max));
		judge_ages(0);
		CHECK_ONLY_VERDICT(0, LG_MAX_LOCKS, LG_DO_CANCEL);
		CHECK_INT(verdict_on(0)->measured, max + 1);
		CHECK_INT(lwlocks_taken, 0);
	}
	set(0, LG_MAX_LOCKS, INT_MAX);
	judge_ages(0);
	CHECK_NO_VERDICT();

	/* A lock that it only waits for is not one that it holds. */
	scene(2);
	set(1, LG_MAX_LOCKS, 1);
	waits_for(1, 0);
	reads(1, table);
	judge_ages(1);
	CHECK_NO_VERDICT();
}

/* So many transaction ids are used, by others, and session 0 is judged. */
static void
judge_xmin_after(int xids)
{
	next_xid += xids;
	judge_ages(0);
}

static void
xmin_age(void)
{
	static const TransactionId begins[] = {
		1000, INT_MAX - 50, (TransactionId) INT_MAX + 1, UINT_MAX - 50, UINT_MAX
	};

	for (int i = 0; i < (int) lengthof(begins); i++)
		for (int with = 0; with < 3; with++)
		{
			scene(1);
			next_xid = begins[i];
			set(0, LG_MAX_XMIN_AGE, 100);
			if (with != 1)
				proc_of(0)->xmin = next_xid;
			if (with != 0)
				proc_of(0)->xid = next_xid;
			judge_ages(0);
			CHECK_NO_VERDICT();
			judge_xmin_after(100);
			CHECK_NO_VERDICT();
			judge_xmin_after(1);
			CHECK_ONLY_VERDICT(0, LG_MAX_XMIN_AGE, LG_DO_CANCEL);
			CHECK_INT(verdict_on(0)->measured, 101);
		}

	/*
	 * A snapshot is old at birth: what was used before it was seen is not
	 * its.
	 */
	scene(1);
	set(0, LG_MAX_XMIN_AGE, 100);
	next_xid = 1000000;
	proc_of(0)->xmin = 1000;
	judge_ages(0);
	CHECK_NO_VERDICT();
	judge_xmin_after(100);
	CHECK_NO_VERDICT();
	judge_xmin_after(1);
	CHECK_ONLY_VERDICT(0, LG_MAX_XMIN_AGE, LG_DO_CANCEL);

	/* Between two statements nothing is held; the next snapshot counts anew. */
	proc_of(0)->xmin = InvalidTransactionId;
	judge_ages(0);
	proc_of(0)->xmin = 1000;
	judge_ages(0);
	CHECK_NO_VERDICT();
	judge_xmin_after(60);
	next_statement(0);
	judge_ages(0);
	judge_xmin_after(60);
	CHECK_NO_VERDICT();

	/* Unless it is kept. */
	sits_idle(0);
	judge_ages(0);
	runs(0);
	next_statement(0);
	judge_xmin_after(60);
	CHECK_ONLY_VERDICT(0, LG_MAX_XMIN_AGE, LG_DO_CANCEL);

	/* A VACUUM holds nothing back, by a transaction id of its own neither. */
	proc_of(0)->statusFlags |= PROC_IN_VACUUM;
	judge_ages(0);
	CHECK_NO_VERDICT();
	proc_of(0)->xid = next_xid - 1000;
	judge_ages(0);
	CHECK_NO_VERDICT();
	proc_of(0)->xid = InvalidTransactionId;
	proc_of(0)->statusFlags = 0;
	judge_ages(0);
	judge_xmin_after(101);
	CHECK_ONLY_VERDICT(0, LG_MAX_XMIN_AGE, LG_DO_CANCEL);

	/* Another transaction begins anew. */
	next_transaction(0);
	judge_ages(0);
	CHECK_NO_VERDICT();

	/* Its own id is its own, from the first look on. */
	proc_of(0)->xmin = InvalidTransactionId;
	proc_of(0)->xid = next_xid - 100;
	judge_ages(0);
	CHECK_NO_VERDICT();
	judge_xmin_after(1);
	CHECK_ONLY_VERDICT(0, LG_MAX_XMIN_AGE, LG_DO_CANCEL);
	CHECK_INT(verdict_on(0)->measured, 101);
	proc_of(0)->xid = InvalidTransactionId;

	/* No age at all; and the largest value. */
	set(0, LG_MAX_XMIN_AGE, 1);
	proc_of(0)->xmin = InvalidTransactionId;
	judge_xmin_after(1000);
	CHECK_NO_VERDICT();
	set(0, LG_MAX_XMIN_AGE, INT_MAX);
	proc_of(0)->xmin = next_xid;
	judge_xmin_after(INT_MAX);
	CHECK_NO_VERDICT();
}

/*
 * What is said of limits.
 */
static void
next_limit(void)
{
	int			limit;

	scene(3);
	set(0, LG_BLOCKER_TIMEOUT, 300);
	set(0, LG_IDLE_BLOCKER_TIMEOUT, 100);
	set(0, LG_TRANSACTION_TIMEOUT, 250);
	waits_for(1, 0);
	look_after(10);
	CHECK_INT(next_limit_of(0, &limit), clock_ns + 240 * MS);
	CHECK_INT(limit, LG_TRANSACTION_TIMEOUT);
	sits_idle(0);
	look();
	CHECK_INT(next_limit_of(0, &limit), clock_ns + 100 * MS);
	CHECK_INT(limit, LG_IDLE_BLOCKER_TIMEOUT);
	*values_of(0) = view.server;
	look();
	CHECK_INT(next_limit_of(0, &limit), LG_NEVER);
	CHECK_INT(limit, LG_NO_LIMIT);
}

/* Texts that do not fit are cut, for every size of the buffer. */
static void
stories(void)
{
	char		whole[200];

	for (int limit = LG_NO_LIMIT; limit <= LG_PREPARED_TRANSACTION_TIMEOUT; limit++)
	{
		if (limit >= LG_NUM_LIMITS && limit != LG_PREPARED_TRANSACTION_TIMEOUT)
			continue;
		lg_tell(limit, INT_MAX, PG_INT64_MAX, STATE_IDLEINTRANSACTION_ABORTED,
				whole, sizeof(whole));
		CHECK(strchr(whole, '{') == NULL && strlen(whole) > 0);
		for (size_t size = 1; size <= strlen(whole) + 1; size++)
		{
			char	   *exact = malloc(size);

			lg_tell(limit, INT_MAX, PG_INT64_MAX, STATE_IDLEINTRANSACTION_ABORTED,
					exact, size);
			CHECK_INT(strlen(exact), size - 1);
			CHECK(strncmp(exact, whole, size - 1) == 0);
			free(exact);
		}
	}
	lg_tell(LG_IDLE_BLOCKER_TIMEOUT, 1, 5003, STATE_IDLEINTRANSACTION, whole, sizeof(whole));
	CHECK_TEXT(whole, "sat idle in transaction while blocking 1 session for 5003 ms");
	lg_tell(LG_MAX_XMIN_AGE, 0, 101, STATE_RUNNING, whole, sizeof(whole));
	CHECK_TEXT(whole, "kept vacuum from cleaning up behind 101 transactions");
}

const Test	limit_tests[] = {
	{"limit: idle_blocker_timeout at its border", idle_blocker},
	{"limit: idle_blocker_timeout and stalled clients", idle_blocker_stalled},
	{"limit: a reader that moves comes after a queued blocker", moving_reader},
	{"limit: a stalled client that others disturb", disturbed_client},
	{"limit: a session that has exported a snapshot", exporter},
	{"limit: blocker_timeout at its border", blocker},
	{"limit: queued_blocker_timeout at its border", queued_blocker},
	{"limit: max_blocked_sessions at its border", blocked_sessions},
	{"limit: max_blocked_sessions and a successor", blocked_sessions_successor},
	{"limit: lock_wait_timeout at its border", lock_wait},
	{"limit: ages at their borders", ages},
	{"limit: ages in every state", ages_by_state},
	{"limit: ages without track_activities", ages_without_activity},
	{"limit: max_locks at its border", locks_held},
	{"limit: max_xmin_age at its border, and around 2^32", xmin_age},
	{"limit: the next limit", next_limit},
	{"limit: stories of every length", stories},
	{NULL, NULL}
};
