/*-------------------------------------------------------------------------
 *
 * worker.c
 *		The background worker: when to scan, and the steps of a scan.
 *
 * A scan begins with one pass over the PGPROCs without any lock.  Only if
 * a process has waited long enough to matter does it look at the lock manager;
 * then it judges, acts, and works out when the next limit can be passed at
 * the earliest.  Until then it sleeps, but never longer than naptime.
 *
 * What is remembered between scans is private to the worker.  If it fails, the
 * postmaster starts it again after a second; it then takes up the signals
 * that are still open, and begins all other clocks anew, which makes it late,
 * not early.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <time.h>

#include "access/twophase.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "clock.h"
#include "compat.h"
#include "debug.h"
#include "enforce.h"
#include "explain.h"
#include "follow.h"
#include "incident.h"
#include "judge.h"
#include "library.h"
#include "limit.h"
#include "look.h"
#include "prepared.h"
#include "proof.h"
#include "record.h"
#include "rollback.h"
#include "session.h"
#include "settings.h"
#include "shared.h"
#include "text.h"
#include "twophase.h"
#include "types.h"
#include "waitgraph.h"
#include "worker.h"
#include "yield.h"

/*
 * Scans of more waiters than MANY_WAITERS that use a processor for over 1 ms take
 * at most one part in so many of the worker's time.  (For how long the worker
 * waits for a processor meanwhile does not count: that others are busy is no
 * reason to look less often.)
 */
#define SCAN_SHARE		20
#define MANY_WAITERS	100

/* The longest doze. */
#define MAX_DOZE	LG_NANOS_PER_SEC

/* A worker that is this late has been stopped, and not it alone. */
#define FREEZE		LG_NANOS_PER_SEC

/* How long a reload waits for a rollback that is just being written. */
#define WAIT_FOR_ROLLBACK	LG_NANOS_PER_SEC

/* Private state of the worker; all of it lives as long as the process. */
typedef struct LgWorker
{
	LgView		view;
	LgVerdicts	verdicts;
	LgFollow   *follow;
	LgPrepared *prepared;
	LgIncidents *incidents;
	LgYields   *yields;
	LgShownWait *shown;			/* what sessions have been shown */
	MemoryContext scan_context; /* emptied after each scan that used it */

	uint32		settings_changes;	/* seen when view.smallest was computed */
	uint32		smallest_changes;
	int64		ages_due;		/* when a session that was seen passes a limit */
	int64		ages_new;		/* when one that was not can do so at the
								 * earliest */
	int64		quiet_since;	/* no session in a transaction; 0 = one is */
	int64		last_scan;		/* monotonic ns */
	bool		incident_open;
	int64		awaited_until;	/* what has blocked others may do so again */
	bool		dozed;			/* it dozed after the last scan */
	bool		exact;			/* the next scan is for a limit that is passed
								 * then */
	int64		look_time;		/* what the last look took, ns */

	/* To find out that the server has stood still; see account_for_gap(). */
	int64		awake_since;	/* monotonic ns */
	int64		cpu_read_at;
	int64		cpu_time;		/* of this process then, ns */
	bool		was_late;		/* after the last nap */
} LgWorker;

static void
worker_exit(int code, Datum arg)
{
	pg_atomic_write_u32(&lg_shared->worker_procno, PG_UINT32_MAX);
	LWLockAcquire(lg_shared->lock, LW_EXCLUSIVE);
	lg_shared->worker_pid = 0;
	LWLockRelease(lg_shared->lock);

	/* A caller that waits for a scan finds out that there is no worker. */
	ConditionVariableBroadcast(&lg_shared->scan_served);
}

/*
 * Say which limits are in force for the whole server, so that a value that
 * PostgreSQL has refused does not go unnoticed; nor, said once, that one is
 * without effect.
 */
