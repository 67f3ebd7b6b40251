/*-------------------------------------------------------------------------
 *
 * text.c
 *		The words for what people read: states, kinds, locks, durations, sources,
 *		results, reasons, and what a victim is told.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/wait_event.h"

#include "session.h"
#include "settings.h"
#include "text.h"
#include "types.h"

/* A session's state in the words of pg_stat_activity; NULL if unknown. */
const char *
lg_state_text(const LgSession *session)
{
	if (session->kind == LG_KIND_PREPARED)
		return "prepared";
	if (session->kind == LG_KIND_STARTING)
		return "starting";
	if (!session->has_status)
		return NULL;
	return lg_backend_state_text(session->state);
}

/* A state in the words of pg_stat_activity; NULL if it has none. */
const char *
lg_backend_state_text(BackendState state)
{
	switch (state)
	{
		case STATE_IDLE:
			return "idle";
		case STATE_RUNNING:
			return "active";
		case STATE_IDLEINTRANSACTION:
			return "idle in transaction";
		case STATE_FASTPATH:
			return "fastpath function call";
		case STATE_IDLEINTRANSACTION_ABORTED:
			return "idle in transaction (aborted)";
		case STATE_DISABLED:
			return "disabled";
		default:
			return NULL;
	}
}

/* How a session is idle, in words. */
const char *
lg_idle_text(BackendState state)
{
	switch (state)
	{
		case STATE_IDLE:
			return "idle";
		case STATE_IDLEINTRANSACTION:
			return "idle in transaction";
		case STATE_IDLEINTRANSACTION_ABORTED:
			return "idle in transaction (aborted)";
		default:
			return "waiting for its client";
	}
}

/* A kind in prose. */
const char *
lg_kind_text(LgKind kind)
{
	switch (kind)
	{
		case LG_KIND_CLIENT:
			return "client backend";
		case LG_KIND_STARTING:
			return "backend that is logging in";
		case LG_KIND_PREPARED:
			return "prepared transaction";
		case LG_KIND_PARALLEL:
			return "parallel worker";
		case LG_KIND_AUTOVACUUM:
			return "autovacuum worker";
		case LG_KIND_WALSENDER:
			return "walsender";
		case LG_KIND_STARTUP:
			return "startup process";
		case LG_KIND_BACKGROUND:
			return "background worker";
		default:
			return "system process";
	}
}

/* A kind in the words of pg_stat_activity, where it has one. */
const char *
lg_backend_type(LgKind kind)
{
	return kind == LG_KIND_STARTUP ? "startup" : lg_kind_text(kind);
}

/*
 * How many bytes of a control character begin here, 0 if none: those of ASCII,
 * and in UTF-8 those that terminals or viewers obey as well: the C1 set, line
 * and paragraph separators, and what turns the direction of writing round.
 */
int
lg_control_bytes(const char *string)
{
	const unsigned char *p = (const unsigned char *) string;

	if (p[0] < ' ' || p[0] == 127)
		return 1;
	if (p[0] == 0xC2 && p[1] >= 0x80 && p[1] <= 0x9F)
		return 2;
	if (p[0] == 0xE2 && p[1] == 0x80 && p[2] >= 0xA8 && p[2] <= 0xAE)
		return 3;
	if (p[0] == 0xE2 && p[1] == 0x81 && p[2] >= 0xA6 && p[2] <= 0xA9)
		return 3;
	return 0;
}

/*
 * Text of others as one line: control characters and runs of space become a
 * single space; cut at max_bytes, marked with "...".  Other bytes above 127
 * stay.
 */
