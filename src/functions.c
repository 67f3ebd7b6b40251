/*-------------------------------------------------------------------------
 *
 * functions.c
 *		The SQL functions that act.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_authid.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "common/int.h"
#include "storage/proc.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "brakes.h"
#include "clock.h"
#include "compat.h"
#include "enforce.h"
#include "judge.h"
#include "limit.h"
#include "look.h"
#include "proof.h"
#include "record.h"
#include "rollback.h"
#include "session.h"
#include "settings.h"
#include "shared.h"
#include "sql.h"
#include "text.h"
#include "types.h"
#include "waitgraph.h"

PG_FUNCTION_INFO_V1(lockguard_scan);

/* Have the worker scan, and return when it has. */
Datum
lockguard_scan(PG_FUNCTION_ARGS)
{
	uint64		ticket;

	lg_require_loaded();
	if (!lg_enabled)
		ereport(WARNING,
				(errmsg("lockguard is disabled by lockguard.enabled")));
	ticket = pg_atomic_add_fetch_u64(&lg_shared->scans_requested, 1);
	ConditionVariablePrepareToSleep(&lg_shared->scan_served);
	while (pg_atomic_read_u64(&lg_shared->scans_served) < ticket)
	{
		if (!lg_wake_worker())
		{
			ConditionVariableCancelSleep();
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("the lockguard worker is not running"),
					 errhint("The server starts it again within a second; see the server log for why it ended.")));
		}
		ConditionVariableTimedSleep(&lg_shared->scan_served, 1000, PG_WAIT_EXTENSION);
	}
	ConditionVariableCancelSleep();
	PG_RETURN_VOID();
}

/* An interval as ns, for a function that takes a time from now on. */
static int64
interval_to_ns(const Interval *interval)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz then =
		DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval,
												TimestampTzGetDatum(now),
												IntervalPGetDatum(interval)));
	int64		us;

	if (TIMESTAMP_NOT_FINITE(then))
		us = then > now ? PG_INT64_MAX / 1000 : -1;
	else if (pg_sub_s64_overflow(then, now, &us))
		us = PG_INT64_MAX / 1000;
	if (us < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("interval must not be negative")));

	/* Some hundred years will do, and leave room for adding the time of now. */
	return Min(us, PG_INT64_MAX / 4000) * 1000;
}

/* The procno of a session by its pid, or -1; reads what it does. */
static int
find_session(int pid, LgSession *session)
{
	int			procno = lg_find_process(pid);

	if (procno < 0 || procno >= MaxBackends)
		return -1;
	lg_read_session(procno, session);
	return session->pid == pid ? procno : -1;
}

PG_FUNCTION_INFO_V1(lockguard_exempt);

/* exempt(pid, interval): leave a session alone for a time. */
Datum
lockguard_exempt(PG_FUNCTION_ARGS)
{
	LgSession	session;
	LgSlot	   *slot;
	int64		duration;

	lg_require_loaded();
	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	duration = PG_ARGISNULL(1) ? 0 : interval_to_ns(PG_GETARG_INTERVAL_P(1));
	slot = lg_slot(find_session(PG_GETARG_INT32(0), &session));
	if (slot == NULL || session.kind != LG_KIND_CLIENT)
	{
		ereport(WARNING,
				(errmsg("PID %d is not a client session", PG_GETARG_INT32(0))));
		PG_RETURN_BOOL(false);
	}

	LWLockAcquire(lg_shared->lock, LW_EXCLUSIVE);
	if (slot->exempt_pid != session.pid ||
		slot->exempt_session_start != session.session_start)
	{
		/* Judging reads without the lock: it must not mix two sessions up. */
		slot->exempt_pid = 0;
		pg_write_barrier();
		slot->exempt_session_start = session.session_start;
		slot->exempt_until = 0;
		pg_write_barrier();
		slot->exempt_pid = session.pid;
	}
	slot->exempt_until = duration == 0 ? 0 : lg_now() + duration;
	LWLockRelease(lg_shared->lock);
	lg_withdraw_rollbacks(slot, 1);
	lg_wait_for_signals(slot, 1, LG_NEVER);
	PG_RETURN_BOOL(true);
}

