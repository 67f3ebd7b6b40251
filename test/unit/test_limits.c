/*-------------------------------------------------------------------------
 *
 * test_limits.c
 *		Who is over a limit, and who of them goes.
 *
 *-------------------------------------------------------------------------
 */
#include "model.h"

#include "storage/proc.h"
#include "replication/syncrep.h"
#include "utils/timestamp.h"

#include "unit.h"

static LgView view;
static LgVerdicts verdicts;

static void
start(int backends, int prepared)
{
	server_start(backends, prepared);
	lg_init_view(&view);
	view.server.value[LG_ACTION] = LG_DO_TERMINATE;
	view.server.value[LG_PRIORITY] = LG_PRIORITY_NORMAL;
	verdicts.max = 1;
	verdicts.verdicts = palloc_array(LgVerdict, 1);
	lg_clock_read(&view.clock);
}

/* Sessions 0 to n - 1, each in a transaction, with the server's settings. */
static void
sessions(int n)
{
	for (int i = 0; i < n; i++)
	{
		session_begins(i, 100 + i, B_BACKEND);
		session_state(i, STATE_RUNNING);
		*values_of(i) = view.server;
	}
}

static int *
value(int procno, LgSetting setting)
{
	return &values_of(procno)->value[setting];
}

static void
look(void)
{
	for (int limit = 0; limit < LG_NUM_LIMITS; limit++)
	{
		view.smallest[limit] = 0;
		for (int procno = 0; procno < LG_TOTAL_PROCS; procno++)
		{
			int			one = values_of(procno)->value[limit];

			if (one > 0 && (view.smallest[limit] == 0 || one < view.smallest[limit]))
				view.smallest[limit] = one;
		}
	}
	lg_clock_read(&view.clock);
	lg_find_waits(&view);
	lg_look_at_locks(&view, 0);
}

static void
judge(void)
{
	look();
	verdicts.n = 0;
	verdicts.next_due = LG_NEVER;
	lg_judge_waits(&view, &verdicts);
}

static void
judge_ages(int procno)
{
	lg_clock_read(&view.clock);
	verdicts.n = 0;
	verdicts.next_due = LG_NEVER;
	lg_judge_session(&view, procno, &verdicts);
}

/* The verdict on a session, if there is one. */
static const LgVerdict *
verdict_on(int procno)
{
	for (int i = 0; i < verdicts.n; i++)
		if (verdicts.verdicts[i].session.procno == procno)
			return &verdicts.verdicts[i];
	return NULL;
}

static bool
only_verdict(int procno, int limit, LgActionKind action)
{
	const LgVerdict *verdict = verdict_on(procno);

	return CHECK_INT(verdicts.n, 1) && CHECK(verdict != NULL) &&
		CHECK_INT(verdict->limit, limit) && CHECK_INT(verdict->action, action) &&
		CHECK_INT(lg_brake_result(verdict->brake), LG_PENDING) &&

	/* What has to be so still when the signal is sent. */
		CHECK_INT(verdict->still.idle, limit == LG_IDLE_BLOCKER_TIMEOUT ||
				  limit == LG_IDLE_IN_TRANSACTION_TIMEOUT ||
				  limit == LG_IDLE_SESSION_TIMEOUT) &&
		CHECK_INT(verdict->still.unreachable, action == LG_DO_TERMINATE);
}

/* Session 0 holds what session 1 waits for, since now. */
static LOCK *
blocked_pair(void)
{
	LOCK	   *xid = lock_on(LOCKTAG_TRANSACTION, 1, 0);

	holds(0, xid, ExclusiveLock);
	waits(1, xid, ShareLock);
	return xid;
}

/*
 * Every limit exactly at its border: at "due" minus 1 ns nothing, at "due"
 * somebody.  The wall clock is not that exact, so what it tells of is seen now.
 */
static void
at_border(int64 due, int procno, int limit, LgActionKind action)
{
	judge();
	CHECK_INT(verdicts.n, 0);
	clock_ns = due - 1;
	judge();
	CHECK_INT(verdicts.n, 0);
	CHECK(verdicts.next_due > clock_ns && verdicts.next_due <= due);
	clock_ns = due;
	judge();
	only_verdict(procno, limit, action);
}

static const int borders[] = {1, 2, 999, 5000, INT_MAX - 1, INT_MAX};

static void
idle_blocker(void)
{
	for (int i = 0; i < (int) lengthof(borders); i++)
	{
		int			ms = borders[i];

		/* First idle, then blocking. */
		start(10, 0);
		sessions(2);
		*value(0, LG_IDLE_BLOCKER_TIMEOUT) = ms;
		session_state(0, STATE_IDLEINTRANSACTION);
		clock_ns += 7 * MS;
		blocked_pair();
		at_border(clock_ns + ms * MS, 0, LG_IDLE_BLOCKER_TIMEOUT, LG_DO_TERMINATE);

		/* First blocking, then idle. */
		start(10, 0);
		sessions(2);
		*value(0, LG_IDLE_BLOCKER_TIMEOUT) = ms;
		blocked_pair();
		clock_ns += 7 * MS;
		session_state(0, STATE_IDLEINTRANSACTION_ABORTED);
		at_border(clock_ns + ms * MS, 0, LG_IDLE_BLOCKER_TIMEOUT, LG_DO_TERMINATE);
	}

	/* An active one is none of its business. */
	start(10, 0);
	sessions(2);
	*value(0, LG_IDLE_BLOCKER_TIMEOUT) = 1;
	blocked_pair();
	clock_ns += 1000 * MS;
	judge();
	CHECK_INT(verdicts.n, 0);
}

/* A client that has stopped reading; and one that reads slowly. */
static void
idle_blocker_stalled(void)
{
	for (int moving = 0; moving < 2; moving++)
	{
		start(10, 0);
		sessions(2);
		*value(0, LG_IDLE_BLOCKER_TIMEOUT) = 100;
		stalls(0);
		blocked_pair();
		clock_ns += 10 * MS;
		judge();
		for (int i = 0; i < 9; i++)
		{
			clock_ns += 10 * MS;
			traffic.taken += moving;
			judge();
			CHECK_INT(verdicts.n, 0);
		}
		clock_ns += 10 * MS;
		traffic.taken += moving;
		judge();
		if (moving)
			CHECK_INT(verdicts.n, 0);
		else
			only_verdict(0, LG_IDLE_BLOCKER_TIMEOUT, LG_DO_TERMINATE);
	}

	/* Where the system cannot tell, it is not idle. */
	start(10, 0);
	sessions(2);
	*value(0, LG_IDLE_BLOCKER_TIMEOUT) = 100;
	stalls(0);
	traffic_known = false;
	blocked_pair();
	for (int i = 0; i < 50; i++)
	{
		clock_ns += 10 * MS;
		judge();
		CHECK_INT(verdicts.n, 0);
	}
}

/* Who waits for its client is no idle root before that is known. */
static void
moving_reader(void)
{
	for (int stalled = 0; stalled < 2; stalled++)
	{
		LOCK	   *t;

		start(10, 0);
		sessions(5);
		stalls(0);
		t = lock_on(LOCKTAG_RELATION, 1, 2);
		holds(0, t, AccessShareLock);
		waits(1, t, AccessExclusiveLock);
		for (int i = 2; i < 5; i++)
			waits(i, t, AccessShareLock);
		*value(0, LG_IDLE_BLOCKER_TIMEOUT) = 2 * DeadlockTimeout;
		look();
		clock_ns += (stalled ? 2 : 1) * DeadlockTimeout * MS + MS;
		*value(0, LG_MAX_BLOCKED_SESSIONS) = *value(1, LG_MAX_BLOCKED_SESSIONS) = 1;
		judge();
		if (stalled)
			only_verdict(0, LG_IDLE_BLOCKER_TIMEOUT, LG_DO_TERMINATE);
		else
			only_verdict(1, LG_MAX_BLOCKED_SESSIONS, LG_DO_CANCEL);
	}
}

/*
 * Others wake its process all the time: it is looked at often then, and goes
 * when enough of the time is known.
 */
