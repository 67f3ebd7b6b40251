/*-------------------------------------------------------------------------
 *
 * test_proof.c
 *		What is proved once more before a signal is sent.
 *
 *-------------------------------------------------------------------------
 */
#include "scene.h"

#include <signal.h>

#include "replication/syncrep.h"

#include "unit.h"

#include "../../src/proof.h"

static TimestampTz acted_at;

static LgRollbackState
rollback_state(int procno)
{
	PGPROC	   *proc = proc_of(procno);

	return lg_rollback_state(procno, proc->pid, lg_proc_lxid(proc));
}

/* Send the signal of the only verdict that asks for one, or ask for the rollback. */
static LgBrake
signal_now(void)
{
	LgBrake		result = LG_BRAKE_FAILED;
	int			n = 0;

	signals_sent = times_woken = 0;
	for (int i = 0; i < verdicts.n; i++)
	{
		const LgVerdict *verdict = &verdicts.verdicts[i];
		LgSlot	   *slot = slot_of(verdict->session.procno);
		LgReason	reason = {0};
		LgReason	before = slot->reason;
		bool		asks = verdict->action == LG_DO_ROLLBACK;

		if (verdict->brake != LG_NO_BRAKE)
			continue;
		n++;
		reason.pid = verdict->session.pid;
		reason.session_start = verdict->session.session_start;
		reason.action = verdict->action;
		reason.limit = verdict->limit;
		result = lg_prove_and_signal(verdict, &reason, &acted_at);
		CHECK_INT(lwlocks_taken, 0);
		CHECK_INT(pg_atomic_read_u32(&slot->signalling), 0);
		CHECK_INT(signals_sent, result == LG_NO_BRAKE && !asks);
		CHECK_INT(times_woken, result == LG_NO_BRAKE && asks);
		if (result != LG_NO_BRAKE)
		{
			/* What another sends later is not explained by this. */
			CHECK(memcmp(&slot->reason, &before, sizeof(before)) == 0);
			CHECK(rollback_state(verdict->session.procno) != LG_ROLLBACK_ASKED);
			continue;
		}
		CHECK_INT(asks ? last_woken : -last_signalled, verdict->session.pid);
		CHECK_INT(rollback_state(verdict->session.procno),
				  asks ? LG_ROLLBACK_ASKED : LG_NOT_ASKED);
	}
	CHECK_INT(n, 1);
	return result;
}

/* Sessions 0 and 1 read, 2 waits to alter; 0 and 1 are to go, 0 first. */
static void
readers(void)
{
	scene(6);
	reads(0, table);
	reads(1, table);
	sits_idle(0);
	sits_idle(1);
	waits_to_alter(2, table);
	set(0, LG_IDLE_BLOCKER_TIMEOUT, 1000);
	set(1, LG_IDLE_BLOCKER_TIMEOUT, 1000);
	judge();
	judge_after(1000);
	CHECK_INT(verdicts.n, 1);
	CHECK(verdict_on(0) != NULL && verdict_on(0)->still.frees);
}

