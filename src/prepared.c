/*-------------------------------------------------------------------------
 *
 * prepared.c
 *		Prepared transactions that were forgotten.
 *
 * A prepared transaction has no process to signal.  It can be rolled back,
 * from a session in its own database only, so a short-lived background worker
 * is started for that, which calls PostgreSQL's own code for ROLLBACK
 * PREPARED.  That code locks the transaction first and refuses if another
 * session is finishing it.  The main worker never waits for the other; it looks
 * at each scan what has become of it, and tries again later if it failed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "tcop/tcopprot.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "brakes.h"
#include "clock.h"
#include "compat.h"
#include "enforce.h"
#include "judge.h"
#include "library.h"
#include "look.h"
#include "prepared.h"
#include "record.h"
#include "session.h"
#include "settings.h"
#include "shared.h"
#include "text.h"
#include "twophase.h"
#include "types.h"

/* After how long a rollback is given up, and after how long it is retried. */
#define GIVE_UP_AFTER	(10 * LG_NANOS_PER_SEC)
#define RETRY_AFTER		(5 * LG_NANOS_PER_SEC)

/* What is remembered of one prepared transaction. */
typedef struct Attempt
{
	TransactionId seen_xid;		/* in this PGPROC when it was last looked up */
	TransactionId xid;			/* of the transaction that is prepared there */
	char		gid[LG_GID_SIZE];
	bool		warned;			/* that it could not be rolled back */
	LgMoment	prepared;
	bool		recorded;		/* recorded, without an attempt */
	int64		action_id;		/* its row, once there was an attempt; or 0 */
	BackgroundWorkerHandle *handle; /* of an attempt under way */
	bool		released;		/* recorded as such */
	int64		started;		/* monotonic ns */
	int64		retry;			/* not before; monotonic ns */
} Attempt;

struct LgPrepared
{
	Attempt    *attempts;		/* max_prepared_xacts of them */
	bool		idle;			/* nothing is remembered of any */
	int64		wake;			/* when one is due, monotonic ns */
};

/* What the rollback worker is told. */
typedef struct Order
{
	Oid			datid;
	int			procno;
	TransactionId xid;
} Order;

LgPrepared *
lg_prepared_create(void)
{
	LgPrepared *prepared = palloc0(sizeof(LgPrepared));
	LgAction   *action = palloc(sizeof(LgAction));
	int64		first;
	int64		next;

	prepared->attempts = palloc0_array(Attempt, Max(max_prepared_xacts, 1));

	/* Nothing is known of what a worker before this one has begun. */
	lg_action_range(&first, &next);
	for (int64 id = first; id < next; id++)
		if (lg_fetch_action(id, action) && action->pid == 0 &&
			action->result == LG_PENDING)
			lg_record_result(id, LG_FAILED, -1);
	pfree(action);
	return prepared;
}

/* Start a worker that rolls the transaction back; false if there is no slot. */
static bool
start_rollback(Attempt *attempt, const LgSession *session)
{
	BackgroundWorker worker = {0};
	Order		order;
	MemoryContext old;
	bool		started;

	order.datid = session->datid;
	order.procno = session->procno;
	order.xid = session->xid;

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	strlcpy(worker.bgw_library_name, lg_dynamic_library_name, sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "lg_rollback_main", BGW_MAXLEN);
	strlcpy(worker.bgw_name, "lockguard rollback", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "lockguard rollback", BGW_MAXLEN);
	worker.bgw_notify_pid = MyProcPid;
	memcpy(worker.bgw_extra, &order, sizeof(order));

	/* The handle must outlive the scan. */
	old = MemoryContextSwitchTo(TopMemoryContext);
	started = RegisterDynamicBackgroundWorker(&worker, &attempt->handle);
	MemoryContextSwitchTo(old);
	if (!started)
		attempt->handle = NULL;
	return started;
}

/* Why nothing may be rolled back now, but for the cap on actions. */
static LgBrake
standing_brake(int64 now)
{
	return lg_prepared_action != LG_DO_ROLLBACK ? LG_BRAKE_PREPARED_ACTION_LOG :
		lg_standing_brake(now);
}

