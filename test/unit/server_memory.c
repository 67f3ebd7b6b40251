/*-------------------------------------------------------------------------
 *
 * server_memory.c
 *		The server's memory, buffers of text and reports; see server.h.
 *
 *-------------------------------------------------------------------------
 */
#include "server_parts.h"

#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

MemoryContext CurrentMemoryContext;
MemoryContext TopMemoryContext;

int			reports[PANIC + 1];
char		last_report[1024];
char		last_detail[1024];
sigjmp_buf *on_error;

void
impossible(const char *what)
{
	fprintf(stderr, "the fake server: %s\n", what);
	abort();
}

/*
 * Memory: all chunks are in one list, so that a test can forget about them.
 */
typedef struct Chunk
{
	struct Chunk *next;
	struct Chunk *prev;
} Chunk;

static Chunk chunks = {&chunks, &chunks};

void *
palloc(Size size)
{
	Chunk	   *chunk = malloc(sizeof(Chunk) + size);

	if (chunk == NULL)
		impossible("out of memory");
	memset(chunk + 1, 0x7f, size);
	chunk->next = chunks.next;
	chunk->prev = &chunks;
	chunk->next->prev = chunk->prev->next = chunk;
	return chunk + 1;
}

void *
palloc0(Size size)
{
	return memset(palloc(size), 0, size);
}

void
pfree(void *pointer)
{
	Chunk	   *chunk = (Chunk *) pointer - 1;

	chunk->next->prev = chunk->prev;
	chunk->prev->next = chunk->next;
	free(chunk);
}

void *
repalloc(void *pointer, Size size)
{
	Chunk	   *chunk = realloc((Chunk *) pointer - 1, sizeof(Chunk) + size);

	if (chunk == NULL)
		impossible("out of memory");
	chunk->next->prev = chunk->prev->next = chunk;
	return chunk + 1;
}

void *
palloc_mul(Size s1, Size s2)
{
	return palloc(s1 * s2);
}

void *
palloc0_mul(Size s1, Size s2)
{
	return palloc0(s1 * s2);
}

void *
repalloc_mul(void *pointer, Size s1, Size s2)
{
	return repalloc(pointer, s1 * s2);
}

void *
repalloc_huge(void *pointer, Size size)
{
	return repalloc(pointer, size);
}

void *
MemoryContextAllocHuge(MemoryContext context, Size size)
{
	return palloc(size);
}

void *
MemoryContextAlloc(MemoryContext context, Size size)
{
	return palloc(size);
}

void *
MemoryContextAllocZero(MemoryContext context, Size size)
{
	return palloc0(size);
}

void *
MemoryContextAllocExtended(MemoryContext context, Size size, int flags)
{
	return palloc(size);
}

MemoryContext
AllocSetContextCreateInternal(MemoryContext parent, const char *name, Size min_size,
							  Size init_size, Size max_size)
{
	return NULL;
}

/* The memory of the worker's loop is freed when the test ends. */
void
MemoryContextReset(MemoryContext context)
{
}

Size
add_size(Size s1, Size s2)
{
	return s1 + s2;
}

Size
mul_size(Size s1, Size s2)
{
	return s1 * s2;
}

/*
 * Reports.
 */
static int	level;

bool
errstart(int elevel, const char *domain)
{
	level = elevel;
	last_report[0] = last_detail[0] = '\0';
	return true;
}

bool
errstart_cold(int elevel, const char *domain)
{
	return errstart(elevel, domain);
}

void
errfinish(const char *filename, int lineno, const char *funcname)
{
	reports[level]++;
	if (level >= ERROR)
	{
		if (on_error == NULL)
			impossible(last_report);
		siglongjmp(*on_error, 1);
	}
}

#define FORMAT_INTO(buf) \
	do { \
		va_list		args; \
		va_start(args, fmt); \
		vsnprintf(buf, sizeof(buf), fmt, args); \
		va_end(args); \
		return 0; \
	} while (0)

int
errmsg(const char *fmt,...)
{
	FORMAT_INTO(last_report);
}

int
errmsg_internal(const char *fmt,...)
{
	FORMAT_INTO(last_report);
}

int
errdetail(const char *fmt,...)
{
	FORMAT_INTO(last_detail);
}

int
errdetail_internal(const char *fmt,...)
{
	FORMAT_INTO(last_detail);
}

int
errcode(int sqlerrcode)
{
	return 0;
}

int
errcode_for_file_access(void)
{
	return 0;
}

int
errhidestmt(bool hide_stmt)
{
	return 0;
}

int
errhidecontext(bool hide_ctx)
{
	return 0;
}

#ifdef USE_ASSERT_CHECKING
#if PG_VERSION_NUM >= 160000
void
ExceptionalCondition(const char *condition, const char *file, int line)
#else
void
ExceptionalCondition(const char *condition, const char *type, const char *file, int line)
#endif
{
	fprintf(stderr, "%s:%d: %s\n", file, line, condition);
	abort();
}
#endif

void
proc_exit(int code)
{
	if (on_error == NULL)
		impossible("proc_exit");
	siglongjmp(*on_error, 2);
}

/*
 * Texts.
 */
void
initStringInfo(StringInfo str)
{
	memset(str, 0, sizeof(*str));
	str->maxlen = 64;
	str->data = palloc0(str->maxlen);
}

void
resetStringInfo(StringInfo str)
{
	str->data[0] = '\0';
	str->len = 0;
}

void
enlargeStringInfo(StringInfo str, int needed)
{
	while (str->len + needed >= str->maxlen)
	{
		str->maxlen *= 2;
		str->data = repalloc(str->data, str->maxlen);
	}
}

static void
append(StringInfo str, const char *data, int len)
{
	enlargeStringInfo(str, len);
	memcpy(str->data + str->len, data, len);
	str->len += len;
	str->data[str->len] = '\0';
}

void
appendStringInfoString(StringInfo str, const char *s)
{
	append(str, s, strlen(s));
}

#undef appendStringInfoChar
void
appendStringInfoChar(StringInfo str, char c)
{
	append(str, &c, 1);
}

void
appendStringInfoSpaces(StringInfo str, int count)
{
	while (count-- > 0)
		appendStringInfoChar(str, ' ');
}

void
appendStringInfo(StringInfo str, const char *fmt,...)
{
	char		string[4096];
	va_list		args;

	va_start(args, fmt);
	vsnprintf(string, sizeof(string), fmt, args);
	va_end(args);
	appendStringInfoString(str, string);
}

char *
psprintf(const char *fmt,...)
{
	char	   *string = palloc(4096);
	va_list		args;

	va_start(args, fmt);
	vsnprintf(string, 4096, fmt, args);
	va_end(args);
	return string;
}

int
pg_mbcharcliplen(const char *string, int len, int limit)
{
	return Min(len, limit);
}

int
pg_get_client_encoding(void)
{
	return PG_UTF8;
}

int
GetDatabaseEncoding(void)
{
	return PG_UTF8;
}

bool
pg_verifymbstr(const char *mbstr, int len, bool noError)
{
	return true;
}

int
pg_utf_mblen(const unsigned char *s)
{
	return *s < 0x80 ? 1 : (*s & 0xe0) == 0xc0 ? 2 : (*s & 0xf0) == 0xe0 ? 3 :
		(*s & 0xf8) == 0xf0 ? 4 : 1;
}

/* Frees all that has been allocated. */
void
memory_start(void)
{
	while (chunks.next != &chunks)
		pfree(chunks.next + 1);
	memset(reports, 0, sizeof(reports));
	on_error = NULL;
}
