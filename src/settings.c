/*-------------------------------------------------------------------------
 *
 * settings.c
 *		The settings, and each session's own values in shared memory.
 *
 * A limit binds a session that may sit idle for hours, so the worker must
 * know the session's values without asking it.  PostgreSQL tells of every
 * change: the check hook learns where a value comes from and keeps that in the
 * setting's "extra"; the assign hook puts value and source into the session's
 * slot.  A value that comes from the configuration file or is the default is
 * not put there: the worker has its own copy of these, so that a reload binds
 * a session that has not read the file yet, too.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/parallel.h"
#include "access/xact.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "utils/guc.h"

#include "clientio.h"
#include "compat.h"
#include "settings.h"
#include "shared.h"
#include "types.h"

/* Settings of the server. */
bool		lg_enabled = true;
bool		lg_dry_run = false;
int			lg_naptime = 1000;
int			lg_max_actions_per_minute = 60;
int			lg_prepared_timeout = 0;
int			lg_prepared_action = LG_DO_LOG;
int			lg_max_history = 1000;
int			lg_incident_threshold = 1000;
bool		lg_log_incidents = true;
bool		lg_explain_waits = true;

#ifdef LOCKGUARD_DEBUG
char	   *lg_debug_wait_at = NULL;
char	   *lg_debug_error_at = NULL;
#endif

/* This process's values of the settings that a session can have. */
static int	own_value[LG_NUM_SETTINGS] = {
	[LG_ACTION] = LG_DO_TERMINATE,
	[LG_ESCALATION_DELAY] = 5000,
	[LG_PRIORITY] = LG_PRIORITY_NORMAL
};
static LgSource own_source[LG_NUM_SETTINGS];
static bool own_exempt = false;

/* Has this process logged in?  What is set before that is set anew. */
static bool logged_in = false;

static const struct config_enum_entry action_options[] = {
	{"log", LG_DO_LOG, false},
	{"cancel", LG_DO_CANCEL, false},
	{"rollback", LG_DO_ROLLBACK, false},
	{"terminate", LG_DO_TERMINATE, false},
	{NULL, 0, false}
};

static const struct config_enum_entry prepared_action_options[] = {
	{"log", LG_DO_LOG, false},
	{"rollback", LG_DO_ROLLBACK, false},
	{NULL, 0, false}
};

static const struct config_enum_entry priority_options[] = {
	{"low", LG_PRIORITY_LOW, false},
	{"normal", LG_PRIORITY_NORMAL, false},
	{"high", LG_PRIORITY_HIGH, false},
	{NULL, 0, false}
};

static void publish(LgSetting id, int value, const void *extra);

/*
 * Check hooks: accept every value, and note its source for the assign hook.
 */
static bool
note_source(void **extra, GucSource guc_source)
{
	LgSource   *source = (LgSource *) lg_guc_malloc(sizeof(LgSource));

	if (source == NULL)
		return false;

	switch (guc_source)
	{
		case PGC_S_DEFAULT:
		case PGC_S_DYNAMIC_DEFAULT:
			*source = LG_SOURCE_DEFAULT;
			break;
		case PGC_S_ENV_VAR:
		case PGC_S_FILE:
		case PGC_S_ARGV:
			*source = LG_SOURCE_CONFIGURATION;
			break;
		case PGC_S_GLOBAL:
			*source = LG_SOURCE_ALL_ROLES;
			break;
		case PGC_S_DATABASE:
			*source = LG_SOURCE_DATABASE;
			break;
		case PGC_S_USER:
			*source = LG_SOURCE_ROLE;
			break;
		case PGC_S_DATABASE_USER:
			*source = LG_SOURCE_ROLE_IN_DATABASE;
			break;
		default:
			*source = LG_SOURCE_SESSION;
			break;
	}
	*extra = source;
	return true;
}

static bool
check_int(int *newval, void **extra, GucSource source)
{
	return note_source(extra, source);
}

static bool
check_bool(bool *newval, void **extra, GucSource source)
{
	return note_source(extra, source);
}

/*
 * Assign hooks.  They are not told which setting they are called for, so each
 * setting needs a function of its own.
 */
#define ASSIGN_HOOK(name, id) \
	static void name(int newval, void *extra) { publish(id, newval, extra); }