/* An attempt has come to its end, or has been given up. */
static void
end_attempt(Attempt *attempt, bool gone, int64 now)
{
	LgBrake		brake = gone ? LG_NO_BRAKE : standing_brake(now);

	lg_record_result(attempt->action_id,
					 gone ? LG_RELEASED :
					 brake != LG_NO_BRAKE ? lg_brake_result(brake) : LG_FAILED,
					 gone ? (now - attempt->started) / 1000 : -1);
	if (brake != LG_NO_BRAKE)
	{
		/* The other worker has stood back: see lg_rollback_main(). */
		lg_record_reason(attempt->action_id, lg_brake_text(brake, LG_KIND_PREPARED));
		attempt->recorded = true;
	}
	else if (!gone && !attempt->warned)
	{
		ereport(WARNING,
				(errmsg("lockguard: prepared transaction \"%s\" could not be rolled back now",
						lg_one_line(attempt->gid, LG_GID_SIZE)),
				 errdetail("The rollback is retried every %d s.",
						   (int) (RETRY_AFTER / LG_NANOS_PER_SEC))));
		attempt->warned = true;
	}
	attempt->released = gone;
	attempt->retry = now + RETRY_AFTER;
	if (attempt->handle)
		pfree(attempt->handle);
	attempt->handle = NULL;
}

/* Record and do what prepared_transaction_action says about one. */
static void
act_on_transaction(LgView *view, Attempt *attempt, const LgSession *session, int64 age, bool busy)
{
	LgVerdict	verdict = {0};
	LgBrake		brake = standing_brake(view->clock.now);

	if (brake == LG_NO_BRAKE)
		brake = lg_server_brake(view->clock.now, LG_PREPARED_TRANSACTION_TIMEOUT);
	if (brake != LG_NO_BRAKE && attempt->recorded)
		return;

	verdict.session = *session;
	verdict.limit = LG_PREPARED_TRANSACTION_TIMEOUT;
	verdict.value = lg_prepared_timeout;
	verdict.source = LG_SOURCE_CONFIGURATION;
	verdict.action = (LgActionKind) lg_prepared_action;
	verdict.brake = brake;
	verdict.measured = age / LG_NANOS_PER_MS;
	lg_count_blocked(view, session->procno, &verdict.blocked_sessions,
					 &verdict.longest_wait);
	if (brake != LG_NO_BRAKE)
	{
		(void) lg_record_verdict(view, &verdict);
		attempt->recorded = true;
		return;
	}

	attempt->started = lg_now();
	if (attempt->action_id == 0)
		attempt->action_id = lg_record_verdict(view, &verdict);
	if (busy || !start_rollback(attempt, session))
		end_attempt(attempt, false, lg_now());
	else
	{
		/* If this is a retry, it no longer counts as failed. */
		lg_record_result(attempt->action_id, LG_PENDING, -1);
		lg_cap_count(view->clock.now);
	}
}

/* When a prepared transaction passes its limit (monotonic ns). */
static int64
due_at(const Attempt *attempt)
{
	return attempt->prepared.at + lg_prepared_timeout * LG_NANOS_PER_MS;
}

/*
 * Is there nothing to do about this PGPROC, and the same transaction in it, or
 * none, as when it was last looked up?  To look each of many up at every scan
 * would take a time that grows with their square.
 */
static bool
nothing_new(const Attempt *attempt, int procno, int64 now)
{
	TransactionId xid = ((volatile PGPROC *) &ProcGlobal->allProcs[procno])->xid;

	if (attempt->handle != NULL || attempt->action_id != 0 ||
		lg_prepared_timeout == 0 || xid != attempt->seen_xid)
		return false;
	if (!TransactionIdIsValid(attempt->xid))
		return true;
	return attempt->prepared.at != 0 &&
		(due_at(attempt) > now || (attempt->recorded && lg_prepared_action == LG_DO_LOG));
}

/*
 * See to prepared transactions: to those under way, and to those that are too
 * old.  Returns when to do so again (monotonic ns).
 */
