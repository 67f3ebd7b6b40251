/*-------------------------------------------------------------------------
 *
 * test_history.c
 *		What has happened, in memory and on disk.
 *
 *-------------------------------------------------------------------------
 */
#include "history_file.h"

#include <sys/stat.h>
#include <unistd.h>

#include "postmaster/interrupt.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "../../src/history.h"

#include "unit.h"

#define MAX_RECORDS 10000

/* Enough for the small files; a start of the server clears it all. */
#define SMALL	20

/* A file, and where its records are. */
static char *file;
static size_t file_size;
static int	nrecords;
static struct
{
	size_t		begin;
	size_t		end;
	uint32		kind;
	int64		id;				/* or of contention, the first field of the
								 * key */
}			records[MAX_RECORDS];

/* malloc'ed, since memory goes with each start of the server. */
static void
keep_file(void)
{
	char	   *bytes = read_whole(HISTORY_FILE, &file_size);

	free(file);
	file = malloc(file_size);
	memcpy(file, bytes, file_size);
	nrecords = 0;
	for (size_t at = FILE_HEADER_SIZE; at < file_size;)
	{
		RecordHeader header;

		memcpy(&header, file + at, sizeof(header));
		if (!CHECK_INT(header.mark, RECORD_MARK) ||
			!CHECK_INT(header.crc, record_checksum(&header, file + at + RECORD_HEADER_SIZE)))
			exit(1);
		records[nrecords].begin = at;
		at += RECORD_HEADER_SIZE + header.length;
		records[nrecords].end = at;
		records[nrecords].kind = header.kind;
		records[nrecords].id = 0;
		memcpy(&records[nrecords].id, file + records[nrecords].begin + RECORD_HEADER_SIZE,
			   header.kind == RECORD_CONTENTION ? sizeof(Oid) : sizeof(int64));
		nrecords++;
	}
	CHECK_INT(records[nrecords - 1].kind, RECORD_END);
}

static void
a_file(int actions, int incidents, int contention)
{
	enter_data_directory();
	forget_history(1000);
	make_history(actions, incidents, contention);
	make_deadlocks(contention);
	write_history_worker();
	keep_file();
}

/* Is what this record holds there now? */
static bool
is_loaded(int record)
{
	static LgAction action;
	static LgIncident incident;
	static LgDeadlock deadlock;
	static LgContention contention[LG_MAX_CONTENTION];
	int			n;

	switch (records[record].kind)
	{
		case RECORD_ACTION:
			return lg_fetch_action(records[record].id, &action);
		case RECORD_INCIDENT:
			return lg_fetch_incident(records[record].id, &incident);
		case RECORD_DEADLOCK:
			return lg_fetch_deadlock(records[record].id, &deadlock);
		case RECORD_CONTENTION:
			n = lg_fetch_contention(contention);
			for (int i = 0; i < n; i++)
				if (contention[i].datid == records[record].id)
					return true;
			return false;
		default:
			return true;
	}
}

static void
round_trip(void)
{
	static LgAction action;
	static LgAction expected;
	static LgIncident incident;
	static LgIncident expected_incident;
	static LgDeadlock deadlock;
	static LgDeadlock expected_deadlock;
	static LgContention contention[LG_MAX_CONTENTION];
	int64		first;
	int64		next;

	a_file(40, 45, 20);
	forget_history(1000);
	load_history(file, file_size);
	CHECK_INT(reports[WARNING], 0);
	check_history();
	lg_action_range(&first, &next);
	CHECK_INT(first, 1);
	CHECK_INT(next, 41);
	for (int i = 0; i < 40; i++)
	{
		CHECK(lg_fetch_action(i + 1, &action));
		make_action(&expected, i);

		/* Whoever was signalled went with the server. */
		if (expected.result == LG_PENDING || expected.result == LG_UNRESPONSIVE)
			expected.result = expected.gid[0] != '\0' ? LG_FAILED :
				expected.action == LG_DO_YIELD ? LG_SELF_RESOLVED : LG_RELEASED;
		expected.action_id = i + 1;
		CHECK(memcmp(&action, &expected, sizeof(action)) == 0);
	}
	lg_incident_range(&first, &next);
	CHECK_INT(first, 1);
	CHECK_INT(next, 46);
	CHECK_INT(lg_count_open_incidents(), 0);
	for (int i = 0; i < 45; i++)
	{
		memset(&incident, 0, sizeof(incident));
		CHECK(lg_fetch_incident(i + 1, &incident));
		make_incident(&expected_incident, i, 1 + i % 40);
		if (expected_incident.ended_at == 0)
		{
			expected_incident.ended_at = expected_incident.updated_at;
			expected_incident.resolution = LG_BY_RESTART;
		}
		expected_incident.incident_id = i + 1;
		CHECK(memcmp(&incident, &expected_incident, LG_INCIDENT_SIZE(&incident)) == 0);
	}
	CHECK_INT(lg_fetch_contention(contention), 20);
	for (int i = 0; i < 20; i++)
	{
		CHECK_INT(contention[i].datid, 1 + i);
		CHECK_INT(contention[i].relation, 5 + i);
		CHECK_INT(contention[i].locktype, i % (LOCKTAG_LAST_TYPE + 1));
		CHECK_INT(contention[i].mode, i % (MaxLockMode + 1));
		CHECK_INT(contention[i].actions, 8 + i);
	}

	for (int i = 0; i < 20; i++)
	{
		memset(&deadlock, 0, sizeof(deadlock));
		CHECK(lg_fetch_deadlock(i + 1, &deadlock));
		make_deadlock(&expected_deadlock, i, 1 + i % (LG_DEADLOCK_SESSIONS + 2));
		expected_deadlock.deadlock_id = i + 1;
		CHECK(memcmp(&deadlock, &expected_deadlock, sizeof(deadlock)) == 0);
	}

	/* The same once more. */
	lg_record_changed();
	write_history_worker();
	keep_file();
	forget_history(1000);
	load_history(file, file_size);
	CHECK_INT(reports[WARNING], 0);
	CHECK_INT(nrecords, 40 + 45 + 20 + 20 + 1);
}