static void
log_limits(void)
{
	static bool told = false;
	LgValues	server;
	StringInfoData buf;

	lg_settings_server_values(&server);
	initStringInfo(&buf);
	for (int limit = 0; limit < LG_NUM_LIMITS; limit++)
	{
		char		value[32];

		if (server.value[limit] == 0)
			continue;
		lg_format_value(limit, server.value[limit], value, sizeof(value));
		appendStringInfo(&buf, "%s%s = %s", buf.len ? ", " : "",
						 lg_setting_name(limit), value);
	}
	if (lg_prepared_timeout > 0 && lg_can_find_prepared())
	{
		char		value[32];

		lg_format_value(LG_PREPARED_TRANSACTION_TIMEOUT, lg_prepared_timeout,
						value, sizeof(value));
		appendStringInfo(&buf, "%sprepared_transaction_timeout = %s",
						 buf.len ? ", " : "", value);
	}

	if (!lg_enabled)
		ereport(LOG, (errmsg("lockguard: disabled by lockguard.enabled")));
	else if (buf.len == 0)
		ereport(LOG, (errmsg("lockguard: no limit is set for the whole server"),
					  errdetail("Limits of roles and databases are still in force.")));
	else
		ereport(LOG, (errmsg("lockguard: limits for the whole server: %s%s",
							 buf.data, lg_dry_run ? " (dry run)" : "")));
	pfree(buf.data);

	if (lg_prepared_timeout > 0 && !lg_can_find_prepared() && !told)
	{
		ereport(LOG,
				(errmsg("lockguard: prepared_transaction_timeout has no effect in this server"),
				 errdetail("Its table of prepared transactions does not have the layout that lockguard expects."),
				 errhint("Look for old transactions in pg_prepared_xacts.")));
		told = true;
	}
}

/*
 * Read the configuration anew, and log the limits.  If prepared transactions may
 * no longer be rolled back, first waits, for WAIT_FOR_ROLLBACK at most, until a
 * rollback that is under way has been written.
 */
static void
reload_configuration(void)
{
	bool		rolled_back = pg_atomic_read_u32(&lg_shared->rolls_back) != 0;

	ConfigReloadPending = false;
	ProcessConfigFile(PGC_SIGHUP);
	lg_settings_publish_server();
	if (!lg_enabled || lg_dry_run)
		lg_withdraw_rollbacks(lg_shared->slots, MaxBackends);
	if (rolled_back && pg_atomic_read_u32(&lg_shared->rolls_back) == 0)
		(void) lg_wait_for_signals(lg_shared->slots, MaxBackends, WAIT_FOR_ROLLBACK);
	log_limits();
}

/* The smaller of two times of which 0 means "off". */
static int64
smaller_set(int64 a, int64 b)
{
	if (a == 0 || b == 0)
		return Max(a, b);
	return Min(a, b);
}

/* The smallest value in force of one limit, in ns; 0 = off for all. */
static int64
smallest(const LgWorker *worker, LgSetting limit)
{
	return worker->view.smallest[limit] * LG_NANOS_PER_MS;
}

/*
 * The smallest limit on blockers in force, in ns; 0 if there is none.
 */
static int64
smallest_blocker_limit(const LgWorker *worker)
{
	int64		least = smallest(worker, LG_IDLE_BLOCKER_TIMEOUT);

	least = smaller_set(least, smallest(worker, LG_BLOCKER_TIMEOUT));
	least = smaller_set(least, smallest(worker, LG_QUEUED_BLOCKER_TIMEOUT));
	least = smaller_set(least, smallest(worker, LG_PREEMPT_TIMEOUT));
	least = smaller_set(least, smallest(worker, LG_QUEUE_YIELD_TIMEOUT));
	if (worker->view.smallest[LG_MAX_BLOCKED_SESSIONS] > 0)
		least = smaller_set(least, DeadlockTimeout * LG_NANOS_PER_MS);
	return least;
}

