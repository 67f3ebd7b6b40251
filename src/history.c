/*-------------------------------------------------------------------------
 *
 * history.c
 *		The history on disk: one file, so that it survives restart and crash.
 *
 * The file is a header and then one record after the other, each with a mark,
 * its kind, its length and a checksum of its own.  If a part is damaged, the
 * reader continues at the next mark, so that no intact record is lost.  Such a
 * file, or one of another version, is moved aside, never overwritten, and not
 * before what was read of it has been written again.
 *
 * A background worker of its own writes it, a second after something has
 * changed: into a new file that replaces the old one durably.  If that fails,
 * it logs that once, and keeps trying.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/stat.h>
#include <unistd.h>

#include "miscadmin.h"
#include "pgstat.h"
#include "port/pg_crc32c.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/inet.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "clock.h"
#include "compat.h"
#include "history.h"
#include "library.h"
#include "record.h"
#include "types.h"

#define HISTORY_FILE	PGSTAT_STAT_PERMANENT_DIRECTORY "/lockguard.stat"
#define HISTORY_TEMP	HISTORY_FILE ".tmp"
#define HISTORY_DAMAGED HISTORY_FILE ".damaged"

#define FILE_MAGIC		0x4c4b4744	/* "LKGD" */

/*
 * The version of the format, and the major version of PostgreSQL: the numbers of
 * states, wait events and kinds of locks may differ between these, with records of
 * the same size.
 */
#define FILE_VERSION	(3 * 100 + LG_MAJOR_VERSION)
#define RECORD_MARK		0x4b434f4c	/* "LOCK" */

/* How long after a change the file is written. */
#define WRITE_AFTER_MS	1000

typedef enum RecordKind
{
	RECORD_ACTION = 1,
	RECORD_INCIDENT,
	RECORD_CONTENTION,
	RECORD_END,					/* the last one: see EndRecord */
	RECORD_DEADLOCK
} RecordKind;

/*
 * The sizes tell of a build with other structs, which cannot read the rest.
 */
typedef struct FileHeader
{
	uint32		magic;
	uint32		version;
	uint32		action_size;
	uint32		incident_size;
	uint32		contention_size;
	uint16		settings;		/* limits are kept by number */
	uint16		deadlock_size;
	pg_crc32c	crc;			/* of the above */
} FileHeader;

typedef struct RecordHeader
{
	uint32		mark;
	uint32		kind;
	uint32		length;			/* of what follows */
	pg_crc32c	crc;			/* of kind, length and what follows */
} RecordHeader;

/* The last record: the ids to continue with, and how many records came before. */
typedef struct EndRecord
{
	int64		next_action_id;
	int64		next_incident_id;
	int64		next_deadlock_id;
	int64		records;
} EndRecord;

/* The checksum of a file's header. */
static pg_crc32c
header_crc(const FileHeader *header)
{
	pg_crc32c	crc;

	INIT_CRC32C(crc);
	COMP_CRC32C(crc, header, offsetof(FileHeader, crc));
	FIN_CRC32C(crc);
	return crc;
}

static void
make_header(FileHeader *header)
{
	StaticAssertStmt(sizeof(LgDeadlock) <= PG_UINT16_MAX, "its size has 16 bits");
	memset(header, 0, sizeof(*header));
	header->magic = FILE_MAGIC;
	header->version = FILE_VERSION;
	header->action_size = sizeof(LgAction);
	header->incident_size = sizeof(LgIncident);
	header->contention_size = sizeof(LgContention);
	header->settings = LG_NUM_SETTINGS;
	header->deadlock_size = sizeof(LgDeadlock);
	header->crc = header_crc(header);
}

static pg_crc32c
record_crc(uint32 kind, uint32 length, const char *data)
{
	pg_crc32c	crc;

	INIT_CRC32C(crc);
	COMP_CRC32C(crc, &kind, sizeof(kind));
	COMP_CRC32C(crc, &length, sizeof(length));
	COMP_CRC32C(crc, data, length);
	FIN_CRC32C(crc);
	return crc;
}

