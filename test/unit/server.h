/*-------------------------------------------------------------------------
 *
 * server.h
 *		As much of a PostgreSQL server as the tested files need: no processes,
 *		but their PGPROCs, status and locks in plain memory, and clocks that
 *		stand still until a test moves them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef UNIT_SERVER_H
#define UNIT_SERVER_H

#include "postgres.h"

#include <setjmp.h>

#include "access/xact.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "utils/backend_status.h"

#include "../../src/brakes.h"
#include "../../src/clock.h"
#include "../../src/compat.h"
#include "../../src/judge.h"
#include "../../src/limit.h"
#include "../../src/look.h"
#include "../../src/rollback.h"
#include "../../src/settings.h"
#include "../../src/shared.h"
#include "../../src/text.h"
#include "../../src/twophase.h"

#define MS	LG_NANOS_PER_MS

/* A server without sessions.  Frees all that was allocated before. */
extern void server_start(int backends, int prepared);

/*
 * server_system.c: clocks, files, sockets and signals.  The wall clock is
 * "clock_offset" us ahead of the other.
 */
extern int64 clock_ns;
extern TimestampTz clock_offset;
extern int64 clock_tick;		/* by how much each reading moves it on */
extern void (*on_wall_clock) (void);	/* when that one is about to be read */
extern TimestampTz wall_now(void);
extern LgTraffic traffic;		/* of each client */
extern bool traffic_known;
extern char exported_snapshot[MAXPGPATH];	/* the only one; empty = none */
extern int	access_errno;		/* of other files */
extern int	files_asked_for;
extern bool files_open;			/* false: AllocateFile() fails */
extern bool disk_full;
extern int	latches_set;
extern int	signals_sent;
extern int	last_signal;
extern pid_t last_signalled;	/* negative: its process group */
extern void (*on_wait) (long timeout);	/* when the worker goes to sleep */

/* server_processes.c: sessions and prepared transactions, by their procno. */
extern PGPROC *proc_of(int procno);
extern PgBackendStatus *status_of(int procno);
extern LgSlot *slot_of(int procno);
extern LgValues *values_of(int procno);
extern void session_begins(int procno, int pid, BackendType type);
extern void session_ends(int procno);
extern void session_state(int procno, BackendState state);
extern void ends_transaction(int procno);
extern void stalls(int procno);
extern void exports_snapshot(int procno);
extern void joins_group(int procno, int leader);
extern void prepare_transaction(int procno, TransactionId xid, const char *gid);
extern TransactionId next_xid;

/* server_locks.c: the lock table, its lock manager, and LWLocks. */
extern const LOCKMASK lock_conflicts[];
extern LOCK *lock_on(LockTagType type, uint32 field1, uint32 field2);
extern int	node_of(int procno);
extern LOCKMASK held_by(LOCK *lock, int procno);
extern TimestampTz wait_start_of(int procno);
extern void set_wait_start(int procno, TimestampTz start);
extern void holds(int procno, LOCK *lock, LOCKMODE mode);
extern void waits(int procno, LOCK *lock, LOCKMODE mode);
extern void waits_ahead_of(int procno, int other, LOCKMODE mode);
extern void moves_ahead(int procno);
extern void moves_to_the_end(LOCK *lock, PROCLOCK *proclock);
extern bool acquires(int procno, LOCK *lock, LOCKMODE mode);
extern void gives_up(int procno);
extern void releases(int procno, LOCK *lock, LOCKMODE mode);
extern void releases_all(int procno);
extern void (*on_lwlock) (LWLock *lock);	/* when it is about to be taken */
extern int	lwlocks_taken;
extern bool tags_backwards;		/* in which order they are described */
extern bool proc_array_busy;	/* ProcArrayLock is not to be had at once */

/*
 * server_transaction.c: the session that runs the code under test, which is none
 * unless a test says so, its transaction, and how others reach it.
 */
typedef enum Block
{
	NO_BLOCK,
	IMPLICIT_BLOCK,
	EXPLICIT_BLOCK,
	FAILED_BLOCK
} Block;

extern Block block;
extern int	nest_level;
extern bool read_only;			/* a characteristic of its transaction */
extern bool reading_message;	/* from its client */
extern void becomes(int procno);
extern void reads_invalidation(Oid relation);
extern void transaction_event(XactEvent event);
extern Oid	last_invalidated;	/* relation that a message was sent about */
extern pid_t last_woken;
extern int	times_woken;

/* server_memory.c: what was reported, by level, and the last of it. */
extern int	reports[PANIC + 1];
extern char last_report[1024];
extern char last_detail[1024];
extern sigjmp_buf *on_error;	/* where errors and proc_exit() go */

#endif							/* UNIT_SERVER_H */