PG_FUNCTION_INFO_V1(lockguard_pause);

/* pause(interval): do not act for a time. */
Datum
lockguard_pause(PG_FUNCTION_ARGS)
{
	int64		duration;
	char	   *who;

	lg_require_loaded();
	duration = interval_to_ns(PG_GETARG_INTERVAL_P(0));
	who = lg_one_line(GetUserNameFromId(GetUserId(), false), NAMEDATALEN);
	LWLockAcquire(lg_shared->lock, LW_EXCLUSIVE);
	lg_shared->paused_until = lg_now() + duration;
	LWLockRelease(lg_shared->lock);
	lg_withdraw_rollbacks(lg_shared->slots, MaxBackends);
	lg_wait_for_signals(lg_shared->slots, MaxBackends, LG_NEVER);
	ereport(LOG_SERVER_ONLY,
			(errmsg("lockguard: paused for %lld s by user \"%s\"",
					(long long) (duration / LG_NANOS_PER_SEC), who)));
	lg_wake_worker();
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(lockguard_resume);

/* resume(): end a pause. */
Datum
lockguard_resume(PG_FUNCTION_ARGS)
{
	char	   *who;

	lg_require_loaded();
	who = lg_one_line(GetUserNameFromId(GetUserId(), false), NAMEDATALEN);
	LWLockAcquire(lg_shared->lock, LW_EXCLUSIVE);
	lg_shared->paused_until = 0;
	LWLockRelease(lg_shared->lock);
	ereport(LOG_SERVER_ONLY,
			(errmsg("lockguard: resumed by user \"%s\"", who)));
	lg_wake_worker();
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(lockguard_reset_stats);

Datum
lockguard_reset_stats(PG_FUNCTION_ARGS)
{
	LgScanStats *scan;

	lg_require_loaded();
	scan = &lg_shared->scan_stats;
	pg_atomic_write_u64(&scan->scans, 0);
	pg_atomic_write_u64(&scan->scan_time, 0);
	pg_atomic_write_u64(&scan->max_scan_time, 0);
	pg_atomic_write_u64(&scan->lock_scans, 0);
	pg_atomic_write_u64(&scan->lock_scan_time, 0);
	pg_atomic_write_u64(&scan->max_lock_scan_time, 0);
	pg_atomic_write_u64(&scan->max_partition_lock_time, 0);
	pg_atomic_write_u64(&scan->blocked_time, 0);
	pg_atomic_write_u64(&scan->yields, 0);
	pg_atomic_write_u64(&scan->let_pass, 0);
	pg_atomic_write_u64(&scan->deadlocks, 0);
	LWLockAcquire(lg_shared->lock, LW_EXCLUSIVE);
	memset(&lg_shared->stats, 0, sizeof(LgStats));
	lg_shared->stats.stats_reset = GetCurrentTimestamp();
	LWLockRelease(lg_shared->lock);
	lg_forget_contention();
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(lockguard_reset_history);

Datum
lockguard_reset_history(PG_FUNCTION_ARGS)
{
	lg_require_loaded();
	lg_forget_history();
	PG_RETURN_VOID();
}

/*
 * Check that the caller may signal a session that blocks process "waiter", by the
 * rules of pg_terminate_backend(), and for a prepared transaction by those of
 * ROLLBACK PREPARED.  Errors out if not.
 */
static void
check_may_signal(const LgSession *session, int waiter)
{
	if (session->kind == LG_KIND_PREPARED)
	{
		if (!superuser() && session->userid != GetUserId())
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("must be a superuser or the owner of the prepared transaction that process %d waits for",
							waiter)));
	}
	else if (session->kind == LG_KIND_AUTOVACUUM)
	{
		if (!lg_may_signal_autovacuum(GetUserId()))
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("must be " LG_SIGNALS_AUTOVACUUM " to signal autovacuum worker %d",
							session->pid)));
	}
	else if (!OidIsValid(session->userid) || superuser_arg(session->userid))
	{
		if (!superuser())
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("must be a superuser to signal superuser process %d",
							session->pid)));
	}
	else if (!has_privs_of_role(GetUserId(), session->userid) &&
			 !has_privs_of_role(GetUserId(), ROLE_PG_SIGNAL_BACKEND))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be a member of the role whose process %d is being signalled or member of pg_signal_backend",
						session->pid)));
}