static void
disturbed_client(void)
{
	int64		last = 0;
	int64		began;
	int			looks = 0;

	start(10, 0);
	sessions(2);
	*value(0, LG_IDLE_BLOCKER_TIMEOUT) = 100;
	stalls(0);
	traffic.counted = false;
	blocked_pair();
	began = clock_ns;
	judge();
	for (int ms = 0; ms < 3000 && verdicts.n == 0; ms++)
	{
		clock_ns += MS;

		/* Each 50 ms, and each time whoever waits for a latch has read it. */
		if (ms % 50 == 49)
		{
			traffic.switches++;
			traffic.sleeps++;
			traffic.reads++;
			traffic.read_bytes += 128;
		}
		if (clock_ns < verdicts.next_due)
			continue;
		CHECK(last == 0 || clock_ns - last >= 20 * MS);
		last = clock_ns;
		looks++;
		judge();
	}
	only_verdict(0, LG_IDLE_BLOCKER_TIMEOUT, LG_DO_TERMINATE);

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
		LOCK	   *t;
		LgSubject	subject;
		LgNode	   *node;
		int			limit;

		DeadlockTimeout = 1000;
		start(10, 0);
		sessions(5);
		session_state(0, STATE_IDLEINTRANSACTION);
		if (exports)
			exports_snapshot(0);
		t = lock_on(LOCKTAG_RELATION, 1, 2);
		holds(0, t, AccessShareLock);
		waits(1, t, AccessExclusiveLock);
		for (int i = 2; i < 5; i++)
			waits(i, t, AccessShareLock);
		*value(0, LG_IDLE_BLOCKER_TIMEOUT) = 100;
		judge();
		clock_ns += 99 * MS;
		judge();
		CHECK_INT(verdicts.n, 0);
		CHECK_INT(files_asked_for, 0);
		look();
		node = lg_node(view.graph, 0);
		lg_load_node(view.graph, node);
		subject = (LgSubject)
		{
			&node->known->session, &node->known->values, &view.tracks[0], node
		};
		CHECK_INT(lg_next_limit(&view, &subject, &limit), exports ? LG_NEVER : clock_ns + MS);
		clock_ns += MS;
		judge();
		if (exports)
			CHECK_INT(verdicts.n, 0);
		else
			only_verdict(0, LG_IDLE_BLOCKER_TIMEOUT, LG_DO_TERMINATE);
		for (int i = 0; i < 5; i++)
		{
			clock_ns += 10 * MS;
			judge();
		}
		CHECK_INT(files_asked_for, 1);

		/* It is in the way all the same; but the queue goes first then. */
		clock_ns += 2 * DeadlockTimeout * MS;
		*value(0, LG_IDLE_BLOCKER_TIMEOUT) = 0;
		*value(0, LG_MAX_BLOCKED_SESSIONS) = *value(1, LG_MAX_BLOCKED_SESSIONS) = 1;
		judge();
		if (exports)
			only_verdict(1, LG_MAX_BLOCKED_SESSIONS, LG_DO_CANCEL);
		else
			only_verdict(0, LG_MAX_BLOCKED_SESSIONS, LG_DO_TERMINATE);
		*value(1, LG_MAX_BLOCKED_SESSIONS) = 0;
		judge();
		only_verdict(0, LG_MAX_BLOCKED_SESSIONS, LG_DO_TERMINATE);
		*value(0, LG_MAX_BLOCKED_SESSIONS) = 0;
		*value(0, LG_BLOCKER_TIMEOUT) = 1;
		judge();
		only_verdict(0, LG_BLOCKER_TIMEOUT, LG_DO_TERMINATE);

		/* Idle in transaction, blocking or not. */
		*value(0, LG_IDLE_IN_TRANSACTION_TIMEOUT) = 1;
		judge_ages(0);
		if (exports)
			CHECK_INT(verdicts.n, 0);
		else
			only_verdict(0, LG_IDLE_IN_TRANSACTION_TIMEOUT, LG_DO_TERMINATE);
	}
}

static void
blocker(void)
{
	for (int i = 0; i < (int) lengthof(borders); i++)
		for (int idle = 0; idle < 3; idle++)
		{
			start(10, 0);
			sessions(2);
			*value(0, LG_BLOCKER_TIMEOUT) = borders[i];
			if (idle == 1)
				session_state(0, STATE_IDLEINTRANSACTION);
			else if (idle == 2)
				stalls(0);
			blocked_pair();
			at_border(clock_ns + borders[i] * MS, 0, LG_BLOCKER_TIMEOUT,
					  idle ? LG_DO_TERMINATE : LG_DO_CANCEL);
		}
}

static LOCK *
convoy(void)
{
	LOCK	   *t = lock_on(LOCKTAG_RELATION, 1, 2);

	holds(0, t, AccessShareLock);
	waits(1, t, AccessExclusiveLock);
	return t;
}

static void
queued_blocker(void)
{
	for (int i = 0; i < (int) lengthof(borders); i++)
	{
		LOCK	   *t;

		start(10, 0);
		sessions(3);
		*value(1, LG_QUEUED_BLOCKER_TIMEOUT) = borders[i];
		t = convoy();
		clock_ns += 9 * MS;
		waits(2, t, AccessShareLock);
		at_border(clock_ns + borders[i] * MS, 1, LG_QUEUED_BLOCKER_TIMEOUT, LG_DO_CANCEL);
	}

	/* Not one that waits for a row. */
	start(10, 0);
	sessions(3);
	*value(1, LG_QUEUED_BLOCKER_TIMEOUT) = 1;
	blocked_pair();
	waits(2, lock_on(LOCKTAG_TRANSACTION, 1, 0), ExclusiveLock);
	clock_ns += 1000 * MS;
	judge();
	CHECK_INT(verdicts.n, 0);
}

static void
blocked_sessions(void)
{
	DeadlockTimeout = 1000;
	for (int max = 1; max < 6; max++)
		for (int sessions_behind = 1; sessions_behind < 8; sessions_behind++)
		{
			LOCK	   *xid;
			int64		due;

			start(20, 0);
			sessions(10);
			*value(0, LG_MAX_BLOCKED_SESSIONS) = max;
			xid = lock_on(LOCKTAG_TRANSACTION, 1, 0);
			holds(0, xid, ExclusiveLock);
			due = LG_NEVER;
			for (int i = 1; i <= sessions_behind; i++)
			{
				clock_ns += MS;
				waits(i, xid, ShareLock);
				if (i == max + 1)
					due = clock_ns + 1000 * MS + 1;
			}
			if (due != LG_NEVER)
			{
				at_border(due, 0, LG_MAX_BLOCKED_SESSIONS, LG_DO_CANCEL);
				CHECK_INT(verdict_on(0)->measured, max + 1);
			}
			else
			{
				clock_ns += 10000 * MS;
				judge();
				CHECK_INT(verdicts.n, 0);
			}
		}

	start(20, 0);
	sessions(3);
	*value(0, LG_MAX_BLOCKED_SESSIONS) = INT_MAX;
	blocked_pair();
	clock_ns += 10000 * MS;
	judge();
	CHECK_INT(verdicts.n, 0);
	CHECK_INT(verdicts.next_due, LG_NEVER);
}

/* Who inherits a queue has deadlock_timeout to get out of its way. */
static void
blocked_sessions_successor(void)
{
	LOCK	   *t;
	int64		got_it;

	start(20, 0);
	sessions(6);
	t = lock_on(LOCKTAG_RELATION, 1, 2);
	holds(0, t, AccessExclusiveLock);
	for (int i = 1; i < 6; i++)
		waits(i, t, AccessExclusiveLock);
	*value(1, LG_MAX_BLOCKED_SESSIONS) = 2;
	for (int i = 0; i < 50; i++)
	{
		clock_ns += 100 * MS;
		judge();
	}
	releases_all(0);
	got_it = clock_ns;
	judge();
	while (clock_ns < got_it + 1000 * MS)
	{
		CHECK(verdict_on(1) == NULL);
		clock_ns += 100 * MS;
		judge();
	}
	CHECK(verdict_on(1) != NULL);
}

static void
lock_wait(void)
{
	for (int i = 0; i < (int) lengthof(borders); i++)
	{
		start(10, 0);
		sessions(2);
		*value(1, LG_LOCK_WAIT_TIMEOUT) = borders[i];
		blocked_pair();
		at_border(clock_ns + borders[i] * MS, 1, LG_LOCK_WAIT_TIMEOUT, LG_DO_CANCEL);
	}

	/* Per wait: another one begins anew. */
	start(10, 0);
	sessions(2);
	*value(1, LG_LOCK_WAIT_TIMEOUT) = 100;
	blocked_pair();
	clock_ns += 99 * MS;
	judge();
	gives_up(1);
	clock_ns += MS;
	waits(1, lock_on(LOCKTAG_TRANSACTION, 1, 0), ShareLock);
	clock_ns += 99 * MS;
	judge();
	CHECK_INT(verdicts.n, 0);

	/* Never one that is still logging in. */
	start(10, 0);
	sessions(2);
	*value(1, LG_LOCK_WAIT_TIMEOUT) = 1;
	status_of(1)->st_procpid = 0;
	blocked_pair();
	clock_ns += 1000 * MS;
	judge();
	CHECK_INT(verdicts.n, 0);

	/*
	 * Nor one that runs event triggers on login: it has reported no state
	 * yet.
	 */
	start(10, 0);
	sessions(2);
	*value(1, LG_LOCK_WAIT_TIMEOUT) = 1;
	blocked_pair();
	status_of(1)->st_state = STATE_UNDEFINED;
	clock_ns += 1000 * MS;
	judge();
	CHECK_INT(verdicts.n, 0);
	status_of(1)->st_state = STATE_RUNNING;
	judge();
	CHECK_INT(verdicts.n, 1);
}