/* The smallest time limit on ages in force, in ns; 0 if there is none. */
static int64
smallest_age_limit(const LgWorker *worker)
{
	int64		least = smallest(worker, LG_TRANSACTION_TIMEOUT);

	least = smaller_set(least, smallest(worker, LG_IDLE_IN_TRANSACTION_TIMEOUT));
	least = smaller_set(least, smallest(worker, LG_STATEMENT_TIMEOUT));
	return smaller_set(least, smallest(worker, LG_IDLE_SESSION_TIMEOUT));
}

/*
 * How long after a pass over all sessions for the limits on ages the next one
 * is due at the latest (ns): what begins after a pass cannot be over a limit
 * before the smallest such limit has gone by, and counts are taken each
 * naptime.  LG_NEVER if there is no such limit.
 */
static int64
until_next_pass(const LgWorker *worker)
{
	int64		next = smallest_age_limit(worker);

	if (worker->view.smallest[LG_MAX_LOCKS] > 0 ||
		worker->view.smallest[LG_MAX_XMIN_AGE] > 0)
		next = smaller_set(next, lg_naptime * LG_NANOS_PER_MS);
	return next > 0 ? next : LG_NEVER;
}

/*
 * Pass over all sessions for the limits on ages, if any can have been passed
 * by now.
 */
static void
judge_ages(LgWorker *worker, bool now)
{
	LgView	   *view = &worker->view;
	LgVerdicts *verdicts = &worker->verdicts;
	int64		next = until_next_pass(worker);

	if (next == LG_NEVER)
	{
		worker->ages_due = worker->ages_new = LG_NEVER;
		return;
	}

	if (now || view->clock.now >= Min(worker->ages_due, worker->ages_new))
	{
		int64		next_due = verdicts->next_due;

		verdicts->next_due = LG_NEVER;
		for (int i = 0; i < view->live.n; i++)
			if (view->live.procno[i] < MaxBackends)
				lg_judge_session(view, view->live.procno[i], verdicts);
		worker->ages_due = verdicts->next_due;
		verdicts->next_due = next_due;
		worker->ages_new = view->clock.now + next;
	}
	verdicts->next_due = Min(verdicts->next_due, worker->ages_due);
}

/*
 * Let the views see what was measured: times that only the worker knows, as
 * it alone has looked before.  Of sessions that only wait in a queue, the views
 * find nearly the same themselves.
 */
static void
publish_measures(LgWorker *worker)
{
	LgGraph    *graph = worker->view.graph;

	LWLockAcquire(lg_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < graph->nactive; i++)
	{
		LgNode	   *node = &graph->nodes[graph->active[i]];
		LgSlot	   *slot = &lg_shared->slots[graph->active[i]];

		if (!node->is_known && node->first_hold < 0)
			continue;
		slot->measured_pid = lg_occupant(graph->active[i], node->pid);
		slot->measured_at = worker->view.clock.now;
		for (int timer = 0; timer < LG_NUM_TIMERS; timer++)
			slot->blocking_since[timer] = node->blame_since == LG_NEVER ? LG_NEVER :
				worker->view.clock.now -
				lg_block_time(graph, worker->view.times, node, (LgTimer) timer);
		slot->idle_since = node->is_known ? node->known->idle_since : LG_NEVER;
	}
	LWLockRelease(lg_shared->lock);
}

/* The worker alone writes it, but for its being reset. */
static void
keep_maximum(pg_atomic_uint64 *maximum, int64 value)
{
	if ((int64) pg_atomic_read_u64(maximum) < value)
		pg_atomic_write_u64(maximum, value);
}

/*
 * Is any process in a transaction and not waiting for its client?  One pass,
 * without a lock.
 */
static bool
any_process_at_work(const LgView *view)
{
	for (int i = 0; i < view->live.n; i++)
	{
		volatile PGPROC *proc = &ProcGlobal->allProcs[view->live.procno[i]];

		if (LocalTransactionIdIsValid(lg_proc_lxid(proc)) && lg_proc_pid(proc) != 0 &&
			proc->wait_event_info != WAIT_EVENT_CLIENT_READ)
			return true;
	}
	return false;
}