/*
 * What ends a root blocker that lockguard does not signal, as a hint for a role
 * that may see what it is.  Allocates in the current context.
 */
static char *
way_out(const LgSession *session, const char *gid)
{
	switch (session->kind)
	{
		case LG_KIND_CLIENT:
			return pstrdup(session->wait_event == WAIT_EVENT_SYNC_REP ?
						   "Its commit waits for a synchronous standby; see synchronous_standby_names." :
						   "It is about to end its transaction.");
		case LG_KIND_PREPARED:

			/*
			 * If a gid could not be converted to the client's encoding, an
			 * error would take the place of the warning.
			 */
			for (const char *p = gid; *p; p++)
				if (IS_HIGHBIT_SET(*p) || lg_control_bytes(p) > 0)
					return pstrdup("ROLLBACK PREPARED in its database ends it; pg_prepared_xacts has its gid.");
			return psprintf("ROLLBACK PREPARED %s in its database ends it.",
							quote_literal_cstr(gid));
		case LG_KIND_STARTUP:
			return pstrdup("It holds the locks of a transaction on the primary: end that transaction. "
						   "If it waits itself, lockguard.lock_tree shows for what.");
		default:
			if (session->procno >= MaxBackends)
				return pstrdup("No function can end it.");
			return psprintf("pg_terminate_backend(%d) ends it; it may be started again.",
							session->pid);
	}
}

/* Say why a root blocker was not signalled, to a caller who may signal it. */
static void
warn_not_signalled(const LgSession *session, const LgAction *action)
{
	bool		visible = session->kind == LG_KIND_PREPARED || lg_may_see(session->userid);

	ereport(WARNING,
			(session->kind == LG_KIND_PREPARED ?
			 errmsg("a prepared transaction was not signalled") :
			 errmsg("process %d was not signalled", session->pid),
			 action->result == LG_SELF_RESOLVED ?
			 errdetail("It had already stopped blocking.") :
			 action->result == LG_FAILED ?
			 errdetail("The signal could not be sent.") :
			 action->result == LG_LOGGED ?
			 errdetail("Neither a cancel nor a rollback can reach it.") :
			 visible ?
			 errdetail("It is protected: %s.", action->reason) :
			 errdetail("It is protected."),
			 action->result == LG_LOGGED ?
			 errhint("lockguard.terminate_blockers() ends its connection.") :
			 action->result != LG_PROTECTED ? 0 :
			 visible ? errhint("%s", way_out(session, action->gid)) :
			 errhint("A member of pg_read_all_stats can see what it is and does.")));
}

/*
 * Verdicts on all root blockers that a session waits for: signal them, or why
 * not.  Returns how many.  Errors out if the caller may not signal one of them;
 * that is checked before anything is shown, recorded or done, and of those that
 * are protected, too.
 */
static int
decide_by_hand(LgView *view, const LgSession *waiter, LgActionKind what,
			   LgVerdict *verdicts)
{
	LgGraph    *graph = view->graph;
	int			nupstream = lg_upstream(graph, waiter->leader);
	int			n = 0;

	for (int i = 1; i < nupstream; i++)
	{
		LgNode	   *node = &graph->nodes[graph->upstream[i]];
		LgVerdict  *verdict = &verdicts[n];
		LgValues	none;

		if (node->waiting || node->known->session.kind == LG_KIND_NONE)
			continue;
		check_may_signal(&node->known->session, waiter->pid);
		n++;
		memset(verdict, 0, sizeof(*verdict));
		memset(&none, 0, sizeof(none));
		verdict->session = node->known->session;
		verdict->limit = LG_NO_LIMIT;
		verdict->action = what;
		verdict->by_hand = true;
		verdict->proof = LG_PROVE_BLOCKS;
		verdict->still.evidence = graph->edges[graph->upstream[i]];
		lg_link_to(graph, graph->upstream[i], verdict);
		verdict->brake = lg_session_brake(&node->known->session, &none);

		/* The caller's explicit word reaches exempt sessions, too. */
		if (verdict->brake == LG_BRAKE_EXEMPT)
			verdict->brake = LG_NO_BRAKE;
		if (verdict->brake == LG_NO_BRAKE && what == LG_DO_ROLLBACK)
		{
			if (lg_cancel_reaches(&verdict->session))
				verdict->action = LG_DO_CANCEL;
			else if (!lg_rollback_reaches(&verdict->session))
				verdict->brake = LG_BRAKE_OUT_OF_REACH;
		}
		if (verdict->brake != LG_NO_BRAKE)
			verdict->action = LG_DO_LOG;
	}
	return n;
}