/* Nothing at all; and no file. */
static void
empty_history(void)
{
	int64		first;
	int64		next;

	enter_data_directory();
	forget_history(1000);
	lg_history_load();
	CHECK_INT(reports[WARNING], 0);
	lg_record_changed();
	write_history_worker();
	keep_file();
	CHECK_INT(nrecords, 1);
	forget_history(1000);
	load_history(file, file_size);
	CHECK_INT(reports[WARNING], 0);
	lg_action_range(&first, &next);
	CHECK(first == 1 && next == 1);
}

/* Numbers go on after reset_history(), too. */
static void
ids_go_on(void)
{
	static LgAction action;
	static LgIncident incident;
	static LgDeadlock deadlock;
	int64		first;
	int64		next;

	enter_data_directory();
	forget_history(1000);
	make_history(7, 9, 0);
	make_deadlocks(5);
	lg_forget_history();
	CHECK(!lg_fetch_action(7, &action) && !lg_fetch_incident(9, &incident) &&
		  !lg_fetch_deadlock(5, &deadlock));
	lg_deadlock_range(&first, &next);
	CHECK(first == 6 && next == 6);
	write_history_worker();
	keep_file();
	CHECK_INT(nrecords, 1);
	forget_history(1000);
	load_history(file, file_size);
	make_action(&action, 0);
	make_incident(&incident, 0, 2);
	CHECK_INT(lg_record_action(&action), 8);
	CHECK_INT(lg_record_incident(&incident), 10);
	make_deadlocks(1);
	CHECK(lg_fetch_action(8, &action) && lg_fetch_incident(10, &incident) &&
		  lg_fetch_deadlock(6, &deadlock));
	check_history();
}

/* With less room, the latest are kept; with more, all. */
static void
other_max_history(void)
{
	static const int sizes[] = {10, 29, 30, 31, 1000};

	a_file(30, 30, 5);
	for (int s = 0; s < (int) lengthof(sizes); s++)
	{
		forget_history(sizes[s]);
		load_history(file, file_size);
		CHECK_INT(reports[WARNING], 0);
		check_history();
		for (int i = 0; i < nrecords; i++)
			if (records[i].kind == RECORD_ACTION || records[i].kind == RECORD_INCIDENT)
				CHECK_INT(is_loaded(i), records[i].id > 30 - sizes[s]);
	}
}

/* In whatever order they are found. */
static void
any_order(void)
{
	char	   *shuffled;
	int			order[MAX_RECORDS];
	size_t		at;

	a_file(30, 30, 5);
	shuffled = malloc(file_size);
	for (int round = 0; round < 50; round++)
	{
		static const int sizes[] = {10, 20, 30, 50};
		int			max_history = sizes[random_below(lengthof(sizes))];

		for (int i = 0; i < nrecords; i++)
		{
			int			j = random_below(i + 1);

			order[i] = order[j];
			order[j] = i;
		}
		memcpy(shuffled, file, FILE_HEADER_SIZE);
		at = FILE_HEADER_SIZE;
		for (int i = 0; i < nrecords; i++)
		{
			int			record = order[i];
			size_t		size = records[record].end - records[record].begin;

			memcpy(shuffled + at, file + records[record].begin, size);
			at += size;
		}
		forget_history(max_history);
		load_history(shuffled, file_size);
		check_history();
		for (int i = 0; i < nrecords; i++)
			CHECK_INT(is_loaded(i), records[i].kind > RECORD_INCIDENT ||
					  records[i].id > 30 - max_history);
	}
	free(shuffled);
}

/* What a damaged file holds: every record but those that the damage touches. */
static void
check_damaged(const char *bytes, size_t size, const bool *touched)
{
	int			kept = 0;
	char		expected[100];

	forget_history(SMALL);
	load_history(bytes, size);
	CHECK_INT(reports[WARNING], 1);
	check_history();
	for (int i = 0; i < nrecords; i++)
	{
		if (records[i].kind == RECORD_END)
			continue;
		CHECK_INT(is_loaded(i), !touched[i]);
		kept += !touched[i];
	}
	snprintf(expected, sizeof(expected), "%d intact records", kept);
	CHECK(strstr(last_detail, expected) != NULL);
	CHECK(lg_record_is_dirty());
}

