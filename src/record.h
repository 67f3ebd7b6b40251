/*-------------------------------------------------------------------------
 *
 * record.h
 *		What happened and what lockguard did, in shared memory.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOCKGUARD_RECORD_H
#define LOCKGUARD_RECORD_H

#include "storage/lock.h"
#include "storage/lwlock.h"

#include "types.h"

#define LG_MAX_PIDS				100 /* blocked pids kept with an action */

/* Whom a signal went to, so that its outcome can be followed. */
typedef struct LgOpen
{
	int64		action_id;
	int			procno;
	int			pid;
	TimestampTz session_start;
	LocalTransactionId lxid;
	TimestampTz stmt_start;
	TimestampTz state_start;
	int			wait_procno;	/* whose wait it was about: its own, or that
								 * of */
	TimestampTz wait_start;		/* the one it is preempted for; 0 = none */
	int			limit;			/* or LG_NO_LIMIT: by hand */
	LgActionKind action;
	int64		acted_at;		/* monotonic ns */
	int64		repeated_at;	/* last signal, monotonic ns */
	int64		over_at;		/* last seen over its limit, monotonic ns */
	bool		unresponsive;
	bool		adopted;		/* not seen before it was signalled */
	bool		obeyed;			/* has begun to roll back, as it was asked to */
} LgOpen;

/* A row of lockguard.actions. */
typedef struct LgAction
{
	int64		action_id;
	int64		incident_id;	/* 0 = none */
	TimestampTz acted_at;
	int			pid;			/* 0 for a prepared transaction */
	TimestampTz backend_start;
	Oid			datid;
	Oid			userid;
	NameData	datname;		/* empty if not known */
	NameData	usename;
	char		gid[LG_GID_SIZE];
	char		application_name[NAMEDATALEN];
	char		client_addr[LG_ADDR_SIZE];
	char		state[32];
	char		query[LG_QUERY_SIZE];
	int			limit;			/* or LG_NO_LIMIT: by hand */
	int			limit_value;
	LgSource	limit_source;
	NameData	requested_by;
	LgActionKind action;
	bool		dry_run;
	LgResult	result;
	char		reason[LG_REASON_SIZE]; /* why no signal was sent */
	int64		released_after; /* us; -1 = not (yet) */
	int			blocked_sessions;
	int			nblocked_pids;	/* how many of them are listed */
	int			blocked_pids[LG_MAX_PIDS];
	int64		longest_wait;	/* us */
	LgOpen		open;
} LgAction;

/*
 * A session of an incident's tree at its worst.  In the incident's arena one
 * such header follows the other, each with its texts behind it: user name,
 * application name and query, each with its terminating NUL.
 */
typedef struct LgIncidentSession
{
	uint16		size;			/* of all of it, MAXALIGNed */
	int16		parent;			/* index of what it waits for; -1 = the root */
	int16		level;
	uint8		kind;			/* LgKind */
	uint8		block_kind;		/* LgBlockKind */
	int32		pid;
	Oid			userid;
	uint8		state;			/* BackendState */
	uint8		mode;			/* lock mode it waits for */
	uint32		wait_event;
	int64		waited;			/* us; of the root: blocking for */
	LOCKTAG		tag;			/* of the lock it waits for */
	char		texts[FLEXIBLE_ARRAY_MEMBER];
} LgIncidentSession;

/* One of those whose wait in an incident ended without the lock. */
typedef struct LgGaveUp
{
	TimestampTz at;				/* when that was seen */
	int64		waited;			/* us */
	int32		pid;
	Oid			userid;
} LgGaveUp;

#define LG_MAX_GAVE_UP		20	/* of them are kept, the last ones */
#define LG_ARENA_SIZE		(8 * 1024)
#define LG_INCIDENT_QUERY	400 /* bytes of each query kept in the arena */

/* A row of lockguard.incidents. */
typedef struct LgIncident
{
	int64		incident_id;
	TimestampTz started_at;		/* when its first pair began */
	TimestampTz updated_at;		/* when last seen */
	TimestampTz ended_at;		/* 0 = open */
	LgResolution resolution;
	int64		replaced_by;	/* incident of the root it waits for, or 0 */

	/* The root, as it was when the tree was largest. */
	int			root_pid;
	LocalTransactionId lxid;
	TransactionId xid;
	uint8		kind;			/* LgKind */
	uint8		judged;			/* LgResult of lg_judge_root() */
	uint8		remedy;			/* LgActionKind of blocker_timeout, at first */
	TimestampTz backend_start;
	TimestampTz xact_start;
	Oid			datid;
	Oid			userid;
	NameData	datname;
	NameData	usename;
	char		gid[LG_GID_SIZE];
	char		application_name[NAMEDATALEN];
	char		client_addr[LG_ADDR_SIZE];
	char		state[32];
	char		query[LG_QUERY_SIZE];
	int64		query_id;
	LOCKTAG		tag;			/* the lock whose waiter has waited longest */

	int			peak_blocked_sessions;
	TimestampTz peak_at;
	int64		longest_wait;	/* us */
	int64		total_wait;		/* us, summed over all blocked sessions */
	int64		waits;
	int64		gave_up;		/* of those ended without the lock */
	LgGaveUp	gave_up_by[LG_MAX_GAVE_UP]; /* the n-th at n modulo that */
	int64		action_id;		/* the last signal in its tree, or 0 */

	/* The longest for which the root was seen idle while it blocked, in us: */
	int64		idle_from;		/* after started_at */
	int64		longest_idle;
	uint8		idle_remedy;	/* and of idle_blocker_timeout */

	/* The tree at its worst. */
	int			nsessions;		/* in the arena, the root first */
	int			nleft_out;		/* for want of room */
	int			used;			/* bytes of the arena */
	union
	{
		char		arena[LG_ARENA_SIZE];
		int64		align;		/* as its sessions need it */
	};
} LgIncident;