/* What it blocks, and what it does. */
static void
blocks_still(void)
{
	readers();
	CHECK_INT(signal_now(), LG_NO_BRAKE);
	CHECK_INT(slot_of(0)->reason.pid, 100);

	/* The waiter has given up. */
	readers();
	gives_up(2);
	CHECK_INT(signal_now(), LG_BRAKE_RELEASED);

	/* ... and waits anew. */
	readers();
	gives_up(2);
	pass(1);
	waits_to_alter(2, table);
	CHECK_INT(signal_now(), LG_BRAKE_RELEASED);

	/* The lock has been released. */
	readers();
	releases(0, table, AccessShareLock);
	CHECK_INT(signal_now(), LG_BRAKE_RELEASED);

	/* It is idle no more, or has been at work in between. */
	readers();
	runs(0);
	CHECK_INT(signal_now(), LG_BRAKE_RELEASED);
	readers();
	pass(1);
	runs(0);
	sits_idle(0);
	CHECK_INT(signal_now(), LG_BRAKE_RELEASED);

	/* It commits. */
	readers();
	begins_commit(0);
	CHECK_INT(signal_now(), LG_BRAKE_COMMITTING);

	/* Another process. */
	readers();
	session_ends(0);
	session_begins(0, 999, B_BACKEND);
	CHECK_INT(signal_now(), LG_BRAKE_RELEASED);

	/* Exempt, or paused, since. */
	readers();
	slot_of(0)->exempt_pid = 100;
	slot_of(0)->exempt_session_start = slot_of(0)->session_start;
	slot_of(0)->exempt_until = clock_ns + MS;
	CHECK_INT(signal_now(), LG_BRAKE_EXEMPT);
	readers();
	lg_shared->paused_until = clock_ns + MS;
	CHECK_INT(signal_now(), LG_BRAKE_PAUSED);
	lg_shared->paused_until = 0;
}

/* Whether the waiter is freed by it, and by those that go, too. */
static void
frees_still(void)
{
	/* The other has gone in the meantime. */
	readers();
	releases_all(1);
	CHECK_INT(signal_now(), LG_NO_BRAKE);

	/* Another process has its PGPROC, and the lock. */
	readers();
	releases_all(1);
	session_ends(1);
	session_begins(1, 999, B_BACKEND);
	reads(1, table);
	CHECK_INT(signal_now(), LG_BRAKE_IN_VAIN);

	/* A third one has come, with the same lock. */
	readers();
	reads(3, table);
	CHECK_INT(signal_now(), LG_BRAKE_IN_VAIN);

	/* One that does not conflict with the waiter. */
	scene(6);
	writes(0, table);
	sits_idle(0);
	waits(2, table, ShareLock);
	set(0, LG_IDLE_BLOCKER_TIMEOUT, 1000);
	judge();
	judge_after(1000);
	reads(3, table);
	CHECK_INT(signal_now(), LG_NO_BRAKE);

	/* The deadlock detector has put another ahead of the waiter. */
	readers();
	waits_to_alter(3, table);
	moves_ahead(3);
	CHECK_INT(signal_now(), LG_BRAKE_IN_VAIN);
	gives_up(3);
	waits_ahead_of(4, 2, AccessShareLock);
	CHECK_INT(signal_now(), LG_BRAKE_IN_VAIN);

	/* A lock of the waiter's own group, and one of the victim's. */
	readers();
	comes(7, B_BG_WORKER);
	joins_group(7, 2);
	comes(8, B_BG_WORKER);
	joins_group(8, 0);
	reads(7, table);
	reads(8, table);
	CHECK_INT(signal_now(), LG_NO_BRAKE);
}

/* A queued blocker: its own wait has to go on, too. */
static void
queued(void)
{
	scene(6);
	reads(0, table);
	waits_to_alter(1, table);
	waits_to_read(2, table);
	set(1, LG_QUEUED_BLOCKER_TIMEOUT, 1000);
	judge_after(1000);
	CHECK_INT(signal_now(), LG_NO_BRAKE);
	CHECK_INT(last_signal, SIGINT);

	/* Ahead of its waiter, another has come. */
	waits_ahead_of(3, 2, AccessExclusiveLock);
	CHECK_INT(signal_now(), LG_BRAKE_IN_VAIN);
	gives_up(3);
	CHECK_INT(signal_now(), LG_NO_BRAKE);

	/* It has got the lock. */
	releases_all(0);
	CHECK_INT(signal_now(), LG_BRAKE_RELEASED);

	/* It holds one table and waits for a row of another. */
	scene(6);
	alters(1, table);
	waits_for(1, 0);
	waits_to_read(2, table);
	set(1, LG_QUEUED_BLOCKER_TIMEOUT, 1000);
	judge();
	judge_after(1000);
	CHECK_INT(signal_now(), LG_NO_BRAKE);
	gives_up(1);
	CHECK_INT(signal_now(), LG_BRAKE_RELEASED);
}

