/*-------------------------------------------------------------------------
 *
 * history_file.c
 *		Histories, and the files that they are kept in: made up, written and
 *		read by the code under test, and checked.
 *
 *-------------------------------------------------------------------------
 */
#include "history_file.h"

#include <sys/stat.h>
#include <unistd.h>

#include "lib/stringinfo.h"
#include "port/pg_crc32c.h"
#include "postmaster/interrupt.h"
#include "utils/timestamp.h"

#include "../../src/deadlock.h"
#include "../../src/history.h"
#include "../../src/incident.h"

#include "unit.h"

uint32
header_checksum(const char *file)
{
	pg_crc32c	crc;

	INIT_CRC32C(crc);
	COMP_CRC32C(crc, file, FILE_HEADER_SIZE - sizeof(uint32));
	FIN_CRC32C(crc);
	return crc;
}

uint32
record_checksum(const RecordHeader *header, const char *data)
{
	pg_crc32c	crc;

	INIT_CRC32C(crc);
	COMP_CRC32C(crc, &header->kind, sizeof(uint32));
	COMP_CRC32C(crc, &header->length, sizeof(uint32));
	COMP_CRC32C(crc, data, header->length);
	FIN_CRC32C(crc);
	return crc;
}

/* A temporary directory with what history.c expects in it. */
void
enter_data_directory(void)
{
	char		name[MAXPGPATH];

	snprintf(name, sizeof(name), "%s/history.XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
	if (mkdtemp(name) == NULL || chdir(name) != 0 || mkdir("pg_stat", 0700) != 0)
	{
		perror(name);
		exit(2);
	}
}

/* A server that has just started, with room for so much. */
void
forget_history(int max_history)
{
	server_start(10, 0);
	lg_max_history = max_history;
	lg_record_shmem_init(palloc(lg_record_shmem_size()), palloc0(sizeof(LWLock)), true);
}

static void
fill(char *string, size_t size, int number)
{
	size_t		length = number % 3 == 0 ? size - 1 : number % size;

	for (size_t i = 0; i < length; i++)
		string[i] = 'a' + (number + i) % 26;
	string[length] = '\0';
}

void
make_action(LgAction *action, int number)
{
	memset(action, 0, sizeof(*action));
	action->acted_at = clock_offset + number;
	action->backend_start = clock_offset - number;
	action->pid = 1000 + number;
	action->limit = number % (LG_NUM_LIMITS + 1) - 1;
	action->limit_value = 5000;
	action->limit_source = (LgSource) (number % (LG_SOURCE_SESSION + 1));
	action->action = (LgActionKind) ((number + number / 10 * 3) % (LG_DO_TERMINATE + 1));
	action->result = (LgResult) (number % (LG_FAILED + 1));
	action->dry_run = number % 2 == 0;
	action->released_after = number % 2 == 0 ? -1 : number;
	fill(action->query, sizeof(action->query), number);
	fill(NameStr(action->usename), NAMEDATALEN, number + 1);
	fill(action->application_name, NAMEDATALEN, number + 2);
	if (number % 5 == 4)
		fill(action->gid, sizeof(action->gid), number + 1);
	action->nblocked_pids = number % (LG_MAX_PIDS + 1);
	for (int i = 0; i < action->nblocked_pids; i++)
		action->blocked_pids[i] = number + i;
}

/* The first session is the root, the others wait for the one before. */
void
make_incident(LgIncident *incident, int number, int sessions)
{
	memset(incident, 0, sizeof(*incident));
	incident->started_at = clock_offset + number;
	incident->updated_at = clock_offset + number + 10;
	incident->ended_at = number % 4 == 0 ? 0 : clock_offset + number + 20;
	incident->resolution = incident->ended_at == 0 ? LG_OPEN_INCIDENT :
		(LgResolution) (1 + number % LG_BY_RESTART);
	incident->root_pid = 1000 + number;
	incident->kind = LG_KIND_CLIENT;
	incident->tag.locktag_type = LOCKTAG_RELATION;
	incident->tag.locktag_lockmethodid = DEFAULT_LOCKMETHOD;
	fill(incident->query, sizeof(incident->query), number);
	fill(incident->gid, sizeof(incident->gid), number + 1);
	incident->peak_blocked_sessions = sessions - 1;
	for (int i = 0; i < sessions; i++)
	{
		LgIncidentSession *session =
			(LgIncidentSession *) (incident->arena + incident->used);
		char		texts[3][60];
		size_t		size = offsetof(LgIncidentSession, texts);

		for (int t = 0; t < 3; t++)
		{
			fill(texts[t], sizeof(texts[t]), number + i + t);
			size += strlen(texts[t]) + 1;
		}
		size = MAXALIGN(size);
		if (incident->used + size > LG_ARENA_SIZE)
		{
			incident->nleft_out = sessions - i;
			break;
		}
		session->size = size;
		session->parent = i - 1;
		session->level = i;
		session->kind = i % 5 == 4 ? LG_KIND_AUTOVACUUM : LG_KIND_CLIENT;
		session->block_kind = i % 2;
		session->pid = 1000 + number + i;
		session->state = STATE_RUNNING;
		session->wait_event = 0x03000000;
		if (i > 0)
		{
			session->mode = 1 + i % MaxLockMode;
			session->tag = incident->tag;
		}
		session->waited = i * 1000;
		size = 0;
		for (int t = 0; t < 3; t++)
		{
			strcpy(session->texts + size, texts[t]);
			size += strlen(texts[t]) + 1;
		}
		incident->used += session->size;
		incident->nsessions++;
	}
}

/* Each session waits for the next one. */
void
make_deadlock(LgDeadlock *deadlock, int number, int sessions)
{
	memset(deadlock, 0, sizeof(*deadlock));
	deadlock->detected_at = clock_offset + number;
	deadlock->stmt_start = clock_offset - number;
	deadlock->pid = 1000 + number;
	fill(NameStr(deadlock->usename), NAMEDATALEN, number);
	fill(deadlock->application_name, NAMEDATALEN, number + 1);
	deadlock->in_cycle = sessions;
	for (int i = 0; i < Min(sessions, LG_DEADLOCK_SESSIONS); i++)
	{
		LgDeadlockSession *session = (LgDeadlockSession *) (deadlock->arena + deadlock->used);
		char text[	60];
		size_t		size = 0;

		session->kind = LG_KIND_CLIENT;
		session->mode = i % (MaxLockMode + 1);
		session->pid = 1000 + number + i;
		session->blocker_pid = 1000 + number + (i + 1) % sessions;
		session->leader_pid = session->pid;
		session->userid = number + i;
		session->tag.locktag_type = i % (LOCKTAG_LAST_TYPE + 1);
		session->tag.locktag_lockmethodid = i % 3;
		session->query_id = i % 4;
		for (int t = 0; t < 3; t++)
		{
			fill(text, sizeof(text), number + i + t);
			strcpy(session->texts + size, text);
			size += strlen(text) + 1;
		}
		session->size = MAXALIGN(offsetof(LgDeadlockSession, texts) + size);
		deadlock->used += session->size;
		deadlock->nsessions++;
	}
}

/* So many, with one session more each, up to more than are kept. */
void
make_deadlocks(int deadlocks)
{
	static LgDeadlock deadlock;

	for (int i = 0; i < deadlocks; i++)
	{
		make_deadlock(&deadlock, i, 1 + i % (LG_DEADLOCK_SESSIONS + 2));
		lg_record_deadlock(&deadlock, false);
	}
}

/* So many of each, numbered on from what is there. */
void
make_history(int actions, int incidents, int contention)
{
	static LgAction action;
	static LgIncident incident;

	for (int i = 0; i < actions; i++)
	{
		make_action(&action, i);
		lg_record_action(&action);
	}
	for (int i = 0; i < incidents; i++)
	{
		make_incident(&incident, i, 1 + i % 40);
		lg_record_incident(&incident);
	}
	for (int i = 0; i < contention; i++)
	{
		LgContention more = {
			1 + i, 2 + i, 3 + i, 4 + i, 5 + i, i % (LOCKTAG_LAST_TYPE + 1), i % (MaxLockMode + 1),
			4 + i, 5 + i, 6 + i, 7 + i, 8 + i
		};

		lg_count_contention(&more);
	}
}

/* The worker's loop, until it is asked to shut down, which is at once if idle. */
static void
shut_down(long timeout)
{
	ShutdownRequestPending = true;
}

void
write_history_worker(void)
{
	sigjmp_buf	here;

	if (on_wait == NULL)
		on_wait = shut_down;
	on_error = &here;
	if (sigsetjmp(here, 0) == 0)
		lg_history_main((Datum) 0);
	on_error = NULL;
	on_wait = NULL;
	ShutdownRequestPending = false;
}

char *
read_whole(const char *name, size_t *size)
{
	FILE	   *file = fopen(name, "r");
	char	   *bytes;

	*size = 0;
	if (file == NULL)
		return NULL;
	fseek(file, 0, SEEK_END);
	*size = ftell(file);
	rewind(file);
	bytes = palloc(*size + 1);
	if (fread(bytes, 1, *size, file) != *size)
		*size = 0;
	fclose(file);
	return bytes;
}

void
put_file(const char *bytes, size_t size)
{
	FILE	   *file = fopen(HISTORY_FILE, "w");

	if (file == NULL || fwrite(bytes, 1, size, file) != size || fclose(file) != 0)
	{
		perror(HISTORY_FILE);
		exit(2);
	}
}

/*
 * Start with this file.  It is read whole without a word, or there is one
 * WARNING; in either case it stays where it is, as it is.
 */
void
load_history(const char *bytes, size_t size)
{
	char	   *after;
	size_t		after_size;

	unlink(HISTORY_ASIDE);
	put_file(bytes, size);
	lg_history_load();
	CHECK(reports[WARNING] <= 1);
	CHECK(access(HISTORY_ASIDE, F_OK) != 0);
	after = read_whole(HISTORY_FILE, &after_size);
	CHECK(after != NULL && after_size == size && memcmp(after, bytes, size) == 0);
	if (after)
		pfree(after);
}

/*
 * Can everything that was loaded be used, by the views and by the worker?
 */
#define CHECK_TERMINATED(array) CHECK(memchr(array, '\0', sizeof(array)) != NULL)
#define CHECK_BOOL(value) CHECK(*(const unsigned char *) &(value) <= 1)
#define CHECK_TIME(value) CHECK(IS_VALID_TIMESTAMP(value))

static bool
may_see(Oid userid)
{
	return userid % 2 == 0;
}

static char *
clean(const char *string)
{
	return strcpy(palloc(strlen(string) + 1), string);
}

static void
check_action(const LgAction *action)
{
	CHECK(action->action_id > 0 && action->action_id < PG_INT64_MAX / 2);
	CHECK_TIME(action->acted_at);
	CHECK_TIME(action->backend_start);
	CHECK_TERMINATED(action->datname.data);
	CHECK_TERMINATED(action->usename.data);
	CHECK_TERMINATED(action->gid);
	CHECK_TERMINATED(action->application_name);
	CHECK_TERMINATED(action->client_addr);
	CHECK_TERMINATED(action->state);
	CHECK_TERMINATED(action->query);
	CHECK_TERMINATED(action->requested_by.data);
	CHECK_TERMINATED(action->reason);
	CHECK((action->limit >= LG_NO_LIMIT && action->limit < LG_NUM_LIMITS) ||
		  action->limit == LG_PREPARED_TRANSACTION_TIMEOUT);
	CHECK((unsigned) action->limit_source <= LG_SOURCE_SESSION);
	CHECK((unsigned) action->action <= LG_DO_TERMINATE);
	CHECK((unsigned) action->result <= LG_FAILED);
	CHECK(lg_result_name(action->result) != NULL);
	CHECK(action->nblocked_pids >= 0 && action->nblocked_pids <= LG_MAX_PIDS);
	CHECK_BOOL(action->dry_run);
	CHECK_BOOL(action->open.unresponsive);
	CHECK_BOOL(action->open.adopted);
}

static void
check_incident(const LgIncident *incident)
{
	const LgIncidentSession *session = NULL;
	const char *string[3];
	StringInfoData tree;
	int			n = 0;

	CHECK(incident->incident_id > 0 && incident->incident_id < PG_INT64_MAX / 2);
	CHECK_TIME(incident->started_at);
	CHECK_TIME(incident->updated_at);
	CHECK_TIME(incident->ended_at);
	CHECK_TIME(incident->peak_at);
	CHECK_TIME(incident->backend_start);
	CHECK_TIME(incident->xact_start);
	CHECK_TERMINATED(incident->datname.data);
	CHECK_TERMINATED(incident->usename.data);
	CHECK_TERMINATED(incident->gid);
	CHECK_TERMINATED(incident->application_name);
	CHECK_TERMINATED(incident->client_addr);
	CHECK_TERMINATED(incident->state);
	CHECK_TERMINATED(incident->query);
	CHECK((unsigned) incident->resolution <= LG_BY_RESTART);
	CHECK(incident->kind <= LG_KIND_OTHER);
	CHECK(incident->tag.locktag_type <= LOCKTAG_LAST_TYPE);
	CHECK(incident->used >= 0 && incident->used <= LG_ARENA_SIZE);
	while ((session = lg_next_session(incident, session, &string[0], &string[1], &string[2])) != NULL)
	{
		CHECK(session->parent >= -1 && session->parent < Max(n, 1));
		for (int i = 0; i < 3; i++)
			CHECK(string[i] >= session->texts &&
				  string[i] + strlen(string[i]) < (const char *) session + session->size);
		n++;
	}
	CHECK_INT(n, incident->nsessions);
	initStringInfo(&tree);
	lg_incident_tree(incident, may_see, clean, &tree);
}

static void
check_deadlock(const LgDeadlock *deadlock)
{
	const LgDeadlockSession *session = NULL;
	const char *string[3];
	int64		ids[LG_DEADLOCK_SESSIONS];
	StringInfoData graph;
	int			n = 0;

	CHECK(deadlock->deadlock_id > 0 && deadlock->deadlock_id < PG_INT64_MAX / 2);
	CHECK_TIME(deadlock->detected_at);
	CHECK_TERMINATED(deadlock->datname.data);
	CHECK_TERMINATED(deadlock->usename.data);
	CHECK_TERMINATED(deadlock->application_name);
	CHECK(deadlock->used >= 0 && deadlock->used <= LG_DEADLOCK_ARENA);
	while ((session = lg_next_in_cycle(deadlock, session, &string[0], &string[1], &string[2])) != NULL)
	{
		for (int i = 0; i < 3; i++)
			CHECK(string[i] >= session->texts &&
				  string[i] + strlen(string[i]) < (const char *) session + session->size);
		n++;
	}
	CHECK_INT(n, deadlock->nsessions);
	CHECK(n >= 1 && n <= LG_DEADLOCK_SESSIONS && n <= deadlock->in_cycle);
	initStringInfo(&graph);
	lg_deadlock_graph(deadlock, may_see, clean, &graph);
	n = lg_deadlock_query_ids(deadlock, may_see, ids);
	for (int i = 1; i < n; i++)
		CHECK(ids[i - 1] < ids[i]);
}

void
check_history(void)
{
	static LgAction action;
	static LgIncident incident;
	static LgDeadlock deadlock;
	static LgContention contention[LG_MAX_CONTENTION];
	int64		first;
	int64		next;
	int			n;

	lg_action_range(&first, &next);
	CHECK(first >= 1 && first <= next && next - first <= lg_max_history);
	for (int64 id = first; id < next; id++)
		if (lg_fetch_action(id, &action))
		{
			CHECK_INT(action.action_id, id);
			check_action(&action);
		}
	lg_incident_range(&first, &next);
	CHECK(first >= 1 && first <= next && next - first <= lg_max_history);
	for (int64 id = first; id < next; id++)
		if (lg_fetch_incident(id, &incident))
		{
			CHECK_INT(incident.incident_id, id);
			check_incident(&incident);
		}
	lg_deadlock_range(&first, &next);
	CHECK(first >= 1 && first <= next && next - first <= lg_max_history);
	for (int64 id = first; id < next; id++)
		if (lg_fetch_deadlock(id, &deadlock))
		{
			CHECK_INT(deadlock.deadlock_id, id);
			check_deadlock(&deadlock);
		}
	n = lg_fetch_contention(contention);
	CHECK(n >= 0 && n <= LG_MAX_CONTENTION);
	for (int i = 0; i < n; i++)
	{
		CHECK(contention[i].locktype <= LOCKTAG_LAST_TYPE);
		CHECK(contention[i].mode <= MaxLockMode);
		for (int j = 0; j < i; j++)
			CHECK(contention[i].datid != contention[j].datid ||
				  contention[i].userid != contention[j].userid ||
				  contention[i].query_id != contention[j].query_id ||
				  contention[i].lock_datid != contention[j].lock_datid ||
				  contention[i].relation != contention[j].relation ||
				  contention[i].locktype != contention[j].locktype ||
				  contention[i].mode != contention[j].mode);
	}
	(void) lg_count_open_incidents();
}