/*
 * Every position in a header and next to one, and some of those in between;
 * all if the tests run long.
 */
static bool
is_interesting(size_t position)
{
	if (position < FILE_HEADER_SIZE || rounds >= 10000 || one_in(100))
		return true;
	for (int i = 0; i < nrecords; i++)
		if (position + 1 >= records[i].begin &&
			position <= records[i].begin + RECORD_HEADER_SIZE)
			return true;
	return false;
}

static void
truncated(void)
{
	bool		touched[MAX_RECORDS];

	a_file(6, 6, 3);
	for (size_t size = 0; size < file_size && !has_failed(); size++)
	{
		if (!is_interesting(size))
			continue;
		for (int i = 0; i < nrecords; i++)
			touched[i] = records[i].end > size;
		check_damaged(file, size, touched);
		if (has_failed())
			printf("    at %d of %d\n", (int) size, (int) file_size);
	}
}

static void
flipped(void)
{
	bool		touched[MAX_RECORDS];

	a_file(6, 6, 3);
	for (size_t at = 0; at < file_size && !has_failed(); at++)
	{
		char		bit = 1 << random_below(8);

		if (!is_interesting(at))
			continue;
		for (int i = 0; i < nrecords; i++)
			touched[i] = at >= records[i].begin && at < records[i].end;
		file[at] ^= bit;
		check_damaged(file, file_size, touched);
		file[at] ^= bit;
		if (has_failed())
			printf("    at %d of %d\n", (int) at, (int) file_size);
	}
}

/*
 * Random damage, several times over: parts overwritten, taken out, put in, or
 * there twice.  Records are marked as touched, in a copy of all positions.
 */
static void
damaged(void)
{
	char	   *bytes;
	int		   *origin;			/* of each byte: its position, or -1 */
	bool		touched[MAX_RECORDS];

	a_file(12, 12, 6);
	bytes = malloc(20 * file_size);
	origin = malloc(20 * file_size * sizeof(int));
	for (int round = 0; round < rounds / 5 && !has_failed(); round++)
	{
		size_t		size = file_size;
		int			times = 1 + random_below(3);

		memcpy(bytes, file, file_size);
		for (size_t i = 0; i < file_size; i++)
			origin[i] = i;
		while (times-- > 0 && size > 0)
		{
			size_t		from = random_below(size);
			size_t		length = 1 + random_below(one_in(2) ? 20 : 5000);
			size_t		to = random_below(size);

			length = Min(length, size - from);
			switch (random_below(4))
			{
				case 0:
					for (size_t i = from; i < from + length; i++)
					{
						bytes[i] = one_in(2) ? 0 : random_below(256);
						origin[i] = -1;
					}
					break;
				case 1:
					memmove(bytes + from, bytes + from + length, size - from - length);
					memmove(origin + from, origin + from + length,
							(size - from - length) * sizeof(int));
					size -= length;
					break;
				case 2:
					memmove(bytes + from + length, bytes + from, size - from);
					memmove(origin + from + length, origin + from, (size - from) * sizeof(int));
					for (size_t i = from; i < from + length; i++)
					{
						bytes[i] = random_below(256);
						origin[i] = -1;
					}
					size += length;
					break;
				case 3:
					{
						char	   *copy = malloc(length);
						int		   *copy_origin = malloc(length * sizeof(int));

						memcpy(copy, bytes + from, length);
						memcpy(copy_origin, origin + from, length * sizeof(int));
						memmove(bytes + to + length, bytes + to, size - to);
						memmove(origin + to + length, origin + to, (size - to) * sizeof(int));
						memcpy(bytes + to, copy, length);
						memcpy(origin + to, copy_origin, length * sizeof(int));
						free(copy);
						free(copy_origin);
						size += length;
					}
					break;
			}
		}

		/* Intact is what is there somewhere in one piece. */
		for (int i = 0; i < nrecords; i++)
		{
			size_t		length = records[i].end - records[i].begin;

			touched[i] = true;
			for (size_t at = 0; at + length <= size && touched[i]; at++)
			{
				size_t		n = 0;

				while (n < length && origin[at + n] == (int) (records[i].begin + n))
					n++;
				touched[i] = n < length;
			}
		}
		forget_history(SMALL);
		load_history(bytes, size);
		check_history();
		for (int i = 0; i < nrecords; i++)
			if (!touched[i])
				CHECK(is_loaded(i));
		if (size != file_size || memcmp(bytes, file, size) != 0)
			CHECK_INT(reports[WARNING], 1);
		if (has_failed())
			printf("    in round %d\n", round);
	}
	free(bytes);
	free(origin);
}

/*
 * Texts of others stand in the file as they are.  If it is damaged, they must
 * neither pass for records nor make the search for these take long.
 */