ASSIGN_HOOK(assign_idle_blocker_timeout, LG_IDLE_BLOCKER_TIMEOUT)
ASSIGN_HOOK(assign_blocker_timeout, LG_BLOCKER_TIMEOUT)
ASSIGN_HOOK(assign_queued_blocker_timeout, LG_QUEUED_BLOCKER_TIMEOUT)
ASSIGN_HOOK(assign_max_blocked_sessions, LG_MAX_BLOCKED_SESSIONS)
ASSIGN_HOOK(assign_lock_wait_timeout, LG_LOCK_WAIT_TIMEOUT)
ASSIGN_HOOK(assign_transaction_timeout, LG_TRANSACTION_TIMEOUT)
ASSIGN_HOOK(assign_idle_in_transaction_timeout, LG_IDLE_IN_TRANSACTION_TIMEOUT)
ASSIGN_HOOK(assign_statement_timeout, LG_STATEMENT_TIMEOUT)
ASSIGN_HOOK(assign_idle_session_timeout, LG_IDLE_SESSION_TIMEOUT)
ASSIGN_HOOK(assign_max_locks, LG_MAX_LOCKS)
ASSIGN_HOOK(assign_max_xmin_age, LG_MAX_XMIN_AGE)
ASSIGN_HOOK(assign_preempt_timeout, LG_PREEMPT_TIMEOUT)
ASSIGN_HOOK(assign_queue_yield_timeout, LG_QUEUE_YIELD_TIMEOUT)
ASSIGN_HOOK(assign_action, LG_ACTION)
ASSIGN_HOOK(assign_escalation_delay, LG_ESCALATION_DELAY)
ASSIGN_HOOK(assign_priority, LG_PRIORITY)

static void
assign_exempt(bool newval, void *extra)
{
	publish(LG_EXEMPT, newval, extra);
}

/*
 * The settings that a session can have a value of its own for; all PGC_SUSET.
 */
static const struct
{
	const char *name;			/* without the prefix */
	const char *unit;			/* as in pg_settings, or NULL */
	const char *description;
	int			max;
	const struct config_enum_entry *options;
	GucIntAssignHook assign;
}			session_settings[LG_NUM_SETTINGS] =

{
	[LG_IDLE_BLOCKER_TIMEOUT] = {"idle_blocker_timeout", "ms",
		"Roll back, or else terminate, a root blocker that has been idle and blocking for this long.",
	INT_MAX, NULL, assign_idle_blocker_timeout},
	[LG_BLOCKER_TIMEOUT] = {"blocker_timeout", "ms",
		"Cancel or roll back, or else terminate, a root blocker that has been blocking for this long.",
	INT_MAX, NULL, assign_blocker_timeout},
	[LG_QUEUED_BLOCKER_TIMEOUT] = {"queued_blocker_timeout", "ms",
		"Cancel, then terminate, a session that has waited for a relation lock, with others waiting behind it, for this long.",
	INT_MAX, NULL, assign_queued_blocker_timeout},
	[LG_MAX_BLOCKED_SESSIONS] = {"max_blocked_sessions", NULL,
		"Remove a blocker with more than this many sessions behind it.",
	INT_MAX, NULL, assign_max_blocked_sessions},
	[LG_LOCK_WAIT_TIMEOUT] = {"lock_wait_timeout", "ms",
		"Cancel a statement that has waited for a lock this long.",
	INT_MAX, NULL, assign_lock_wait_timeout},
	[LG_TRANSACTION_TIMEOUT] = {"transaction_timeout", "ms",
		"Cancel or roll back, or else terminate, a session whose transaction is this old.",
	INT_MAX, NULL, assign_transaction_timeout},
	[LG_IDLE_IN_TRANSACTION_TIMEOUT] = {"idle_in_transaction_timeout", "ms",
		"Terminate a session that has been idle in transaction this long.",
	INT_MAX, NULL, assign_idle_in_transaction_timeout},
	[LG_STATEMENT_TIMEOUT] = {"statement_timeout", "ms",
		"Cancel, then terminate, a session whose statement has run this long.",
	INT_MAX, NULL, assign_statement_timeout},
	[LG_IDLE_SESSION_TIMEOUT] = {"idle_session_timeout", "ms",
		"Terminate a session that has been idle outside a transaction this long.",
	INT_MAX, NULL, assign_idle_session_timeout},
	[LG_MAX_LOCKS] = {"max_locks", NULL,
		"Cancel or roll back, or else terminate, a session that holds more entries of the shared lock table than this.",
	INT_MAX, NULL, assign_max_locks},
	[LG_MAX_XMIN_AGE] = {"max_xmin_age", NULL,
		"Cancel or roll back, or else terminate, a session that holds vacuum back by more transactions than this.",
	INT_MAX, NULL, assign_max_xmin_age},
	[LG_PREEMPT_TIMEOUT] = {"preempt_timeout", "ms",
		"Remove blockers of lower priority once a session has waited for them this long.",
	INT_MAX, NULL, assign_preempt_timeout},
	[LG_QUEUE_YIELD_TIMEOUT] = {"queue_yield_timeout", "ms",
		"Let others pass a lock request that has held them up for this long.",
	INT_MAX, NULL, assign_queue_yield_timeout},
	[LG_ACTION] = {"action", NULL,
		"The most that lockguard may do to a session.",
	0, action_options, assign_action},
	[LG_ESCALATION_DELAY] = {"escalation_delay", "ms",
		"Time from a cancel or rollback that did not help to what is done next.",
	INT_MAX, NULL, assign_escalation_delay},
	[LG_PRIORITY] = {"priority", NULL,
		"Whose blockers preempt_timeout may remove.",
	0, priority_options, assign_priority},
	[LG_EXEMPT] = {"exempt", NULL,
		"Never signal this session.",
	0, NULL, NULL}
};

