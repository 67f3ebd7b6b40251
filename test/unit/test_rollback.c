/*-------------------------------------------------------------------------
 *
 * test_rollback.c
 *		A session that is asked to roll its transaction back: when it does, and
 *		when not.
 *
 *-------------------------------------------------------------------------
 */
#include "scene.h"

#include "miscadmin.h"
#include "replication/walsender.h"
#include "storage/ipc.h"
#include "tcop/pquery.h"
#include "utils/memutils.h"

#include "unit.h"

/* How far the rollback of the transaction that session 0 was asked for has come. */
static LocalTransactionId asked_lxid;

static LgRollbackState
state_now(void)
{
	return lg_rollback_state(0, 100, asked_lxid);
}

/*
 * Session 0 has altered and sits idle, 1 waits for it; session 0 is asked to roll
 * back, and is the one that runs.
 */
static void
is_asked(void)
{
	LgReason	reason = {0};

	scene(3);
	alters(0, table);
	sits_idle(0);
	waits_to_read(1, table);
	pass(1);
	becomes(0);
	lg_rollback_install();
	asked_lxid = lg_proc_lxid(proc_of(0));
	reason.pid = 100;
	reason.session_start = slot_of(0)->session_start;
	reason.lxid = asked_lxid;
	reason.action = LG_DO_ROLLBACK;
	reason.limit = LG_IDLE_BLOCKER_TIMEOUT;
	reason.state_start = status_of(0)->st_state_start_timestamp;
	reason.statements = slot_of(0)->statements;
	lg_leave_reason(0, &reason);
	CHECK(lg_ask_rollback(0, asked_lxid));
	CHECK_INT(state_now(), LG_ROLLBACK_ASKED);
}

static void
check_not_done(LgRollbackState state)
{
	reads_invalidation(1);
	reads_invalidation(InvalidOid);
	CHECK_INT(state_now(), state);
	CHECK(held_by(table, 0) != 0);
	CHECK(lg_rolled_back_for() == NULL);
}

static void
obeys(void)
{
	LgSession	session;

	/* All of it goes, and its characteristics stay. */
	is_asked();
	read_only = true;
	nest_level = 3;
	reads_invalidation(1);
	CHECK_INT(state_now(), LG_ROLLBACK_DONE);
	CHECK_INT(held_by(table, 0), 0);
	CHECK(proc_of(1)->waitLock == NULL);
	CHECK_INT(block, FAILED_BLOCK);
	CHECK_INT(nest_level, 1);
	CHECK(read_only);
	CHECK_INT(lg_proc_lxid(proc_of(0)), InvalidLocalTransactionId);
	CHECK_INT(status_of(0)->st_state, STATE_IDLEINTRANSACTION_ABORTED);
	CHECK_INT(InterruptHoldoffCount, 0);
	CHECK(CurrentMemoryContext == MessageContext);

	/* It remembers why for its client. */
	if (CHECK(lg_rolled_back_for() != NULL))
		CHECK_INT(lg_rolled_back_for()->limit, LG_IDLE_BLOCKER_TIMEOUT);

	/* Once only; and there is nothing left that could be rolled back. */
	reads_invalidation(1);
	CHECK_INT(state_now(), LG_ROLLBACK_DONE);
	lg_read_session(0, &session);
	CHECK(!lg_rollback_reaches(&session));

	/* So many messages that only "all relations" is left of them. */
	is_asked();
	reads_invalidation(InvalidOid);
	CHECK_INT(state_now(), LG_ROLLBACK_DONE);

	/*
	 * A transaction that has failed by itself, and kept a lock by a
	 * savepoint.
	 */
	is_asked();
	status_of(0)->st_state = STATE_IDLEINTRANSACTION_ABORTED;
	block = FAILED_BLOCK;
	reads_invalidation(1);
	CHECK_INT(state_now(), LG_ROLLBACK_DONE);

	/* Not for a message about another relation. */
	is_asked();
	reads_invalidation(2);
	CHECK_INT(state_now(), LG_ROLLBACK_ASKED);
}

/*
 * Each of these alone is enough for it not to.
 */
static void
another_reason(void)
{
	slot_of(0)->reason.action = LG_DO_CANCEL;
}

static void
another_process(void)
{
	MyProcPid++;
}

static void
another_session(void)
{
	MyStartTimestamp++;
}

static void
another_transaction(void)
{
	next_transaction(0);
	sits_idle(0);
	slot_of(0)->reason.state_start = status_of(0)->st_state_start_timestamp;
}

static void
no_transaction(void)
{
	ends_transaction(0);
	slot_of(0)->reason.lxid = InvalidLocalTransactionId;
}

static void
another_idle_period(void)
{
	runs(0);
	sits_idle(0);
}

static void
at_work(void)
{
	status_of(0)->st_state = STATE_RUNNING;
}

static void
no_status(void)
{
	MyBEEntry = NULL;
}

static void
interrupts_held(void)
{
	InterruptHoldoffCount = 1;
}

static void
critical_section(void)
{
	CritSectionCount = 1;
}

static void
exits(void)
{
	proc_exit_inprogress = true;
}

static void
another_kind(void)
{
	MyBackendType = B_BG_WORKER;
}

static void
walsender(void)
{
	am_walsender = true;
}

static void
no_client(void)
{
	MyProcPort = NULL;
}

static void
reads_no_message(void)
{
	reading_message = false;
}

