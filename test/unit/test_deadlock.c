/*-------------------------------------------------------------------------
 *
 * test_deadlock.c
 *		The cycle of a deadlock, read from the error that the server raises.
 *
 *-------------------------------------------------------------------------
 */
#include "server.h"

#include "lib/stringinfo.h"
#include "storage/lmgr.h"
#include "utils/elog.h"

#include "../../src/deadlock.h"

#include "unit.h"

#define SESSIONS	20

/* The words of a line: waiter, mode, lock and blocker, in the order of a language. */
static const char *const languages[] = {
	"Process {W} waits for {M} on {L}; blocked by process {B}.",
	"\xe8\xbf\x9b\xe7\xa8\x8b{W}\xe7\xad\x89{L}\xe4\xb8\x8a\xe7\x9a\x84{M}; {B}",
	"{B} blocks {W}, which wants {L} ({M})",
	"{W} {B} {M}{L}",
	"{B} {W} {L} {M}",
	"{L} {M}: {W}, {B}",
	"{M} {L}: {B} before {W}",
	"{B}: {M} {L}: {W}"
};

static LgDeadlock deadlock;

static int
pid_of(int procno)
{
	return proc_of(procno)->pid;
}

/* Sessions that run a statement each, "SELECT" and their pid. */
static void
a_server(void)
{
	server_start(SESSIONS, 0);
	lg_max_history = 10;
	lg_record_shmem_init(palloc(lg_record_shmem_size()), palloc0(sizeof(LWLock)), true);
	for (int i = 0; i < SESSIONS; i++)
	{
		session_begins(i, 1000 + i, B_BACKEND);
		session_state(i, STATE_RUNNING);
		snprintf(status_of(i)->st_activity_raw, 100, "SELECT %d", 1000 + i);
		status_of(i)->st_query_id = 5000 + i;
		proc_of(i)->roleId = 100 + i;
	}
	clock_ns += 1000 * MS;
	for (int i = 0; i < SESSIONS; i++)
		status_of(i)->st_activity_start_timestamp = wall_now();
	becomes(0);
}

static void
append_line(StringInfo out, const char *language, int waiter, LOCKMODE mode, const LOCKTAG *tag,
			int blocker)
{
	if (out->len > 0)
		appendStringInfoChar(out, '\n');
	for (const char *p = language; *p; p++)
	{
		if (*p != '{')
		{
			appendStringInfoChar(out, *p);
			continue;
		}
		switch (p[1])
		{
			case 'W':
				appendStringInfo(out, "%d", waiter);
				break;
			case 'B':
				appendStringInfo(out, "%d", blocker);
				break;
			case 'M':
				appendStringInfoString(out, GetLockmodeName(DEFAULT_LOCKMETHOD, mode));
				break;
			default:
				DescribeLockTag(out, tag);
		}
		p += 2;
	}
}

/* The lock that the i-th of a cycle waits for. */
static LOCKTAG
tag_of(int i, int type)
{
	LOCKTAG		tag = {0};

	tag.locktag_field1 = 70 + i;
	switch ((LockTagType) type)
	{
		case LOCKTAG_TUPLE:
		case LOCKTAG_ADVISORY:
			tag.locktag_field4 = i;
			/* FALLTHROUGH */
		case LOCKTAG_PAGE:
		case LOCKTAG_OBJECT:
		case LOCKTAG_USERLOCK:
		default:
			tag.locktag_field3 = 4000000000U + i;
			/* FALLTHROUGH */
		case LOCKTAG_RELATION:
		case LOCKTAG_RELATION_EXTEND:
		case LOCKTAG_VIRTUALTRANSACTION:
		case LOCKTAG_SPECULATIVE_TOKEN:
			/* It may look like the pid of another. */
			tag.locktag_field2 = 1000 + (i + 2) % 5;
			break;
		case LOCKTAG_TRANSACTION:
		case LOCKTAG_DATABASE_FROZEN_IDS:
			break;
	}
	tag.locktag_type = type;
	tag.locktag_lockmethodid = type == LOCKTAG_ADVISORY || type == LOCKTAG_USERLOCK ?
		USER_LOCKMETHOD : DEFAULT_LOCKMETHOD;
	return tag;
}