static void
hostile_texts(void)
{
	static LgAction action;
	static const uint32 lengths[] = {
		0, 0x01010101, sizeof(LgAction), sizeof(LgIncident), sizeof(LgContention), sizeof(LgDeadlock), 32
	};
	int			n = 0;

	enter_data_directory();
	forget_history(6000);
	make_action(&action, 1);
	for (size_t i = 0; i + 12 < sizeof(action.query); i += 12)
		memcpy(action.query + i, "LOCK\001\001\001\001\001\001\001\001", 12);
	for (int i = 0; i < 6000; i++)
		lg_record_action(&action);
	write_history_worker();
	keep_file();
	file[20] ^= 1;
	file[FILE_HEADER_SIZE + 20] ^= 1;
	forget_history(6000);
	load_history(file, file_size);
	CHECK_INT(reports[WARNING], 1);
	for (int i = 0; i < nrecords; i++)
		CHECK_INT(is_loaded(i), i != 0);

	/* The worst that a file could be. */
	for (size_t at = FILE_HEADER_SIZE; at + RECORD_HEADER_SIZE < file_size; at += RECORD_HEADER_SIZE)
	{
		RecordHeader header = {RECORD_MARK, n % 6, lengths[n % lengthof(lengths)], 0};

		if (n++ % 3 == 0)
			header.length = file_size - at - RECORD_HEADER_SIZE;
		memcpy(file + at, &header, sizeof(header));
	}
	forget_history(6000);
	load_history(file, file_size);
	CHECK_INT(reports[WARNING], 1);
}

/* What no server has written, though the checksum is right: not taken. */
static void
impossible_records(void)
{
#define ACTION(field, value) {RECORD_ACTION, offsetof(LgAction, field), sizeof(((LgAction *) 0)->field), value}
#define INCIDENT(field, value) {RECORD_INCIDENT, offsetof(LgIncident, field), sizeof(((LgIncident *) 0)->field), value}
#define CONTENTION(field, value) {RECORD_CONTENTION, offsetof(LgContention, field), sizeof(((LgContention *) 0)->field), value}
#define ROOT(field, value) {RECORD_INCIDENT, offsetof(LgIncident, arena) + offsetof(LgIncidentSession, field), \
	sizeof(((LgIncidentSession *) 0)->field), value}
#define DEADLOCK(field, value) {RECORD_DEADLOCK, offsetof(LgDeadlock, field), sizeof(((LgDeadlock *) 0)->field), value}
#define VICTIM(field, value) {RECORD_DEADLOCK, offsetof(LgDeadlock, arena) + offsetof(LgDeadlockSession, field), \
	sizeof(((LgDeadlockSession *) 0)->field), value}
