/*-------------------------------------------------------------------------
 *
 * settings.h
 *		The settings, and what each session has of them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOCKGUARD_SETTINGS_H
#define LOCKGUARD_SETTINGS_H

#include "datatype/timestamp.h"

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

typedef enum LgActionKind
{
	LG_DO_LOG,
	LG_DO_CANCEL,
	LG_DO_TERMINATE,
	LG_DO_ROLLBACK				/* of a prepared transaction */
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

/* Settings of the server as a whole (PGC_SIGHUP). */
extern bool lg_enabled;
extern bool lg_dry_run;
extern int	lg_naptime;			/* ms */
extern int	lg_max_actions_per_minute;
extern int	lg_prepared_timeout;	/* ms */
extern int	lg_prepared_action;
extern int	lg_max_history;
extern int	lg_incident_threshold;	/* ms */
extern bool lg_log_incidents;

#ifdef LOCKGUARD_DEBUG
extern char *lg_debug_wait_at;
extern char *lg_debug_error_at;
#endif

extern void lg_settings_define(void);
extern void lg_settings_login(void);
extern void lg_settings_publish_server(void);
extern void lg_settings_server_values(LgValues *values);
extern bool lg_settings_of_session(int procno, int pid, TimestampTz session_start,
								   const LgValues *server, LgValues *values);
extern void lg_settings_smallest(const LgValues *server, int *smallest);

extern const char *lg_setting_name(int id);
extern const char *lg_setting_unit(int id);
extern const char *lg_source_name(LgSource source);
extern const char *lg_action_name(LgActionKind action);
extern const char *lg_priority_name(LgPriority priority);
extern void lg_format_value(int id, int value, char *buf, size_t size);

#endif							/* LOCKGUARD_SETTINGS_H */