/*
 * While nothing is at work, nothing comes to wait, and there is no need to look
 * as often as limits shorter than naptime want.  Returns how long the worker
 * may doze, in ns; 0 = not at all.  "pause" is how long it would sleep else, at
 * most, and "shortest" the smallest limit in force, or incident_threshold.
 *
 * Nothing tells the worker that a query begins: a hook for that would be called
 * for each query of each session.  So it never dozes longer than the smallest
 * limit: what begins to wait meanwhile is seen before it can be over one, and
 * when the wait began is kept in shared memory.  Only for a lock that is not a
 * row's, and whose holder is active, the time counts from when it is seen.
 * Such a lock is nearly always taken or wanted by a utility statement, and
 * these end the doze; see victim.c.
 *
 * That is not done before all has been quiet for naptime, so that it is woken
 * at most once in that time.
 */
static int64
may_doze(LgWorker *worker, int64 now, int64 pause, int64 shortest)
{
	LgView	   *view = &worker->view;
	int64		naptime = lg_naptime * LG_NANOS_PER_MS;
	int64		doze = Min(naptime, MAX_DOZE);

	if (shortest > 0)
		doze = Min(doze, shortest);
	if (pause == 0 || pause >= doze)
		return 0;
	if (view->nfound > 0 || now < worker->awaited_until || worker->follow->n > 0 ||
		any_process_at_work(view) || lg_any_prepared() || RecoveryInProgress())
	{
		worker->quiet_since = 0;
		return 0;
	}
	if (worker->quiet_since == 0)
		worker->quiet_since = now;
	if (now - worker->quiet_since < naptime)
		return 0;

	/* A statement that began before it could see the flag has to be seen. */
	pg_atomic_write_u32(&lg_shared->dozing, 1);
	pg_memory_barrier();
	lg_live_procs(&view->live);
	if (!any_process_at_work(view))
		return doze;
	pg_atomic_write_u32(&lg_shared->dozing, 0);
	worker->quiet_since = 0;
	return 0;
}

/*
 * Take over what has been published of settings since the last scan.  Returns
 * true if the value of a session that was there before, or of the server, is
 * another one now, so that any session may be over a limit.
 */
static bool
take_settings(LgWorker *worker)
{
	LgView	   *view = &worker->view;
	uint32		changes = pg_atomic_read_u32(&lg_shared->settings_changes);
	uint32		smallest_changes = pg_atomic_read_u32(&lg_shared->smallest_changes);
	bool		changed = changes != worker->settings_changes;
	int64		next;

	if (!changed && smallest_changes == worker->smallest_changes)
		return false;
	worker->settings_changes = changes;
	worker->smallest_changes = smallest_changes;

	/*
	 * What is published while the slots are read may be missed: as long as
	 * these are 0, any limit is new to the worker, and publish() says so.
	 */
	for (int limit = 0; limit < LG_NUM_LIMITS; limit++)
		pg_atomic_write_u32(&lg_shared->smallest[limit], 0);
	pg_memory_barrier();
	lg_settings_server_values(&view->server);
	lg_settings_smallest(&view->server, view->smallest);
	for (int limit = 0; limit < LG_NUM_LIMITS; limit++)
		pg_atomic_write_u32(&lg_shared->smallest[limit], view->smallest[limit]);

	/* No session that has just logged in can be over its limit before. */
	next = until_next_pass(worker);
	if (next != LG_NEVER)
		worker->ages_new = Min(worker->ages_new, view->clock.now + next);
	return changed;
}

/*
 * How often to look, by the limits in force: times in ns, 0 where there is no
 * such limit.
 */
typedef struct Pace
{
	int64		blockers;		/* the smallest limit on blockers, or
								 * threshold */
	int64		looks;			/* between two looks while anything waits */
	int64		lock_wait;		/* the smallest lock_wait_timeout */
	int64		sleep;			/* between two scans */
} Pace;

