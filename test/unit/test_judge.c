/*-------------------------------------------------------------------------
 *
 * test_judge.c
 *		Which of those over a limit is chosen, and what is to be done about it.
 *
 *-------------------------------------------------------------------------
 */
#include "model.h"
#include "scene.h"

#include "replication/syncrep.h"
#include "utils/wait_event.h"

#include "unit.h"

/*
 * What is done, and what is not.
 */

/* What a blocker does, and the mildest remedy that reaches it. */
static const struct
{
	BackendState state;
	bool		in_transaction;
	LgActionKind mildest;
}			doings[] =

{
	{STATE_RUNNING, true, LG_DO_CANCEL},
	{STATE_FASTPATH, true, LG_DO_CANCEL},
	{STATE_DISABLED, true, LG_DO_CANCEL},
	{STATE_RUNNING, true, LG_DO_TERMINATE}, /* stalls */
	{STATE_IDLEINTRANSACTION, true, LG_DO_ROLLBACK},
	{STATE_IDLEINTRANSACTION_ABORTED, true, LG_DO_ROLLBACK},
	{STATE_IDLEINTRANSACTION_ABORTED, false, LG_DO_TERMINATE},
	{STATE_DISABLED, true, LG_DO_ROLLBACK}, /* waits for its client */
	{STATE_DISABLED, false, LG_DO_TERMINATE},
	{STATE_IDLE, false, LG_DO_TERMINATE}
};

static void
does(int procno, int doing)
{
	session_state(procno, doings[doing].state);
	if (doings[doing].mildest == LG_DO_CANCEL)
		proc_of(procno)->wait_event_info = 0;
	else if (doings[doing].state == STATE_RUNNING)
		stalls(procno);
	if (!doings[doing].in_transaction)
		ends_transaction(procno);
}

/* action and exempt of the victim, in each state. */
static void
actions(void)
{
	for (int i = 0; i < (int) lengthof(doings); i++)
		for (int most = LG_DO_LOG; most <= LG_DO_TERMINATE; most++)
			for (int exempt = 0; exempt < 3; exempt++)
			{
				const LgVerdict *verdict;
				LgActionKind mildest = doings[i].mildest;
				LgBrake		brake = mildest <= (LgActionKind) most ? LG_NO_BRAKE :
					most == LG_DO_LOG ? LG_BRAKE_ACTION_LOG :
					most == LG_DO_CANCEL ? LG_BRAKE_ACTION_CANCEL : LG_BRAKE_ACTION_ROLLBACK;

				if (most == LG_DO_YIELD)
					continue;	/* not a value of the setting */
				scene(2);
				set(0, LG_BLOCKER_TIMEOUT, 100);
				set(0, LG_ACTION, most);
				if (exempt == 1)
					set(0, LG_EXEMPT, 1);
				else if (exempt == 2)
				{
					slot_of(0)->exempt_pid = 100;
					slot_of(0)->exempt_session_start = slot_of(0)->session_start;
					slot_of(0)->exempt_until = clock_ns + 1000 * MS;
				}
				alters(0, table);
				does(0, i);
				waits_to_read(1, table);
				judge();
				judge_after(200);
				verdict = verdict_on(0);
				if (!CHECK(verdict != NULL))
				{
					printf("    doing %d, action %d\n", i, most);
					return;
				}
				if (exempt)
					brake = exempt == 1 ? LG_BRAKE_EXEMPT_SETTING : LG_BRAKE_EXEMPT;
				CHECK_INT(verdict->brake, brake);
				if (!CHECK_INT(verdict->action, brake == LG_NO_BRAKE ? mildest : LG_DO_LOG))
					printf("    doing %d, action %d\n", i, most);
				CHECK_INT(verdict->still.unreachable, mildest > LG_DO_CANCEL);
				CHECK_INT(lg_brake_text(verdict->brake, verdict->session.kind) != NULL,
						  verdict->brake != LG_NO_BRAKE);
			}
}

