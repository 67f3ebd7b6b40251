/*-------------------------------------------------------------------------
 *
 * fuzz_history.c
 *		Any bytes at all as the history file, with libFuzzer.
 *
 *		fuzz_history seeds DIRECTORY	writes files to begin with
 *		fuzz_history [OPTION ...] DIRECTORY ...
 *
 * Whatever the file holds, it must not be lost without a word; what is taken
 * from it must be fit to use; and, once written anew, be read as it is.
 *
 * Most changes that libFuzzer makes would end at a checksum.  So it changes
 * records here, and the checksum with them.
 *
 *-------------------------------------------------------------------------
 */
#include "history_file.h"

#include <unistd.h>

#include "unit.h"

/* The rings' size: some of what a file holds does not fit. */
#define MAX_HISTORY		10

extern int	LLVMFuzzerInitialize(int *argc, char ***argv);
extern int	LLVMFuzzerTestOneInput(const uint8 *data, size_t size);
extern size_t LLVMFuzzerCustomMutator(uint8 *data, size_t size, size_t max_size, unsigned seed);
extern size_t LLVMFuzzerMutate(uint8 *data, size_t size, size_t max_size);

int			rounds = 1;

bool
check(bool condition, const char *string, const char *file, int line)
{
	if (!condition)
	{
		fprintf(stderr, "%s:%d: %s\n", file, line, string);
		abort();
	}
	return true;
}

bool
check_int(long long actual, long long expected, const char *string,
		  const char *file, int line)
{
	if (actual != expected)
		fprintf(stderr, "%lld, not %lld\n", actual, expected);
	return check(actual == expected, string, file, line);
}

/*
 * Files of all sorts: none of one kind, one record of each, too many for the
 * ring.  They are small, so that many can be tried.
 */
static void
write_seeds(const char *directory)
{
	static const int sizes[][3] = {
		{0, 0, 0}, {1, 0, 0}, {0, 1, 0}, {0, 0, 1}, {1, 1, 1}, {3, 4, 2},
		{0, 0, 20}, {MAX_HISTORY + 1, 0, 0}, {0, MAX_HISTORY + 1, 0}
	};
	char		old[MAXPGPATH];

	if (getcwd(old, sizeof(old)) == NULL)
		exit(2);
	for (int i = 0; i < (int) lengthof(sizes); i++)
	{
		char		name[MAXPGPATH];
		char	   *bytes;
		size_t		size;
		FILE	   *seed;

		enter_data_directory();
		forget_history(30);
		make_history(sizes[i][0], sizes[i][1], sizes[i][2]);
		make_deadlocks(sizes[i][0]);
		lg_record_changed();
		write_history_worker();
		bytes = read_whole(HISTORY_FILE, &size);
		if (chdir(old) != 0)
			exit(2);
		snprintf(name, sizeof(name), "%s/seed%d", directory, i);
		seed = fopen(name, "w");
		if (seed == NULL || fwrite(bytes, 1, size, seed) != size || fclose(seed) != 0)
		{
			perror(name);
			exit(2);
		}
	}
}

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	if (*argc == 3 && strcmp((*argv)[1], "seeds") == 0)
	{
		write_seeds((*argv)[2]);
		exit(0);
	}
	enter_data_directory();
	return 0;
}

/* What is in memory now, as a file; malloc'ed. */
static char *
written_anew(size_t *size)
{
	char	   *bytes;
	char	   *copy;

	lg_record_changed();
	write_history_worker();
	bytes = read_whole(HISTORY_FILE, size);
	check(bytes != NULL, "nothing is written", __FILE__, __LINE__);
	copy = malloc(*size);
	memcpy(copy, bytes, *size);
	return copy;
}

int
LLVMFuzzerTestOneInput(const uint8 *data, size_t size)
{
	char	   *first;
	char	   *second;
	size_t		first_size;
	size_t		second_size;

	forget_history(MAX_HISTORY);
	load_history((const char *) data, size);
	check_history();
	first = written_anew(&first_size);

	forget_history(MAX_HISTORY);
	load_history(first, first_size);
	CHECK_INT(reports[WARNING], 0);
	check_history();
	second = written_anew(&second_size);
	CHECK_INT(first_size, second_size);
	CHECK(memcmp(first, second, first_size) == 0);
	free(first);
	free(second);
	return 0;
}