static Pace
pace_of(const LgWorker *worker)
{
	int64		blocker_limit = smallest_blocker_limit(worker);
	Pace		pace;

	pace.blockers = smaller_set(blocker_limit, lg_incident_threshold * LG_NANOS_PER_MS);

	/*
	 * So at least one look sees a wait that is as short as a tenth of a
	 * limit.  It counts up to the last look that sees it.
	 */
	pace.looks = pace.blockers / 20;
	if (pace.looks > 0)
		pace.looks = Max(pace.looks, LG_NANOS_PER_MS);
	pace.lock_wait = smallest(worker, LG_LOCK_WAIT_TIMEOUT);

	/* What begins now must be seen before it can be over a limit. */
	pace.sleep = smaller_set(pace.looks, pace.lock_wait);
	return pace;
}

/*
 * Find out what waits, and look at the lock manager if anything has waited long
 * enough to matter; with "whole", at every wait, however short.  Returns when
 * to look again (monotonic ns).
 */
static int64
look_for_waits(LgWorker *worker, const Pace *pace, bool whole)
{
	LgView	   *view = &worker->view;
	int64		start = view->clock.now;
	int64		wake = LG_NEVER;

	/* From which age on does a wait matter? */
	int64		min_age = smaller_set(pace->looks, pace->lock_wait);

	/* After a step of the clock, waits look younger than they are. */
	bool		must_look = whole ||
		(worker->incident_open && view->clock.stepped > start - min_age) ||
		(worker->follow->n > 0 && lg_follow_needs_look(worker->follow)) ||
		(max_prepared_xacts > 0 && lg_prepared_due(worker->prepared, start));

	if (must_look)
		min_age = 0;
	else if (min_age == 0)
		min_age = LG_NEVER;

	LG_DEBUG_POINT("before_look");
	lg_find_waits(view);
	for (int i = 0; i < view->nfound && min_age != LG_NEVER; i++)
	{
		if (start - view->found[i].since >= min_age)
			must_look = true;
		else
			wake = Min(wake, view->found[i].since + min_age);
	}
	if (!must_look)
		return wake;

	worker->awaited_until = lg_look_at_locks(view, min_age);
	lg_show_waits(view, worker->shown);
	worker->look_time = lg_now() - start;
	if (pace->looks > 0 && view->nfound > 0)
		wake = Min(wake, start + pace->looks);
	return wake;
}

/*
 * Count the session time lost since the look before this one, for the
 * statistics.
 */
static void
count_blocked_time(LgWorker *worker)
{
	LgGraph    *graph = worker->view.graph;
	int64		lost = 0;

	for (int i = 0; i < graph->nwaiters; i++)
		lost += lg_newly_waited(graph, &graph->waiters[i], worker->view.clock.now,
								worker->last_scan, PG_INT64_MIN);
	pg_atomic_fetch_add_u64(&lg_shared->scan_stats.blocked_time, lost);
}

/*
 * Judge what this scan has seen; with "all", the age of every session.  The
 * verdicts are in worker->verdicts.  Returns how long the worker may doze
 * after this scan, in ns; 0 = not at all.
 */
static int64
judge_scan(LgWorker *worker, const Pace *pace, bool all)
{
	LgView	   *view = &worker->view;
	int64		ages = smallest_age_limit(worker);
	int64		doze;

	LG_DEBUG_POINT("before_judge");
	worker->verdicts.n = 0;
	worker->verdicts.next_due = LG_NEVER;
	if (worker->follow->n > 0)
		lg_follow_up(view, worker->follow, &worker->verdicts);
	if (view->looked)
		lg_judge_waits(view, &worker->verdicts);

	/* It may list the processes anew: before they are gone through. */
	doze = may_doze(worker, view->clock.now, smaller_set(pace->sleep, ages),
					smaller_set(smaller_set(pace->blockers, pace->lock_wait), ages));
	judge_ages(worker, all);
	return doze;
}