/* Report an error with that DETAIL; true if there is a new row, in "deadlock". */
static bool
is_noted(char *detail, char *detail_log)
{
	ErrorData	edata = {0};
	int64		first;
	int64		before;
	int64		after;

	edata.elevel = ERROR;
	edata.message_id = "deadlock detected";
	edata.detail = detail;
	edata.detail_log = detail_log;
	lg_deadlock_range(&first, &before);
	lg_note_deadlock(&edata);
	lg_deadlock_range(&first, &after);
	memset(&deadlock, 0, sizeof(deadlock));
	return after == before + 1 && lg_fetch_deadlock(before, &deadlock);
}

/* The i-th session that was kept, or NULL; and its statement. */
static const LgDeadlockSession *
kept(int i, const char **statement)
{
	const LgDeadlockSession *session = NULL;
	const char *text[2];

	do
		session = lg_next_in_cycle(&deadlock, session, &text[0], &text[1], statement);
	while (session != NULL && i-- > 0);
	return session;
}

/* Cycles of so many, from each language, with locks of each kind and in each mode. */
static void
all_orders(void)
{
	for (int backwards = 0; backwards < 2; backwards++)
		for (int l = 0; l < (int) lengthof(languages); l++)
			for (int type = 0; type <= LOCKTAG_LAST_TYPE; type++)
				for (int n = 2; n <= SESSIONS; n += n < 4 ? 1 : 8)
				{
					StringInfoData detail;

					a_server();
					tags_backwards = backwards;
					initStringInfo(&detail);
					for (int i = 0; i < n; i++)
					{
						LOCKTAG		tag = tag_of(i, type);

						append_line(&detail, languages[l], pid_of(i), 1 + (i + type) % MaxLockMode,
									&tag, pid_of((i + 1) % n));
					}
					if (!CHECK(is_noted(detail.data, NULL)))
						return;
					CHECK_INT(deadlock.pid, 1000);
					CHECK_INT(deadlock.in_cycle, n);
					CHECK_INT(deadlock.nsessions, Min(n, LG_DEADLOCK_SESSIONS));
					for (int i = 0; i < Min(n, LG_DEADLOCK_SESSIONS); i++)
					{
						LOCKTAG		tag = tag_of(i, type);
						const char *statement;
						const LgDeadlockSession *session = kept(i, &statement);

						CHECK_INT(session->pid, 1000 + i);
						CHECK_INT(session->blocker_pid, 1000 + (i + 1) % n);
						CHECK_INT(session->mode, 1 + (i + type) % MaxLockMode);
						CHECK(memcmp(&session->tag, &tag, sizeof(tag)) == 0);
						CHECK_INT(session->userid, 100 + i);
						CHECK_INT(session->query_id, 5000 + i);
					}
					if (has_failed())
					{
						printf("    \"%s\", type %d, %d sessions\n", languages[l], type, n);
						return;
					}
				}
}

/* What no server writes: this session alone, and no statement of another. */
static void
unreadable(void)
{
	static const char *const details[] = {
		"", "\n", "nothing", "1 2", "Process 1000 waits", "1000 1 1000", "1000 x 1 1001\n1002 x 1 1000",
		"1000 x 1 1001\n1001 x 1 1002", "1000 x 1 1001\n\n1001 x 1 1000",
		"1000 1 2 3 4 5 6 7 1001\n1001 1 2 3 4 5 6 7 1000", "1000 x 99999999999999999999 1001\n1001 x 1 1000",
		"0 x 1 1001\n1001 x 1 0", "4294967295 x 1 1001\n1001 x 1 4294967295", "1000 x 1 1001\n1001 x 1 1000\n"
	};
	const char *statement;

	a_server();
	for (int i = 0; i < (int) lengthof(details); i++)
	{
		char	   *detail = psprintf("%s", details[i]);

		CHECK(is_noted(detail, psprintf("%s\nProcess 1000: SELECT 1000\nProcess 1001: secret", detail)));
		CHECK_INT(deadlock.nsessions, 1);
		CHECK_INT(deadlock.in_cycle, 1);
		CHECK_INT(kept(0, &statement)->pid, 1000);
		CHECK_INT(kept(0, &statement)->blocker_pid, 0);
		CHECK_TEXT(statement, "SELECT 1000");
		if (has_failed())
			break;
	}
	CHECK(is_noted(NULL, NULL));
	CHECK_INT(deadlock.nsessions, 1);

	/* A lock of a kind that is not known. */
	CHECK(is_noted(psprintf("1000 ShareLock on thing 7, 1001\n1001 OddLock on thing 8, 1000"), NULL));
	CHECK_INT(deadlock.nsessions, 2);
	CHECK_INT(kept(0, &statement)->mode, ShareLock);
	CHECK_INT(kept(0, &statement)->tag.locktag_lockmethodid, 0);
	CHECK_INT(kept(1, &statement)->mode, NoLock);
}

