/*-------------------------------------------------------------------------
 *
 * session.h
 *		One process as a struct, and what is remembered of it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOCKGUARD_SESSION_H
#define LOCKGUARD_SESSION_H

#include "clientio.h"
#include "clock.h"
#include "types.h"

#include "storage/lock.h"
#include "utils/backend_status.h"

/*
 * One process at one instant.  Fields are read without a lock, each by itself
 * atomically; the status fields are of one moment.
 */
typedef struct LgSession
{
	int			procno;
	int			leader;			/* procno of its lock group's leader, or own */
	int			pid;
	LgKind		kind;
	LocalTransactionId lxid;
	TransactionId xid;
	TransactionId xmin;
	Oid			datid;
	Oid			userid;
	uint32		wait_event;
	bool		waiting;		/* for a heavyweight lock */
	bool		committing;		/* past the point of no return */
	bool		dropping;		/* so is all of a DROP DATABASE */

	/* From the backend status; zero if it has none. */
	bool		has_status;
	BackendState state;
	TimestampTz session_start;
	TimestampTz xact_start;
	TimestampTz stmt_start;
	TimestampTz state_start;
	uint64		progress;		/* hash of the progress counters */
	int64		query_id;
} LgSession;

/* With which results an episode has been recorded that led to no signal. */
typedef struct LgRecorded
{
	LocalTransactionId lxid;
	TimestampTz since;			/* of the wait, statement or state */
	TimestampTz wait;			/* that it holds a lock against; 0 = none */
	uint16		results;		/* bit per LgResult */
} LgRecorded;

/*
 * What is remembered of a process between two scans, one per PGPROC; private
 * to the process that looks.  lg_track_session() resets it when another process has
 * taken the PGPROC; "pid" tells whose it is until then.  (What is remembered
 * of its waits for locks is in LgWaitTrack.)
 */
typedef struct LgTrack
{
	int			pid;

	/*
	 * The signal that was sent to it and whose outcome is open; 0 = none.
	 * While it is positive, nothing else is done to the session or its tree;
	 * negative, nothing for the same limit.
	 */
	int64		open_action;
	int64		released_at;	/* the scan that found that it had helped */
	int			open_limit;

	/*
	 * How often it has gone on just when it was asked to roll this
	 * transaction back.
	 */
	LocalTransactionId missed_lxid;
	int			missed;

	TimestampTz session_start;

	/* The incident of which it is the root. */
	int64		incident_id;

	/* Its transaction. */
	LocalTransactionId lxid;
	int64		xact_seen;		/* when first seen */
	TransactionId held_next_xid;	/* next xid when its snapshot was; 0 = has
									 * none */
	TransactionId held_xmin;	/* of that snapshot, */
	TimestampTz held_stmt;		/* and the statement that had it first */
	bool		keeps_snapshot; /* from one statement to the next */

	LgMoment	xact;
	LgMoment	stmt;
	LgMoment	state;

	/*
	 * A client that it waits for, without any progress since; less the time
	 * for which that cannot be determined.
	 */
	int64		stalled;		/* 0 = not stalled */
	int64		stall_seen;		/* by the last look */
	int64		stall_read;		/* when stall_traffic was read */
	int64		stall_unknown;	/* when it could not be read; 0 = never */
	bool		stall_disturbed;	/* others have woken it since */
	uint64		stall_progress;
	TimestampTz stall_stmt;
	LocalTransactionId stall_lxid;
	uint32		stall_event;
	LgTraffic	stall_traffic;

	/*
	 * Has it exported a snapshot?  For which transaction, or idle time,
	 * known.
	 */
	LocalTransactionId exported_lxid;
	LocalTransactionId unexported_lxid;
	TimestampTz unexported_state;
	TimestampTz unexported_stmt;

	/* A statement whose session does not report its activity. */
	TimestampTz quiet_stmt;
	int64		quiet_stmt_seen;

	/* What was recorded without a signal: once per limit and episode. */
	LgRecorded	recorded[LG_NUM_LIMITS];
} LgTrack;

/* A lock on a relation, in the strongest mode in which a process holds it. */
typedef struct LgTableLock
{
	Oid			datid;			/* 0 = of a shared relation */
	Oid			relation;
	LOCKMODE	mode;
} LgTableLock;

/* PGPROCs to pass over, in ascending order: all, if there are n = all of them. */
typedef struct LgLive
{
	int64		passed;			/* when lg_find_waiters() last began; 0 =
								 * never */
	int			n;
	int		   *procno;
} LgLive;

extern void lg_live_procs(LgLive *live);
extern int	lg_find_process(int pid);
extern void lg_read_session(int procno, LgSession *session);
extern void lg_drop_half_character(char *string);
extern bool lg_read_texts(const LgSession *session, char *query, size_t query_size,
						  char *application_name, char *client_addr);
extern void lg_track_session(LgTrack *track, const LgSession *session,
							 const LgClock *clock, bool want_next_xid);

extern bool lg_state_is_idle(const LgSession *session);
extern bool lg_runs_login_trigger(const LgSession *session);
extern bool lg_in_transit(const LgSession *session);
extern bool lg_waits_for_client(const LgSession *session);
extern bool lg_cancel_reaches(const LgSession *session);
extern bool lg_rollback_reaches(const LgSession *session);
extern int64 lg_idle_since(LgTrack *track, const LgSession *session,
						   const LgClock *clock, int64 limit);
extern bool lg_client_has_moved(const LgTrack *track, const LgSession *session);
extern bool lg_works_for_others(LgTrack *track, const LgSession *session);
extern int64 lg_transaction_start(LgTrack *track, const LgSession *session,
								  const LgClock *clock);
extern int64 lg_statement_start(LgTrack *track, const LgSession *session,
								const LgClock *clock);
extern int	lg_count_locks(int procno, int limit);
extern LgTableLock *lg_table_locks(int procno, int *n);

#endif							/* LOCKGUARD_SESSION_H */