char *
lg_one_line(const char *string, int max_bytes)
{
	StringInfoData buf;
	bool		space = false;

	initStringInfo(&buf);
	while (*string != '\0')
	{
		int			control = *string == ' ' ? 1 : lg_control_bytes(string);

		if (control > 0)
		{
			space = buf.len > 0;
			string += control;
			continue;
		}
		if (buf.len + space >= max_bytes - 3 &&
			buf.len + space + strlen(string) > (size_t) max_bytes)
		{
			/* Do not leave half a character of UTF-8 behind. */
			while (buf.len > 0 && ((unsigned char) buf.data[buf.len - 1] & 0xC0) == 0x80)
				buf.len--;
			if (buf.len > 0 && ((unsigned char) buf.data[buf.len - 1] & 0xC0) == 0xC0)
				buf.len--;
			buf.data[buf.len] = '\0';
			appendStringInfoString(&buf, "...");
			break;
		}
		if (space)
			appendStringInfoChar(&buf, ' ');
		space = false;
		appendStringInfoChar(&buf, *string++);
	}
	return buf.data;
}

/*
 * A name as this session's client can be told it.  One that could not be converted
 * to the client's encoding would bring an error in place of the message; it may
 * also come from a session of a database with another encoding.
 */
char *
lg_text_for_client(const char *string, int max_bytes)
{
	char	   *copy = lg_one_line(string, max_bytes);
	int			encoding = pg_get_client_encoding();

	if ((encoding != GetDatabaseEncoding() && encoding != PG_SQL_ASCII) ||
		!pg_verifymbstr(copy, strlen(copy), true))
		for (char *p = copy; *p; p++)
			if (IS_HIGHBIT_SET(*p))
				*p = '?';
	return copy;
}

/* A duration for people: "503 ms", "12.3 s", "5 min 7 s", "2 h 3 min". */
void
lg_duration_text(int64 ns, char *buf, size_t size)
{
	int64		ms = Max(ns, 0) / LG_NANOS_PER_MS;
	int64		s = ms / 1000;

	if (ms < 1000)
		snprintf(buf, size, "%d ms", (int) ms);
	else if (s < 60)
		snprintf(buf, size, "%d.%d s", (int) s, (int) (ms % 1000 / 100));
	else if (s < 3600)
		snprintf(buf, size, "%d min %d s", (int) (s / 60), (int) (s % 60));
	else
		snprintf(buf, size, "%lld h %d min", (long long) (s / 3600), (int) (s % 3600 / 60));
}

/*
 * What a process does: "active (IPC: RecoveryConflictSnapshot)".  One without
 * states (NULL) is active.
 */
const char *
lg_doing_text(const char *state, uint32 wait_event)
{
	const char *type = pgstat_get_wait_event_type(wait_event);

	if (state == NULL)
		state = "active";
	return type == NULL ? state :
		psprintf("%s (%s: %s)", state, type, pgstat_get_wait_event(wait_event));
}

/* Is a lock on a relation, or on a part of one?  Then *relation is set. */
bool
lg_lock_relation(const LOCKTAG *tag, Oid *relation)
{
	switch ((LockTagType) tag->locktag_type)
	{
		case LOCKTAG_RELATION:
		case LOCKTAG_RELATION_EXTEND:
		case LOCKTAG_PAGE:
		case LOCKTAG_TUPLE:
			*relation = tag->locktag_field2;
			return true;
		default:
			return false;
	}
}