#define SECOND(field, value) {RECORD_INCIDENT, -1 - (int) offsetof(LgIncidentSession, field), \
	sizeof(((LgIncidentSession *) 0)->field), value}
	static const struct
	{
		uint32		kind;
		int			offset;		/* in the second session, if negative */
		size_t		size;
		int64		value;
	}			cases[] =
	{
		ACTION(action_id, 0),
		ACTION(action_id, -1),
		ACTION(action_id, PG_INT64_MAX),
		ACTION(result, LG_FAILED + 1),
		ACTION(result, -1),
		ACTION(action, LG_DO_TERMINATE + 1),
		ACTION(action, -1),
		ACTION(limit_source, LG_SOURCE_SESSION + 1),
		ACTION(limit_source, -1),
		ACTION(limit, LG_NO_LIMIT - 1),
		ACTION(limit, LG_NUM_LIMITS),
		ACTION(limit, LG_PREPARED_TRANSACTION_TIMEOUT + 1),
		ACTION(nblocked_pids, -1),
		ACTION(nblocked_pids, LG_MAX_PIDS + 1),
		ACTION(dry_run, 2),
		ACTION(acted_at, PG_INT64_MIN),
		ACTION(backend_start, PG_INT64_MAX),
		INCIDENT(incident_id, 0),
		INCIDENT(incident_id, PG_INT64_MAX),
		INCIDENT(resolution, LG_BY_RESTART + 1),
		INCIDENT(resolution, -1),
		INCIDENT(kind, LG_KIND_OTHER + 1),
		INCIDENT(judged, LG_FAILED + 1),
		INCIDENT(remedy, LG_DO_TERMINATE + 1),
		INCIDENT(idle_remedy, LG_DO_TERMINATE + 1),
		INCIDENT(tag.locktag_type, LOCKTAG_LAST_TYPE + 1),
		INCIDENT(used, -1),
		INCIDENT(used, 8),
		INCIDENT(used, LG_ARENA_SIZE + 8),
		INCIDENT(nsessions, 2),
		INCIDENT(nsessions, 4),
		INCIDENT(started_at, PG_INT64_MIN),
		INCIDENT(updated_at, PG_INT64_MIN),
		INCIDENT(ended_at, PG_INT64_MAX),
		INCIDENT(peak_at, PG_INT64_MAX),
		INCIDENT(backend_start, PG_INT64_MAX),
		INCIDENT(xact_start, PG_INT64_MAX),
		INCIDENT(idle_from, -1),
		INCIDENT(longest_idle, -1),
		ROOT(size, 0),
		ROOT(size, 8),
		ROOT(size, 0xfff8),
		ROOT(size, 81),
		ROOT(parent, 0),
		ROOT(parent, -2),
		ROOT(level, 1),
		ROOT(kind, LG_KIND_OTHER + 1),
		ROOT(tag.locktag_type, LOCKTAG_LAST_TYPE + 1),
		SECOND(parent, -1),
		SECOND(parent, 1),
		SECOND(level, 0),
		SECOND(level, -1),
		SECOND(mode, NoLock),
		SECOND(mode, MaxLockMode + 1),
		SECOND(tag.locktag_lockmethodid, 0),
		SECOND(tag.locktag_lockmethodid, USER_LOCKMETHOD + 1),
		SECOND(size, 8),
		CONTENTION(locktype, LOCKTAG_LAST_TYPE + 1),
		CONTENTION(mode, MaxLockMode + 1),
		DEADLOCK(deadlock_id, 0),
		DEADLOCK(deadlock_id, -1),
		DEADLOCK(deadlock_id, PG_INT64_MAX),
		DEADLOCK(detected_at, PG_INT64_MIN),
		DEADLOCK(stmt_start, PG_INT64_MAX),
		DEADLOCK(in_cycle, 2),
		DEADLOCK(in_cycle, -1),
		DEADLOCK(nsessions, 0),
		DEADLOCK(nsessions, 2),
		DEADLOCK(nsessions, 4),
		DEADLOCK(used, -1),
		DEADLOCK(used, 0),
		DEADLOCK(used, 8),
		DEADLOCK(used, LG_DEADLOCK_ARENA + 8),
		VICTIM(size, 0),
		VICTIM(size, 8),
		VICTIM(size, 0xfff8),
		VICTIM(size, 49),
		VICTIM(kind, LG_KIND_OTHER + 1),
		VICTIM(mode, MaxLockMode + 1),
		VICTIM(tag.locktag_type, LOCKTAG_LAST_TYPE + 1),
		VICTIM(tag.locktag_lockmethodid, USER_LOCKMETHOD + 1)
	};

	/* The second incident has three sessions. */
	enter_data_directory();
	forget_history(SMALL);
	make_history(3, 1, 2);
	{
		static LgIncident incident;

		make_incident(&incident, 1, 3);
		lg_record_incident(&incident);
	}
	make_deadlocks(3);
	write_history_worker();
	keep_file();
	for (int c = 0; c < (int) lengthof(cases); c++)
	{
		char	   *bytes = malloc(file_size);
		int			target = nrecords - 1;
		char	   *data;
		RecordHeader header;
		size_t		offset = cases[c].offset;

		while (records[--target].kind != cases[c].kind)
			;
		memcpy(bytes, file, file_size);
		memcpy(&header, bytes + records[target].begin, sizeof(header));
		data = bytes + records[target].begin + RECORD_HEADER_SIZE;
		if (cases[c].offset < 0)
		{
			uint16		first_size;

			memcpy(&first_size, data + offsetof(LgIncident, arena), sizeof(first_size));
			offset = offsetof(LgIncident, arena) + first_size - 1 - cases[c].offset;
		}
		memcpy(data + offset, &cases[c].value, cases[c].size);
		header.crc = record_checksum(&header, data);
		memcpy(bytes + records[target].begin, &header, sizeof(header));
		forget_history(SMALL);
		load_history(bytes, file_size);
		check_history();
		CHECK_INT(reports[WARNING], 1);
		for (int i = 0; i < nrecords; i++)
			CHECK_INT(is_loaded(i), i != target);
		free(bytes);
		if (has_failed())
		{
			printf("    kind %d, offset %d, value %lld\n", cases[c].kind, cases[c].offset,
				   (long long) cases[c].value);
			break;
		}
	}
}

/* A name that an extension gave to its wait event is not known any more. */
static void
custom_wait_events(void)
{
	static LgIncident incident;
	static LgIncident before;

	enter_data_directory();
	forget_history(SMALL);
	make_incident(&incident, 1, 3);
	((LgIncidentSession *) incident.arena)->wait_event = PG_WAIT_EXTENSION + 5;
	lg_record_incident(&incident);
	memcpy(&before, &incident, sizeof(incident));
	write_history_worker();
	keep_file();
	forget_history(SMALL);
	load_history(file, file_size);
	CHECK_INT(reports[WARNING], 0);
	check_history();
	CHECK(lg_fetch_incident(1, &incident));
	CHECK_INT(((LgIncidentSession *) incident.arena)->wait_event, PG_WAIT_EXTENSION);
	((LgIncidentSession *) before.arena)->wait_event = PG_WAIT_EXTENSION;
	CHECK(memcmp(&incident, &before, LG_INCIDENT_SIZE(&incident)) == 0);
}

