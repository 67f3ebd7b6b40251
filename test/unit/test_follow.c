/*-------------------------------------------------------------------------
 *
 * test_follow.c
 *		What comes after a signal that has not helped.
 *
 *-------------------------------------------------------------------------
 */
#include "scene.h"

#include <signal.h>

#include "history_file.h"
#include "unit.h"

#include "../../src/enforce.h"
#include "../../src/follow.h"
#include "../../src/record.h"

static LgFollow *list;

/* The session that is blamed has altered; session 1 waits; what may be done is "most". */
static void
a_blocker(LgActionKind most)
{
	scene(3);
	lg_max_history = 100;
	lg_record_shmem_init(palloc(lg_record_shmem_size()), palloc0(sizeof(LWLock)), true);
	list = lg_follow_create();
	alters(0, table);
	waits_to_read(1, table);
	set(0, LG_BLOCKER_TIMEOUT, 1000);
	set(0, LG_ESCALATION_DELAY, 5000);
	set(0, LG_ACTION, most);
	lg_rollback_install();
}

/* Time passes, and the worker carries out what is due, as at a scan. */
static void
scan_after(int64 ms)
{
	judge_after(ms);
	lg_follow_up(&view, list, &verdicts);
	for (int i = 0; i < verdicts.n; i++)
	{
		LgOpen		sent;

		if (view.tracks[verdicts.verdicts[i].session.procno].open_action == 0 &&
			lg_carry_out(&view, &verdicts.verdicts[i], NULL, &sent))
			(void) lg_follow_add(&view, list, &sent);
	}
}

/* The session that was asked reads messages now. */
static void
answers(void)
{
	PGPROC	   *proc = MyProc;
	PgBackendStatus *status = MyBEEntry;

	becomes(0);
	reads_invalidation(1);
	CHECK_INT(block, FAILED_BLOCK);
	MyProc = proc;
	MyBEEntry = status;
}

/* It has a lock of the session on the same table. */
static void
keeps_lock(void)
{
	if (proc_of(1)->waitLock != NULL)
		gives_up(1);
	releases_all(1);
	alters(0, table);
	waits_to_read(1, table);
}

static void
check_action(int64 action_id, LgActionKind action, LgResult result, int line)
{
	static LgAction row;

	if (!check(lg_fetch_action(action_id, &row), "the action is recorded", __FILE__, line))
		return;
	check_int(row.action, action, "action", __FILE__, line);
	check_int(row.result, result, "result", __FILE__, line);
}

#define CHECK_ACTION(action_id, action, result) check_action(action_id, action, result, __LINE__)
#define CHECK_NO_MORE_THAN(n) \
	do { \
		static LgAction row; \
		CHECK(!lg_fetch_action((n) + 1, &row)); \
	} while (0)

/* What comes after a cancel, by what the session does then and by "action". */
static void
after_cancel(void)
{
	for (int idle = 0; idle < 3; idle++)
		for (int most = LG_DO_CANCEL; most <= LG_DO_TERMINATE; most++)
		{
			LgActionKind next = idle == 1 ? LG_DO_ROLLBACK : LG_DO_TERMINATE;

			a_blocker(most);
			scan_after(0);
			scan_after(1000);
			CHECK_ACTION(1, LG_DO_CANCEL, LG_PENDING);
			CHECK_INT(signals_sent, 1);
			if (idle == 1)
				sits_idle(0);
			else if (idle == 2)
				stalls(0);
			scan_after(4999);
			CHECK_ACTION(1, LG_DO_CANCEL, LG_PENDING);
			CHECK_NO_MORE_THAN(1);
			scan_after(1);
			if (next > (LgActionKind) most)
			{
				CHECK_ACTION(1, LG_DO_CANCEL, LG_PENDING);
				scan_after(10000);
				CHECK_ACTION(1, LG_DO_CANCEL, LG_UNRESPONSIVE);
				continue;
			}
			CHECK_ACTION(1, LG_DO_CANCEL, LG_ESCALATED);
			CHECK_ACTION(2, next, LG_PENDING);
			CHECK_NO_MORE_THAN(2);
			CHECK_INT(signals_sent, next == LG_DO_TERMINATE ? 2 : 1);
			CHECK_INT(times_woken, next == LG_DO_ROLLBACK);
			CHECK_INT(list->n, 1);
			if (has_failed())
			{
				printf("    idle %d, action %d\n", idle, most);
				return;
			}
		}
}