/* What a lock is on: 'relation "t"', "transaction 741". */
void
lg_lock_text(const LOCKTAG *tag, const LgTreeStyle *style, char *buf, size_t size)
{
	const char *type = GetLockNameFromTagType(tag->locktag_type);
	char	   *name = NULL;

	switch ((LockTagType) tag->locktag_type)
	{
		case LOCKTAG_RELATION:
		case LOCKTAG_RELATION_EXTEND:
		case LOCKTAG_PAGE:
		case LOCKTAG_TUPLE:
			if (style->relation_name &&
				(tag->locktag_field1 == MyDatabaseId || tag->locktag_field1 == InvalidOid))
				name = style->relation_name(tag->locktag_field2);
			if (name)
			{
				name = lg_one_line(name, size - 64);
				snprintf(buf, size, "%s of %s", type,
						 style->clean ? style->clean(name) : name);
			}
			else
				snprintf(buf, size, "%s of relation %u in database %u", type,
						 tag->locktag_field2, tag->locktag_field1);
			if (tag->locktag_type == LOCKTAG_RELATION)
				memmove(buf, buf + strlen("relation of "),
						strlen(buf + strlen("relation of ")) + 1);
			break;
		case LOCKTAG_TRANSACTION:
			snprintf(buf, size, "transaction %u", tag->locktag_field1);
			break;
		case LOCKTAG_VIRTUALTRANSACTION:
			snprintf(buf, size, "virtual transaction %u/%u",
					 tag->locktag_field1, tag->locktag_field2);
			break;
		case LOCKTAG_ADVISORY:
			if (tag->locktag_field4 == 1)
				snprintf(buf, size, "advisory lock %lld",
						 (long long) (((uint64) tag->locktag_field2 << 32) |
									  tag->locktag_field3));
			else
				snprintf(buf, size, "advisory lock (%d, %d)",
						 (int) tag->locktag_field2, (int) tag->locktag_field3);
			break;
		default:
			snprintf(buf, size, "%s (%u, %u, %u)", type, tag->locktag_field1,
					 tag->locktag_field2, tag->locktag_field3);
			break;
	}
}

const char *
lg_source_name(LgSource source)
{
	static const char *const names[] = {
		[LG_SOURCE_DEFAULT] = "default",
		[LG_SOURCE_CONFIGURATION] = "configuration",
		[LG_SOURCE_ALL_ROLES] = "all roles",
		[LG_SOURCE_DATABASE] = "database",
		[LG_SOURCE_ROLE] = "role",
		[LG_SOURCE_ROLE_IN_DATABASE] = "role in database",
		[LG_SOURCE_SESSION] = "session"
	};

	return names[source];
}

const char *
lg_action_name(LgActionKind action)
{
	static const char *const names[] = {
		[LG_DO_LOG] = "log",
		[LG_DO_YIELD] = "yield",
		[LG_DO_CANCEL] = "cancel",
		[LG_DO_ROLLBACK] = "rollback",
		[LG_DO_TERMINATE] = "terminate"
	};

	return names[action];
}

const char *
lg_priority_name(LgPriority priority)
{
	static const char *const names[] = {
		[LG_PRIORITY_LOW] = "low",
		[LG_PRIORITY_NORMAL] = "normal",
		[LG_PRIORITY_HIGH] = "high"
	};

	return names[priority];
}

/*
 * A value of a setting as SHOW writes it: "500ms", "5s", "10".
 */
void
lg_format_value(int id, int value, char *buf, size_t size)
{
	static const struct
	{
		int			ms;
		const char *unit;
	}			units[] = {
		{24 * 60 * 60 * 1000, "d"},
		{60 * 60 * 1000, "h"},
		{60 * 1000, "min"},
		{1000, "s"},
		{1, "ms"}
	};

	if (id == LG_ACTION)
		snprintf(buf, size, "%s", lg_action_name((LgActionKind) value));
	else if (id == LG_PRIORITY)
		snprintf(buf, size, "%s", lg_priority_name((LgPriority) value));
	else if (id == LG_EXEMPT)
		snprintf(buf, size, "%s", value ? "on" : "off");
	else if (lg_setting_unit(id) == NULL || value == 0)
		snprintf(buf, size, "%d", value);
	else
	{
		int			i = 0;

		while (value % units[i].ms != 0)
			i++;
		snprintf(buf, size, "%d%s", value / units[i].ms, units[i].unit);
	}
}

const char *
lg_result_name(LgResult result)
{
	static const char *const names[] = {
		[LG_PENDING] = "pending",
		[LG_RELEASED] = "released",
		[LG_ESCALATED] = "escalated",
		[LG_SELF_RESOLVED] = "self_resolved",
		[LG_UNRESPONSIVE] = "unresponsive",
		[LG_SUPPRESSED] = "suppressed",
		[LG_LOGGED] = "logged",
		[LG_EXEMPTED] = "exempt",
		[LG_PROTECTED] = "protected",
		[LG_FAILED] = "failed"
	};

	return names[result];
}