/* An intact header of another build or version: nothing is read. */
static void
other_versions(void)
{
	uint16		size;

	a_file(3, 3, 3);
	memcpy(&size, file + 22, sizeof(size));
	CHECK_INT(size, sizeof(LgDeadlock));
	for (int i = 1; i <= 6; i++)
	{
		/* The last two fields are halves of a word. */
		int			field = Min(i, 5);
		uint32		one = i == 6 ? 0x10000 : 1;
		uint32		value;
		uint32		crc;

		memcpy(&value, file + 4 * field, sizeof(value));
		value += one;
		memcpy(file + 4 * field, &value, sizeof(value));
		crc = header_checksum(file);
		memcpy(file + 24, &crc, sizeof(crc));
		forget_history(1000);
		load_history(file, file_size);
		CHECK_INT(reports[WARNING], 1);
		CHECK(strncmp(last_detail, "0 intact records", 16) == 0);
		for (int r = 0; r < nrecords - 1; r++)
			CHECK(!is_loaded(r));
		value -= one;
		memcpy(file + 4 * field, &value, sizeof(value));
	}
}

/*
 * What is read from a damaged file is there at the next start, too, whether or
 * not it has been written meanwhile.
 */
static void
kept_until_written(void)
{
	size_t		size;

	a_file(3, 3, 3);
	file[records[1].begin + RECORD_HEADER_SIZE] ^= 1;
	for (int start = 0; start < 5; start++)
	{
		forget_history(1000);
		if (start == 0)
			load_history(file, file_size);
		else
			lg_history_load();
		for (int i = 0; i < nrecords; i++)
			CHECK_INT(is_loaded(i), i != 1);
		CHECK_INT(reports[WARNING], start < 4);
		if (start == 2)
		{
			/* Nor is it moved by a write that fails. */
			disk_full = true;
			write_history_worker();
			CHECK_INT(reports[WARNING], 2);
		}
		else if (start == 3)
		{
			write_history_worker();
			CHECK_INT(reports[WARNING], 1);
			CHECK(memcmp(read_whole(HISTORY_ASIDE, &size), file, file_size) == 0);
			CHECK_INT(size, file_size);
			continue;
		}
		CHECK_INT(access(HISTORY_ASIDE, F_OK) == 0, start > 3);
	}
}

/* Each under a name of its own, as long as there are any. */
static void
moved_aside(void)
{
	char		name[MAXPGPATH];
	size_t		size;

	enter_data_directory();
	for (int i = 0; i < 99; i++)
	{
		forget_history(10);
		put_file("something else", 14);
		lg_history_load();
		CHECK_INT(reports[WARNING], 1);
		write_history_worker();
		CHECK_INT(reports[WARNING], 1);
		if (i == 0)
			strcpy(name, HISTORY_ASIDE);
		else
			snprintf(name, sizeof(name), HISTORY_ASIDE ".%d", i);
		CHECK(strstr(last_report, name) != NULL);
		read_whole(name, &size);
		CHECK_INT(size, 14);
		keep_file();
		CHECK_INT(nrecords, 1);
		unlink(HISTORY_FILE);
	}

	/* No name is left: it stays, and is never written over. */
	forget_history(10);
	put_file("something else", 14);
	lg_history_load();
	CHECK_INT(reports[WARNING], 1);
	write_history_worker();
	CHECK_INT(reports[WARNING], 2);
	read_whole(HISTORY_FILE, &size);
	CHECK_INT(size, 14);
	CHECK(access(HISTORY_FILE ".tmp", F_OK) != 0);
	unlink(HISTORY_ASIDE ".50");
	lg_record_changed();
	write_history_worker();
	CHECK_INT(reports[WARNING], 2);
	CHECK_INT(reports[LOG], 2);
	CHECK(access(HISTORY_ASIDE ".50", F_OK) == 0);
	keep_file();
	CHECK_INT(nrecords, 1);
}

/* A file that cannot be read may be good: it is moved, not lost. */
static void
unreadable(void)
{
	size_t		size;

	a_file(3, 3, 3);
	forget_history(10);
	files_open = false;
	lg_history_load();
	CHECK_INT(reports[WARNING], 1);
	CHECK(strstr(last_report, "could not read") != NULL);
	CHECK(access(HISTORY_FILE, F_OK) == 0);
	CHECK(access(HISTORY_ASIDE, F_OK) != 0);

	/* Nothing is written before there is something to write. */
	CHECK(!lg_record_is_dirty());
	files_open = true;
	make_history(1, 0, 0);
	write_history_worker();
	CHECK_INT(reports[WARNING], 1);
	CHECK(memcmp(read_whole(HISTORY_ASIDE, &size), file, file_size) == 0);
	CHECK_INT(size, file_size);
	keep_file();
	CHECK_INT(nrecords, 2);

	/* A directory in its place. */
	forget_history(10);
	unlink(HISTORY_ASIDE);
	unlink(HISTORY_FILE);
	mkdir(HISTORY_FILE, 0700);
	lg_history_load();
	CHECK_INT(reports[WARNING], 1);
	make_history(1, 0, 0);
	write_history_worker();
	CHECK_INT(reports[WARNING], 1);
	CHECK(rmdir(HISTORY_ASIDE) == 0);
	keep_file();
	CHECK_INT(nrecords, 2);
}