static void
age_at_border(int64 due, int limit, LgActionKind action)
{
	judge_ages(0);
	CHECK_INT(verdicts.n, 0);
	clock_ns = due - 1;
	judge_ages(0);
	CHECK_INT(verdicts.n, 0);
	CHECK_INT(verdicts.next_due, due);
	clock_ns = due;
	judge_ages(0);
	only_verdict(0, limit, action);
}

static void
ages(void)
{
	for (int i = 0; i < (int) lengthof(borders); i++)
	{
		int			ms = borders[i];

		start(10, 0);
		sessions(1);
		*value(0, LG_TRANSACTION_TIMEOUT) = ms;
		age_at_border(clock_ns + ms * MS, LG_TRANSACTION_TIMEOUT, LG_DO_CANCEL);

		start(10, 0);
		sessions(1);
		*value(0, LG_STATEMENT_TIMEOUT) = ms;
		clock_ns += MS;
		session_state(0, STATE_RUNNING);
		age_at_border(clock_ns + ms * MS, LG_STATEMENT_TIMEOUT, LG_DO_CANCEL);

		start(10, 0);
		sessions(1);
		*value(0, LG_IDLE_IN_TRANSACTION_TIMEOUT) = ms;
		clock_ns += MS;
		session_state(0, STATE_IDLEINTRANSACTION);
		age_at_border(clock_ns + ms * MS, LG_IDLE_IN_TRANSACTION_TIMEOUT, LG_DO_TERMINATE);

		start(10, 0);
		sessions(1);
		*value(0, LG_IDLE_SESSION_TIMEOUT) = ms;
		clock_ns += MS;
		session_state(0, STATE_IDLE);
		age_at_border(clock_ns + ms * MS, LG_IDLE_SESSION_TIMEOUT, LG_DO_TERMINATE);
	}
}

/* Each limit on ages in each state: whom it is about, and whom not. */
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
			start(10, 0);
			sessions(1);
			*value(0, limits[l]) = 100;
			session_state(0, states[s].state);
			clock_ns += 1000 * MS;
			judge_ages(0);
			CHECK_INT(verdicts.n, states[s].over[l]);
		}

	/* A cancel would not reach it. */
	start(10, 0);
	sessions(1);
	*value(0, LG_TRANSACTION_TIMEOUT) = 100;
	session_state(0, STATE_IDLEINTRANSACTION);
	clock_ns += 1000 * MS;
	judge_ages(0);
	only_verdict(0, LG_TRANSACTION_TIMEOUT, LG_DO_TERMINATE);

	/* An aborted transaction has no start any more. */
	start(10, 0);
	sessions(1);
	*value(0, LG_TRANSACTION_TIMEOUT) = 100;
	session_state(0, STATE_IDLEINTRANSACTION_ABORTED);
	status_of(0)->st_xact_start_timestamp = 0;
	clock_ns += 1000 * MS;
	judge_ages(0);
	CHECK_INT(verdicts.n, 0);
}

/* track_activities = off: only what was seen counts. */
static void
ages_without_activity(void)
{
	int64		first;

	start(10, 0);
	sessions(1);
	status_of(0)->st_state = STATE_DISABLED;
	slot_of(0)->statement_start = wall_now();
	clock_ns += 1000 * MS;
	*value(0, LG_TRANSACTION_TIMEOUT) = 100;
	first = clock_ns;
	judge_ages(0);
	CHECK_INT(verdicts.n, 0);
	age_at_border(first + 100 * MS, LG_TRANSACTION_TIMEOUT, LG_DO_CANCEL);

	*value(0, LG_TRANSACTION_TIMEOUT) = 0;
	*value(0, LG_STATEMENT_TIMEOUT) = 100;
	first = clock_ns;
	judge_ages(0);
	CHECK_INT(verdicts.n, 0);
	age_at_border(first + 100 * MS, LG_STATEMENT_TIMEOUT, LG_DO_CANCEL);

	/* Between two statements it waits for its client. */
	*value(0, LG_STATEMENT_TIMEOUT) = 100;
	session_state(0, STATE_DISABLED);
	clock_ns += 1000 * MS;
	judge_ages(0);
	CHECK_INT(verdicts.n, 0);
	*value(0, LG_STATEMENT_TIMEOUT) = 0;
	*value(0, LG_IDLE_IN_TRANSACTION_TIMEOUT) = 100;
	first = clock_ns;
	judge_ages(0);
	CHECK_INT(verdicts.n, 0);
	age_at_border(first + 100 * MS, LG_IDLE_IN_TRANSACTION_TIMEOUT, LG_DO_TERMINATE);
}

static void
locks_held(void)
{
	for (int max = 1; max < 20; max += 6)
	{
		start(10, 0);
		sessions(1);
		*value(0, LG_MAX_LOCKS) = max;
		for (int i = 0; i < max; i++)
			holds(0, lock_on(LOCKTAG_RELATION, 1, i), AccessShareLock);
		holds(0, lock_on(LOCKTAG_RELATION, 1, 0), RowExclusiveLock);
		judge_ages(0);
		CHECK_INT(verdicts.n, 0);
		holds(0, lock_on(LOCKTAG_RELATION, 1, max), AccessShareLock);
		judge_ages(0);
		only_verdict(0, LG_MAX_LOCKS, LG_DO_CANCEL);
		CHECK_INT(verdict_on(0)->measured, max + 1);
		CHECK_INT(lwlocks_taken, 0);
	}
	*value(0, LG_MAX_LOCKS) = INT_MAX;
	judge_ages(0);
	CHECK_INT(verdicts.n, 0);

	/* A lock that it only waits for is not one that it holds. */
	start(10, 0);
	sessions(2);
	*value(1, LG_MAX_LOCKS) = 1;
	blocked_pair();
	holds(1, lock_on(LOCKTAG_RELATION, 1, 1), AccessShareLock);
	judge_ages(1);
	CHECK_INT(verdicts.n, 0);
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
			start(10, 0);
			sessions(1);
			next_xid = begins[i];
			*value(0, LG_MAX_XMIN_AGE) = 100;
			if (with != 1)
				proc_of(0)->xmin = next_xid;
			if (with != 0)
				proc_of(0)->xid = next_xid;
			judge_ages(0);
			CHECK_INT(verdicts.n, 0);
			next_xid += 100;
			judge_ages(0);
			CHECK_INT(verdicts.n, 0);
			next_xid++;
			judge_ages(0);
			only_verdict(0, LG_MAX_XMIN_AGE, LG_DO_CANCEL);
			CHECK_INT(verdict_on(0)->measured, 101);
		}

	/*
	 * A snapshot is old at birth: what was used before it was seen is not
	 * its.
	 */
	start(10, 0);
	sessions(1);
	*value(0, LG_MAX_XMIN_AGE) = 100;
	next_xid = 1000000;
	proc_of(0)->xmin = 1000;
	judge_ages(0);
	CHECK_INT(verdicts.n, 0);
	next_xid += 100;
	judge_ages(0);
	CHECK_INT(verdicts.n, 0);
	next_xid++;
	judge_ages(0);
	only_verdict(0, LG_MAX_XMIN_AGE, LG_DO_CANCEL);

	/* Between two statements nothing is held; the next snapshot counts anew. */
	proc_of(0)->xmin = InvalidTransactionId;
	judge_ages(0);
	proc_of(0)->xmin = 1000;
	judge_ages(0);
	CHECK_INT(verdicts.n, 0);
	next_xid += 60;
	judge_ages(0);
	status_of(0)->st_activity_start_timestamp++;
	judge_ages(0);
	next_xid += 60;
	judge_ages(0);
	CHECK_INT(verdicts.n, 0);

	/* Unless it is kept. */
	session_state(0, STATE_IDLEINTRANSACTION);
	judge_ages(0);
	session_state(0, STATE_RUNNING);
	status_of(0)->st_activity_start_timestamp++;
	next_xid += 60;
	judge_ages(0);
	only_verdict(0, LG_MAX_XMIN_AGE, LG_DO_CANCEL);

	/* A VACUUM holds nothing back, by a transaction id of its own neither. */
	proc_of(0)->statusFlags |= PROC_IN_VACUUM;
	judge_ages(0);
	CHECK_INT(verdicts.n, 0);
	proc_of(0)->xid = next_xid - 1000;
	judge_ages(0);
	CHECK_INT(verdicts.n, 0);
	proc_of(0)->xid = InvalidTransactionId;
	proc_of(0)->statusFlags = 0;
	judge_ages(0);
	next_xid += 101;
	judge_ages(0);
	only_verdict(0, LG_MAX_XMIN_AGE, LG_DO_CANCEL);

	/* Another transaction begins anew. */
	session_state(0, STATE_IDLE);
	session_state(0, STATE_RUNNING);
	judge_ages(0);
	CHECK_INT(verdicts.n, 0);

	/* Its own id is its own, from the first look on. */
	proc_of(0)->xmin = InvalidTransactionId;
	proc_of(0)->xid = next_xid - 100;
	judge_ages(0);
	CHECK_INT(verdicts.n, 0);
	next_xid++;
	judge_ages(0);
	only_verdict(0, LG_MAX_XMIN_AGE, LG_DO_CANCEL);
	CHECK_INT(verdict_on(0)->measured, 101);
	proc_of(0)->xid = InvalidTransactionId;

	/* No age at all; and the largest value. */
	*value(0, LG_MAX_XMIN_AGE) = 1;
	proc_of(0)->xmin = InvalidTransactionId;
	next_xid += 1000;
	judge_ages(0);
	CHECK_INT(verdicts.n, 0);
	*value(0, LG_MAX_XMIN_AGE) = INT_MAX;
	proc_of(0)->xmin = next_xid;
	next_xid += INT_MAX;
	judge_ages(0);
	CHECK_INT(verdicts.n, 0);
}