/* Statements are those of the log, unless one of them may pass for another. */
static void
statements(void)
{
	static char detail[] = "1000 ShareLock f[7], 1001\n1001 ShareLock f[8], 1002\n1002 ShareLock f[9], 1000";
	static const struct
	{
		const char *log;
		bool		taken;
	}			cases[] =
	{
		{"\nProcess 1000: a\nProcess 1001: b\nProcess 1002: c", true},
		{"\nProcess 1000: a\nb: c\n\nProcess 1001: b\nProcess 1002: c", true},
		{"\nProcess 1000: a\nProcess 1001: fake\nProcess 1001: b\nProcess 1002: c", false},
		{"\nProcess 1000: a\nProcess 1002: fake\nProcess 1001: b\nProcess 1002: c", false},
		{"\nProcess 1000: a\nProcess 1001: b\nProcess 1002: c\nProcess 1000: d", false},
		{"\nProcess 1000: a\nProcess 1002: c\nProcess 1001: b", false},
		{"\nProzess 1000: a\nProcess 1000: x\nProcess 1001: b\nProcess 1002: c", false},
		{"\nProcess 1000: a\nProcess 1001: b", false},
		{"", false}
	};
	static const int lengths[] = {90000, 1023, 1024};
	StringInfoData log;

	a_server();
	for (int c = 0; c < (int) lengthof(cases); c++)
	{
		CHECK(is_noted(detail, psprintf("%s%s", detail, cases[c].log)));
		for (int i = 0; i < 3; i++)
		{
			const char *statement;
			const LgDeadlockSession *session = kept(i, &statement);

			if (cases[c].taken)
			{
				CHECK(strchr(statement, 'a' + i) == statement);
				CHECK_INT(session->query_id, 0);
			}
			else
			{
				CHECK_TEXT(statement, psprintf("SELECT %d", 1000 + i));
				CHECK_INT(session->query_id, 5000 + i);
			}
			CHECK_INT(session->userid, 100 + i);
		}
		if (has_failed())
		{
			printf("    case %d\n", c);
			return;
		}
	}

	/* Another DETAIL than the one of the client says nothing. */
	CHECK(is_noted(detail, psprintf("x\nProcess 1000: a\nProcess 1001: b\nProcess 1002: c")));
	{
		const char *statement;

		kept(1, &statement);
		CHECK_TEXT(statement, "SELECT 1001");
	}

	/* One that has begun since then is not whose statement that was. */
	clock_ns += 1000 * MS;
	session_begins(1, 1001, B_BACKEND);
	CHECK(is_noted(detail, psprintf("%s%s", detail, cases[0].log)));
	{
		const char *statement;

		CHECK_INT(kept(0, &statement)->userid, 100);
		CHECK_INT(kept(1, &statement)->userid, InvalidOid);
		CHECK_TEXT(statement, "b");
	}

	/* Nor one that is gone. */
	session_ends(2);
	CHECK(is_noted(detail, psprintf("%s%s", detail, cases[0].log)));
	{
		const char *statement;

		CHECK_INT(kept(2, &statement)->userid, InvalidOid);
		CHECK_TEXT(statement, "c");
	}

	/* Whatever their length, all fit. */
	initStringInfo(&log);
	appendStringInfoString(&log, detail);
	for (int i = 0; i < 3; i++)
	{
		appendStringInfo(&log, "\nProcess %d: ", 1000 + i);
		for (int c = 0; c < lengths[i]; c++)
			appendStringInfoChar(&log, 'x');
	}
	CHECK(is_noted(detail, log.data));
	for (int i = 0; i < 3; i++)
	{
		const char *statement;

		kept(i, &statement);
		CHECK_INT(strlen(statement), LG_QUERY_SIZE - 1);
	}
}