/*
 * Changes.
 */
static int64
interesting(void)
{
	static const int64 values[] = {
		0, 1, 2, 3, 7, 8, 9, 10, 16, 24, 64, 0x7fff, 0x8000, 0xffff, INT_MAX, -1, -2,
		(int64) INT_MAX + 1, UINT_MAX, PG_INT64_MAX / 2, PG_INT64_MAX, PG_INT64_MIN,
		LG_ARENA_SIZE, LG_ARENA_SIZE + 8, sizeof(LgIncident), sizeof(LgAction), 1000000000
	};

	return values[random_below(lengthof(values))];
}

/* A number somewhere in so many bytes. */
static void
put_number(uint8 *at, size_t size)
{
	int64		value = one_in(3) ? random_below(200) - 100 : interesting();
	size_t		width = (size_t) 1 << random_below(4);
	size_t		position;

	if (size < width)
		return;
	position = random_below(size - width + 1) / width * width;
	memcpy(at + position, &value, width);
}

/* Put what is from "from" to "to" in twice, or leave it out. */
static size_t
copy_or_drop(uint8 *data, size_t size, size_t max_size, size_t from, size_t to)
{
	size_t		length = to - from;
	size_t		rest = size - to;

	if (one_in(2))
	{
		memmove(data + from, data + to, rest);
		return size - length;
	}
	if (size + length > max_size)
		return size;
	memmove(data + to + length, data + to, rest);
	memcpy(data + to, data + from, length);
	return size + length;
}

size_t
LLVMFuzzerCustomMutator(uint8 *data, size_t size, size_t max_size, unsigned seed)
{
	size_t		begins[1000];
	int			n = 0;
	RecordHeader header;
	uint8	   *payload;
	int			which;

	random_seed(seed);
	if (size < FILE_HEADER_SIZE || one_in(8))
		return LLVMFuzzerMutate(data, size, max_size);

	/* Where are records, intact or not? */
	for (size_t at = FILE_HEADER_SIZE;
		 at + RECORD_HEADER_SIZE <= size && n < (int) lengthof(begins);)
	{
		memcpy(&header, data + at, sizeof(header));
		if (header.mark != RECORD_MARK || header.length > size - at - RECORD_HEADER_SIZE)
		{
			at++;
			continue;
		}
		begins[n++] = at;
		at += RECORD_HEADER_SIZE + header.length;
	}
	if (n == 0 || one_in(16))
	{
		uint32		crc;

		put_number(data, FILE_HEADER_SIZE);
		crc = header_checksum((const char *) data);
		memcpy(data + FILE_HEADER_SIZE - sizeof(crc), &crc, sizeof(crc));
		return size;
	}

	which = random_below(n);
	memcpy(&header, data + begins[which], sizeof(header));
	payload = data + begins[which] + RECORD_HEADER_SIZE;
	switch (random_below(8))
	{
		case 0:
			return copy_or_drop(data, size, max_size, begins[which],
								begins[which] + RECORD_HEADER_SIZE + header.length);
		case 1:
			/* Another kind, or cut short. */
			if (one_in(2))
				header.kind = random_below(6);
			else
				header.length = random_below(header.length + 1);
			break;
		case 2:
			if (header.length > 0)
				LLVMFuzzerMutate(payload, header.length, header.length);
			break;
		case 3:
		case 4:
			/* The sessions of an incident. */
			if (header.kind == RECORD_INCIDENT && header.length > offsetof(LgIncident, arena))
			{
				put_number(payload + offsetof(LgIncident, arena),
						   header.length - offsetof(LgIncident, arena));
				break;
			}
			/* FALLTHROUGH */
		case 5:
			put_number(payload, Min(header.length, 64));
			break;
		default:
			for (int i = random_below(4); i >= 0; i--)
				put_number(payload, header.length);
			break;
	}
	header.crc = record_checksum(&header, (const char *) payload);
	memcpy(data + begins[which], &header, sizeof(header));
	return size;
}
