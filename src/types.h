/*-------------------------------------------------------------------------
 *
 * types.h
 *		Enumerations, units and sizes that every other file may use.
 *
 * The numbers of the enumerations are kept in shared memory and in the
 * history file.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOCKGUARD_TYPES_H
#define LOCKGUARD_TYPES_H

#include "postgres.h"

#define LG_NANOS_PER_MS			INT64CONST(1000000)
#define LG_NANOS_PER_SEC		INT64CONST(1000000000)

/* A moment that never comes, or has not been. */
#define LG_NEVER	PG_INT64_MAX

#define LG_QUERY_SIZE			1024	/* bytes of query text kept */
#define LG_COMMENT_SIZE			200 /* bytes kept of a comment at its end */
#define LG_ADDR_SIZE			64
#define LG_REASON_SIZE			96
#define LG_GID_SIZE				200

/*
 * The settings that a session can have a value of its own for.  The limits
 * come first: a limit and its setting share one number.
 */
typedef enum LgSetting
{
	LG_IDLE_BLOCKER_TIMEOUT,
	LG_BLOCKER_TIMEOUT,
	LG_QUEUED_BLOCKER_TIMEOUT,
	LG_MAX_BLOCKED_SESSIONS,
	LG_LOCK_WAIT_TIMEOUT,
	LG_TRANSACTION_TIMEOUT,
	LG_IDLE_IN_TRANSACTION_TIMEOUT,
	LG_STATEMENT_TIMEOUT,
	LG_IDLE_SESSION_TIMEOUT,
	LG_MAX_LOCKS,
	LG_MAX_XMIN_AGE,
	LG_PREEMPT_TIMEOUT,
	LG_QUEUE_YIELD_TIMEOUT,
	LG_NUM_LIMITS,
	LG_ACTION = LG_NUM_LIMITS,
	LG_ESCALATION_DELAY,
	LG_PRIORITY,
	LG_EXEMPT,
	LG_NUM_SETTINGS
} LgSetting;

#define LG_NO_LIMIT		(-1)

/* A limit of the server, not of a session; has no row in lg_limits. */
#define LG_PREPARED_TRANSACTION_TIMEOUT LG_NUM_SETTINGS

/* From mild to hard. */
typedef enum LgActionKind
{
	LG_DO_LOG,
	LG_DO_YIELD,				/* others pass its lock request */
	LG_DO_CANCEL,
	LG_DO_ROLLBACK,				/* of an idle or a prepared transaction */
	LG_DO_TERMINATE
} LgActionKind;

typedef enum LgPriority
{
	LG_PRIORITY_LOW,
	LG_PRIORITY_NORMAL,
	LG_PRIORITY_HIGH
} LgPriority;

/* Where a value comes from.  The first two are the server's own values. */
typedef enum LgSource
{
	LG_SOURCE_DEFAULT,
	LG_SOURCE_CONFIGURATION,
	LG_SOURCE_ALL_ROLES,		/* ALTER ROLE ALL SET */
	LG_SOURCE_DATABASE,
	LG_SOURCE_ROLE,
	LG_SOURCE_ROLE_IN_DATABASE,
	LG_SOURCE_SESSION
} LgSource;

/* The values in force for one session. */
typedef struct LgValues
{
	int			value[LG_NUM_SETTINGS];
	LgSource	source[LG_NUM_SETTINGS];
} LgValues;

typedef enum LgKind
{
	LG_KIND_NONE,				/* no process in this slot */
	LG_KIND_CLIENT,
	LG_KIND_STARTING,			/* still logging in */
	LG_KIND_PREPARED,			/* prepared transaction, pid 0 */
	LG_KIND_PARALLEL,			/* parallel worker of some leader */
	LG_KIND_AUTOVACUUM,
	LG_KIND_WALSENDER,
	LG_KIND_STARTUP,
	LG_KIND_BACKGROUND,			/* other background workers */
	LG_KIND_OTHER
} LgKind;

/* What happened to an action or to a verdict that was not acted on. */
typedef enum LgResult
{
	LG_PENDING,
	LG_RELEASED,
	LG_ESCALATED,
	LG_SELF_RESOLVED,
	LG_UNRESPONSIVE,
	LG_SUPPRESSED,
	LG_LOGGED,
	LG_EXEMPTED,
	LG_PROTECTED,
	LG_FAILED
} LgResult;

/* What a session's accumulated blocking time is kept for; see blocktime.c. */
typedef enum LgTimer
{
	LG_IDLE_TIMER,				/* idle_blocker_timeout */
	LG_ROOT_TIMER,				/* blocker_timeout */
	LG_QUEUED_TIMER,			/* queued_blocker_timeout */
	LG_INCIDENT_TIMER,			/* incident_threshold */
	LG_COUNT_TIMER,				/* max_blocked_sessions: what comes of a
								 * signal */
	LG_YIELD_TIMER,				/* queue_yield_timeout */
	LG_NUM_TIMERS
} LgTimer;

/* Is a timer for queued blockers?  The others are for roots. */
#define LG_IS_QUEUE_TIMER(timer) \
	((timer) == LG_QUEUED_TIMER || (timer) == LG_YIELD_TIMER)

/* How an incident ended. */
typedef enum LgResolution
{
	LG_OPEN_INCIDENT,
	LG_BY_RELEASE,				/* it released its locks by itself */
	LG_BY_CANCEL,
	LG_BY_TERMINATION,
	LG_BY_SESSION_END,
	LG_BY_ROLLBACK,
	LG_BY_REPLACEMENT,			/* it waits for another root now */
	LG_BY_RESTART				/* of the server */
} LgResolution;

/* What keeps lockguard from signalling a session, or from rolling back. */
typedef enum LgBrake
{
	LG_NO_BRAKE,
	LG_BRAKE_KIND,				/* it is not a client's session */
	LG_BRAKE_EXEMPT_SETTING,
	LG_BRAKE_EXEMPT,			/* by exempt() */
	LG_BRAKE_COMMITTING,
	LG_BRAKE_DROPPING,			/* a database or a tablespace */
	LG_BRAKE_ACTION_LOG,
	LG_BRAKE_ACTION_CANCEL,		/* which would not reach it */
	LG_BRAKE_ACTION_ROLLBACK,	/* neither would that */
	LG_BRAKE_OUT_OF_REACH,		/* of a rollback asked for by hand */
	LG_BRAKE_PREPARED_ACTION_LOG,
	LG_BRAKE_DRY_RUN,
	LG_BRAKE_PAUSED,
	LG_BRAKE_IN_VAIN,			/* no session could go on without it */
	LG_BRAKE_CAP,				/* max_actions_per_minute */
	LG_BRAKE_RELEASED,			/* it blocks, or waits, no more */
	LG_BRAKE_CHANGED,			/* it has begun something else */
	LG_BRAKE_FAILED				/* the system refused the signal */
} LgBrake;

#endif							/* LOCKGUARD_TYPES_H */