/* How an incident ended; NULL while it is open. */
const char *
lg_resolution_name(LgResolution resolution)
{
	static const char *const names[] = {
		[LG_OPEN_INCIDENT] = NULL,
		[LG_BY_RELEASE] = "released",
		[LG_BY_CANCEL] = "cancelled",
		[LG_BY_TERMINATION] = "terminated",
		[LG_BY_SESSION_END] = "session ended",
		[LG_BY_ROLLBACK] = "rolled back",
		[LG_BY_REPLACEMENT] = "replaced",
		[LG_BY_RESTART] = "server restarted"
	};

	return names[resolution];
}

/* Where a value comes from, in words: 'set for role "app"'. */
void
lg_describe_source(LgSource source, const char *role, const char *database,
				   char *buf, size_t size)
{
	switch (source)
	{
		case LG_SOURCE_DEFAULT:
			strlcpy(buf, "the default", size);
			break;
		case LG_SOURCE_CONFIGURATION:
			strlcpy(buf, "set in the configuration", size);
			break;
		case LG_SOURCE_ALL_ROLES:
			strlcpy(buf, "set for all roles", size);
			break;
		case LG_SOURCE_DATABASE:
			snprintf(buf, size, "set for database \"%s\"", database);
			break;
		case LG_SOURCE_ROLE:
			snprintf(buf, size, "set for role \"%s\"", role);
			break;
		case LG_SOURCE_ROLE_IN_DATABASE:
			snprintf(buf, size, "set for role \"%s\" in database \"%s\"", role, database);
			break;
		case LG_SOURCE_SESSION:
			strlcpy(buf, "set in the session", size);
			break;
	}
}

/* What a session did that has passed a limit, what is measured, and a hint. */
typedef struct LimitText
{
	const char *unit;			/* of what is measured */
	const char *story;			/* see lg_tell() */
	const char *hint;
} LimitText;

static const LimitText limit_texts[LG_NUM_LIMITS] = {
	[LG_IDLE_BLOCKER_TIMEOUT] = {"ms",
		"sat {idle} while blocking {sessions} for {measured}",
	"Commit or roll back before waiting for anything outside the database."},
	[LG_BLOCKER_TIMEOUT] = {"ms",
		"blocked {sessions} for {measured}",
	"Do the work in smaller transactions, or when no other session needs the same rows or tables."},
	[LG_QUEUED_BLOCKER_TIMEOUT] = {"ms",
		"waited for a lock with {sessions} waiting behind it for {measured}",
	"Set lock_timeout for such statements and try again when the table is less busy."},
	[LG_MAX_BLOCKED_SESSIONS] = {"sessions",
		"blocked {sessions}",
	"Do the work in smaller transactions, or when no other session needs the same rows or tables."},
	[LG_LOCK_WAIT_TIMEOUT] = {"ms",
		"waited {measured} for a lock",
	"Try again; lockguard.lock_tree shows who holds a lock."},
	[LG_TRANSACTION_TIMEOUT] = {"ms",
		"had a transaction open for {measured}",
	"Do the work in smaller transactions."},
	[LG_IDLE_IN_TRANSACTION_TIMEOUT] = {"ms",
		"sat idle in transaction for {measured}",
	"Commit or roll back before waiting for anything outside the database."},
	[LG_STATEMENT_TIMEOUT] = {"ms",
		"ran a statement for {measured}",
	"Make the statement do less, or ask for a longer limit."},
	[LG_IDLE_SESSION_TIMEOUT] = {"ms",
		"sat idle for {measured}",
	"Close sessions that are not needed, or connect again."},
	[LG_MAX_LOCKS] = {"locks",
		"held at least {measured} in the shared lock table",
	"Touch fewer tables or advisory locks in one transaction."},
	[LG_MAX_XMIN_AGE] = {"transactions",
		"kept vacuum from cleaning up behind {measured}",
	"Do the work in smaller transactions."},
	[LG_PREEMPT_TIMEOUT] = {"ms",
		"blocked a session of higher priority that had waited {measured}",
	"Try again when that session has done its work."},
	[LG_QUEUE_YIELD_TIMEOUT] = {"ms",
		"waits for a lock and has held up {sessions} for {measured}",
	NULL}						/* it is not told */
};