/* Can a record be of this kind and length? */
static bool
sane_length(uint32 kind, uint32 length)
{
	switch (kind)
	{
		case RECORD_ACTION:
			return length == sizeof(LgAction);
		case RECORD_INCIDENT:
			return length >= offsetof(LgIncident, arena) && length <= sizeof(LgIncident);
		case RECORD_CONTENTION:
			return length == sizeof(LgContention);
		case RECORD_END:
			return length == sizeof(EndRecord);
		case RECORD_DEADLOCK:
			return length >= offsetof(LgDeadlock, arena) && length <= sizeof(LgDeadlock);
		default:
			return false;
	}
}

/*
 * Is there an intact record at "at"?  If so, *header is filled in, and its
 * data follows.  "at" need not be aligned.
 *
 * Other people's texts may hold marks: a length that cannot be is told before
 * the checksum of half the file is taken for each of them.
 */
static bool
intact_record(const char *at, const char *end, RecordHeader *header)
{
	if (end - at < (ssize_t) sizeof(RecordHeader))
		return false;
	memcpy(header, at, sizeof(RecordHeader));
	return header->mark == RECORD_MARK &&
		sane_length(header->kind, header->length) &&
		header->length <= (size_t) (end - at) - sizeof(RecordHeader) &&
		header->crc == record_crc(header->kind, header->length,
								  at + sizeof(RecordHeader));
}

/* Terminate texts that a checksum alone does not vouch for. */
#define TERMINATE(array) ((array)[sizeof(array) - 1] = '\0')

/* Can this time be shown?  0 stands for none. */
static inline bool
sane_time(TimestampTz time)
{
	return time == 0 || IS_VALID_TIMESTAMP(time);
}

/* Can this text be shown as an address?  An empty one stands for none. */
static bool
sane_address(const char *address)
{
	unsigned char ignored[16];

	return address[0] == '\0' ||
		pg_inet_net_pton(strchr(address, ':') ? PGSQL_AF_INET6 : PGSQL_AF_INET,
						 address, ignored, -1) >= 0;
}

/* A bool that is neither true nor false may be taken for either. */
#define SANE_BOOL(field) (*(const unsigned char *) &(field) <= 1)

/* Load an action; false if it holds what no action can. */
static bool
load_action(const char *data)
{
	static LgAction action;

	memcpy(&action, data, sizeof(action));
	TERMINATE(action.client_addr);
	if (action.action_id <= 0 || action.action_id >= PG_INT64_MAX / 2 ||
		(unsigned) action.result > LG_FAILED ||
		(unsigned) action.action > LG_DO_TERMINATE ||
		(unsigned) action.limit_source > LG_SOURCE_SESSION ||
		action.limit < LG_NO_LIMIT ||
		(action.limit >= LG_NUM_LIMITS &&
		 action.limit != LG_PREPARED_TRANSACTION_TIMEOUT) ||
		action.nblocked_pids < 0 || action.nblocked_pids > LG_MAX_PIDS ||
		!sane_time(action.acted_at) || !sane_time(action.backend_start) ||
		!sane_address(action.client_addr) || !SANE_BOOL(action.dry_run))
		return false;
	TERMINATE(action.datname.data);
	TERMINATE(action.usename.data);
	TERMINATE(action.requested_by.data);
	TERMINATE(action.gid);
	TERMINATE(action.application_name);
	TERMINATE(action.state);
	TERMINATE(action.query);
	TERMINATE(action.reason);

	/* Signalled sessions ended with the server. */
	memset(&action.open, 0, sizeof(action.open));
	if (action.result == LG_PENDING || action.result == LG_UNRESPONSIVE)
		action.result = action.gid[0] != '\0' ? LG_FAILED :
			action.action == LG_DO_YIELD ? LG_SELF_RESOLVED : LG_RELEASED;
	lg_restore_action(&action);
	return true;
}