/* Ten with the longest names and statements. */
static void
all_fit(void)
{
	StringInfoData detail;
	const char *statement;

	a_server();
	initStringInfo(&detail);
	tags_backwards = false;
	for (int i = 0; i < SESSIONS; i++)
	{
		LOCKTAG		tag = tag_of(i, LOCKTAG_TUPLE);

		append_line(&detail, languages[0], pid_of(i), ShareLock, &tag, pid_of((i + 1) % SESSIONS));
		memset(NameStr(slot_of(i)->usename), 'u', NAMEDATALEN - 1);
		if (status_of(i)->st_appname == NULL)
			status_of(i)->st_appname = palloc0(NAMEDATALEN);
		memset(status_of(i)->st_appname, 'a', NAMEDATALEN - 1);
		for (int c = 0; c < LG_QUERY_SIZE - 2; c += 2)
			memcpy(status_of(i)->st_activity_raw + c, "\xc3\xa9", 2);
	}
	CHECK(is_noted(detail.data, NULL));
	CHECK_INT(deadlock.nsessions, LG_DEADLOCK_SESSIONS);
	CHECK_INT(deadlock.in_cycle, SESSIONS);
	CHECK(deadlock.used <= LG_DEADLOCK_ARENA);
	for (int i = 0; i < LG_DEADLOCK_SESSIONS; i++)
	{
		CHECK_INT(kept(i, &statement)->pid, 1000 + i);
		CHECK(strlen(statement) > 200);
		CHECK_INT(strlen(statement) % 2, 0);
	}
}

/* Parallel workers: one row for all of them, of their leader. */
static void
parallel_workers(void)
{
	static char detail[] = "1001 ShareLock f[7], 1005\n1005 ShareLock f[8], 1001";
	static char by_sibling[] = "1005 ShareLock f[8], 1002\n1002 ShareLock f[7], 1005";
	const char *statement;

	a_server();
	joins_group(1, 0);
	joins_group(2, 0);
	becomes(1);
	CHECK(is_noted(detail, NULL));
	CHECK_INT(deadlock.pid, 1000);
	CHECK_INT(kept(0, &statement)->pid, 1001);
	CHECK_INT(kept(0, &statement)->leader_pid, 1000);
	CHECK(!is_noted(detail, NULL));
	becomes(2);
	CHECK(!is_noted(by_sibling, NULL));
	CHECK_INT(pg_atomic_read_u64(&lg_shared->scan_stats.deadlocks), 1);

	/* In the next statement of the leader there may be another. */
	clock_ns += 1000 * MS;
	status_of(2)->st_activity_start_timestamp = wall_now();
	CHECK(is_noted(by_sibling, NULL));
	CHECK_INT(kept(0, &statement)->pid, 1002);

	/* Of a session by itself each counts. */
	becomes(5);
	CHECK(is_noted(by_sibling, NULL));
	CHECK_INT(deadlock.pid, 1005);
	CHECK_INT(kept(0, &statement)->pid, 1005);
	CHECK(is_noted(by_sibling, NULL));
}

/* Errors that are none. */
static void
other_errors(void)
{
	static char detail[] = "1000 ShareLock f[7], 1001\n1001 ShareLock f[8], 1000";
	ErrorData	edata = {0};
	int64		first;
	int64		next;

	a_server();
	edata.elevel = ERROR;
	edata.detail = detail;
	lg_note_deadlock(&edata);
	edata.message_id = "%s";
	lg_note_deadlock(&edata);
	edata.message_id = "deadlock detected";
	edata.elevel = WARNING;
	lg_note_deadlock(&edata);
	lg_deadlock_range(&first, &next);
	CHECK_INT(next, 1);
	edata.elevel = FATAL;
	lg_note_deadlock(&edata);
	lg_deadlock_range(&first, &next);
	CHECK_INT(next, 2);
}

const Test	deadlock_tests[] = {
	{"deadlock: words in any order", all_orders},
	{"deadlock: cannot be read", unreadable},
	{"deadlock: statements", statements},
	{"deadlock: all fit", all_fit},
	{"deadlock: parallel workers", parallel_workers},
	{"deadlock: other errors", other_errors},
	{NULL, NULL}
};