/* Limits that are about the connection, and one that only a cancel is for. */
static void
remedies(void)
{
	scene(2);
	set(1, LG_LOCK_WAIT_TIMEOUT, 100);
	set(1, LG_ACTION, LG_DO_CANCEL);
	waits_for(1, 0);
	judge_after(200);
	CHECK_ONLY_VERDICT(1, LG_LOCK_WAIT_TIMEOUT, LG_DO_CANCEL);

	for (int most = LG_DO_CANCEL; most <= LG_DO_TERMINATE; most++)
		for (int outside = 0; outside < 2; outside++)
		{
			LgSetting	limit = outside ? LG_IDLE_SESSION_TIMEOUT : LG_IDLE_IN_TRANSACTION_TIMEOUT;

			scene(1);
			set(0, limit, 100);
			set(0, LG_ACTION, most);
			session_state(0, outside ? STATE_IDLE : STATE_IDLEINTRANSACTION);
			judge_ages_after(0, 200);
			CHECK_INT(verdicts.n, 1);
			if (most == LG_DO_TERMINATE)
				CHECK_ONLY_VERDICT(0, limit, LG_DO_TERMINATE);
			else
				CHECK_INT(verdict_on(0)->brake,
						  most == LG_DO_CANCEL ? LG_BRAKE_ACTION_CANCEL : LG_BRAKE_ACTION_ROLLBACK);
		}
}

static void
exempt(void)
{

	/* Over a limit on ages: looked at again at the next scan, come what may. */
	scene(1);
	set(0, LG_TRANSACTION_TIMEOUT, 100);
	set(0, LG_EXEMPT, 1);
	judge_ages_after(0, 200);
	CHECK_INT(verdicts.n, 1);
	CHECK_INT(verdicts.next_due, clock_ns + lg_naptime * MS);
	view.tracks[0].open_action = 1;
	judge_ages(0);
	CHECK_NO_VERDICT();
	CHECK_INT(verdicts.next_due, clock_ns + lg_naptime * MS);

	/* exempt() was for another session, or is over. */
	for (int other = 0; other < 3; other++)
	{
		scene(2);
		set(0, LG_BLOCKER_TIMEOUT, 100);
		slot_of(0)->exempt_pid = other == 0 ? 99 : 100;
		slot_of(0)->exempt_session_start = slot_of(0)->session_start - (other == 1);
		slot_of(0)->exempt_until = clock_ns + (other == 2 ? 200 : 1000) * MS;
		waits_for(1, 0);
		judge_after(200);
		CHECK_ONLY_VERDICT(0, LG_BLOCKER_TIMEOUT, LG_DO_CANCEL);
	}
}

/* A blocker that is never signalled is recorded all the same. */
static void
protected(void)
{
	static const BackendType types[] = {
		B_AUTOVAC_WORKER, B_WAL_SENDER, B_BG_WORKER, B_STARTUP
	};

	for (int i = 0; i < (int) lengthof(types) + 4; i++)
	{
		int			blocker = 0;

		scene(2);
		if (i < (int) lengthof(types))
			comes(0, types[i]);
		else if (i == (int) lengthof(types))
			status_of(0)->st_procpid = 0;	/* still logging in */
		else if (i == (int) lengthof(types) + 1)
			begins_commit(0);
		else if (i == (int) lengthof(types) + 2)
			proc_of(0)->syncRepState = SYNC_REP_WAITING;
		else
			blocker = prepares("x");
		set(blocker, LG_BLOCKER_TIMEOUT, 100);
		waits_for(1, blocker);
		judge_after(200);
		CHECK_INT(verdicts.n, 1);
		if (CHECK(verdict_on(blocker) != NULL))
		{
			CHECK_INT(lg_brake_result(verdict_on(blocker)->brake), LG_PROTECTED);
			CHECK_INT(verdict_on(blocker)->action, LG_DO_LOG);
			CHECK(verdict_on(blocker)->brake == LG_BRAKE_KIND ||
				  verdict_on(blocker)->brake == LG_BRAKE_COMMITTING);
		}
	}

	/* What waits for a lock in the middle of its commit has not passed it. */
	scene(2);
	set(1, LG_LOCK_WAIT_TIMEOUT, 100);
	begins_commit(1);
	waits_for(1, 0);
	judge_after(200);
	CHECK_ONLY_VERDICT(1, LG_LOCK_WAIT_TIMEOUT, LG_DO_CANCEL);

	/* A DROP DATABASE says why. */
	scene(2);
	set(0, LG_BLOCKER_TIMEOUT, 100);
	begins_commit(0);
	slot_of(0)->dropping = slot_of(0)->committing;
	waits_for(1, 0);
	judge_after(200);
	CHECK_INT(verdicts.n, 1);
	CHECK_INT(verdict_on(0)->brake, LG_BRAKE_DROPPING);

	/* Another transaction was past the point of no return. */
	scene(2);
	set(0, LG_BLOCKER_TIMEOUT, 100);
	begins_commit(0);
	slot_of(0)->committing--;
	waits_for(1, 0);
	judge_after(200);
	CHECK_ONLY_VERDICT(0, LG_BLOCKER_TIMEOUT, LG_DO_CANCEL);

	/* At the end of its transaction it is neither here nor there. */
	scene(2);
	set(0, LG_BLOCKER_TIMEOUT, 100);
	ends_transaction(0);
	waits_for(1, 0);
	judge_after(200);
	CHECK_NO_VERDICT();
}