/*
 * What a session did, as part of a sentence: the story of the limit, or that
 * of a signal that was asked for by hand.
 */
void
lg_tell(int limit, int blocked, int64 measured, BackendState state,
		char *buf, size_t size)
{
	const char *from;
	const char *unit = "ms";
	size_t		len = 0;

	if (limit == LG_NO_LIMIT)
		from = "blocked {sessions}";
	else if (limit == LG_PREPARED_TRANSACTION_TIMEOUT)
		from = "was prepared {measured} ago and blocks {sessions}";
	else
	{
		from = limit_texts[limit].story;
		unit = limit_texts[limit].unit;
	}

	while (*from != '\0' && len + 1 < size)
	{
		if (strncmp(from, "{sessions}", 10) == 0)
		{
			snprintf(buf + len, size - len, "%d %s", blocked,
					 blocked == 1 ? "session" : "sessions");
			len += strlen(buf + len);
			from += 10;
		}
		else if (strncmp(from, "{measured}", 10) == 0)
		{
			snprintf(buf + len, size - len, "%lld %s", (long long) measured, unit);
			len += strlen(buf + len);
			from += 10;
		}
		else if (strncmp(from, "{idle}", 6) == 0)
		{
			snprintf(buf + len, size - len, "%s", lg_idle_text(state));
			len += strlen(buf + len);
			from += 6;
		}
		else
			buf[len++] = *from++;
	}
	buf[len] = '\0';
}

/* What the client of a session can do to stay within that limit. */
const char *
lg_limit_hint(int limit)
{
	return limit_texts[limit].hint;
}

/* Why nothing was done to a process of that kind; NULL for LG_NO_BRAKE. */
const char *
lg_brake_text(LgBrake brake, LgKind kind)
{
	static const char *const texts[] = {
		[LG_NO_BRAKE] = NULL,
		[LG_BRAKE_EXEMPT_SETTING] = "lockguard.exempt is on",
		[LG_BRAKE_EXEMPT] = "exempt for a time by lockguard.exempt()",
		[LG_BRAKE_COMMITTING] = "its commit can no longer be undone",
		[LG_BRAKE_DROPPING] = "it drops a database or a tablespace, which cannot be undone",
		[LG_BRAKE_ACTION_LOG] = "lockguard.action is log",
		[LG_BRAKE_ACTION_CANCEL] = "lockguard.action is cancel, which cannot reach this session",
		[LG_BRAKE_ACTION_ROLLBACK] = "lockguard.action is rollback, which cannot reach this session",
		[LG_BRAKE_OUT_OF_REACH] = "neither a cancel nor a rollback can reach this session",
		[LG_BRAKE_PREPARED_ACTION_LOG] = "lockguard.prepared_transaction_action is log",
		[LG_BRAKE_IN_VAIN] = "removing it would not unblock any session",
		[LG_BRAKE_DRY_RUN] = "lockguard.dry_run is on",
		[LG_BRAKE_PAUSED] = "paused by lockguard.pause()",
		[LG_BRAKE_CAP] = "lockguard.max_actions_per_minute is reached",
		[LG_BRAKE_RELEASED] = "it had already stopped blocking or waiting",
		[LG_BRAKE_CHANGED] = "it had already begun something else",
		[LG_BRAKE_FAILED] = "the signal could not be sent"
	};

	return brake == LG_BRAKE_KIND ? lg_kind_text(kind) : texts[brake];
}