/* Do the sessions of an incident hang together? */
static bool
sane_sessions(const LgIncident *incident)
{
	int			at = 0;
	int			n = 0;

	while (at < incident->used)
	{
		const LgIncidentSession *session =
			(const LgIncidentSession *) (incident->arena + at);
		int			nuls = 0;

		if (incident->used - at < (int) sizeof(LgIncidentSession) ||
			session->size < offsetof(LgIncidentSession, texts) + 3 ||
			session->size != MAXALIGN(session->size) ||
			session->size > incident->used - at ||
			(n == 0 ? session->parent != -1 :
			 session->parent < 0 || session->parent >= n) ||
			session->level < 0 || (session->level == 0) != (n == 0) ||
			session->kind > LG_KIND_OTHER ||
			(n > 0 && (session->mode == NoLock || session->mode > MaxLockMode)) ||
			session->tag.locktag_type > LOCKTAG_LAST_TYPE ||
			(n > 0 && session->tag.locktag_lockmethodid != DEFAULT_LOCKMETHOD &&
			 session->tag.locktag_lockmethodid != USER_LOCKMETHOD))
			return false;
		for (int i = offsetof(LgIncidentSession, texts); i < session->size; i++)
			nuls += incident->arena[at + i] == '\0';
		if (nuls < 3)
			return false;
		at += session->size;
		n++;
	}
	return n == incident->nsessions;
}

/*
 * An extension's wait events have their names from shared memory, which is new:
 * some would be taken for others, and to ask for one that is not there (yet)
 * is an error.
 */
static void
forget_custom_wait_events(LgIncident *incident)
{
	for (int at = 0; at < incident->used;)
	{
		LgIncidentSession *session = (LgIncidentSession *) (incident->arena + at);

		if (lg_wait_event_is_custom(session->wait_event))
			session->wait_event = PG_WAIT_EXTENSION;
		at += session->size;
	}
}

/* Load an incident; false if it holds what no incident can. */
static bool
load_incident(const char *data, size_t length)
{
	static LgIncident incident;

	memset(&incident, 0, sizeof(incident));
	memcpy(&incident, data, length);
	TERMINATE(incident.client_addr);
	if (incident.incident_id <= 0 || incident.incident_id >= PG_INT64_MAX / 2 ||
		(unsigned) incident.resolution > LG_BY_RESTART ||
		incident.kind > LG_KIND_OTHER || incident.judged > LG_FAILED ||
		incident.remedy > LG_DO_TERMINATE || incident.idle_remedy > LG_DO_TERMINATE ||
		!sane_time(incident.started_at) || !sane_time(incident.updated_at) ||
		!sane_time(incident.ended_at) || !sane_time(incident.backend_start) ||
		!sane_time(incident.xact_start) || !sane_time(incident.peak_at) ||
		!sane_address(incident.client_addr) || incident.waits < 0 || incident.gave_up < 0 ||
		incident.idle_from < 0 || incident.longest_idle < 0 ||
		incident.tag.locktag_type > LOCKTAG_LAST_TYPE || !sane_sessions(&incident))
		return false;
	for (int i = 0; i < LG_MAX_GAVE_UP; i++)
		if (!sane_time(incident.gave_up_by[i].at) || incident.gave_up_by[i].waited < 0)
			return false;
	TERMINATE(incident.datname.data);
	TERMINATE(incident.usename.data);
	TERMINATE(incident.gid);
	TERMINATE(incident.application_name);
	TERMINATE(incident.state);
	TERMINATE(incident.query);
	forget_custom_wait_events(&incident);
	if (incident.ended_at == 0)
	{
		incident.ended_at = incident.updated_at;
		incident.resolution = LG_BY_RESTART;
	}
	lg_restore_incident(&incident);
	return true;
}

/* Load a row of contention; false if it holds what none can. */
static bool
load_contention(const char *data)
{
	LgContention contention;

	memcpy(&contention, data, sizeof(contention));
	if (contention.locktype > LOCKTAG_LAST_TYPE || contention.mode > MaxLockMode)
		return false;
	lg_restore_contention(&contention);
	return true;
}