/*
 * What is done, and what is not.
 */

/* action and exempt of the victim, for one that a cancel reaches or not. */
static void
actions(void)
{
	static const struct
	{
		LgActionKind most;
		bool		idle;
		LgResult	result;
		LgActionKind action;
	}			cases[] =
	{
		{LG_DO_TERMINATE, false, LG_PENDING, LG_DO_CANCEL},
		{LG_DO_TERMINATE, true, LG_PENDING, LG_DO_TERMINATE},
		{LG_DO_CANCEL, false, LG_PENDING, LG_DO_CANCEL},
		{LG_DO_CANCEL, true, LG_LOGGED, LG_DO_LOG},
		{LG_DO_LOG, false, LG_LOGGED, LG_DO_LOG},
		{LG_DO_LOG, true, LG_LOGGED, LG_DO_LOG}
	};

	for (int i = 0; i < (int) lengthof(cases); i++)
		for (int exempt = 0; exempt < 3; exempt++)
		{
			const LgVerdict *verdict;

			start(10, 0);
			sessions(2);
			*value(0, LG_BLOCKER_TIMEOUT) = 100;
			*value(0, LG_ACTION) = cases[i].most;
			if (exempt == 1)
				*value(0, LG_EXEMPT) = 1;
			else if (exempt == 2)
			{
				slot_of(0)->exempt_pid = 100;
				slot_of(0)->exempt_session_start = slot_of(0)->session_start;
				slot_of(0)->exempt_until = clock_ns + 1000 * MS;
			}
			if (cases[i].idle)
				session_state(0, STATE_IDLEINTRANSACTION);
			blocked_pair();
			clock_ns += 200 * MS;
			judge();
			verdict = verdict_on(0);
			if (!CHECK(verdict != NULL))
				return;
			CHECK_INT(lg_brake_result(verdict->brake), exempt ? LG_EXEMPTED : cases[i].result);
			CHECK_INT(verdict->action, exempt ? LG_DO_LOG : cases[i].action);
			CHECK_INT(lg_brake_text(verdict->brake, verdict->session.kind) != NULL,
					  verdict->brake != LG_NO_BRAKE);
		}

	/* Over a limit on ages: looked at again at the next scan, come what may. */
	start(10, 0);
	sessions(1);
	*value(0, LG_TRANSACTION_TIMEOUT) = 100;
	*value(0, LG_EXEMPT) = 1;
	clock_ns += 200 * MS;
	judge_ages(0);
	CHECK_INT(verdicts.n, 1);
	CHECK_INT(verdicts.next_due, clock_ns + lg_naptime * MS);
	view.tracks[0].open_action = 1;
	judge_ages(0);
	CHECK_INT(verdicts.n, 0);
	CHECK_INT(verdicts.next_due, clock_ns + lg_naptime * MS);

	/* exempt() was for another session, or is over. */
	for (int other = 0; other < 3; other++)
	{
		start(10, 0);
		sessions(2);
		*value(0, LG_BLOCKER_TIMEOUT) = 100;
		slot_of(0)->exempt_pid = other == 0 ? 99 : 100;
		slot_of(0)->exempt_session_start = slot_of(0)->session_start - (other == 1);
		slot_of(0)->exempt_until = clock_ns + (other == 2 ? 200 : 1000) * MS;
		blocked_pair();
		clock_ns += 200 * MS;
		judge();
		only_verdict(0, LG_BLOCKER_TIMEOUT, LG_DO_CANCEL);
	}
}

/* Whoever is never signalled is recorded all the same. */
static void
protected(void)
{
	static const BackendType types[] = {
		B_AUTOVAC_WORKER, B_WAL_SENDER, B_BG_WORKER, B_STARTUP
	};

	for (int i = 0; i < (int) lengthof(types) + 4; i++)
	{
		int			procno = 0;
		LOCK	   *xid;

		start(10, 2);
		sessions(2);
		if (i < (int) lengthof(types))
			session_begins(0, 100, types[i]);
		else if (i == (int) lengthof(types))
			status_of(0)->st_procpid = 0;	/* still logging in */
		else if (i == (int) lengthof(types) + 1)
			slot_of(0)->committing = lg_proc_lxid(proc_of(0));
		else if (i == (int) lengthof(types) + 2)
			proc_of(0)->syncRepState = SYNC_REP_WAITING;
		else
		{
			procno = LG_TOTAL_PROCS - 1;
			prepare_transaction(procno, 5, "x");
		}
		*values_of(procno) = view.server;
		*value(procno, LG_BLOCKER_TIMEOUT) = 100;
		xid = lock_on(LOCKTAG_TRANSACTION, 5, 0);
		holds(procno, xid, ExclusiveLock);
		waits(1, xid, ShareLock);
		clock_ns += 200 * MS;
		judge();
		CHECK_INT(verdicts.n, 1);
		if (CHECK(verdict_on(procno) != NULL))
		{
			CHECK_INT(lg_brake_result(verdict_on(procno)->brake), LG_PROTECTED);
			CHECK_INT(verdict_on(procno)->action, LG_DO_LOG);
			CHECK(verdict_on(procno)->brake == LG_BRAKE_KIND ||
				  verdict_on(procno)->brake == LG_BRAKE_COMMITTING);
		}
	}

	/* What waits for a lock in the middle of its commit has not passed it. */
	start(10, 0);
	sessions(2);
	*value(1, LG_LOCK_WAIT_TIMEOUT) = 100;
	slot_of(1)->committing = lg_proc_lxid(proc_of(1));
	blocked_pair();
	clock_ns += 200 * MS;
	judge();
	only_verdict(1, LG_LOCK_WAIT_TIMEOUT, LG_DO_CANCEL);

	/* A DROP DATABASE says why. */
	start(10, 0);
	sessions(2);
	*value(0, LG_BLOCKER_TIMEOUT) = 100;
	slot_of(0)->committing = slot_of(0)->dropping = lg_proc_lxid(proc_of(0));
	blocked_pair();
	clock_ns += 200 * MS;
	judge();
	CHECK_INT(verdicts.n, 1);
	CHECK_INT(verdict_on(0)->brake, LG_BRAKE_DROPPING);

	/* Another transaction was past the point of no return. */
	start(10, 0);
	sessions(2);
	*value(0, LG_BLOCKER_TIMEOUT) = 100;
	slot_of(0)->committing = lg_proc_lxid(proc_of(0)) - 1;
	blocked_pair();
	clock_ns += 200 * MS;
	judge();
	only_verdict(0, LG_BLOCKER_TIMEOUT, LG_DO_CANCEL);

	/* At the end of its transaction it is neither here nor there. */
	start(10, 0);
	sessions(2);
	*value(0, LG_BLOCKER_TIMEOUT) = 100;
	ends_transaction(0);
	blocked_pair();
	clock_ns += 200 * MS;
	judge();
	CHECK_INT(verdicts.n, 0);
}

/* A parallel worker's leader goes for it. */
static void
parallel_worker(void)
{
	LOCK	   *t;

	start(10, 0);
	sessions(2);
	session_begins(2, 102, B_BG_WORKER);
	joins_group(2, 0);
	*value(0, LG_BLOCKER_TIMEOUT) = 100;
	t = lock_on(LOCKTAG_RELATION, 1, 2);
	holds(2, t, AccessExclusiveLock);
	waits(1, t, AccessShareLock);
	judge();
	clock_ns += 200 * MS;
	judge();
	only_verdict(0, LG_BLOCKER_TIMEOUT, LG_DO_CANCEL);
	CHECK_INT(verdict_on(0)->still.evidence.procno, 2);
	CHECK_INT(verdict_on(0)->still.evidence.pid, 102);
}