/*
 * Carry out the verdicts, and see to prepared transactions.  Returns when to do
 * so again (monotonic ns).
 */
static int64
act_on_verdicts(LgWorker *worker)
{
	LgView	   *view = &worker->view;
	LgVerdicts *verdicts = &worker->verdicts;
	int64		wake = LG_NEVER;

	LG_DEBUG_POINT("before_act");
	if (verdicts->n > 1)
		lg_sort_verdicts(verdicts);
	for (int i = 0; i < verdicts->n; i++)
	{
		LgVerdict  *verdict = &verdicts->verdicts[i];
		LgOpen		signal;

		if (view->tracks[verdict->session.procno].open_action > 0 &&
			verdict->brake == LG_NO_BRAKE)
			continue;
		if (verdict->brake == LG_NO_BRAKE &&
			lg_limits[verdict->limit].proof == LG_PROVE_BLOCKS)
			lg_incident_begin(worker->incidents, view, verdict->session.procno);
		if (lg_carry_out(view, verdict, NULL, &signal))
			(void) lg_follow_add(view, worker->follow, &signal);
	}
	if (max_prepared_xacts > 0)
		wake = lg_prepared_scan(worker->prepared, view);
	LG_DEBUG_POINT("after_act");

	if (worker->follow->n > 0)
		wake = Min(wake, lg_follow_wake(worker->follow, lg_now()));
	return wake;
}

/* Publish what this scan has measured, and what it has cost. */
static void
account_for_scan(LgWorker *worker)
{
	LgScanStats *stats = &lg_shared->scan_stats;
	int64		scan_time;

	if (worker->view.looked)
	{
		pg_atomic_fetch_add_u64(&stats->lock_scans, 1);
		pg_atomic_fetch_add_u64(&stats->lock_scan_time, worker->look_time);
		keep_maximum(&stats->max_lock_scan_time, worker->look_time);
		publish_measures(worker);
	}
	pg_atomic_write_u64(&lg_shared->last_scan, worker->view.clock.wall);
	scan_time = lg_now() - worker->view.clock.now;
	pg_atomic_fetch_add_u64(&stats->scans, 1);
	pg_atomic_fetch_add_u64(&stats->scan_time, scan_time);
	keep_maximum(&stats->max_scan_time, scan_time);
}

/* How long this process has used a processor, in ns; 0 if that cannot be told. */
static int64
read_cpu_time(void)
{
	struct timespec ts;

	if (clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts) != 0)
		return 0;
	return (int64) ts.tv_sec * LG_NANOS_PER_SEC + ts.tv_nsec;
}

/*
 * One scan: look, follow incidents, judge, act, account.  With "whole", every
 * waiter is looked at, however short it has waited.  Returns when the next scan
 * is due (monotonic ns), naptime aside.
 */