/* Do the sessions of a deadlock hang together? */
static bool
sane_cycle(const LgDeadlock *deadlock)
{
	int			at = 0;
	int			n = 0;

	while (at < deadlock->used)
	{
		const LgDeadlockSession *session =
			(const LgDeadlockSession *) (deadlock->arena + at);
		int			nuls = 0;

		if (deadlock->used - at < (int) sizeof(LgDeadlockSession) ||
			session->size < offsetof(LgDeadlockSession, texts) + 3 ||
			session->size != MAXALIGN(session->size) ||
			session->size > deadlock->used - at ||
			session->kind > LG_KIND_OTHER || session->mode > MaxLockMode ||
			session->tag.locktag_type > LOCKTAG_LAST_TYPE ||
			session->tag.locktag_lockmethodid > USER_LOCKMETHOD)
			return false;
		for (int i = offsetof(LgDeadlockSession, texts); i < session->size; i++)
			nuls += deadlock->arena[at + i] == '\0';
		if (nuls < 3)
			return false;
		at += session->size;
		n++;
	}
	return n == deadlock->nsessions && n >= 1 && n <= LG_DEADLOCK_SESSIONS &&
		deadlock->in_cycle >= n;
}

/* Load a deadlock; false if it holds what no deadlock can. */
static bool
load_deadlock(const char *data, size_t length)
{
	static LgDeadlock deadlock;

	memset(&deadlock, 0, sizeof(deadlock));
	memcpy(&deadlock, data, length);
	if (deadlock.deadlock_id <= 0 || deadlock.deadlock_id >= PG_INT64_MAX / 2 ||
		!sane_time(deadlock.detected_at) || !sane_time(deadlock.stmt_start) ||
		!sane_cycle(&deadlock))
		return false;
	TERMINATE(deadlock.datname.data);
	TERMINATE(deadlock.usename.data);
	TERMINATE(deadlock.application_name);
	lg_restore_deadlock(&deadlock);
	return true;
}

/*
 * Load one record, whose length is sane; false if it makes no sense.  The last
 * one is also copied to *end.
 */
static bool
load_record(const RecordHeader *header, const char *data, EndRecord *end)
{
	switch (header->kind)
	{
		case RECORD_ACTION:
			return load_action(data);
		case RECORD_INCIDENT:
			if (((const LgIncident *) data)->used < 0 ||
				header->length != LG_INCIDENT_SIZE((const LgIncident *) data))
				return false;
			return load_incident(data, header->length);
		case RECORD_CONTENTION:
			return load_contention(data);
		case RECORD_END:
			memcpy(end, data, sizeof(EndRecord));
			if (end->next_action_id <= 0 || end->next_action_id >= PG_INT64_MAX / 2 ||
				end->next_incident_id <= 0 || end->next_incident_id >= PG_INT64_MAX / 2 ||
				end->next_deadlock_id <= 0 || end->next_deadlock_id >= PG_INT64_MAX / 2)
				return false;
			lg_restore_ids(end->next_action_id, end->next_incident_id,
						   end->next_deadlock_id);
			return true;
		case RECORD_DEADLOCK:
			if (((const LgDeadlock *) data)->used < 0 ||
				header->length != LG_DEADLOCK_SIZE((const LgDeadlock *) data))
				return false;
			return load_deadlock(data, header->length);
		default:
			return false;
	}
}

/*
 * A file that could not be read whole must not be replaced, but moved aside.
 * Set in the postmaster, and so known to the writer, which is forked from it.
 * It may have been removed since, or moved by a writer before this one: hence
 * which file it was (all 0 if unknown).
 */
static bool file_in_the_way = false;
static bool file_was_read;		/* in part at least */
static struct stat unread_file;

/*
 * Do not replace the file as it is now.  It is not moved aside before there is
 * another to replace it: the server may not get as far as that, or never write
 * it (single-user mode), and the next one is to find all that this one has.
 */