/* Deadlocks are the server's own business. */
static void
deadlock(void)
{
	LOCK	   *a;
	LOCK	   *b;

	start(10, 0);
	sessions(4);
	for (int i = 0; i < 4; i++)
		*value(i, LG_BLOCKER_TIMEOUT) = *value(i, LG_QUEUED_BLOCKER_TIMEOUT) =
			*value(i, LG_IDLE_BLOCKER_TIMEOUT) = *value(i, LG_MAX_BLOCKED_SESSIONS) = 1;
	a = lock_on(LOCKTAG_RELATION, 1, 1);
	b = lock_on(LOCKTAG_RELATION, 1, 2);
	holds(0, a, AccessExclusiveLock);
	holds(1, b, AccessExclusiveLock);
	waits(0, b, AccessShareLock);
	waits(1, a, AccessShareLock);
	waits(2, a, AccessShareLock);
	judge();
	clock_ns += 10000 * MS;
	judge();
	CHECK_INT(verdicts.n, 0);
	*value(0, LG_LOCK_WAIT_TIMEOUT) = 1;
	judge();
	only_verdict(0, LG_LOCK_WAIT_TIMEOUT, LG_DO_CANCEL);
}

/* Sessions 0 and 1 in a deadlock, of 1 s by now; 2 waits behind 1. */
static LOCK *
deadlock_of_1s(int limit, int ms)
{
	LOCK	   *a;
	LOCK	   *b;

	start(10, 0);
	sessions(3);
	for (int i = 0; i < 3; i++)
		*value(i, limit) = ms;
	a = lock_on(LOCKTAG_RELATION, 1, 1);
	b = lock_on(LOCKTAG_RELATION, 1, 2);
	holds(0, a, AccessExclusiveLock);
	holds(1, b, AccessExclusiveLock);
	waits(0, b, AccessExclusiveLock);
	waits(1, a, AccessExclusiveLock);
	waits(2, a, AccessShareLock);
	for (int i = 0; i < 10; i++)
	{
		judge();
		CHECK_INT(verdicts.n, 0);
		clock_ns += 100 * MS;
	}
	judge();
	CHECK_INT(verdicts.n, 0);
	return a;
}

/* Time in a deadlock does not count for the one that did not get the error. */
static void
after_deadlock(void)
{
	/* The other keeps its lock: it caught the error after a savepoint. */
	deadlock_of_1s(LG_QUEUED_BLOCKER_TIMEOUT, 500);
	gives_up(0);
	proc_of(0)->waitStatus = PROC_WAIT_STATUS_ERROR;
	session_state(0, STATE_IDLEINTRANSACTION);
	for (int i = 0; i < 5; i++)
	{
		judge();
		CHECK_INT(verdicts.n, 0);
		clock_ns += 100 * MS;
	}
	judge();
	only_verdict(1, LG_QUEUED_BLOCKER_TIMEOUT, LG_DO_CANCEL);
	CHECK_INT(verdict_on(1)->measured, 500);

	/* An escalation that had begun before goes on. */
	{
		LgVerdict	again;

		deadlock_of_1s(LG_QUEUED_BLOCKER_TIMEOUT, 500);
		gives_up(0);
		proc_of(0)->waitStatus = PROC_WAIT_STATUS_ERROR;
		judge();
		CHECK_INT(verdicts.n, 0);
		CHECK(lg_judge_again(&view, 1, LG_QUEUED_BLOCKER_TIMEOUT, &again));
	}
}

/* The one that got the error is left alone, with its tree, while it undoes. */
static void
undoes_deadlock(void)
{
	for (int next_statement = 0; next_statement < 2; next_statement++)
	{
		deadlock_of_1s(LG_BLOCKER_TIMEOUT, 500);
		*value(1, LG_BLOCKER_TIMEOUT) = 0;
		gives_up(0);
		proc_of(0)->waitStatus = PROC_WAIT_STATUS_ERROR;
		judge();
		CHECK_INT(verdicts.n, 0);
		clock_ns += 9900 * MS;
		judge();
		CHECK_INT(verdicts.n, 0);
		*value(0, LG_TRANSACTION_TIMEOUT) = 100;
		judge_ages(0);
		CHECK_INT(verdicts.n, 0);
		*value(0, LG_TRANSACTION_TIMEOUT) = 0;
		if (next_statement)
			status_of(0)->st_activity_start_timestamp++;
		else
			clock_ns += 100 * MS;
		judge();
		only_verdict(0, LG_BLOCKER_TIMEOUT, LG_DO_CANCEL);
	}
}

/* The order of removal: idle root, queued blocker, active root. */
static void
one_victim_per_tree(void)
{
	static const int order[] = {2, 3, 1};	/* as they go */
	bool		untouchable[3];

	for (int mask = 0; mask < 8; mask++)
	{
		LOCK	   *t;
		int			expected = 0;

		start(10, 0);
		sessions(6);
		t = lock_on(LOCKTAG_RELATION, 1, 2);
		holds(1, t, AccessShareLock);
		holds(2, t, AccessShareLock);
		waits(3, t, AccessExclusiveLock);
		waits(4, t, AccessShareLock);
		session_state(2, STATE_IDLEINTRANSACTION);
		for (int i = 0; i < 3; i++)
		{
			untouchable[i] = mask & (1 << i);
			*value(order[i], LG_EXEMPT) = untouchable[i];
			*value(order[i], LG_BLOCKER_TIMEOUT) = 100;
			*value(order[i], LG_QUEUED_BLOCKER_TIMEOUT) = 100;
		}
		judge();
		clock_ns += 200 * MS;
		judge();
		while (expected < 3)
			if (!untouchable[expected++])
				break;
		CHECK_INT(verdicts.n, expected);
		for (int i = 0; i < verdicts.n; i++)
		{
			CHECK_INT(verdicts.verdicts[i].session.procno, order[i]);
			CHECK_INT(lg_brake_result(verdicts.verdicts[i].brake),
					  untouchable[i] ? LG_EXEMPTED : LG_PENDING);
		}
	}
}

/* While a signal is on its way, its tree is left alone, and no other. */
static void
busy_tree(void)
{
	LOCK	   *a;
	LOCK	   *b;

	start(10, 0);
	sessions(6);
	for (int i = 0; i < 6; i++)
		*value(i, LG_BLOCKER_TIMEOUT) = 100;
	a = lock_on(LOCKTAG_TRANSACTION, 1, 0);
	b = lock_on(LOCKTAG_TRANSACTION, 2, 0);
	holds(0, a, ExclusiveLock);
	holds(1, b, ExclusiveLock);
	waits(2, a, ShareLock);
	waits(3, b, ShareLock);
	waits(4, b, ShareLock);
	clock_ns += 200 * MS;
	judge();
	CHECK_INT(verdicts.n, 2);
	lg_sort_verdicts(&verdicts);
	CHECK_INT(verdicts.verdicts[0].session.procno, 1);
	CHECK_INT(verdicts.verdicts[1].session.procno, 0);

	/* Of a process that had this PGPROC before. */
	view.tracks[2].open_action = 7;
	view.tracks[2].pid = 999;
	judge();
	CHECK_INT(verdicts.n, 2);

	view.tracks[2].open_action = 7;
	view.tracks[2].pid = 102;
	judge();
	only_verdict(1, LG_BLOCKER_TIMEOUT, LG_DO_CANCEL);

	/* Recorded without a signal: holds up nothing but that limit. */
	view.tracks[2].open_action = 0;
	view.tracks[0].open_action = -7;
	view.tracks[0].open_limit = LG_BLOCKER_TIMEOUT;
	judge();
	only_verdict(1, LG_BLOCKER_TIMEOUT, LG_DO_CANCEL);
	view.tracks[0].open_limit = LG_IDLE_BLOCKER_TIMEOUT;
	judge();
	CHECK_INT(verdicts.n, 2);
}

/* More blocked sessions first, then the longest wait. */
static void
sorted(void)
{
	for (int n = 0; n < 40; n++)
	{
		start(10, 0);
		verdicts.verdicts = palloc0_array(LgVerdict, n + 1);
		verdicts.n = n;
		for (int i = 0; i < n; i++)
		{
			verdicts.verdicts[i].blocked_sessions = random_below(4);
			verdicts.verdicts[i].longest_wait = random_below(4) * (one_in(2) ? 1 : MS * 100000);
			verdicts.verdicts[i].session.pid = random_below(1000000);
		}
		lg_sort_verdicts(&verdicts);
		for (int i = 1; i < n; i++)
		{
			const LgVerdict *a = &verdicts.verdicts[i - 1];
			const LgVerdict *b = &verdicts.verdicts[i];

			CHECK(a->blocked_sessions > b->blocked_sessions ||
				  (a->blocked_sessions == b->blocked_sessions &&
				   (a->longest_wait > b->longest_wait ||
					(a->longest_wait == b->longest_wait &&
					 a->session.pid <= b->session.pid))));
		}
	}
}