static void
another_context(void)
{
	CurrentMemoryContext = TopMemoryContext;
}

static void
portal_is_active(void)
{
	ActivePortal = (Portal) MyProcPort;
}

static void
no_block(void)
{
	block = NO_BLOCK;
}

static void
implicit_block(void)
{
	block = IMPLICIT_BLOCK;
}

static void
does_not(void)
{
	static void (*const but[]) (void) =
	{
		another_reason, another_process, another_session, another_transaction,
		no_transaction, another_idle_period, at_work, no_status, interrupts_held,
		critical_section, exits, another_kind, walsender, no_client,
		reads_no_message, another_context, portal_is_active, no_block, implicit_block
	};

	for (int i = 0; i < (int) lengthof(but); i++)
	{
		Block		before;

		is_asked();
		but[i] ();
		before = block;
		/* It has gone on, and says so. */
		check_not_done(but[i] == another_idle_period || but[i] == at_work || but[i] == no_status ?
					   LG_NOT_ASKED : LG_ROLLBACK_ASKED);
		CHECK_INT(block, before);
		if (has_failed())
		{
			printf("    condition %d\n", i);
			return;
		}
		InterruptHoldoffCount = CritSectionCount = 0;
	}
}

/* It dies with a request open, and reads messages in the abort. */
static void
dies(void)
{
	is_asked();
	AbortOutOfAnyTransaction();
	CHECK_INT(state_now(), LG_ROLLBACK_ASKED);
	CHECK_INT(block, NO_BLOCK);
	CHECK(lg_rolled_back_for() == NULL);
}

/* track_activities = off: by the statements that have begun. */
static void
without_activity(void)
{
	for (int more = 0; more < 2; more++)
	{
		is_asked();
		status_of(0)->st_state = STATE_DISABLED;
		slot_of(0)->reason.state_start = 0;
		slot_of(0)->statements += more;
		if (more)
			check_not_done(LG_NOT_ASKED);
		else
		{
			reads_invalidation(1);
			CHECK_INT(state_now(), LG_ROLLBACK_DONE);
			CHECK_INT(status_of(0)->st_state, STATE_DISABLED);
		}
	}

	/* It was on when the session was asked. */
	is_asked();
	status_of(0)->st_state = STATE_DISABLED;
	check_not_done(LG_NOT_ASKED);
}

/* Requests: asked again, withdrawn, and of others. */
static void
requests(void)
{
	LgOpen		open = {0};

	is_asked();
	open.action = LG_DO_ROLLBACK;
	open.pid = 100;
	open.lxid = asked_lxid;
	CHECK(lg_awaits_rollback(&open));
	CHECK(lg_ask_rollback(0, asked_lxid));
	CHECK(!lg_withdraw_rollback(0, asked_lxid + 1));
	CHECK(lg_withdraw_rollback(0, asked_lxid));
	CHECK(!lg_withdraw_rollback(0, asked_lxid));
	check_not_done(LG_NOT_ASKED);
	CHECK(lg_awaits_rollback(&open));

	/* All of them. */
	is_asked();
	lg_withdraw_rollbacks(lg_shared->slots, MaxBackends);
	check_not_done(LG_NOT_ASKED);

	/* It has obeyed. */
	is_asked();
	reads_invalidation(1);
	CHECK(!lg_ask_rollback(0, asked_lxid));
	CHECK(!lg_withdraw_rollback(0, asked_lxid));
	lg_withdraw_rollbacks(lg_shared->slots, MaxBackends);
	CHECK_INT(state_now(), LG_ROLLBACK_DONE);
	open.lxid = asked_lxid;
	CHECK(!lg_awaits_rollback(&open));

	/* For its next transaction it can be asked anew. */
	CHECK(lg_ask_rollback(0, asked_lxid + 7));
	CHECK_INT(state_now(), LG_NOT_ASKED);

	/*
	 * Another process has its place; and a prepared transaction never had
	 * one.
	 */
	CHECK_INT(lg_rollback_state(0, 999, asked_lxid + 7), LG_NOT_ASKED);
	open.pid = 0;
	CHECK(!lg_awaits_rollback(&open));
	open.pid = 100;
	open.action = LG_DO_TERMINATE;
	CHECK(!lg_awaits_rollback(&open));
}

/* For how long its client is told why. */
static void
told_until(void)
{
	is_asked();
	reads_invalidation(1);
	CHECK(lg_rolled_back_for() != NULL);

	/* ROLLBACK ends the block without any callback. */
	block = NO_BLOCK;
	CHECK(lg_rolled_back_for() == NULL);

	/* A later one that fails has had a transaction. */
	StartTransactionCommand();
	BeginTransactionBlock();
	CHECK(lg_rolled_back_for() == NULL);
	AbortCurrentTransaction();
	CHECK_INT(block, FAILED_BLOCK);
	CHECK(lg_rolled_back_for() == NULL);

	/* One in a subtransaction is not the block that was left. */
	is_asked();
	reads_invalidation(1);
	nest_level = 2;
	CHECK(lg_rolled_back_for() == NULL);
}

const Test	rollback_tests[] = {
	{"rollback: a session obeys", obeys},
	{"rollback: what keeps it from that", does_not},
	{"rollback: it dies with a request open", dies},
	{"rollback: without track_activities", without_activity},
	{"rollback: requests", requests},
	{"rollback: for how long a client is told", told_until},
	{NULL, NULL}
};