/* A parallel worker's leader is signalled for it. */
static void
parallel_worker(void)
{
	scene(2);
	comes(2, B_BG_WORKER);
	joins_group(2, 0);
	set(0, LG_BLOCKER_TIMEOUT, 100);
	alters(2, table);
	waits_to_read(1, table);
	judge();
	judge_after(200);
	CHECK_ONLY_VERDICT(0, LG_BLOCKER_TIMEOUT, LG_DO_CANCEL);
	CHECK_INT(verdict_on(0)->still.evidence.procno, 2);
	CHECK_INT(verdict_on(0)->still.evidence.pid, 102);
}

/* Deadlocks are the server's own business. */
static void
deadlock(void)
{
	scene(4);
	set_all(LG_BLOCKER_TIMEOUT, 1);
	set_all(LG_QUEUED_BLOCKER_TIMEOUT, 1);
	set_all(LG_IDLE_BLOCKER_TIMEOUT, 1);
	set_all(LG_MAX_BLOCKED_SESSIONS, 1);
	alters(0, table);
	alters(1, other_table);
	waits_to_read(0, other_table);
	waits_to_read(1, table);
	waits_to_read(2, table);
	judge();
	judge_after(10000);
	CHECK_NO_VERDICT();
	set(0, LG_LOCK_WAIT_TIMEOUT, 1);
	judge();
	CHECK_ONLY_VERDICT(0, LG_LOCK_WAIT_TIMEOUT, LG_DO_CANCEL);
}

/* Sessions 0 and 1 in a deadlock, of 1 s by now; 2 waits behind 1, but not for 0. */
static void
deadlock_of_1s(LgSetting limit, int ms)
{
	scene(3);
	set_all(limit, ms);
	reads(0, table);
	alters(1, other_table);
	waits_to_alter(0, other_table);
	waits_to_alter(1, table);
	waits_to_read(2, table);
	judge();
	CHECK_NO_VERDICT();
	CHECK_NO_VERDICT_IN(10, 100);
}

/* Time in a deadlock does not count for the one that did not get the error. */
static void
after_deadlock(void)
{
	LgVerdict	again;

	/* The other keeps its lock: it caught the error after a savepoint. */
	deadlock_of_1s(LG_QUEUED_BLOCKER_TIMEOUT, 500);
	gives_up(0);
	sits_idle(0);
	judge();
	CHECK_NO_VERDICT();
	CHECK_NO_VERDICT_IN(4, 100);
	judge_after(100);
	CHECK_ONLY_VERDICT(1, LG_QUEUED_BLOCKER_TIMEOUT, LG_DO_CANCEL);
	CHECK_INT(verdict_on(1)->measured, 500);

	/* An escalation that had begun before goes on. */
	deadlock_of_1s(LG_QUEUED_BLOCKER_TIMEOUT, 500);
	view.tracks[1].open_action = 1;
	gives_up(0);
	judge();
	CHECK_NO_VERDICT();
	CHECK(lg_judge_again(&view, 1, LG_QUEUED_BLOCKER_TIMEOUT, &again));
}

/* The one that got the error is left alone, with its tree, while it undoes. */
static void
undoes_deadlock(void)
{
	for (int another = 0; another < 2; another++)
	{
		deadlock_of_1s(LG_BLOCKER_TIMEOUT, 500);
		set(1, LG_BLOCKER_TIMEOUT, 0);
		gives_up(0);
		judge();
		CHECK_NO_VERDICT();
		judge_after(9900);
		CHECK_NO_VERDICT();
		set(0, LG_TRANSACTION_TIMEOUT, 100);
		judge_ages(0);
		CHECK_NO_VERDICT();
		set(0, LG_TRANSACTION_TIMEOUT, 0);
		if (another)
			next_statement(0);
		else
			pass(100);
		judge();
		CHECK_ONLY_VERDICT(0, LG_BLOCKER_TIMEOUT, LG_DO_CANCEL);
	}
}

/*
 * The order of removal, of those that help alone: idle root, queued blocker,
 * active root.  A session that may not be touched does not end the search.
 */