static void
keep_file(bool was_read)
{
	file_in_the_way = true;
	file_was_read = was_read;
	if (lstat(HISTORY_FILE, &unread_file) != 0)
		memset(&unread_file, 0, sizeof(unread_file));
}

/* Is that file, as far as can be told, where the history is to be written? */
static bool
is_in_the_way(void)
{
	struct stat st;

	if (!file_in_the_way)
		return false;
	if (lstat(HISTORY_FILE, &st) != 0)
		file_in_the_way = errno != ENOENT;
	else if (unread_file.st_ino != 0)
		file_in_the_way = st.st_ino == unread_file.st_ino &&
			st.st_dev == unread_file.st_dev;
	return file_in_the_way;
}

/*
 * Give the file a name that no other has yet, just before it is replaced; false,
 * with errno, if that cannot be done.
 */
static bool
move_aside(void)
{
	char		name[MAXPGPATH];
	struct stat st;
	int			i = 0;

	strlcpy(name, HISTORY_DAMAGED, sizeof(name));
	while (++i < 100 && lstat(name, &st) == 0)
		snprintf(name, sizeof(name), HISTORY_DAMAGED ".%d", i);
	if (i >= 100)
	{
		errno = EEXIST;
		return false;
	}

	/*
	 * A second name, so that what was read of it is in a history file at
	 * every moment.  One that cannot be read, durable_rename() would not
	 * replace.
	 */
	if (!(file_was_read && link(HISTORY_FILE, name) == 0) &&
		rename(HISTORY_FILE, name) != 0)
		return false;
	file_in_the_way = false;
	ereport(LOG,
			(errmsg("lockguard: history file \"%s\" was moved to \"%s\"",
					HISTORY_FILE, name)));
	return true;
}

/*
 * Read the whole file; NULL, with errno, if that cannot be done.  errno is 0 if
 * it is no regular file: the start of the server would wait for a pipe's writer.
 */
static char *
read_file(size_t *size, bool *missing)
{
	struct stat st;
	FILE	   *file;
	char	   *data;
	int			save_errno;

	*missing = false;
	if (stat(HISTORY_FILE, &st) != 0)
	{
		*missing = errno == ENOENT;
		return NULL;
	}
	if (!S_ISREG(st.st_mode))
	{
		errno = 0;
		return NULL;
	}
	file = AllocateFile(HISTORY_FILE, PG_BINARY_R);
	if (file == NULL)
		return NULL;
	*size = st.st_size;
	data = MemoryContextAllocExtended(CurrentMemoryContext, *size + 1,
									  MCXT_ALLOC_HUGE | MCXT_ALLOC_NO_OOM);
	if (data == NULL)
		errno = ENOMEM;
	else if (fread(data, 1, *size, file) != *size)
	{
		if (!ferror(file))
			errno = EIO;		/* shorter by now */
		pfree(data);
		data = NULL;
	}
	save_errno = errno;
	FreeFile(file);
	errno = save_errno;
	return data;
}

/*
 * Take the history from the file.  Called in the postmaster at start, also
 * after a crash.  Never fails.
 */