/* Signal all root blockers that a session waits for; returns their pids. */
static Datum
signal_blockers(int pid, LgActionKind what)
{
	LgView	   *view;
	LgGraph    *graph;
	LgSession	session;
	LgNode	   *node;
	LgVerdict  *verdicts;
	LgAction   *actions;
	LgLogTexts *texts;
	LgRequest	request;
	bool	   *signalled;
	int		   *pids;
	int			nroots;
	int			n = 0;

	lg_require_loaded();
	if (find_session(pid, &session) < 0)
	{
		ereport(WARNING,
				(errmsg("PID %d is not a PostgreSQL backend process", pid)));
		return lg_array_of_pids(NULL, 0);
	}

	view = lg_look();
	graph = view->graph;
	verdicts = palloc_array(LgVerdict, LG_TOTAL_PROCS);
	pids = palloc_array(int, LG_TOTAL_PROCS);
	node = lg_node(graph, session.leader);
	if (node == NULL || node->first_wait < 0)
	{
		ereport(WARNING,
				(errmsg("process %d does not wait for a lock", pid)));
		return lg_array_of_pids(NULL, 0);
	}

	nroots = decide_by_hand(view, &session, what, verdicts);

	/*
	 * All that can fail comes before the first signal.  Then none is sent
	 * without the others, or without its row and its line in the log,
	 * whatever happens; one of the sessions may be the caller's own.
	 */
	request.user_name = GetUserNameFromId(GetUserId(), false);
	request.pid = MyProcPid;
	actions = palloc_array(LgAction, Max(nroots, 1));
	texts = palloc_array(LgLogTexts, Max(nroots, 1));
	signalled = palloc_array(bool, Max(nroots, 1));
	for (int i = 0; i < nroots; i++)
	{
		lg_count_blocked(view, verdicts[i].session.procno,
						 &verdicts[i].blocked_sessions, &verdicts[i].longest_wait);
		lg_describe(view, &verdicts[i], &request, &actions[i]);
		lg_log_texts(view, &verdicts[i], &actions[i], &texts[i]);
	}

	HOLD_INTERRUPTS();
	for (int i = 0; i < nroots; i++)
	{
		request.action = &actions[i];
		signalled[i] = lg_carry_out(view, &verdicts[i], &request, NULL);
		if (signalled[i])
			pids[n++] = verdicts[i].session.pid;
	}
	lg_wake_worker();
	for (int i = 0; i < nroots; i++)
		lg_write_log(&texts[i], &actions[i]);
	RESUME_INTERRUPTS();

	for (int i = 0; i < nroots; i++)
		if (!signalled[i])
			warn_not_signalled(&verdicts[i].session, &actions[i]);
	return lg_array_of_pids(pids, n);
}

PG_FUNCTION_INFO_V1(lockguard_cancel_blockers);

Datum
lockguard_cancel_blockers(PG_FUNCTION_ARGS)
{
	PG_RETURN_DATUM(signal_blockers(PG_GETARG_INT32(0), LG_DO_CANCEL));
}

PG_FUNCTION_INFO_V1(lockguard_rollback_blockers);

/* Cancel those that are at work, too; never end a connection. */
Datum
lockguard_rollback_blockers(PG_FUNCTION_ARGS)
{
	PG_RETURN_DATUM(signal_blockers(PG_GETARG_INT32(0), LG_DO_ROLLBACK));
}

PG_FUNCTION_INFO_V1(lockguard_terminate_blockers);

Datum
lockguard_terminate_blockers(PG_FUNCTION_ARGS)
{
	PG_RETURN_DATUM(signal_blockers(PG_GETARG_INT32(0), LG_DO_TERMINATE));
}