/* A session rolls back, and that helps. */
static void
rollback_helps(void)
{
	a_blocker(LG_DO_TERMINATE);
	sits_idle(0);
	scan_after(0);
	scan_after(1000);
	CHECK_ACTION(1, LG_DO_ROLLBACK, LG_PENDING);
	answers();
	scan_after(2);
	CHECK_ACTION(1, LG_DO_ROLLBACK, LG_RELEASED);
	CHECK_INT(list->n, 0);
	CHECK_INT(signals_sent, 0);
	CHECK_NO_MORE_THAN(1);
}

/* It rolls back, and blocks by a lock of the session still. */
static void
after_rollback(void)
{
	for (int most = LG_DO_ROLLBACK; most <= LG_DO_TERMINATE; most++)
	{
		a_blocker(most);
		sits_idle(0);
		scan_after(0);
		scan_after(1000);
		CHECK_ACTION(1, LG_DO_ROLLBACK, LG_PENDING);
		answers();
		keeps_lock();
		view.times[0].began[LG_ROOT_TIMER] = clock_ns - 1001 * MS;
		scan_after(4999);
		CHECK_ACTION(1, LG_DO_ROLLBACK, LG_PENDING);
		CHECK_NO_MORE_THAN(1);
		scan_after(1);
		if (most == LG_DO_TERMINATE)
		{
			CHECK_ACTION(1, LG_DO_ROLLBACK, LG_ESCALATED);
			CHECK_ACTION(2, LG_DO_TERMINATE, LG_PENDING);
			CHECK_INT(last_signal, SIGTERM);
			CHECK_NO_MORE_THAN(2);
			continue;
		}
		CHECK_ACTION(1, LG_DO_ROLLBACK, LG_PENDING);
		CHECK_INT(signals_sent, 0);
		scan_after(5000);
		CHECK_ACTION(1, LG_DO_ROLLBACK, LG_UNRESPONSIVE);

		/* There is nothing to be repeated. */
		scan_after(61000);
		CHECK_INT(times_woken, 1);
	}
}