void
lg_history_load(void)
{
	size_t		size = 0;
	bool		missing;
	char	   *data = read_file(&size, &missing);
	FileHeader	expected;
	RecordHeader header;
	bool		damaged = false;
	int			loaded = 0;
	EndRecord	end = {0};

	file_in_the_way = false;
	if (data == NULL)
	{
		int			save_errno = errno;

		if (missing)
			return;
		/* Its contents may still be good: do not overwrite it. */
		keep_file(false);
		errno = save_errno;
		ereport(WARNING,
				(save_errno == 0 ? errcode(ERRCODE_WRONG_OBJECT_TYPE) : errcode_for_file_access(),
				 save_errno == 0 ?
				 errmsg("lockguard: could not read history file \"%s\": not a regular file",
						HISTORY_FILE) :
				 errmsg("lockguard: could not read history file \"%s\": %m",
						HISTORY_FILE),
				 errdetail("The file is moved aside when the history is next written.")));
		return;
	}

	make_header(&expected);
	if (size < sizeof(FileHeader) || memcmp(data, &expected, sizeof(expected)) != 0)
	{
		FileHeader	found;

		/*
		 * A damaged header may well stand before intact records; an intact
		 * one of another version or build says that they cannot be read.
		 */
		memset(&found, 0, sizeof(found));
		memcpy(&found, data, Min(size, sizeof(found)));
		damaged = true;
		if (found.magic == FILE_MAGIC && found.crc == header_crc(&found))
			size = 0;
	}

	for (size_t at = damaged ? 0 : sizeof(FileHeader); at < size;)
	{
		/* Records of a damaged file may be anywhere: copy for alignment. */
		if (intact_record(data + at, data + size, &header))
		{
			char	   *copy = palloc(Max(header.length, 1));

			memcpy(copy, data + at + sizeof(RecordHeader), header.length);
			if (load_record(&header, copy, &end))
			{
				loaded++;
				pfree(copy);
				at += sizeof(RecordHeader) + header.length;
				continue;
			}
			pfree(copy);
		}
		damaged = true;
		at++;
	}
	pfree(data);

	/* The last record is missing, or others before it. */
	if (end.next_action_id == 0 || end.records != --loaded)
		damaged = true;

	if (damaged)
	{
		/* What was saved from it must not be lost again. */
		lg_record_changed();
		keep_file(true);
		ereport(WARNING,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("lockguard: history file \"%s\" is damaged or of another version",
						HISTORY_FILE),
				 errdetail("%d intact records were taken from it. The file is moved aside when the history is next written.",
						   loaded)));
	}
}

/* Write one record, and count it; false with errno if that fails. */
static bool
write_record(FILE *file, RecordKind kind, const void *data, uint32 length,
			 EndRecord *end)
{
	RecordHeader header;

	if (end)
		end->records++;

	memset(&header, 0, sizeof(header));
	header.mark = RECORD_MARK;
	header.kind = kind;
	header.length = length;
	header.crc = record_crc(kind, length, data);
	return fwrite(&header, sizeof(header), 1, file) == 1 &&
		fwrite(data, length, 1, file) == 1;
}

/* Write everything into an open file; false with errno if that fails. */
static bool
write_records(FILE *file)
{
	FileHeader	header;
	LgAction   *action = palloc(sizeof(LgAction));
	LgIncident *incident = palloc(sizeof(LgIncident));
	LgDeadlock *deadlock = palloc(sizeof(LgDeadlock));
	LgContention *contention = palloc_array(LgContention, LG_MAX_CONTENTION);
	int64		first;
	int64		next;
	EndRecord	end = {0};
	int			n;

	make_header(&header);
	if (fwrite(&header, sizeof(header), 1, file) != 1)
		return false;

	lg_action_range(&first, &end.next_action_id);
	lg_incident_range(&first, &end.next_incident_id);
	lg_deadlock_range(&first, &end.next_deadlock_id);
	lg_action_range(&first, &next);
	for (int64 id = first; id < next; id++)
		if (lg_fetch_action(id, action) &&
			!write_record(file, RECORD_ACTION, action, sizeof(LgAction), &end))
			return false;
	lg_incident_range(&first, &next);
	for (int64 id = first; id < next; id++)
		if (lg_fetch_incident(id, incident) &&
			!write_record(file, RECORD_INCIDENT, incident, LG_INCIDENT_SIZE(incident), &end))
			return false;
	lg_deadlock_range(&first, &next);
	for (int64 id = first; id < next; id++)
		if (lg_fetch_deadlock(id, deadlock) &&
			!write_record(file, RECORD_DEADLOCK, deadlock, LG_DEADLOCK_SIZE(deadlock), &end))
			return false;
	n = lg_fetch_contention(contention);
	for (int i = 0; i < n; i++)
		if (!write_record(file, RECORD_CONTENTION, &contention[i],
						  sizeof(LgContention), &end))
			return false;
	return write_record(file, RECORD_END, &end, sizeof(end), NULL);
}