/*
 * Define all settings and reserve the prefix.  Called once, in the
 * postmaster.  Own defaults of the C variables must equal the boot values.
 */
void
lg_settings_define(void)
{
	for (int id = 0; id < LG_NUM_SETTINGS; id++)
	{
		char	   *name = psprintf("lockguard.%s", session_settings[id].name);
		const char *description = session_settings[id].description;

		if (session_settings[id].options != NULL)
			DefineCustomEnumVariable(name, description, NULL,
									 &own_value[id], own_value[id],
									 session_settings[id].options,
									 PGC_SUSET, 0, check_int,
									 session_settings[id].assign, NULL);
		else if (session_settings[id].assign != NULL)
			DefineCustomIntVariable(name, description,
									id == LG_ESCALATION_DELAY ? NULL :
									"0 turns the limit off.",
									&own_value[id], own_value[id],
									0, session_settings[id].max, PGC_SUSET,
									session_settings[id].unit ? GUC_UNIT_MS : 0,
									check_int, session_settings[id].assign, NULL);
		else
			DefineCustomBoolVariable(name, description, NULL,
									 &own_exempt, false, PGC_SUSET, 0,
									 check_bool, assign_exempt, NULL);
		pfree(name);
	}

	DefineCustomBoolVariable("lockguard.enabled",
							 "Watch this server and act on limits.", NULL,
							 &lg_enabled, true, PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomBoolVariable("lockguard.dry_run",
							 "Judge and record, but signal no session.", NULL,
							 &lg_dry_run, false, PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("lockguard.naptime",
							"The most time between two scans.", NULL,
							&lg_naptime, 1000, 10, 3600 * 1000,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("lockguard.max_actions_per_minute",
							"The most signals sent in a minute.",
							"Beyond it, actions are recorded as suppressed.",
							&lg_max_actions_per_minute, 60,
							0, LG_MAX_ACTIONS_PER_MINUTE,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("lockguard.prepared_transaction_timeout",
							"Act on a transaction that was prepared this long ago.",
							"0 turns the limit off.",
							&lg_prepared_timeout, 0, 0, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomEnumVariable("lockguard.prepared_transaction_action",
							 "What is done to a prepared transaction that is too old.", NULL,
							 &lg_prepared_action, LG_DO_LOG,
							 prepared_action_options,
							 PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("lockguard.max_history",
							"How many actions, incidents and deadlocks are kept, each.", NULL,
							&lg_max_history, 1000, 10, 1000000,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);

	DefineCustomIntVariable("lockguard.incident_threshold",
							"Record an incident when a session has been blocked for this long.",
							"0 records none.",
							&lg_incident_threshold, 1000, 0, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomBoolVariable("lockguard.explain_waits",
							 "Tell a session whose wait for a lock has failed which session blocked it.", NULL,
							 &lg_explain_waits, true, PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomBoolVariable("lockguard.log_incidents",
							 "Write to the server log when an incident begins and when it ends.", NULL,
							 &lg_log_incidents, true, PGC_SIGHUP, 0, NULL, NULL, NULL);

#ifdef LOCKGUARD_DEBUG
	DefineCustomStringVariable("lockguard.debug_wait_at",
							   "Point at which the worker waits (for tests).", NULL,
							   &lg_debug_wait_at, "", PGC_SIGHUP, 0,
							   NULL, NULL, NULL);
	DefineCustomStringVariable("lockguard.debug_error_at",
							   "Point at which the worker fails (for tests).", NULL,
							   &lg_debug_error_at, "", PGC_SIGHUP, 0,
							   NULL, NULL, NULL);
#endif

	MarkGUCPrefixReserved("lockguard");
}

/*
 * This process's slot, taken over from the process that had it before.  While it
 * is taken over its pid is 0, so that no process reads a mixture.
 */
static LgSlot *
own_slot(void)
{
	LgSlot	   *slot = MyProc ? lg_slot(lg_proc_number(MyProc)) : NULL;

	if (slot == NULL || !IsUnderPostmaster)
		return NULL;

	if (slot->pid != MyProcPid || slot->session_start != MyStartTimestamp)
	{
		slot->pid = 0;
		pg_write_barrier();
		pg_atomic_write_u32(&slot->overrides, 0);
		slot->datname.data[0] = '\0';
		slot->usename.data[0] = '\0';
		slot->client.family = 0;
		slot->statement_start = 0;
		slot->committing = slot->dropping = InvalidLocalTransactionId;

		/*
		 * Up to 16, a process that has this PGPROC later can have the same
		 * local transaction ids.
		 */
		pg_atomic_write_u64(&slot->rollback, 0);
		slot->session_start = MyStartTimestamp;
		pg_write_barrier();
		slot->pid = MyProcPid;
	}
	return slot;
}

static inline uint64
pack(LgSource source, int value)
{
	return ((uint64) source << 32) | (uint32) value;
}

static inline void
unpack(uint64 word, LgSource *source, int *value)
{
	*source = (LgSource) (word >> 32);
	*value = (int) (uint32) word;
}

/*
 * A session with values of its own ends; it has released its locks.  What it
 * leaves behind must not bind anything: the worker would heed its limits until
 * another process takes the slot.
 */
static void
leave_slot(int code, Datum arg)
{
	LgSlot	   *slot = MyProc ? lg_slot(lg_proc_number(MyProc)) : NULL;

	if (slot == NULL || slot->pid != MyProcPid)
		return;

	/* Its exemption stays: the session may still be seen for a moment. */
	for (int id = 0; id < LG_NUM_LIMITS; id++)
		pg_atomic_write_u64(&slot->value[id], pack(LG_SOURCE_SESSION, 0));
	pg_atomic_fetch_add_u32(&lg_shared->smallest_changes, 1);
}

/*
 * Keep a new value of a setting, and publish it if this is a session.  Runs
 * in assign hooks: must not fail.  A parallel worker has its leader's values,
 * and is judged by the leader's slot.
 */
static void
publish(LgSetting id, int value, const void *extra)
{
	static int	leaving = 0;	/* pid of the process that calls leave_slot() */
	LgSource	source = *(const LgSource *) extra;
	LgSlot	   *slot;

	own_value[id] = value;
	own_source[id] = source;

	if (IsParallelWorker())
		return;
	slot = own_slot();
	if (slot == NULL)
		return;

	if (source <= LG_SOURCE_CONFIGURATION)
	{
		if ((pg_atomic_read_u32(&slot->overrides) & (1U << id)) == 0)
			return;
		pg_atomic_fetch_and_u32(&slot->overrides, ~(1U << id));
	}
	else
	{
		if (leaving != MyProcPid)
		{
			on_shmem_exit(leave_slot, (Datum) 0);
			leaving = MyProcPid;
		}
		pg_atomic_write_u64(&slot->value[id], pack(source, value));
		pg_write_barrier();
		pg_atomic_fetch_or_u32(&slot->overrides, 1U << id);
	}

	/* One that logs in has nothing yet that could be over a limit. */
	if (logged_in)
		pg_atomic_fetch_add_u32(&lg_shared->settings_changes, 1);

	/* The worker may sleep for longer than a limit that is new to it. */
	if (id < LG_NUM_LIMITS && value > 0)
	{
		uint32		smallest = pg_atomic_read_u32(&lg_shared->smallest[id]);

		if (smallest == 0 || (uint32) value < smallest)
		{
			pg_atomic_fetch_add_u32(&lg_shared->smallest_changes, 1);
			lg_wake_worker();
		}
	}
}

/*
 * Publish what the session is called, as the worker reads no catalog, and how
 * its client is connected.  Called when a session has logged in.  Must not fail.
 */
void
lg_settings_login(void)
{
	LgSlot	   *slot = own_slot();

	logged_in = true;
	if (slot == NULL || MyProcPort == NULL)
		return;
	if (MyProcPort->user_name != NULL)
		strlcpy(NameStr(slot->usename), MyProcPort->user_name, NAMEDATALEN);
	if (MyProcPort->database_name != NULL)
		strlcpy(NameStr(slot->datname), MyProcPort->database_name, NAMEDATALEN);
	lg_socket_describe(&slot->client, MyProcPort->sock, &MyProcPort->raddr,
					   &MyProcPort->laddr);
	lg_end_doze();
}

/*
 * Publish the server's own values for readers in other processes.  Called by
 * the worker at start and after each reload; its values are the server's.
 */
void
lg_settings_publish_server(void)
{
	for (int id = 0; id < LG_NUM_SETTINGS; id++)
		pg_atomic_write_u64(&lg_shared->server_value[id],
							pack(own_source[id], own_value[id]));
	pg_atomic_write_u32(&lg_shared->rolls_back, lg_enabled && !lg_dry_run &&
						lg_prepared_timeout > 0 &&
						lg_prepared_action == LG_DO_ROLLBACK);
	pg_atomic_fetch_add_u32(&lg_shared->settings_changes, 1);
}

/* The server's own values, as the worker published them last. */
void
lg_settings_server_values(LgValues *values)
{
	for (int id = 0; id < LG_NUM_SETTINGS; id++)
		unpack(pg_atomic_read_u64(&lg_shared->server_value[id]),
			   &values->source[id], &values->value[id]);
}

/*
 * The values in force for one session: its own where it has them, else the
 * server's.  Takes no lock.  A slot that belongs to another process, or whose
 * owner leaves while it is read, counts as empty; false is returned then.
 */
bool
lg_settings_of_session(int procno, int pid, TimestampTz session_start,
					   const LgValues *server, LgValues *values)
{
	LgSlot	   *slot = lg_slot(procno);
	uint32		overrides;

	*values = *server;

	if (slot == NULL || slot->pid != pid || slot->session_start != session_start)
		return false;
	pg_read_barrier();
	overrides = pg_atomic_read_u32(&slot->overrides);
	pg_read_barrier();
	for (int id = 0; overrides != 0 && id < LG_NUM_SETTINGS; id++)
		if (overrides & (1U << id))
			unpack(pg_atomic_read_u64(&slot->value[id]),
				   &values->source[id], &values->value[id]);
	pg_read_barrier();
	if (slot->pid != pid || slot->session_start != session_start)
	{
		*values = *server;
		return false;
	}
	return true;
}

/*
 * The smallest value of each limit that any session may have now, 0 where it is
 * off for all.  A slot whose process has just left may make it smaller than
 * need be, never larger.
 */
void
lg_settings_smallest(const LgValues *server, int *smallest)
{
	for (int id = 0; id < LG_NUM_LIMITS; id++)
		smallest[id] = server->value[id];

	for (int procno = 0; procno < MaxBackends; procno++)
	{
		LgSlot	   *slot = &lg_shared->slots[procno];
		uint32		overrides = pg_atomic_read_u32(&slot->overrides);

		for (int id = 0; overrides != 0 && id < LG_NUM_LIMITS; id++)
		{
			LgSource	source;
			int			value;

			if ((overrides & (1U << id)) == 0)
				continue;
			unpack(pg_atomic_read_u64(&slot->value[id]), &source, &value);
			if (value > 0 && (smallest[id] == 0 || value < smallest[id]))
				smallest[id] = value;
		}
	}
}

/* A setting's name, without the prefix. */
const char *
lg_setting_name(int id)
{
	if (id == LG_PREPARED_TRANSACTION_TIMEOUT)
		return "prepared_transaction_timeout";
	return session_settings[id].name;
}

/* The unit as in pg_settings; NULL if it has none. */
const char *
lg_setting_unit(int id)
{
	if (id == LG_PREPARED_TRANSACTION_TIMEOUT)
		return "ms";
	return session_settings[id].unit;
}