int64
lg_prepared_scan(LgPrepared *prepared, LgView *view)
{
	int64		wake = LG_NEVER;

	prepared->wake = LG_NEVER;
	if (max_prepared_xacts == 0 || (prepared->idle && lg_prepared_timeout == 0))
		return wake;
	prepared->idle = true;

	for (int i = 0; i < max_prepared_xacts; i++)
	{
		Attempt    *attempt = &prepared->attempts[i];
		int			procno = MaxBackends + NUM_AUXILIARY_PROCS + i;
		TransactionId xid = InvalidTransactionId;
		LgSession	session;
		char		gid[LG_GID_SIZE];
		TimestampTz prepared_at = 0;
		bool		busy = false;
		int64		at;

		if (nothing_new(attempt, procno, view->clock.now))
		{
			if (!TransactionIdIsValid(attempt->xid))
				continue;
			prepared->idle = false;
			if (!attempt->recorded)
				wake = Min(wake, due_at(attempt));
			continue;
		}

		/*
		 * Read before the lookup, so that one prepared meanwhile is not
		 * missed.
		 */
		attempt->seen_xid = ((volatile PGPROC *) &ProcGlobal->allProcs[procno])->xid;

		/* The xid of a PGPROC stays there when its transaction is finished. */
		if ((attempt->handle != NULL || TransactionIdIsValid(attempt->xid) ||
			 lg_prepared_timeout > 0) &&
			lg_prepared_transaction(procno, gid, &prepared_at, &busy))
			xid = ProcGlobal->allProcs[procno].xid;

		if (attempt->handle != NULL)
		{
			pid_t		pid;
			bool		gone = xid != attempt->xid;

			if (gone || GetBackgroundWorkerPid(attempt->handle, &pid) == BGWH_STOPPED)
				end_attempt(attempt, gone, view->clock.now);
			else if (view->clock.now - attempt->started >= GIVE_UP_AFTER)
			{
				TerminateBackgroundWorker(attempt->handle);
				end_attempt(attempt, false, view->clock.now);
			}
			else
			{
				wake = Min(wake, view->clock.now + 20 * LG_NANOS_PER_MS);
				prepared->idle = false;
				continue;
			}
		}
		if (xid != attempt->xid)
		{
			TransactionId seen_xid = attempt->seen_xid;

			if (attempt->action_id != 0 && !attempt->released)
				lg_record_result(attempt->action_id, LG_RELEASED,
								 (view->clock.now - attempt->started) / 1000);
			memset(attempt, 0, sizeof(*attempt));
			attempt->seen_xid = seen_xid;
			attempt->xid = xid;
			strlcpy(attempt->gid, gid, LG_GID_SIZE);
		}
		if (TransactionIdIsValid(xid))
			prepared->idle = false;
		if (!TransactionIdIsValid(xid) || lg_prepared_timeout == 0)
			continue;

		lg_read_session(procno, &session);
		(void) lg_moment(&view->clock, &attempt->prepared, prepared_at);
		at = due_at(attempt);
		if (at > view->clock.now)
			wake = Min(wake, at);
		else if (attempt->retry > view->clock.now)
			wake = Min(wake, attempt->retry);
		else
		{
			act_on_transaction(view, attempt, &session,
							   view->clock.now - attempt->prepared.at, busy);
			if (attempt->handle != NULL)
				wake = Min(wake, view->clock.now + LG_NANOS_PER_MS);
		}
	}
	prepared->wake = wake;
	return wake;
}

/*
 * Is one due, so that the next scan should look what it blocks?
 */
bool
lg_prepared_due(const LgPrepared *prepared, int64 now)
{
	return now >= prepared->wake;
}

/* In the rollback worker: has it raised "signalling" in its slot? */
static bool rolling_back = false;

/* What lg_rollback_main() was about to do is done, or has failed. */
static void
end_rollback(int code, Datum arg)
{
	if (rolling_back)
		pg_atomic_fetch_sub_u32(&lg_slot(lg_proc_number(MyProc))->signalling, 1);
	rolling_back = false;
}

/*
 * Entry point of the worker that rolls one prepared transaction back.  It was
 * started some time ago, so it asks once more whether it may: by what the main
 * worker has published, as its own settings are those of its start.  pause()
 * and a reload wait until "signalling" is down.
 */
void
lg_rollback_main(Datum main_arg)
{
	Order		order;
	char		gid[LG_GID_SIZE];
	char		activity[LG_GID_SIZE + 32];
	TimestampTz prepared_at;
	bool		busy;

	lg_require_preloaded();
	memcpy(&order, MyBgworkerEntry->bgw_extra, sizeof(order));
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(order.datid, InvalidOid,
											  BGWORKER_BYPASS_ALLOWCONN);

	StartTransactionCommand();

	/*
	 * A "role" that the database's owner has set for it must not bind this
	 * process.
	 */
	SetUserIdAndSecContext(BOOTSTRAP_SUPERUSERID, SECURITY_LOCAL_USERID_CHANGE);
	if (ProcGlobal->allProcs[order.procno].xid == order.xid &&
		lg_prepared_transaction(order.procno, gid, &prepared_at, &busy))
	{
		snprintf(activity, sizeof(activity), "ROLLBACK PREPARED '%s'", gid);
		pgstat_report_activity(STATE_RUNNING, activity);
		before_shmem_exit(end_rollback, (Datum) 0);
		pg_atomic_fetch_add_u32(&lg_slot(lg_proc_number(MyProc))->signalling, 1);
		rolling_back = true;
		pg_memory_barrier();
		if (pg_atomic_read_u32(&lg_shared->rolls_back) != 0 &&
			lg_shared->paused_until <= lg_now())
			FinishPreparedTransaction(gid, false);
		end_rollback(0, (Datum) 0);
	}
	CommitTransactionCommand();
	proc_exit(0);
}