static int64
run_scan(LgWorker *worker, bool whole)
{
	LgView	   *view = &worker->view;
	int64		stepped = view->clock.stepped;
	bool		settings_changed;
	Pace		pace;
	int64		doze;
	bool		many = view->nfound > MANY_WAITERS;
	int64		cpu_time = many ? read_cpu_time() : 0;
	int64		cost;
	int64		wake;

	if (pg_atomic_read_u32(&lg_shared->dozing) != 0)
		pg_atomic_write_u32(&lg_shared->dozing, 0);
	else if (worker->dozed)
		worker->quiet_since = 0;	/* the worker was woken: it is not quiet */
	lg_clock_read(&view->clock);
	settings_changed = take_settings(worker);
	pace = pace_of(worker);
	lg_follow_adopt(view, worker->follow);

	wake = look_for_waits(worker, &pace, whole);
	if (view->looked)
		count_blocked_time(worker);

	/* On a quiet server there is nothing to follow. */
	if (view->looked || worker->incident_open || lg_incidents_watch(worker->incidents))
		wake = Min(wake, lg_incidents_scan(worker->incidents, view, worker->last_scan,
										   &worker->incident_open));
	worker->last_scan = view->clock.now;

	doze = judge_scan(worker, &pace,
					  whole || settings_changed || stepped != view->clock.stepped);
	worker->dozed = doze > 0;
	wake = Min(wake, act_on_verdicts(worker));
	lg_yields_scan(worker->yields, view, &worker->verdicts);

	wake = Min(wake, worker->verdicts.next_due);
	if (doze > 0)
		wake = Min(wake, view->clock.now + doze);
	else if (pace.sleep > 0)
		wake = Min(wake, view->clock.now + pace.sleep);
	if (pace.looks > 0 && view->clock.now < worker->awaited_until)
		wake = Min(wake, view->clock.now + pace.looks);
	wake = Min(wake, worker->ages_new);

	/* A scan of very many sessions is not made more often than it can afford. */
	cost = many ? read_cpu_time() - cpu_time : 0;
	if (cost > LG_NANOS_PER_MS)
		wake = Max(wake, Min(view->clock.now + SCAN_SHARE * cost, worker->verdicts.next_due));
	worker->exact = wake == worker->verdicts.next_due;

	account_for_scan(worker);
	return wake;
}

/* All memory that the worker needs, once and for all. */
static LgWorker *
worker_create(void)
{
	LgWorker   *worker = palloc0(sizeof(LgWorker));

	lg_init_view(&worker->view);
	worker->verdicts.max = 2 * LG_TOTAL_PROCS;
	worker->verdicts.verdicts = palloc_array(LgVerdict, worker->verdicts.max);
	worker->follow = lg_follow_create();
	worker->prepared = lg_prepared_create();
	worker->incidents = lg_incidents_create();
	worker->yields = lg_yields_create(&worker->view);
	worker->shown = lg_explain_create();
	worker->scan_context = AllocSetContextCreate(TopMemoryContext, "lockguard scan",
												 ALLOCSET_DEFAULT_SIZES);
	worker->view.context = worker->scan_context;
	worker->settings_changes = pg_atomic_read_u32(&lg_shared->settings_changes) - 1;

	/* Whether the clock has just stepped cannot be told: as if it had. */
	lg_clock_read(&worker->view.clock);
	worker->view.clock.stepped = worker->view.clock.now;
	worker->last_scan = worker->awake_since = lg_now();
	worker->cpu_time = read_cpu_time();
	worker->cpu_read_at = worker->last_scan;
	worker->incident_open = true;	/* of the worker before this one, perhaps */
	return worker;
}

/*
 * The worker has not run for that long, although it meant to.  So a virtual
 * machine was stopped, or a container frozen, or the machine has no processor
 * to spare: sessions will not have run, either, and a client's COMMIT may be on
 * its way.  That time counts towards no limit.
 */
static bool
account_for_gap(int64 gap, int64 whole)
{
	if (gap <= FREEZE)
		return false;
	pg_atomic_fetch_add_u64(&lg_shared->frozen, (uint64) whole);
	ereport(LOG,
			(errmsg("lockguard: the worker was not run for %.1f s",
					(double) gap / LG_NANOS_PER_SEC),
			 errdetail("That time counts towards no limit.")));
	return true;
}

/*
 * As long as lock requests let others pass, step aside with them: for "ms" from
 * "now" (monotonic ns), or until something is asked of the worker.  Returns how
 * much of that time is left, in ms.
 */
static int64
step_for(LgWorker *worker, int64 now, int64 ms)
{
	int64		until = now + ms * LG_NANOS_PER_MS;
	bool		stepped = false;

	for (;;)
	{
		int64		next = lg_yields_step(worker->yields, &worker->view);
		int64		at;

		if (next == LG_NEVER && !stepped)
			return ms;
		at = lg_now();
		if (next == LG_NEVER || at >= until || MyLatch->is_set)
			return Max(until - at, 0) / LG_NANOS_PER_MS;
		stepped = true;
		if (next > at)
			pg_usleep((Min(next, until) - at) / 1000 + 1);
	}
}

