/*-------------------------------------------------------------------------
 *
 * scene.c
 *		Situations, told in sentences; see scene.h.
 *
 *-------------------------------------------------------------------------
 */
#include "scene.h"

#include "storage/proc.h"

#include "unit.h"

/* For those that come later, and for prepared transactions. */
#define MORE_BACKENDS	10
#define MAX_PREPARED	2

LgView		view;
LgGraph    *graph;
LgVerdicts	verdicts;
int64		watch_until;
LOCK	   *table;
LOCK	   *other_table;
LOCK	   *row;

static int	nprepared;

void
scene(int n)
{
	server_start(n + MORE_BACKENDS, MAX_PREPARED);
	DeadlockTimeout = 1000;
	nprepared = 0;
	lg_init_view(&view);
	graph = view.graph;
	view.server.value[LG_ACTION] = LG_DO_TERMINATE;
	view.server.value[LG_PRIORITY] = LG_PRIORITY_NORMAL;
	verdicts.n = 0;
	verdicts.max = 1;
	verdicts.verdicts = palloc_array(LgVerdict, 1);
	table = lock_on(LOCKTAG_RELATION, 1, 1);
	other_table = lock_on(LOCKTAG_RELATION, 1, 2);
	row = lock_on(LOCKTAG_TUPLE, 1, 1);
	for (int i = 0; i < n; i++)
		comes(i, B_BACKEND);
	lg_clock_read(&view.clock);
}

/* A client's session begins a transaction.  All have the server's settings. */
void
comes(int procno, BackendType type)
{
	session_begins(procno, 100 + procno, type);
	if (type == B_BACKEND)
		runs(procno);
	*values_of(procno) = view.server;
}

/* Returns the procno of a prepared transaction. */
int
prepares(const char *gid)
{
	int			procno = LG_TOTAL_PROCS - ++nprepared;

	prepare_transaction(procno, procno + 1, gid);
	*values_of(procno) = view.server;
	return procno;
}

void
runs(int procno)
{
	session_state(procno, STATE_RUNNING);
}

void
sits_idle(int procno)
{
	session_state(procno, STATE_IDLEINTRANSACTION);
}

void
next_statement(int procno)
{
	status_of(procno)->st_activity_start_timestamp++;
}

void
next_transaction(int procno)
{
	session_state(procno, STATE_IDLE);
	runs(procno);
}

void
begins_commit(int procno)
{
	slot_of(procno)->committing = lg_proc_lxid(proc_of(procno));
}

/* A process wakes up, reads that its latch was set, and sleeps again. */
void
disturb(void)
{
	traffic.switches++;
	traffic.sleeps++;
	traffic.reads++;
	traffic.read_bytes += 128;
}

/* That of a session's transaction id, which it holds. */
LOCK *
xid_of(int procno)
{
	LOCK	   *xid = lock_on(LOCKTAG_TRANSACTION, procno + 1, 0);

	holds(procno, xid, ExclusiveLock);
	return xid;
}

void
reads(int procno, LOCK *lock)
{
	holds(procno, lock, AccessShareLock);
}

void
writes(int procno, LOCK *lock)
{
	holds(procno, lock, RowExclusiveLock);
}

void
alters(int procno, LOCK *lock)
{
	holds(procno, lock, AccessExclusiveLock);
}

void
waits_to_read(int procno, LOCK *lock)
{
	waits(procno, lock, AccessShareLock);
}

void
waits_to_write(int procno, LOCK *lock)
{
	waits(procno, lock, RowExclusiveLock);
}

void
waits_to_alter(int procno, LOCK *lock)
{
	waits(procno, lock, AccessExclusiveLock);
}

void
waits_for(int procno, int other)
{
	waits(procno, xid_of(other), ShareLock);
}

void
set(int procno, LgSetting setting, int value)
{
	values_of(procno)->value[setting] = value;
}

void
set_all(LgSetting setting, int value)
{
	for (int i = 0; i < MaxBackends; i++)
		if (status_of(i)->st_backendType == B_BACKEND && proc_of(i)->pid != 0)
			set(i, setting, value);
}

void
pass(int64 ms)
{
	clock_ns += ms * MS;
}

void
pass_until(int64 at)
{
	clock_ns = at;
}

void
look_at_waits_from(int64 min_age)
{
	lg_settings_smallest(&view.server, view.smallest);
	lg_clock_read(&view.clock);
	lg_find_waits(&view);
	watch_until = lg_look_at_locks(&view, min_age);
	CHECK_INT(lwlocks_taken, 0);
}

void
look(void)
{
	look_at_waits_from(0);
}

void
look_after(int64 ms)
{
	pass(ms);
	look();
}

/* By the limits that have to do with waits for locks. */
void
judge(void)
{
	look();
	verdicts.n = 0;
	verdicts.next_due = LG_NEVER;
	lg_judge_waits(&view, &verdicts);
}

void
judge_after(int64 ms)
{
	pass(ms);
	judge();
}

/* By the other limits, without a look at locks. */
void
judge_ages(int procno)
{
	lg_clock_read(&view.clock);
	verdicts.n = 0;
	verdicts.next_due = LG_NEVER;
	lg_judge_session(&view, procno, &verdicts);
}

void
judge_ages_after(int procno, int64 ms)
{
	pass(ms);
	judge_ages(procno);
}

/* The verdict on a session; NULL if there is none. */
const LgVerdict *
verdict_on(int procno)
{
	for (int i = 0; i < verdicts.n; i++)
		if (verdicts.verdicts[i].session.procno == procno)
			return &verdicts.verdicts[i];
	return NULL;
}

/* A signal is to be sent to this session, for this limit, and to no other. */
bool
check_only_verdict(int procno, int limit, LgActionKind action, const char *file, int line)
{
	const LgVerdict *verdict = verdict_on(procno);
	bool		idle = limit == LG_IDLE_BLOCKER_TIMEOUT ||
		limit == LG_IDLE_IN_TRANSACTION_TIMEOUT || limit == LG_IDLE_SESSION_TIMEOUT;

	return check_int(verdicts.n, 1, "verdicts.n", file, line) &&
		check(verdict != NULL, "the verdict is on that session", file, line) &&
		check_int(verdict->limit, limit, "verdict->limit", file, line) &&
		check_int(verdict->action, action, "verdict->action", file, line) &&
		check_int(lg_brake_result(verdict->brake), LG_PENDING, "the result", file, line) &&

	/* What has to be so still when the signal is sent. */
		check_int(verdict->still.idle, idle, "verdict->still.idle", file, line) &&
		check_int(verdict->still.unreachable, action > LG_DO_CANCEL,
				  "verdict->still.unreachable", file, line);
}

void
check_no_verdict_in(int scans, int64 ms, const char *file, int line)
{
	for (int i = 0; i < scans; i++)
	{
		judge_after(ms);
		check_int(verdicts.n, 0, "verdicts.n", file, line);
	}
}