static void
one_victim_per_tree(void)
{
	for (int idle = 0; idle < 2; idle++)
		for (int mask = 0; mask < 4; mask++)
		{
			int			order[2];
			int			expected = (mask & 1) ? 2 : 1;

			scene(4);
			order[0] = idle ? 0 : 1;
			order[1] = idle ? 1 : 0;
			reads(0, table);
			waits_to_alter(1, table);
			waits_to_read(2, table);
			if (idle)
				sits_idle(0);
			for (int i = 0; i < 2; i++)
			{
				set(order[i], LG_EXEMPT, (mask & (1 << i)) != 0);
				set(order[i], LG_BLOCKER_TIMEOUT, 100);
				set(order[i], LG_QUEUED_BLOCKER_TIMEOUT, 100);
			}
			judge();
			judge_after(200);
			CHECK_INT(verdicts.n, expected);
			for (int i = 0; i < verdicts.n; i++)
			{
				CHECK_INT(verdicts.verdicts[i].session.procno, order[i]);
				CHECK_INT(lg_brake_result(verdicts.verdicts[i].brake),
						  (mask & (1 << i)) ? LG_EXEMPTED : LG_PENDING);
			}
		}
}

/*
 * One that helps alone goes before those that only help together: the queued
 * blocker before two readers, one of them idle.
 */
static void
alone_before_together(void)
{
	static const struct
	{
		int			exempt;		/* a bit for each session */
		int			n;
		int			procno[3];
		LgResult	result[3];
	}			cases[] =
	{
		{0, 1, {3}, {LG_PENDING}},
		{1 << 1, 1, {3}, {LG_PENDING}},
		{1 << 2, 1, {3}, {LG_PENDING}},
		{1 << 3, 2, {3, 2}, {LG_EXEMPTED, LG_PENDING}},
		{1 << 3 | 1 << 1, 3, {3, 2, 1}, {LG_EXEMPTED, LG_LOGGED, LG_EXEMPTED}},
		{1 << 3 | 1 << 2, 3, {3, 2, 1}, {LG_EXEMPTED, LG_EXEMPTED, LG_LOGGED}}
	};

	for (int c = 0; c < (int) lengthof(cases); c++)
	{
		scene(6);
		reads(1, table);
		reads(2, table);
		waits_to_alter(3, table);
		waits_to_read(4, table);
		sits_idle(2);
		for (int i = 1; i <= 3; i++)
		{
			set(i, LG_EXEMPT, (cases[c].exempt & (1 << i)) != 0);
			set(i, LG_BLOCKER_TIMEOUT, 100);
			set(i, LG_QUEUED_BLOCKER_TIMEOUT, 100);
		}
		judge();
		judge_after(200);
		if (!CHECK_INT(verdicts.n, cases[c].n))
			continue;
		for (int i = 0; i < verdicts.n; i++)
		{
			CHECK_INT(verdicts.verdicts[i].session.procno, cases[c].procno[i]);
			CHECK_INT(lg_brake_result(verdicts.verdicts[i].brake), cases[c].result[i]);
			CHECK_INT(verdicts.verdicts[i].brake == LG_BRAKE_IN_VAIN,
					  cases[c].result[i] == LG_LOGGED);
		}
	}
}