/*
 * Write the history file anew.  Returns false, with the reason in errno, if
 * that fails; the old file is there still then.
 */
static bool
write_history(void)
{
	FILE	   *file;
	int			save_errno;

	/* Whatever has that name, it is not to be followed or waited for. */
	if (unlink(HISTORY_TEMP) != 0 && errno != ENOENT)
		return false;
	file = AllocateFile(HISTORY_TEMP, PG_BINARY_W);
	if (file == NULL)
		return false;
	if (!write_records(file))
	{
		save_errno = errno;
		FreeFile(file);
		unlink(HISTORY_TEMP);
		errno = save_errno;
		return false;
	}
	if (FreeFile(file) != 0 || (is_in_the_way() && !move_aside()))
	{
		save_errno = errno;
		unlink(HISTORY_TEMP);
		errno = save_errno;
		return false;
	}

	/*
	 * Flushes the file and its directory.  What it has to say about a failure
	 * would come at every try; the caller says it once.
	 */
	return durable_rename(HISTORY_TEMP, HISTORY_FILE, DEBUG1) == 0;
}

/*
 * Write if anything has changed.  Of several failures in a row the first is
 * complained about.  Returns true unless it failed.
 */
static bool
write_if_changed(void)
{
	static bool failing = false;

	if (!lg_record_is_dirty() && !failing)
		return true;
	lg_record_clean();
	if (write_history())
	{
		if (failing)
			ereport(LOG, (errmsg("lockguard: the history file can be written again")));
		failing = false;
	}
	else
	{
		if (!failing)
			ereport(WARNING,
					(errcode_for_file_access(),
					 errmsg("lockguard: could not write history file \"%s\": %m",
							HISTORY_FILE),
					 errdetail("The history is kept in memory only, and lost at a restart, until the file can be written.")));
		failing = true;
	}
	return !failing;
}

/* From now on, no process writes the file. */
static void
history_exit(int code, Datum arg)
{
	lg_record_watch(-1);
}

/*
 * Wait for the latch, or for a time in ms (-1 = without end), and see to what
 * else is asked of this process.
 */
static void
wait_for(long timeout)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_EXIT_ON_PM_DEATH |
					 (timeout >= 0 ? WL_TIMEOUT : 0), timeout, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
}

/* Entry point of the worker that writes the file. */
void
lg_history_main(Datum main_arg)
{
	MemoryContext context;
	bool		ok = true;
	int64		took = 0;		/* by the last write, ns */

	lg_require_preloaded();
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	BackgroundWorkerUnblockSignals();
	context = AllocSetContextCreate(TopMemoryContext, "lockguard history",
									ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);
	before_shmem_exit(history_exit, (Datum) 0);
	lg_record_watch(lg_proc_number(MyProc));

	while (!ShutdownRequestPending)
	{
		int64		due;

		/* Until something changes, or it is time to try again. */
		if (ok && !lg_record_is_dirty())
		{
			wait_for(-1);
			continue;
		}

		/*
		 * Collect what else changes for a while; a large history on a slow
		 * disk is written more seldom.
		 */
		due = lg_now() + Max(WRITE_AFTER_MS * LG_NANOS_PER_MS, 10 * took);
		while (!ShutdownRequestPending && lg_now() < due)
			wait_for((due - lg_now()) / LG_NANOS_PER_MS + 1);
		if (!ShutdownRequestPending)
		{
			took = lg_now();
			ok = write_if_changed();
			took = lg_now() - took;
		}
		MemoryContextReset(context);
	}

	/*
	 * The server shuts down, or this process was terminated: then the
	 * postmaster starts it again, because of the exit code.
	 */
	(void) write_if_changed();
	proc_exit(1);
}