/* One WARNING, however often it fails, and nothing is lost. */
static int	times_waited;

static void
disk_is_full_for_a_while(long timeout)
{
	clock_ns += 2 * LG_NANOS_PER_SEC;
	times_waited++;
	if (times_waited < 10)
		lg_record_changed();
	if (times_waited == 10)
		disk_full = false;
	if (timeout < 0)
		ShutdownRequestPending = true;
}

static void
cannot_write(void)
{
	size_t		size;

	a_file(3, 3, 3);
	for (int how = 0; how < 2; how++)
	{
		times_waited = 0;
		forget_history(1000);
		load_history(file, file_size);
		make_history(1, 0, 0);
		disk_full = true;
		on_wait = disk_is_full_for_a_while;
		write_history_worker();
		CHECK_INT(reports[WARNING], 1);
		CHECK_INT(reports[LOG], 1);
		CHECK(access(HISTORY_FILE ".tmp", F_OK) != 0);
		keep_file();
		CHECK_INT(nrecords, 3 + 3 + 3 + 3 + 1 + 1 + how);
	}

	/* Still so at the end: the old file is there. */
	forget_history(1000);
	load_history(file, file_size);
	make_history(1, 0, 0);
	disk_full = true;
	write_history_worker();
	CHECK_INT(reports[WARNING], 1);
	CHECK(memcmp(read_whole(HISTORY_FILE, &size), file, file_size) == 0);
	CHECK_INT(size, file_size);
}

/* Written a second after a change, not more often; asleep while there is none. */
static int64 written_at;
static int	times_written;
static struct stat last_stat;

static void
watch_file(long timeout)
{
	struct stat now;

	if (stat(HISTORY_FILE, &now) == 0 && now.st_ino != last_stat.st_ino)
	{
		CHECK(clock_ns - written_at >= LG_NANOS_PER_SEC);
		written_at = clock_ns;
		times_written++;
		last_stat = now;
	}
	if (++times_waited > 100)
	{
		ShutdownRequestPending = true;
		return;
	}
	if (timeout < 0)
	{
		CHECK(!lg_record_is_dirty());
		lg_record_changed();
		CHECK_INT(latches_set, 1);
		return;
	}
	CHECK(timeout <= 1001);
	latches_set = 0;
	lg_record_changed();
	CHECK_INT(latches_set, 0);
	clock_ns += Min(timeout, 300) * MS;
}

static void
written_soon(void)
{
	enter_data_directory();
	forget_history(10);
	times_waited = times_written = 0;
	written_at = 0;
	on_wait = watch_file;
	write_history_worker();
	CHECK(times_written >= 10);
}

/*
 * In memory.
 */
static void
rings(void)
{
	static LgAction action;
	static LgIncident incident;
	static LgDeadlock deadlock;
	int64		first;
	int64		next;

	forget_history(10);
	CHECK(!lg_fetch_action(0, &action) && !lg_fetch_action(1, &action));
	CHECK(!lg_fetch_incident(0, &incident) && !lg_fetch_incident(1, &incident));
	for (int i = 1; i <= 35; i++)
	{
		make_action(&action, i);
		make_incident(&incident, i, i);
		CHECK_INT(lg_record_action(&action), i);
		CHECK_INT(lg_record_incident(&incident), i);
		make_deadlocks(1);
		lg_action_range(&first, &next);
		CHECK_INT(first, Max(1, i - 9));
		CHECK_INT(next, i + 1);
		check_history();
		for (int id = -1; id < 40; id++)
		{
			CHECK_INT(lg_fetch_action(id, &action), id >= first && id < next);
			CHECK_INT(lg_fetch_incident(id, &incident), id >= first && id < next);
			CHECK_INT(lg_fetch_deadlock(id, &deadlock), id >= first && id < next);
		}
	}

	/* A result, of one that is there, and one whose place another has taken. */
	lg_record_result(35, LG_RELEASED, 77);
	CHECK(lg_fetch_action(35, &action));
	CHECK_INT(action.result, LG_RELEASED);
	CHECK_INT(action.released_after, 77);
	lg_record_result(35, LG_UNRESPONSIVE, -1);
	CHECK(lg_fetch_action(35, &action));
	CHECK_INT(action.released_after, 77);
	CHECK(action.open.unresponsive);
	CHECK(lg_fetch_action(26, &action));
	lg_record_result(16, (LgResult) ((action.result + 1) % LG_FAILED), 5);
	CHECK_INT(lg_fetch_action(26, &action), true);
	CHECK(action.released_after != 5);
	make_incident(&incident, 1, 3);
	incident.incident_id = 16;
	lg_update_incident(&incident, true);
	CHECK(lg_fetch_incident(26, &incident));
	CHECK_INT(incident.incident_id, 26);

	/* Without its sessions. */
	incident.peak_blocked_sessions = 12345;
	memset(incident.arena, 'x', sizeof(incident.arena));
	lg_update_incident(&incident, false);
	CHECK(lg_fetch_incident(26, &incident));
	CHECK_INT(incident.peak_blocked_sessions, 12345);
	check_history();
	lg_forget_history();
	CHECK(!lg_fetch_action(35, &action) && !lg_fetch_incident(35, &incident));
	lg_record_result(35, LG_RELEASED, 1);
	CHECK(!lg_fetch_action(35, &action));
}