/* The same for max_blocked_sessions: so many have to wait still. */
static void
counted(void)
{
	scene(8);
	alters(0, table);
	for (int i = 1; i < 5; i++)
		waits_to_read(i, table);
	set(0, LG_MAX_BLOCKED_SESSIONS, 2);
	judge();
	judge_after(1001);
	CHECK_ONLY_VERDICT(0, LG_MAX_BLOCKED_SESSIONS, LG_DO_CANCEL);
	CHECK_INT(signal_now(), LG_NO_BRAKE);
	gives_up(4);
	CHECK_INT(signal_now(), LG_NO_BRAKE);
	gives_up(3);
	CHECK_INT(signal_now(), LG_BRAKE_RELEASED);
}

/* Limits that have nothing to do with a lock. */
static void
ages(void)
{
	scene(3);
	set(0, LG_TRANSACTION_TIMEOUT, 1000);
	judge_ages_after(0, 1000);
	CHECK_INT(signal_now(), LG_NO_BRAKE);
	waits_for(0, 1);
	CHECK_INT(signal_now(), LG_NO_BRAKE);
	gives_up(0);
	next_transaction(0);
	CHECK_INT(signal_now(), LG_BRAKE_CHANGED);

	scene(3);
	set(0, LG_STATEMENT_TIMEOUT, 1000);
	judge_ages_after(0, 1000);
	next_statement(0);
	CHECK_INT(signal_now(), LG_BRAKE_CHANGED);
}

/* One idle session is over blocker_timeout: nothing asks for its very idle period. */
static void
idle_blocker(void)
{
	scene(3);
	writes(0, table);
	sits_idle(0);
	waits_to_alter(1, table);
	set(0, LG_BLOCKER_TIMEOUT, 1000);
	judge();
	judge_after(1000);
	CHECK_ONLY_VERDICT(0, LG_BLOCKER_TIMEOUT, LG_DO_ROLLBACK);
}

static LgVerdict *
only_verdict(void)
{
	return &verdicts.verdicts[0];
}