/* While a signal is on its way, its tree is left alone, and no other. */
static void
busy_tree(void)
{
	scene(6);
	set_all(LG_BLOCKER_TIMEOUT, 100);
	waits_for(2, 0);
	waits_for(3, 1);
	waits_for(4, 1);
	judge_after(200);
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
	CHECK_ONLY_VERDICT(1, LG_BLOCKER_TIMEOUT, LG_DO_CANCEL);

	/* Recorded without a signal: holds up nothing but that limit. */
	view.tracks[2].open_action = 0;
	view.tracks[0].open_action = -7;
	view.tracks[0].open_limit = LG_BLOCKER_TIMEOUT;
	judge();
	CHECK_ONLY_VERDICT(1, LG_BLOCKER_TIMEOUT, LG_DO_CANCEL);
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
		scene(0);
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
			scene(5);
			set(2, LG_PREEMPT_TIMEOUT, 100);
			set(2, LG_PRIORITY, priority);
			set(0, LG_PRIORITY, other);
			set(1, LG_PRIORITY, LG_PRIORITY_LOW);
			reads(0, table);
			reads(1, table);
			waits_to_alter(2, table);
			judge();
			pass_until(clock_ns + 100 * MS - 1);
			judge();
			CHECK_NO_VERDICT();
			pass_until(clock_ns + 1);
			judge();
			if (other >= priority || priority == LG_PRIORITY_LOW)
				CHECK_NO_VERDICT();
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
 * In vain if one of them would stay: no session is signalled then.  Also if
 * that one waits itself as yet.
 */
static void
preemption_in_vain(void)
{
	for (int how = 0; how < 3; how++)
	{
		scene(5);
		set(2, LG_PREEMPT_TIMEOUT, 100);
		set(2, LG_PRIORITY, LG_PRIORITY_HIGH);
		if (how == 0)
			set(1, LG_EXEMPT, 1);
		else if (how == 1)
			set(1, LG_ACTION, LG_DO_LOG);
		else
			comes(1, B_AUTOVAC_WORKER);
		reads(0, table);
		reads(1, table);
		waits_to_alter(2, table);
		judge_after(200);
		CHECK_INT(verdicts.n, 1);
		CHECK(verdict_on(1) != NULL && verdict_on(1)->brake != LG_NO_BRAKE);

		/* Also when that has been recorded. */
		view.tracks[1].open_action = -7;
		view.tracks[1].open_limit = LG_PREEMPT_TIMEOUT;
		judge();
		CHECK(verdict_on(0) == NULL);
	}

	scene(5);
	set(2, LG_PREEMPT_TIMEOUT, 100);
	set(2, LG_PRIORITY, LG_PRIORITY_HIGH);
	set(1, LG_EXEMPT, 1);
	reads(0, table);
	waits_to_alter(1, table);
	waits_to_alter(2, table);
	judge_after(200);
	CHECK_INT(verdicts.n, 1);
	CHECK(verdict_on(1) != NULL && verdict_on(1)->brake == LG_BRAKE_EXEMPT_SETTING);
	set(1, LG_EXEMPT, 0);
	judge();
	CHECK_ONLY_VERDICT(0, LG_PREEMPT_TIMEOUT, LG_DO_CANCEL);
}

/* lg_judge_again() and lg_preempt_again() see whether a signal has helped. */
static void
judged_again(void)
{
	LgVerdict	verdict;

	scene(3);
	set(0, LG_BLOCKER_TIMEOUT, 100);
	waits_for(1, 0);
	look();
	pass_until(clock_ns + 100 * MS - 1);
	look();
	CHECK(!lg_judge_again(&view, 0, LG_BLOCKER_TIMEOUT, &verdict));
	pass_until(clock_ns + 1);
	look();
	CHECK(lg_judge_again(&view, 0, LG_BLOCKER_TIMEOUT, &verdict));
	CHECK(!lg_judge_again(&view, 1, LG_BLOCKER_TIMEOUT, &verdict));
	set(0, LG_BLOCKER_TIMEOUT, 0);
	look();
	CHECK(!lg_judge_again(&view, 0, LG_BLOCKER_TIMEOUT, &verdict));
	set(0, LG_BLOCKER_TIMEOUT, 100);
	gives_up(1);
	look();
	CHECK(!lg_judge_again(&view, 0, LG_BLOCKER_TIMEOUT, &verdict));

	scene(3);
	set(1, LG_PREEMPT_TIMEOUT, 100);
	set(1, LG_PRIORITY, LG_PRIORITY_HIGH);
	waits_for(1, 0);
	look_after(100);
	CHECK(lg_preempt_again(&view, 1, 0, &verdict));
	CHECK(!lg_preempt_again(&view, 1, 2, &verdict));
	CHECK(!lg_preempt_again(&view, 2, 0, &verdict));
	gives_up(1);
	look();
	CHECK(!lg_preempt_again(&view, 1, 0, &verdict));
}

/*
 * Random situations and settings, judged by the words of the README: each
 * session by itself, in as many passes over all of them as it takes.
 */
#define NLOCKS	6

typedef struct Expected
{
	int			procno;
	int			limit;
	LgActionKind action;
	LgResult	result;
	int64		passed_at;
	int			help;			/* 0 = alone, 1 = with others, 2 = in vain */
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

static int64
block_time(int procno, LgTimer timer)
{
	return lg_block_time(view.graph, view.times, lg_node(view.graph, procno), timer);
}

/* When it passes a limit on blockers; LG_NEVER if it is none. */
static int64
passes(int procno, int limit, int ms)
{
	const LgNode *node = lg_node(view.graph, procno);
	bool		root = model_root(&model, procno);
	bool		queued = model_queued(&model, procno);

	switch (limit)
	{
		case LG_IDLE_BLOCKER_TIMEOUT:
			if (!root || !is_idle(procno))
				return LG_NEVER;
			return ms * MS + Max(view.clock.now - block_time(procno, LG_IDLE_TIMER),
								 lg_clock_at(&view.clock,
											 status_of(procno)->st_state_start_timestamp));
		case LG_BLOCKER_TIMEOUT:
			return !root ? LG_NEVER :
				view.clock.now + ms * MS - block_time(procno, LG_ROOT_TIMER);
		case LG_QUEUED_BLOCKER_TIMEOUT:
			return !queued ? LG_NEVER :
				view.clock.now + ms * MS - block_time(procno, LG_QUEUED_TIMER);
		default:
			{
				int			count = 0;

				if (!root && !queued)
					return LG_NEVER;
				for (int i = 0; i < MAX_NODES; i++)
					count += i != procno && model.ahead[procno][i] &&
						view.clock.now - waiting_since(i) > DeadlockTimeout * MS;
				if (count > ms)
					return lg_blocks_since(view.graph, node) + DeadlockTimeout * MS;
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
	bool		in_transaction = LocalTransactionIdIsValid(lg_proc_lxid(proc_of(procno)));

	memset(new, 0, sizeof(*new));
	new->procno = procno;
	new->limit = limit;
	new->action = LG_DO_CANCEL;
	if (limit != LG_LOCK_WAIT_TIMEOUT && is_idle(procno))
		new->action = in_transaction ? LG_DO_ROLLBACK : LG_DO_TERMINATE;
	else if (limit == LG_IDLE_BLOCKER_TIMEOUT || (limit != LG_LOCK_WAIT_TIMEOUT && client_waits))
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

/* One that helps alone first; an idle root, a queued blocker, an active root. */
static bool
is_removed_before(const Expected *a, const Expected *b)
{
	if (a->help != b->help)
		return a->help < b->help;
	if (a->rank != b->rank)
		return a->rank < b->rank;
	if (a->passed_at != b->passed_at)
		return a->passed_at < b->passed_at;
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

/* Those over a limit on blockers, by the node; and which of them will go. */
static Expected over[MAX_NODES];
static bool is_over[MAX_NODES];
static bool may_go[MAX_NODES];
static bool ends[MAX_NODES];

/* A root that ends by itself, or that the server cancels for what it blocks. */
static bool
ends_by_itself(int procno)
{
	if (!model_root(&model, procno) || procno >= MaxBackends)
		return false;
	return slot_of(procno)->committing != 0 ||
		(status_of(procno)->st_backendType == B_AUTOVAC_WORKER &&
		 (proc_of(procno)->statusFlags & PROC_VACUUM_FOR_WRAPAROUND) == 0 &&
		 lg_node(view.graph, procno) != NULL &&
		 view.clock.now - lg_node(view.graph, procno)->blame_since >= DeadlockTimeout * MS);
}

/* The first limit that it is over, and that nothing has been done for. */
static void
find_over(int procno)
{
	static const int limits[] = {
		LG_IDLE_BLOCKER_TIMEOUT, LG_QUEUED_BLOCKER_TIMEOUT,
		LG_BLOCKER_TIMEOUT, LG_MAX_BLOCKED_SESSIONS
	};

	is_over[procno] = false;
	if (lg_node(view.graph, procno) == NULL)
		return;
	for (int l = 0; l < (int) lengthof(limits); l++)
	{
		int			ms = values_of(procno)->value[limits[l]];
		int64		at;

		if (ms == 0 || (is_over[procno] && !is_busy(procno, over[procno].limit)))
			continue;
		at = passes(procno, limits[l], ms);
		if (at > view.clock.now)
		{
			/* Of a queue, not all are asked. */
			if (model_root(&model, procno) ||
				(limits[l] == LG_QUEUED_BLOCKER_TIMEOUT &&
				 block_time(procno, LG_QUEUED_TIMER) < view.smallest[LG_QUEUED_BLOCKER_TIMEOUT] * MS))
				soonest = Min(soonest, at);
			continue;
		}
		if (is_over[procno] && is_busy(procno, limits[l]))
			continue;
		is_over[procno] = true;
		expect(procno, limits[l]);
		over[procno] = expected[--nexpected];
		over[procno].passed_at = at;
	}
}

/* How much would it help to remove it? */
static void
find_help(int procno)
{
	bool		all[MAX_NODES];

	for (int i = 0; i < MAX_NODES; i++)
		all[i] = ends[i] || may_go[i];

	/* One that ends need not be removed; it comes after those that do help. */
	over[procno].help = !ends[procno] && model_helps(&model, procno, ends) ? 0 :
		(ends[procno] || may_go[procno]) && model_helps(&model, procno, all) ? 1 : 2;
	if (over[procno].result == LG_PENDING && over[procno].help == 2)
	{
		over[procno].result = LG_LOGGED;
		over[procno].action = LG_DO_LOG;
	}
}

/*
 * May another be signalled instead: a queued blocker that helps as much, and has
 * none such in its way?
 */
static bool
is_nearest(int procno, const Expected *instead_of, int nprocs)
{
	for (int i = 0; i < nprocs; i++)
		if (is_over[i] && over[i].tree == instead_of->tree && over[i].rank == 1 &&
			over[i].help == instead_of->help && over[i].result == LG_PENDING &&
			!is_busy(i, over[i].limit) && model.ahead[i][procno])
			return false;
	return is_over[procno] && over[procno].rank == 1 &&
		over[procno].help == instead_of->help && over[procno].result == LG_PENDING;
}

/* The verdicts on one tree, by limits on blockers. */
static void
check_tree(int tree, int nprocs)
{
	bool		done = busy_in_tree(tree, nprocs);
	bool		said[MAX_NODES] = {false};

	for (int v = 0; v < verdicts.n; v++)
	{
		const LgVerdict *verdict = &verdicts.verdicts[v];
		int			procno = verdict->session.procno;
		const Expected *next = NULL;

		if (verdict->limit == LG_LOCK_WAIT_TIMEOUT || verdict->limit == LG_PREEMPT_TIMEOUT ||
			model.tree[procno] != tree)
			continue;
		CHECK(!done);

		/* Of the queued ones in vain, not all need be told of. */
		for (int i = 0; i < nprocs; i++)
			if (is_over[i] && !said[i] && over[i].tree == tree && !is_busy(i, over[i].limit) &&
				(i == procno || !(over[i].rank == 1 && over[i].help == 2)) &&
				(next == NULL || is_removed_before(&over[i], next)))
				next = &over[i];
		if (!CHECK(next != NULL))
			return;
		if (verdict->brake == LG_NO_BRAKE && next->result == LG_PENDING && next->rank == 1)
		{
			if (!CHECK(is_nearest(procno, next, nprocs)))
				return;
			next = &over[procno];
		}
		if (!CHECK_INT(procno, next->procno))
			return;
		said[procno] = true;
		CHECK_INT(verdict->limit, next->limit);
		CHECK_INT(lg_brake_result(verdict->brake), next->result);
		CHECK_INT(verdict->action, next->action);
		CHECK_INT(verdict->value, values_of(procno)->value[verdict->limit]);
		if (next->result == LG_PENDING)
		{
			bool		all[MAX_NODES];

			done = true;
			CHECK_INT(verdict->longest_wait, next->longest);
			CHECK_INT(verdict->blocked_sessions, next->blocked);
			for (int i = 0; i < MAX_NODES; i++)
				all[i] = ends[i] || may_go[i];
			CHECK(verdict->still.frees);
			CHECK(model_frees(&model, procno, verdict->still.freed.waiter_procno, all));
			for (int i = 0; i < nprocs; i++)
				CHECK(verdict->still.going[i] == -1 || (all[i] && verdict->still.going[i] == proc_of(i)->pid));
		}
	}
	if (!done)
		for (int i = 0; i < nprocs; i++)
			CHECK(!is_over[i] || said[i] || over[i].tree != tree || is_busy(i, over[i].limit) ||
				  (over[i].rank == 1 && over[i].help == 2));
}

static void
check_blockers(int nprocs)
{
	memset(may_go, 0, sizeof(may_go));
	memset(ends, 0, sizeof(ends));
	for (int i = 0; i < nprocs; i++)
	{
		ends[i] = ends_by_itself(i);
		find_over(i);
		may_go[i] = is_over[i] && !ends[i] && over[i].result == LG_PENDING &&
			view.tracks[i].open_action >= 0;
	}
	for (int i = 0; i < nprocs; i++)
		if (is_over[i])
			find_help(i);
	for (int tree = 0; tree < nprocs; tree++)
		check_tree(tree, nprocs);
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
 * A session that is preempted has to deserve it, and one has to be if one can
 * be: which one is not said if several block the same number.
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

/* Is there a session to be removed for the sake of this waiter? */
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
	check_blockers(nprocs);
	expect_waiters(nprocs);

	for (int i = 0; i < verdicts.n; i++)
	{
		const LgVerdict *verdict = &verdicts.verdicts[i];
		int			procno = verdict->session.procno;
		int			match = 0;

		CHECK_INT(verdict->session.pid, procno < MaxBackends ? proc_of(procno)->pid : 0);
		if (lg_limits[verdict->limit].proof == LG_PROVE_BLOCKS)
		{
			CHECK(blocks_directly(&verdict->still.evidence));
			CHECK_INT(node_of(verdict->still.evidence.procno), procno);
			CHECK_INT(verdict->still.root, !model.waiting[procno]);

			/*
			 * One of a deadlock is no root; but it may be why no session is
			 * preempted.
			 */
			CHECK(!model.ahead[procno][procno] ||
				  (verdict->limit == LG_PREEMPT_TIMEOUT && verdict->brake != LG_NO_BRAKE));
		}
		else
			CHECK_INT(verdict->still.evidence.waiter_procno, procno);
		if (verdict->limit == LG_PREEMPT_TIMEOUT)
			check_preemption(verdict, nprocs);
		if (verdict->limit != LG_LOCK_WAIT_TIMEOUT)
			continue;
		while (match < nexpected && expected[match].procno != procno)
			match++;
		if (!CHECK(match < nexpected))
			continue;
		CHECK_INT(lg_brake_result(verdict->brake), expected[match].result);
		CHECK_INT(verdict->action, expected[match].action);
		CHECK_INT(verdict->value, values_of(procno)->value[verdict->limit]);
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
	static const LgActionKind actions[] = {LG_DO_LOG, LG_DO_CANCEL, LG_DO_ROLLBACK, LG_DO_TERMINATE};
	static const LgSetting timeouts[] = {
		LG_IDLE_BLOCKER_TIMEOUT, LG_BLOCKER_TIMEOUT, LG_QUEUED_BLOCKER_TIMEOUT,
		LG_LOCK_WAIT_TIMEOUT, LG_PREEMPT_TIMEOUT
	};

	for (int i = 0; i < (int) lengthof(timeouts); i++)
		set(procno, timeouts[i], times[random_below(lengthof(times))]);
	set(procno, LG_MAX_BLOCKED_SESSIONS, counts[random_below(lengthof(counts))]);
	set(procno, LG_ACTION, one_in(3) ? actions[random_below(lengthof(actions))] : LG_DO_TERMINATE);
	set(procno, LG_PRIORITY, random_below(3));
	set(procno, LG_EXEMPT, one_in(6));
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
		scene(nprocs);
		DeadlockTimeout = 10 + random_below(100);
		for (int i = 0; i < nprocs; i++)
		{
			comes(i, one_in(8) ? B_AUTOVAC_WORKER : B_BACKEND);
			runs(i);
			random_settings(i);
		}
		for (int i = 0; i < NLOCKS; i++)
			locks[i] = lock_on(i < 3 ? LOCKTAG_RELATION : i < 5 ? LOCKTAG_TUPLE : LOCKTAG_ADVISORY,
							   1, i);

		for (int event = 0; event < 60 && !has_failed(); event++)
		{
			int			i = random_below(nprocs);
			LOCK	   *lock;

			clock_ns += 1000 * (1 + random_below(30000));
			view.tracks[i].pid = proc_of(i)->pid;
			view.tracks[i].open_action = one_in(8) ? 1 : one_in(8) ? -1 : 0;
			view.tracks[i].open_limit = random_below(LG_NUM_LIMITS);
			if (proc_of(i)->waitLock == NULL)
				switch (random_below(8))
				{
					case 0:
						sits_idle(i);
						break;
					case 1:
						releases_all(i);
						slot_of(i)->committing = 0;
						break;
					case 2:
						slot_of(i)->committing = one_in(3) ? lg_proc_lxid(proc_of(i)) : 0;
						break;
					default:
						runs(i);
						lock = locks[random_below(NLOCKS)];
						(void) acquires(i, lock, 1 + random_below(MaxLockMode));
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
				for (int v = 0; v < nprocs; v++)
					if (is_over[v])
						printf("    over: session %d, limit %d, result %d, action %d, tree %d, help %d, rank %d, passed %lld, open %d\n",
							   v, over[v].limit, over[v].result, over[v].action, over[v].tree,
							   over[v].help, over[v].rank, (long long) over[v].passed_at,
							   (int) view.tracks[v].open_action);
			}
		}
	}
}

const Test	judge_tests[] = {
	{"judge: action and exempt, in each state", actions},
	{"judge: the remedies of each limit", remedies},
	{"judge: exempt for a while", exempt},
	{"judge: which process is never signalled", protected},
	{"judge: a parallel worker", parallel_worker},
	{"judge: a deadlock", deadlock},
	{"judge: out of a deadlock", after_deadlock},
	{"judge: undoing a statement after a deadlock", undoes_deadlock},
	{"judge: one victim per tree, in order", one_victim_per_tree},
	{"judge: one that helps alone first", alone_before_together},
	{"judge: a tree with a signal on its way", busy_tree},
	{"judge: verdicts in order", sorted},
	{"judge: preempt_timeout and priorities", preemption},
	{"judge: preempt_timeout in vain", preemption_in_vain},
	{"judge: judged again", judged_again},
	{"judge: random judgements", random_judgements},
	{NULL, NULL}
};