/*
 * preempt_timeout.
 */
static void
preemption(void)
{
	for (int priority = LG_PRIORITY_LOW; priority <= LG_PRIORITY_HIGH; priority++)
		for (int other = LG_PRIORITY_LOW; other <= LG_PRIORITY_HIGH; other++)
		{
			LOCK	   *t;

			start(10, 0);
			sessions(5);
			*value(2, LG_PREEMPT_TIMEOUT) = 100;
			*value(2, LG_PRIORITY) = priority;
			*value(0, LG_PRIORITY) = other;
			*value(1, LG_PRIORITY) = LG_PRIORITY_LOW;
			t = lock_on(LOCKTAG_RELATION, 1, 2);
			holds(0, t, AccessShareLock);
			holds(1, t, AccessShareLock);
			waits(2, t, AccessExclusiveLock);
			judge();
			clock_ns += 100 * MS - 1;
			judge();
			CHECK_INT(verdicts.n, 0);
			clock_ns += 1;
			judge();
			if (other >= priority || priority == LG_PRIORITY_LOW)
				CHECK_INT(verdicts.n, 0);
			else if (CHECK_INT(verdicts.n, 1))
			{
				const LgVerdict *verdict = &verdicts.verdicts[0];

				CHECK(verdict->session.procno == 0 || verdict->session.procno == 1);
				CHECK_INT(verdict->limit, LG_PREEMPT_TIMEOUT);
				CHECK_INT(verdict->action, LG_DO_CANCEL);
				CHECK_INT(verdict->value, 100);
				CHECK_INT(verdict->preempted_for, 102);
				CHECK(verdict->still.waits && verdict->still.wait.waiter_procno == 2);
				CHECK_INT(verdict->still.evidence.waiter_procno, 2);
			}
		}
}

/*
 * In vain if one of them would stay: nobody goes then.  Also if that one waits
 * itself as yet.
 */
static void
preemption_in_vain(void)
{
	LOCK	   *t;

	for (int how = 0; how < 3; how++)
	{
		start(10, 0);
		sessions(5);
		*value(2, LG_PREEMPT_TIMEOUT) = 100;
		*value(2, LG_PRIORITY) = LG_PRIORITY_HIGH;
		t = lock_on(LOCKTAG_RELATION, 1, 2);
		holds(0, t, AccessShareLock);
		holds(1, t, AccessShareLock);
		waits(2, t, AccessExclusiveLock);
		if (how == 0)
			*value(1, LG_EXEMPT) = 1;
		else if (how == 1)
			*value(1, LG_ACTION) = LG_DO_LOG;
		else
		{
			LgValues	old = *values_of(1);

			session_begins(1, 101, B_AUTOVAC_WORKER);
			*values_of(1) = old;
		}
		clock_ns += 200 * MS;
		judge();
		CHECK_INT(verdicts.n, 1);
		CHECK(verdict_on(1) != NULL && verdict_on(1)->brake != LG_NO_BRAKE);
	}

	start(10, 0);
	sessions(5);
	*value(2, LG_PREEMPT_TIMEOUT) = 100;
	*value(2, LG_PRIORITY) = LG_PRIORITY_HIGH;
	*value(1, LG_EXEMPT) = 1;
	t = lock_on(LOCKTAG_RELATION, 1, 2);
	holds(0, t, AccessShareLock);
	waits(1, t, AccessExclusiveLock);
	waits(2, t, AccessExclusiveLock);
	clock_ns += 200 * MS;
	judge();
	CHECK_INT(verdicts.n, 1);
	CHECK(verdict_on(1) != NULL && verdict_on(1)->brake == LG_BRAKE_EXEMPT_SETTING);
	*value(1, LG_EXEMPT) = 0;
	judge();
	only_verdict(0, LG_PREEMPT_TIMEOUT, LG_DO_CANCEL);
}