/* A rollback: what the session is left with, and when it is not asked. */
static void
rollback(void)
{
	/* In which transaction and idle period, and why. */
	idle_blocker();
	CHECK_INT(signal_now(), LG_NO_BRAKE);
	CHECK_INT(slot_of(0)->reason.pid, 100);
	CHECK_INT(slot_of(0)->reason.action, LG_DO_ROLLBACK);
	CHECK_INT(slot_of(0)->reason.limit, LG_BLOCKER_TIMEOUT);
	CHECK_INT(slot_of(0)->reason.lxid, lg_proc_lxid(proc_of(0)));
	CHECK_INT(slot_of(0)->reason.state_start, status_of(0)->st_state_start_timestamp);
	CHECK_INT(last_invalidated, 1);

	/* Asked once more, and for as long as it has not begun. */
	CHECK_INT(signal_now(), LG_NO_BRAKE);
	becomes(0);
	lg_rollback_install();
	reads_invalidation(last_invalidated);
	CHECK_INT(block, FAILED_BLOCK);

	/* Another idle period: that one counts. */
	idle_blocker();
	pass(1);
	runs(0);
	sits_idle(0);
	CHECK_INT(signal_now(), LG_NO_BRAKE);
	CHECK_INT(slot_of(0)->reason.state_start, wall_now());

	/* At work again, or not in a transaction any more. */
	idle_blocker();
	runs(0);
	CHECK_INT(signal_now(), LG_BRAKE_RELEASED);
	idle_blocker();
	stalls(0);
	status_of(0)->st_state = STATE_RUNNING;
	CHECK_INT(signal_now(), LG_BRAKE_RELEASED);
	idle_blocker();
	session_state(0, STATE_IDLE);
	CHECK_INT(signal_now(), LG_BRAKE_RELEASED);

	/* Another transaction, also where a lock of the session is what blocks. */
	for (int held = 0; held < 2; held++)
	{
		idle_blocker();
		only_verdict()->still.holds = held;
		next_transaction(0);
		sits_idle(0);
		CHECK_INT(signal_now(), LG_BRAKE_RELEASED);
	}

	/* An escalation, and one that is asked for by hand. */
	for (int by_hand = 0; by_hand < 2; by_hand++)
	{
		for (int changed = 0; changed < 3; changed++)
		{
			idle_blocker();
			only_verdict()->escalation = !by_hand;
			only_verdict()->by_hand = by_hand;
			if (changed == 1)
				runs(0);
			else if (changed == 2)
			{
				next_transaction(0);
				sits_idle(0);
			}
			CHECK_INT(signal_now(), changed ? LG_BRAKE_RELEASED : LG_NO_BRAKE);
		}
	}

	/* It is rolling back already: it is not asked, and told no other reason. */
	idle_blocker();
	CHECK_INT(signal_now(), LG_NO_BRAKE);
	pg_atomic_write_u64(&slot_of(0)->rollback,
						(uint64) lg_proc_lxid(proc_of(0)) << 2 | LG_ROLLBACK_BEGUN);
	CHECK_INT(signal_now(), LG_BRAKE_CHANGED);

	/* Without track_activities, its statements are counted. */
	scene(3);
	writes(0, table);
	session_state(0, STATE_DISABLED);
	status_of(0)->st_state_start_timestamp = 0;
	slot_of(0)->statements = 7;
	waits_to_alter(1, table);
	set(0, LG_BLOCKER_TIMEOUT, 1000);
	judge();
	judge_after(1000);
	CHECK_ONLY_VERDICT(0, LG_BLOCKER_TIMEOUT, LG_DO_ROLLBACK);
	CHECK_INT(signal_now(), LG_NO_BRAKE);
	CHECK_INT(slot_of(0)->reason.state_start, 0);
	CHECK_INT(slot_of(0)->reason.statements, 7);
}

/* A session that is signalled is not to roll back as well. */
static void
withdrawn(void)
{
	idle_blocker();
	CHECK_INT(signal_now(), LG_NO_BRAKE);
	only_verdict()->action = LG_DO_TERMINATE;
	only_verdict()->escalation = true;
	CHECK_INT(signal_now(), LG_NO_BRAKE);
	CHECK_INT(last_signal, SIGTERM);
	CHECK_INT(slot_of(0)->reason.action, LG_DO_TERMINATE);

	/* The reason for a termination that is to be noticed yet stays. */
	only_verdict()->action = LG_DO_ROLLBACK;
	CHECK_INT(signal_now(), LG_NO_BRAKE);
	CHECK_INT(slot_of(0)->reason.action, LG_DO_TERMINATE);

	/* Idle outside a transaction, with a lock of the session. */
	scene(3);
	alters(0, table);
	session_state(0, STATE_IDLE);
	waits_to_read(1, table);
	set(0, LG_IDLE_BLOCKER_TIMEOUT, 1000);
	judge();
	judge_after(1000);
	CHECK_ONLY_VERDICT(0, LG_IDLE_BLOCKER_TIMEOUT, LG_DO_TERMINATE);
	CHECK_INT(signal_now(), LG_NO_BRAKE);
	CHECK_INT(last_signal, SIGTERM);
}

const Test	proof_tests[] = {
	{"proof: it still blocks, and does the same", blocks_still},
	{"proof: it still helps", frees_still},
	{"proof: a queued blocker", queued},
	{"proof: max_blocked_sessions", counted},
	{"proof: limits on ages", ages},
	{"proof: a rollback", rollback},
	{"proof: a rollback, then a signal", withdrawn},
	{NULL, NULL}
};