/* Everything of an incident but what the arena does not use. */
#define LG_INCIDENT_SIZE(incident) \
	(offsetof(LgIncident, arena) + (incident)->used)

/*
 * A session in the cycle of a deadlock.  In the deadlock's arena one such header
 * follows the other, in the order in which each waits for the next one, each with
 * its texts behind it: user name, application name and statement, each with its
 * terminating NUL.
 */
typedef struct LgDeadlockSession
{
	uint16		size;			/* of all of it, MAXALIGNed */
	uint8		kind;			/* LgKind; LG_KIND_NONE = not known */
	uint8		mode;			/* lock mode it waited for; NoLock = not known */
	int32		pid;
	int32		blocker_pid;	/* that it waited for; 0 = not known */
	int32		leader_pid;		/* of its lock group, or its own */
	Oid			userid;
	LOCKTAG		tag;			/* of the lock; lock method 0 = not known */
	int64		query_id;		/* 0 = not known */
	char		texts[FLEXIBLE_ARRAY_MEMBER];
} LgDeadlockSession;

#define LG_DEADLOCK_SESSIONS	10	/* kept of one deadlock */
#define LG_DEADLOCK_ARENA		(4 * 1024)

/* A row of lockguard.deadlocks. */
typedef struct LgDeadlock
{
	int64		deadlock_id;
	TimestampTz detected_at;

	/* The session that got the error; its statement is the first one. */
	int			pid;
	TimestampTz stmt_start;		/* of that statement */
	Oid			datid;
	Oid			userid;
	NameData	datname;		/* empty if not known */
	NameData	usename;
	char		application_name[NAMEDATALEN];

	int			in_cycle;		/* sessions */
	int			nsessions;		/* of these, in the arena */
	int			used;			/* bytes of the arena */
	union
	{
		char		arena[LG_DEADLOCK_ARENA];
		int64		align;		/* as its sessions need it */
	};
} LgDeadlock;

/* Everything of a deadlock but what the arena does not use. */
#define LG_DEADLOCK_SIZE(deadlock) \
	(offsetof(LgDeadlock, arena) + (deadlock)->used)

/* A row of lockguard.contention. */
typedef struct LgContention
{
	/* key; query_id 0 = not known */
	Oid			datid;
	Oid			userid;
	int64		query_id;
	Oid			lock_datid;		/* of the relation; 0 = a shared one */
	Oid			relation;		/* 0 = the lock is on none */
	uint8		locktype;		/* LockTagType */
	uint8		mode;			/* held; NoLock = the lock is not known */

	int64		incidents;
	int64		sessions;		/* blocked, each counted once per incident of
								 * waiting */
	int64		lost;			/* us */
	int64		longest_wait;	/* us */
	int64		actions;
} LgContention;

#define LG_MAX_CONTENTION	500

extern Size lg_record_shmem_size(void);
extern void lg_record_shmem_init(void *memory, LWLock *lock, bool init);
extern uint64 lg_actions_recorded(void);
extern void lg_record_changed(void);
extern void lg_record_watch(int procno);
extern bool lg_record_is_dirty(void);
extern void lg_record_clean(void);

extern int64 lg_record_action(LgAction *action);
extern void lg_record_result(int64 action_id, LgResult result, int64 released_after);
extern void lg_record_yield(int64 action_id, int64 let_pass, int64 incident_id);
extern void lg_record_reason(int64 action_id, const char *reason);
extern void lg_record_obeyed(int64 action_id);
extern bool lg_fetch_action(int64 action_id, LgAction *action);
extern void lg_action_range(int64 *first, int64 *next);

extern int64 lg_record_incident(LgIncident *incident);
extern void lg_update_incident(const LgIncident *incident, bool with_arena);
extern bool lg_fetch_incident(int64 incident_id, LgIncident *incident);
extern void lg_incident_range(int64 *first, int64 *next);
extern int	lg_count_open_incidents(void);

extern void lg_record_deadlock(LgDeadlock *deadlock, bool is_parallel_worker);
extern bool lg_fetch_deadlock(int64 deadlock_id, LgDeadlock *deadlock);
extern void lg_deadlock_range(int64 *first, int64 *next);

extern void lg_count_contention(const LgContention *more);
extern int	lg_fetch_contention(LgContention *all);
extern void lg_forget_contention(void);
extern void lg_forget_history(void);

extern void lg_restore_action(const LgAction *action);
extern void lg_restore_incident(const LgIncident *incident);
extern void lg_restore_deadlock(const LgDeadlock *deadlock);
extern void lg_restore_ids(int64 next_action_id, int64 next_incident_id,
						   int64 next_deadlock_id);
extern void lg_restore_contention(const LgContention *contention);

#endif							/* LOCKGUARD_RECORD_H */