/* lg_judge_again() and lg_preempt_again() see whether a signal has helped. */
static void
judged_again(void)
{
	LgVerdict	verdict;

	start(10, 0);
	sessions(3);
	*value(0, LG_BLOCKER_TIMEOUT) = 100;
	blocked_pair();
	look();
	clock_ns += 100 * MS - 1;
	look();
	CHECK(!lg_judge_again(&view, 0, LG_BLOCKER_TIMEOUT, &verdict));
	clock_ns += 1;
	look();
	CHECK(lg_judge_again(&view, 0, LG_BLOCKER_TIMEOUT, &verdict));
	CHECK(!lg_judge_again(&view, 1, LG_BLOCKER_TIMEOUT, &verdict));
	*value(0, LG_BLOCKER_TIMEOUT) = 0;
	look();
	CHECK(!lg_judge_again(&view, 0, LG_BLOCKER_TIMEOUT, &verdict));
	*value(0, LG_BLOCKER_TIMEOUT) = 100;
	gives_up(1);
	look();
	CHECK(!lg_judge_again(&view, 0, LG_BLOCKER_TIMEOUT, &verdict));

	start(10, 0);
	sessions(3);
	*value(1, LG_PREEMPT_TIMEOUT) = 100;
	*value(1, LG_PRIORITY) = LG_PRIORITY_HIGH;
	blocked_pair();
	clock_ns += 100 * MS;
	look();
	CHECK(lg_preempt_again(&view, 1, 0, &verdict));
	CHECK(!lg_preempt_again(&view, 1, 2, &verdict));
	CHECK(!lg_preempt_again(&view, 2, 0, &verdict));
	gives_up(1);
	look();
	CHECK(!lg_preempt_again(&view, 1, 0, &verdict));
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

static void
next_limit(void)
{
	LgSubject	subject;
	int			limit;
	LgNode	   *node;

	start(10, 0);
	sessions(3);
	*value(0, LG_BLOCKER_TIMEOUT) = 300;
	*value(0, LG_IDLE_BLOCKER_TIMEOUT) = 100;
	*value(0, LG_TRANSACTION_TIMEOUT) = 250;
	blocked_pair();
	clock_ns += 10 * MS;
	look();
	node = lg_node(view.graph, 0);
	lg_load_node(view.graph, node);
	subject = (LgSubject)
	{
		&node->known->session, &node->known->values, &view.tracks[0], node
	};
	CHECK_INT(lg_next_limit(&view, &subject, &limit), clock_ns + 240 * MS);
	CHECK_INT(limit, LG_TRANSACTION_TIMEOUT);
	session_state(0, STATE_IDLEINTRANSACTION);
	look();
	lg_load_node(view.graph, node);
	subject = (LgSubject)
	{
		&node->known->session, &node->known->values, &view.tracks[0], node
	};
	CHECK_INT(lg_next_limit(&view, &subject, &limit), clock_ns + 100 * MS);
	CHECK_INT(limit, LG_IDLE_BLOCKER_TIMEOUT);
	*values_of(0) = view.server;
	look();
	lg_load_node(view.graph, node);
	subject = (LgSubject)
	{
		&node->known->session, &node->known->values, &view.tracks[0], node
	};
	CHECK_INT(lg_next_limit(&view, &subject, &limit), LG_NEVER);
	CHECK_INT(limit, LG_NO_LIMIT);
}

/*
 * Random situations and settings, judged by the words of the README: each
 * session by itself, in as many passes over everybody as it takes.
 */
#define NLOCKS	6

typedef struct Expected
{
	int			procno;
	int			limit;
	LgActionKind action;
	LgResult	result;
	int			rank;
	int			blocked;
	int64		longest;
	int			tree;
} Expected;

static Model model;
static Expected expected[MAX_NODES * 3];
static int	nexpected;
static int64 soonest;

static int64
waiting_since(int procno)
{
	return lg_clock_at(&view.clock, wait_start_of(procno));
}

static bool
is_client(int procno)
{
	return procno < MaxBackends && status_of(procno)->st_procpid != 0 &&
		status_of(procno)->st_backendType == B_BACKEND;
}

static bool
is_idle(int procno)
{
	BackendState state = status_of(procno)->st_state;

	return state == STATE_IDLE || state == STATE_IDLEINTRANSACTION;
}

static bool
is_queued(int procno)
{
	bool		blocks = false;

	for (int i = 0; i < MAX_NODES; i++)
		blocks |= model.blocks[procno][i];
	return blocks && proc_of(procno)->waitLock != NULL &&
		proc_of(procno)->waitLock->tag.locktag_type == LOCKTAG_RELATION &&
		!model.ahead[procno][procno];
}

/* When it passes a limit on blockers; LG_NEVER if it is none. */
static int64
passes(int procno, int limit, int ms)
{
	const LgNode *node = lg_node(view.graph, procno);
	bool		root = model_root(&model, procno);

	switch (limit)
	{
		case LG_IDLE_BLOCKER_TIMEOUT:
			if (!root || !is_idle(procno))
				return LG_NEVER;
			return ms * MS + Max(node->root_since,
								 lg_clock_at(&view.clock,
											 status_of(procno)->st_state_start_timestamp));
		case LG_BLOCKER_TIMEOUT:
			return root ? node->root_since + ms * MS : LG_NEVER;
		case LG_QUEUED_BLOCKER_TIMEOUT:
			return !is_queued(procno) ? LG_NEVER :
				ms * MS + Max(node->blocking_since, waiting_since(procno));
		default:
			{
				int64		since;
				int			count = 0;

				if (!root && !is_queued(procno))
					return LG_NEVER;
				since = root ? node->root_since : node->blocking_since;
				for (int i = 0; i < MAX_NODES; i++)
					count += i != procno && model.ahead[procno][i] &&
						view.clock.now - waiting_since(i) > DeadlockTimeout * MS;
				if (count > ms)
					return since + DeadlockTimeout * MS;
				return LG_NEVER;
			}
	}
}

static void
expect(int procno, int limit)
{
	Expected   *new = &expected[nexpected++];
	const LgValues *values = values_of(procno);
	bool		client_waits = proc_of(procno)->wait_event_info != 0;

	memset(new, 0, sizeof(*new));
	new->procno = procno;
	new->limit = limit;
	new->action = LG_DO_CANCEL;
	if (limit == LG_IDLE_BLOCKER_TIMEOUT ||
		(limit != LG_LOCK_WAIT_TIMEOUT && (is_idle(procno) || client_waits)))
		new->action = LG_DO_TERMINATE;
	new->result = LG_PENDING;
	if (!is_client(procno))
		new->result = LG_PROTECTED;
	else if (values->value[LG_EXEMPT])
		new->result = LG_EXEMPTED;
	else if (procno < MaxBackends && slot_of(procno)->committing != 0 &&
			 proc_of(procno)->waitLock == NULL)
		new->result = LG_PROTECTED;
	else if ((int) new->action > values->value[LG_ACTION])
		new->result = LG_LOGGED;
	if (new->result != LG_PENDING)
		new->action = LG_DO_LOG;
	new->rank = model.waiting[procno] ? 1 : is_idle(procno) ? 0 : 2;
	new->blocked = model_count(&model, procno);
	for (int i = 0; i < MAX_NODES; i++)
		if (i != procno && model.ahead[procno][i])
			new->longest = Max(new->longest, view.clock.now - waiting_since(i));
	new->tree = model.tree[procno];
}

static bool
goes_before(const Expected *a, const Expected *b)
{
	if (a->rank != b->rank)
		return a->rank < b->rank;
	if (a->blocked != b->blocked)
		return a->blocked > b->blocked;
	if (a->longest != b->longest)
		return a->longest > b->longest;
	return proc_of(a->procno)->pid < proc_of(b->procno)->pid;
}

static bool
is_busy(int procno, int limit)
{
	LgTrack    *track = &view.tracks[procno];

	return track->open_action > 0 ||
		(track->open_action < 0 && track->open_limit == limit);
}

static bool
busy_in_tree(int tree, int nprocs)
{
	for (int i = 0; i < nprocs; i++)
		if (model.tree[i] == tree && lg_node(view.graph, i) != NULL &&
			view.tracks[i].open_action > 0)
			return true;
	return false;
}

static void
expect_blockers(int nprocs)
{
	static const int limits[] = {
		LG_IDLE_BLOCKER_TIMEOUT, LG_QUEUED_BLOCKER_TIMEOUT,
		LG_BLOCKER_TIMEOUT, LG_MAX_BLOCKED_SESSIONS
	};
	Expected	over[MAX_NODES];
	int			nover = 0;

	for (int i = 0; i < nprocs; i++)
		for (int l = 0; l < (int) lengthof(limits); l++)
		{
			int			ms = values_of(i)->value[limits[l]];
			int64		at;

			if (ms == 0 || lg_node(view.graph, i) == NULL || is_busy(i, limits[l]))
				continue;
			at = passes(i, limits[l], ms);
			if (at > view.clock.now)
			{
				soonest = Min(soonest, at);
				continue;
			}
			expect(i, limits[l]);
			over[nover++] = expected[--nexpected];
			break;
		}

	for (int tree = 0; tree < MAX_NODES; tree++)
	{
		bool		done = busy_in_tree(tree, nprocs);

		while (!done)
		{
			int			first = -1;

			for (int i = 0; i < nover; i++)
				if (over[i].tree == tree && (first < 0 || goes_before(&over[i], &over[first])))
					first = i;
			if (first < 0)
				break;
			expected[nexpected++] = over[first];
			done = over[first].result == LG_PENDING;
			over[first].tree = -1;
		}
	}
}

static void
expect_waiters(int nprocs)
{
	for (int i = 0; i < nprocs; i++)
	{
		int			ms = values_of(i)->value[LG_LOCK_WAIT_TIMEOUT];
		int64		at;

		if (proc_of(i)->waitLock == NULL || ms == 0 || !is_client(i) ||
			is_busy(i, LG_LOCK_WAIT_TIMEOUT))
			continue;
		at = waiting_since(i) + ms * MS;
		if (at <= view.clock.now)
			expect(i, LG_LOCK_WAIT_TIMEOUT);
		else
			soonest = Min(soonest, at);
	}
}

/*
 * Of preemption, whoever is hit has to deserve it, and somebody has to be if
 * somebody can be: which one is not said if several block the same number.
 */
static void
check_preemption(const LgVerdict *verdict, int nprocs)
{
	int			victim = verdict->session.procno;
	int			waiter = -1;

	for (int i = 0; i < nprocs; i++)
		if (proc_of(i)->pid == verdict->preempted_for)
			waiter = i;
	if (!CHECK(waiter >= 0))
		return;
	CHECK(values_of(waiter)->value[LG_PREEMPT_TIMEOUT] > 0);
	CHECK(view.clock.now - waiting_since(waiter) >=
		  values_of(waiter)->value[LG_PREEMPT_TIMEOUT] * MS);
	CHECK(model.ahead[victim][waiter]);
	CHECK(model_root(&model, victim) || verdict->brake != LG_NO_BRAKE);
	CHECK(!busy_in_tree(model.tree[victim], nprocs));
	for (int i = 0; i < nprocs; i++)
		if (i != waiter && model.ahead[i][waiter])
		{
			CHECK(values_of(i)->value[LG_PRIORITY] < values_of(waiter)->value[LG_PRIORITY]);
			if (verdict->brake == LG_NO_BRAKE && model_root(&model, i) &&
				!is_busy(i, LG_PREEMPT_TIMEOUT))
			{
				/* It, too, can be removed, and is no better choice. */
				expect(i, LG_PREEMPT_TIMEOUT);
				nexpected--;
				CHECK_INT(expected[nexpected].result, LG_PENDING);
				CHECK(expected[nexpected].blocked <= verdict->blocked_sessions);
			}
			else if (verdict->brake == LG_NO_BRAKE)
			{
				/* It does not stay for good. */
				expect(i, LG_PREEMPT_TIMEOUT);
				nexpected--;
				CHECK(expected[nexpected].result == LG_PENDING ||
					  expected[nexpected].result == LG_LOGGED);
			}
		}
	expect(victim, LG_PREEMPT_TIMEOUT);
	nexpected--;
	CHECK_INT(lg_brake_result(verdict->brake), expected[nexpected].result);
	CHECK_INT(verdict->action, expected[nexpected].action);

	/* One victim per tree. */
	for (int i = 0; i < verdicts.n; i++)
	{
		const LgVerdict *other = &verdicts.verdicts[i];

		if (other != verdict && other->brake == LG_NO_BRAKE &&
			verdict->brake == LG_NO_BRAKE && other->limit != LG_LOCK_WAIT_TIMEOUT)
			CHECK(model.tree[other->session.procno] != model.tree[victim]);
	}
}

static bool
blocks_directly(const LgEvidence *evidence)
{
	for (int p = 0; p < model.npairs; p++)
		if (model.pairs[p].blocker == evidence->procno &&
			model.pairs[p].waiter == evidence->waiter_procno &&
			model.pairs[p].kind == evidence->kind)
			return true;
	return false;
}

/* Is there anybody to be removed for the sake of this waiter? */
static bool
expect_preemption(int waiter, int nprocs)
{
	int			ms = values_of(waiter)->value[LG_PREEMPT_TIMEOUT];
	bool		any = false;

	if (proc_of(waiter)->waitLock == NULL || ms == 0 || !is_client(waiter))
		return false;
	if (waiting_since(waiter) + ms * MS > view.clock.now)
	{
		soonest = Min(soonest, waiting_since(waiter) + ms * MS);
		return false;
	}
	if (busy_in_tree(model.tree[waiter], nprocs))
		return false;
	for (int i = 0; i < nprocs; i++)
	{
		if (i == waiter || !model.ahead[i][waiter])
			continue;
		if (values_of(i)->value[LG_PRIORITY] >= values_of(waiter)->value[LG_PRIORITY])
			return false;
		any |= model_root(&model, i) && !is_busy(i, LG_PREEMPT_TIMEOUT);
	}
	return any;
}

static void
check_judgement(int nprocs)
{
	int			at = 0;

	make_model(&model, nprocs);
	nexpected = 0;
	soonest = LG_NEVER;
	expect_blockers(nprocs);
	expect_waiters(nprocs);

	for (int i = 0; i < verdicts.n; i++)
	{
		const LgVerdict *verdict = &verdicts.verdicts[i];
		int			procno = verdict->session.procno;
		int			match = at;

		CHECK_INT(verdict->session.pid, procno < MaxBackends ? proc_of(procno)->pid : 0);
		CHECK_INT(verdict->blocked_sessions, model_count(&model, procno));
		if (lg_limits[verdict->limit].proof == LG_PROVE_BLOCKS)
		{
			CHECK(blocks_directly(&verdict->still.evidence));
			CHECK_INT(node_of(verdict->still.evidence.procno), procno);
			CHECK_INT(verdict->still.root, !model.waiting[procno]);

			/*
			 * One of a deadlock is no root; but it may be why nobody is
			 * preempted.
			 */
			CHECK(!model.ahead[procno][procno] ||
				  (verdict->limit == LG_PREEMPT_TIMEOUT && verdict->brake != LG_NO_BRAKE));
		}
		else
			CHECK_INT(verdict->still.evidence.waiter_procno, procno);
		if (verdict->limit == LG_PREEMPT_TIMEOUT)
		{
			check_preemption(verdict, nprocs);
			continue;
		}

		/* In the order expected within a tree; trees may be in any order. */
		while (match < nexpected && expected[match].procno != procno)
			match++;
		for (int before = at; before < match && match < nexpected; before++)
			CHECK(expected[before].tree != expected[match].tree ||
				  expected[before].limit == LG_LOCK_WAIT_TIMEOUT);
		if (!CHECK(match < nexpected))
			continue;
		CHECK_INT(verdict->limit, expected[match].limit);
		CHECK_INT(lg_brake_result(verdict->brake), expected[match].result);
		CHECK_INT(verdict->action, expected[match].action);
		CHECK_INT(verdict->longest_wait, expected[match].longest);
		CHECK_INT(verdict->value, values_of(procno)->value[verdict->limit]);
		memmove(&expected[at + 1], &expected[at], (match - at) * sizeof(Expected));
		at++;
	}
	CHECK_INT(at, nexpected);
	for (int i = 0; i < nprocs; i++)
	{
		bool		found_one = !expect_preemption(i, nprocs);

		for (int v = 0; v < verdicts.n && !found_one; v++)
			found_one = model.tree[verdicts.verdicts[v].session.procno] == model.tree[i] &&
				(verdicts.verdicts[v].preempted_for == proc_of(i)->pid ||
				 (lg_brake_result(verdicts.verdicts[v].brake) == LG_PENDING &&
				  verdicts.verdicts[v].limit != LG_LOCK_WAIT_TIMEOUT));
		CHECK(found_one);
	}
	CHECK(verdicts.next_due > view.clock.now);
	CHECK(verdicts.next_due <= soonest);
}

static void
random_settings(int procno)
{
	static const int times[] = {0, 0, 0, 1, 50, 200, INT_MAX};
	static const int counts[] = {0, 0, 1, 2, 3, INT_MAX};
	static const LgSetting timeouts[] = {
		LG_IDLE_BLOCKER_TIMEOUT, LG_BLOCKER_TIMEOUT, LG_QUEUED_BLOCKER_TIMEOUT,
		LG_LOCK_WAIT_TIMEOUT, LG_PREEMPT_TIMEOUT
	};

	for (int i = 0; i < (int) lengthof(timeouts); i++)
		*value(procno, timeouts[i]) = times[random_below(lengthof(times))];
	*value(procno, LG_MAX_BLOCKED_SESSIONS) = counts[random_below(lengthof(counts))];
	*value(procno, LG_ACTION) = one_in(3) ? random_below(3) : LG_DO_TERMINATE;
	*value(procno, LG_PRIORITY) = random_below(3);
	*value(procno, LG_EXEMPT) = one_in(6);
}

static void
random_judgements(void)
{
	for (int round = 0; round < rounds && !has_failed(); round++)
	{
		int			nprocs;
		LOCK	   *locks[NLOCKS];

		random_seed(round);
		nprocs = 2 + random_below(12);
		start(nprocs + 1, 0);
		DeadlockTimeout = 10 + random_below(100);
		for (int i = 0; i < nprocs; i++)
		{
			session_begins(i, 100 + i, one_in(8) ? B_AUTOVAC_WORKER : B_BACKEND);
			session_state(i, STATE_RUNNING);
			random_settings(i);
		}
		for (int i = 0; i < NLOCKS; i++)
			locks[i] = lock_on(i < 3 ? LOCKTAG_RELATION : i < 5 ? LOCKTAG_TUPLE : LOCKTAG_ADVISORY,
							   1, i);

		for (int event = 0; event < 60 && !has_failed(); event++)
		{
			int			i = random_below(nprocs);

			clock_ns += 1000 * (1 + random_below(30000));
			view.tracks[i].pid = proc_of(i)->pid;
			view.tracks[i].open_action = one_in(8) ? 1 : one_in(8) ? -1 : 0;
			view.tracks[i].open_limit = random_below(LG_NUM_LIMITS);
			if (proc_of(i)->waitLock == NULL)
				switch (random_below(8))
				{
					case 0:
						session_state(i, STATE_IDLEINTRANSACTION);
						break;
					case 1:
						releases_all(i);
						slot_of(i)->committing = 0;
						break;
					case 2:
						slot_of(i)->committing = one_in(3) ? lg_proc_lxid(proc_of(i)) : 0;
						break;
					default:
						session_state(i, STATE_RUNNING);
						(void) acquires(i, locks[random_below(NLOCKS)],
										1 + random_below(MaxLockMode));
						break;
				}
			if (one_in(2))
			{
				judge();
				check_judgement(nprocs);
			}
			if (has_failed())
			{
				printf("    in round %d, event %d, %d sessions\n", round, event, nprocs);
				for (int v = 0; v < verdicts.n; v++)
					printf("    session %d: limit %d, result %d, action %d\n",
						   verdicts.verdicts[v].session.procno, verdicts.verdicts[v].limit,
						   lg_brake_result(verdicts.verdicts[v].brake), verdicts.verdicts[v].action);
				for (int v = 0; v < nexpected; v++)
					printf("    expected: session %d, limit %d, result %d, action %d, tree %d\n",
						   expected[v].procno, expected[v].limit, expected[v].result,
						   expected[v].action, expected[v].tree);
			}
		}
	}
}

const Test	limits_tests[] = {
	{"limits: idle_blocker_timeout at its border", idle_blocker},
	{"limits: idle_blocker_timeout and stalled clients", idle_blocker_stalled},
	{"limits: a reader that moves goes after a queued blocker", moving_reader},
	{"limits: a stalled client that others disturb", disturbed_client},
	{"limits: a session that has exported a snapshot", exporter},
	{"limits: blocker_timeout at its border", blocker},
	{"limits: queued_blocker_timeout at its border", queued_blocker},
	{"limits: max_blocked_sessions at its border", blocked_sessions},
	{"limits: max_blocked_sessions and a successor", blocked_sessions_successor},
	{"limits: lock_wait_timeout at its border", lock_wait},
	{"limits: ages at their borders", ages},
	{"limits: ages in every state", ages_by_state},
	{"limits: ages without track_activities", ages_without_activity},
	{"limits: max_locks at its border", locks_held},
	{"limits: max_xmin_age at its border, and around 2^32", xmin_age},
	{"limits: action and exempt", actions},
	{"limits: who is never signalled", protected},
	{"limits: a parallel worker", parallel_worker},
	{"limits: a deadlock", deadlock},
	{"limits: out of a deadlock", after_deadlock},
	{"limits: undoing a statement after a deadlock", undoes_deadlock},
	{"limits: one victim per tree, in order", one_victim_per_tree},
	{"limits: a tree with a signal on its way", busy_tree},
	{"limits: verdicts in order", sorted},
	{"limits: preempt_timeout and priorities", preemption},
	{"limits: preempt_timeout in vain", preemption_in_vain},
	{"limits: judged again", judged_again},
	{"limits: the next limit", next_limit},
	{"limits: stories of every length", stories},
	{"limits: random judgements", random_judgements},
	{NULL, NULL}
};