/* It does not answer: it was not where it can, or hangs. */
static void
no_answer(void)
{
	/* It is over its limit still. */
	for (int most = LG_DO_ROLLBACK; most <= LG_DO_TERMINATE; most++)
	{
		a_blocker(most);
		sits_idle(0);
		scan_after(0);
		scan_after(1000);
		scan_after(999);
		CHECK_ACTION(1, LG_DO_ROLLBACK, LG_PENDING);
		scan_after(1);
		if (most == LG_DO_TERMINATE)
		{
			CHECK_ACTION(1, LG_DO_ROLLBACK, LG_ESCALATED);
			CHECK_ACTION(2, LG_DO_TERMINATE, LG_PENDING);
			CHECK_INT(lg_rollback_state(0, 100, lg_proc_lxid(proc_of(0))), LG_NOT_ASKED);
			continue;
		}
		scan_after(9000);
		CHECK_ACTION(1, LG_DO_ROLLBACK, LG_UNRESPONSIVE);
		CHECK_INT(times_woken, 1);

		/* It is asked once more, after a minute, and then it answers. */
		scan_after(60000);
		CHECK_INT(times_woken, 2);
		answers();
		scan_after(1);
		CHECK_ACTION(1, LG_DO_ROLLBACK, LG_RELEASED);
	}

	/* It has gone on, with its lock, in the same transaction. */
	a_blocker(LG_DO_TERMINATE);
	set(0, LG_BLOCKER_TIMEOUT, 0);
	set(0, LG_IDLE_BLOCKER_TIMEOUT, 1000);
	sits_idle(0);
	scan_after(0);
	scan_after(1000);
	CHECK_ACTION(1, LG_DO_ROLLBACK, LG_PENDING);
	runs(0);
	scan_after(1);
	CHECK_ACTION(1, LG_DO_ROLLBACK, LG_SELF_RESOLVED);
	CHECK_INT(lg_rollback_state(0, 100, lg_proc_lxid(proc_of(0))), LG_NOT_ASKED);
	CHECK_INT(list->n, 0);

	/* It is not over its limit any more, but may be so again. */
	a_blocker(LG_DO_TERMINATE);
	sits_idle(0);
	scan_after(0);
	scan_after(1000);
	set(0, LG_BLOCKER_TIMEOUT, 100000);
	scan_after(999);
	CHECK_ACTION(1, LG_DO_ROLLBACK, LG_PENDING);
	scan_after(1);
	CHECK_ACTION(1, LG_DO_ROLLBACK, LG_SELF_RESOLVED);
	CHECK_INT(lg_rollback_state(0, 100, lg_proc_lxid(proc_of(0))), LG_NOT_ASKED);
	CHECK_NO_MORE_THAN(1);

	/* It has committed. */
	a_blocker(LG_DO_TERMINATE);
	sits_idle(0);
	scan_after(0);
	scan_after(1000);
	releases_all(0);
	next_transaction(0);
	scan_after(1);
	CHECK_ACTION(1, LG_DO_ROLLBACK, LG_SELF_RESOLVED);
	CHECK_NO_MORE_THAN(1);
	CHECK_INT(signals_sent, 0);
}

/* It goes on each time just when it is asked, and blocks as before. */
static void
goes_on_each_time(void)
{
	a_blocker(LG_DO_TERMINATE);
	set(0, LG_BLOCKER_TIMEOUT, 0);
	set(0, LG_IDLE_BLOCKER_TIMEOUT, 1000);
	for (int transaction = 0; transaction < 2; transaction++)
	{
		int			first = transaction * 4;

		for (int i = 1; i <= 3; i++)
		{
			sits_idle(0);
			scan_after(0);
			scan_after(1000);
			CHECK_ACTION(first + i, LG_DO_ROLLBACK, LG_PENDING);
			runs(0);
			scan_after(1);
			CHECK_ACTION(first + i, LG_DO_ROLLBACK, LG_SELF_RESOLVED);
		}
		sits_idle(0);
		scan_after(0);
		scan_after(1000);
		CHECK_ACTION(first + 4, LG_DO_TERMINATE, LG_PENDING);
		CHECK_NO_MORE_THAN(first + 4);

		/* The next transaction has had no chance yet. */
		gives_up(1);
		releases_all(0);
		next_transaction(0);
		scan_after(1);
		alters(0, table);
		waits_to_read(1, table);
	}
}

/* What blocks is a lock of the session, older than its transaction. */
static void
lock_of_the_session(void)
{
	for (int older = 0; older < 2; older++)
	{
		a_blocker(LG_DO_TERMINATE);
		pass(10);
		if (older)
			next_transaction(0);
		sits_idle(0);
		scan_after(0);
		scan_after(1000);
		CHECK_ACTION(1, older ? LG_DO_TERMINATE : LG_DO_ROLLBACK, LG_PENDING);
	}
}

const Test	follow_tests[] = {
	{"follow: after a cancel", after_cancel},
	{"follow: a rollback helps", rollback_helps},
	{"follow: after a rollback", after_rollback},
	{"follow: a rollback without an answer", no_answer},
	{"follow: a session that goes on each time", goes_on_each_time},
	{"follow: a lock of the session", lock_of_the_session},
	{NULL, NULL}
};