static void
statistics(void)
{
	static LgAction action;
	int			kinds = LG_DO_TERMINATE + 1;

	forget_history(10);
	for (int result = LG_PENDING; result <= LG_FAILED; result++)
		for (int kind = LG_DO_LOG; kind <= LG_DO_TERMINATE; kind++)
		{
			make_action(&action, 0);
			action.result = (LgResult) result;
			action.action = (LgActionKind) kind;
			action.limit = LG_PREPARED_TRANSACTION_TIMEOUT;
			lg_record_action(&action);
		}
	CHECK_INT(lg_shared->stats.cancels, 1);
	CHECK_INT(lg_shared->stats.terminations, 1);
	CHECK_INT(lg_shared->stats.rollbacks, 1);
	CHECK_INT(lg_shared->stats.self_resolved, kinds);
	CHECK_INT(lg_shared->stats.unresponsive, kinds);
	CHECK_INT(lg_shared->stats.suppressed, kinds);
	CHECK_INT(lg_shared->stats.logged, kinds);
	CHECK_INT(lg_shared->stats.actions[LG_PREPARED_TRANSACTION_TIMEOUT + 1][LG_DO_LOG],
			  9 * kinds + 1);
	CHECK_INT(lg_shared->stats.actions[LG_PREPARED_TRANSACTION_TIMEOUT + 1][LG_DO_ROLLBACK], 1);
	CHECK_INT(lg_shared->stats.actions[LG_NO_LIMIT + 1][LG_DO_CANCEL], 0);
}

/* The one that has cost least makes room. */
static void
contention(void)
{
	static LgContention all[LG_MAX_CONTENTION];
	LgContention more = {0};
	bool		found = false;

	forget_history(10);
	for (int i = 0; i < LG_MAX_CONTENTION; i++)
	{
		more = (LgContention)
		{
			1, 2, i, 1, 9, 0, 8, 1, 1, 1000 - (i == 300) * 999, 5, 0
		};
		lg_count_contention(&more);
	}
	more = (LgContention)
	{
		1, 2, 7, 1, 9, 0, 8, 1, 2, 3, 4, 5
	};
	lg_count_contention(&more);
	CHECK_INT(lg_fetch_contention(all), LG_MAX_CONTENTION);
	CHECK_INT(all[7].incidents, 2);
	CHECK_INT(all[7].sessions, 3);
	CHECK_INT(all[7].lost, 1003);
	CHECK_INT(all[7].longest_wait, 5);
	CHECK_INT(all[7].actions, 5);
	more = (LgContention)
	{
		9, 9, 9, 1, 9, 0, 8, 1, 1, 50, 5, 0
	};
	lg_count_contention(&more);
	CHECK_INT(lg_fetch_contention(all), LG_MAX_CONTENTION);
	for (int i = 0; i < LG_MAX_CONTENTION; i++)
	{
		CHECK(all[i].query_id != 300);
		found |= all[i].datid == 9;
	}
	CHECK(found);
	lg_forget_contention();

	/* Another lock, or another mode of it, is another row. */
	for (int i = 0; i < 10; i++)
	{
		more = (LgContention)
		{
			1, 2, 3, i == 1 ? 0 : 1, i == 2 ? 8 : 9, i == 3 ? 1 : 0, i == 4 ? 1 : 8, 1, 1, 1, 1, 0
		};
		lg_count_contention(&more);
	}
	CHECK_INT(lg_fetch_contention(all), 5);
	CHECK_INT(all[0].incidents, 6);
	lg_forget_contention();
	CHECK_INT(lg_fetch_contention(all), 0);
}

const Test	history_tests[] = {
	{"record: rings", rings},
	{"record: statistics", statistics},
	{"record: contention", contention},
	{"history: round trip", round_trip},
	{"history: empty", empty_history},
	{"history: numbers go on", ids_go_on},
	{"history: another max_history", other_max_history},
	{"history: records in any order", any_order},
	{"history: truncated", truncated},
	{"history: flipped bits", flipped},
	{"history: random damage", damaged},
	{"history: hostile texts", hostile_texts},
	{"history: impossible records", impossible_records},
	{"history: wait events of extensions", custom_wait_events},
	{"history: other versions", other_versions},
	{"history: kept until written", kept_until_written},
	{"history: moved aside", moved_aside},
	{"history: unreadable", unreadable},
	{"history: cannot be written", cannot_write},
	{"history: written soon", written_soon},
	{NULL, NULL}
};