/*
 * Sleep until "wake" (monotonic ns), naptime at most, or until something is
 * asked of it.  A latch counts in whole milliseconds: with "exact", the rest
 * is slept separately, else it is rounded up, as a wake-up just before the
 * time would be for nothing.
 */
static void
sleep_until(LgWorker *worker, int64 wake)
{
	bool		exact = worker->exact;
	int64		ms = lg_naptime;
	int64		now = lg_now();
	int64		awake = now - worker->awake_since;
	int64		left;
	int64		slept;
	int64		late;

#ifdef LOCKGUARD_DEBUG
	awake -= lg_debug_waited;
	lg_debug_waited = 0;
#endif
	/* Stopped in the middle of a scan?  A long one may have been at work. */
	if (awake > FREEZE)
	{
		int64		gap = awake - (read_cpu_time() - worker->cpu_time);

		(void) account_for_gap(gap, gap);
		now = lg_now();
	}
	if (now - worker->cpu_read_at >= LG_NANOS_PER_SEC)
	{
		worker->cpu_time = read_cpu_time();
		worker->cpu_read_at = now;
	}

	if (wake != LG_NEVER)
	{
		left = Max(wake - now, 0);
		ms = Min(ms, (left + (exact ? 0 : LG_NANOS_PER_MS - 1)) / LG_NANOS_PER_MS);

		/* While something is due, not so long that a freeze could hide in it. */
		ms = Min(ms, FREEZE / LG_NANOS_PER_MS);
	}
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 step_for(worker, now, ms), PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	left = wake - lg_now();
	if (exact && left > 0 && left < LG_NANOS_PER_MS)
		pg_usleep(left / 1000 + 1);

	/*
	 * If it is late time and again, the machine is overloaded: then only the
	 * excess is left out, as otherwise no limit would ever be passed.
	 */
	slept = lg_now() - now;
	late = slept - ms * LG_NANOS_PER_MS;
	worker->was_late = account_for_gap(late, worker->was_late ? late : slept);
	worker->awake_since = lg_now();
}

/* Entry point of the worker. */
void
lg_worker_main(Datum main_arg)
{
	LgWorker   *worker;

	lg_require_preloaded();
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	pqsignal(SIGINT, LG_IGNORE_SIGNAL); /* there is no statement to cancel */
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);

	before_shmem_exit(worker_exit, (Datum) 0);
	LWLockAcquire(lg_shared->lock, LW_EXCLUSIVE);
	lg_shared->worker_pid = MyProcPid;
	lg_shared->worker_start = MyStartTimestamp;
	LWLockRelease(lg_shared->lock);
	pg_atomic_write_u32(&lg_shared->worker_procno, lg_proc_number(MyProc));

	MemoryContextSwitchTo(TopMemoryContext);
	worker = worker_create();
	MemoryContextSwitchTo(worker->scan_context);
	lg_settings_publish_server();
	log_limits();
#ifdef LOCKGUARD_DEBUG
	lg_debug_reload = reload_configuration;
#endif

	for (;;)
	{
		uint64		requested;
		int64		wake = LG_NEVER;

		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
			reload_configuration();

		requested = pg_atomic_read_u64(&lg_shared->scans_requested);
#ifdef LOCKGUARD_DEBUG
		if (LG_DEBUG_FAILS("wake_some"))
			lg_debug_wake_some();
#endif
		if (!lg_enabled)
			lg_yields_stop(worker->yields, &worker->view);
		else
			wake = run_scan(worker, requested != pg_atomic_read_u64(&lg_shared->scans_served));
		if (requested != pg_atomic_read_u64(&lg_shared->scans_served))
		{
			pg_atomic_write_u64(&lg_shared->scans_served, requested);
			ConditionVariableBroadcast(&lg_shared->scan_served);
		}

		MemoryContextReset(worker->scan_context);
		sleep_until(worker, wake);
	}
}
