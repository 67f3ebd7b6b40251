/*-------------------------------------------------------------------------
 *
 * server.c
 *		The server that the tested files find themselves in; see server.h.
 *
 *-------------------------------------------------------------------------
 */
#include "server.h"

#include <arpa/inet.h>
#include <time.h>
#include <unistd.h>

#include "access/transam.h"
#include "common/ip.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/inet.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#define MAX_LOCKS	1000
#define TRANSACTIONS_PER_SESSION 1000

/* What the server's headers declare. */
PROC_HDR   *ProcGlobal;
PGPROC	   *MyProc;
PgBackendStatus *MyBEEntry;
LWLockPadded *MainLWLockArray;
Latch	   *MyLatch;
MemoryContext CurrentMemoryContext;
MemoryContext TopMemoryContext;
Oid			MyDatabaseId;
int			MaxBackends;
int			max_prepared_xacts;
int			DeadlockTimeout = 1000;
int			pgstat_track_activity_query_size = LG_QUERY_SIZE;
bool		EnableHotStandby = true;
volatile sig_atomic_t InterruptPending;
volatile sig_atomic_t ConfigReloadPending;
volatile sig_atomic_t ShutdownRequestPending;

/* What other files of lockguard have. */
BackgroundWorker *MyBgworkerEntry;
int			lg_max_history = 1000;
int			lg_incident_threshold = 1000;
int			lg_naptime = 1000;
int			lg_max_actions_per_minute = 60;
bool		lg_dry_run = false;
bool		lg_log_incidents = true;

int64		clock_ns;
TimestampTz clock_offset;
int64		clock_tick;
void		(*on_wall_clock) (void);
LgTraffic	traffic;
bool		traffic_known;
char		exported_snapshot[MAXPGPATH];
int			access_errno;
int			files_asked_for;
TransactionId next_xid;
void		(*on_lwlock) (LWLock *lock);
int			lwlocks_taken;
bool		proc_array_busy;
int			reports[PANIC + 1];
char		last_report[1024];
char		last_detail[1024];
sigjmp_buf *on_error;
int			latches_set;
void		(*on_wait) (long timeout);
bool		files_open = true;
bool		disk_full;

static PgBackendStatus *status;
static LgValues *values;
static bool *has_values;
static LOCK locks[MAX_LOCKS];
static int	nlocks;
static LWLock *taken[10];

extern int	server_clock_gettime(clockid_t clock, struct timespec *ts);
extern bool server_traffic_read(int pid, const LgSocket *client, LgTraffic *result);
extern int	server_access(const char *path, int mode);

static void
__attribute__((noreturn))
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

static void
free_everything(void)
{
	while (chunks.next != &chunks)
		pfree(chunks.next + 1);
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

/* The memory of the worker's loop goes when the test ends. */
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
 * Clocks.
 */
int
server_clock_gettime(clockid_t clock, struct timespec *ts)
{
	ts->tv_sec = clock_ns / LG_NANOS_PER_SEC;
	ts->tv_nsec = clock_ns % LG_NANOS_PER_SEC;
	clock_ns += clock_tick;
	return 0;
}

TimestampTz
wall_now(void)
{
	return clock_offset + clock_ns / 1000;
}

TimestampTz
GetCurrentTimestamp(void)
{
	if (on_wall_clock)
		on_wall_clock();
	return wall_now();
}

/*
 * Sessions.
 */
PGPROC *
proc_of(int procno)
{
	return &ProcGlobal->allProcs[procno];
}

PgBackendStatus *
status_of(int procno)
{
	return &status[procno];
}

LgSlot *
slot_of(int procno)
{
	return &lg_shared->slots[procno];
}

void
lg_require_preloaded(void)
{
}

/* The settings of a session; from now on, they are its own. */
LgValues *
values_of(int procno)
{
	has_values[procno] = true;
	return &values[procno];
}

bool
lg_settings_of_session(int procno, int pid, TimestampTz session_start,
					   const LgValues *server, LgValues *result)
{
	*result = has_values[procno] ? values[procno] : *server;
	return has_values[procno];
}

/* For lg_look() only, which the tests do without. */
void
lg_settings_server_values(LgValues *result)
{
	memset(result, 0, sizeof(*result));
}

const char *
lg_setting_unit(int id)
{
	return id == LG_MAX_BLOCKED_SESSIONS || id == LG_MAX_LOCKS ||
		id == LG_MAX_XMIN_AGE ? NULL : "ms";
}

static void update_proc_array(void);

static void
is_regular(PGPROC *proc, bool regular)
{
#if PG_VERSION_NUM >= 180000
	proc->isRegularBackend = regular;
#else
	proc->isBackgroundWorker = !regular;
#endif
}

/* Auxiliary processes have no backend id; their status is found by the pid. */
void
session_begins(int procno, int pid, BackendType type)
{
	PGPROC	   *proc = proc_of(procno);

	proc->pid = pid;
	proc->procLatch.owner_pid = pid;
	proc->lockGroupLeader = NULL;
	is_regular(proc, type == B_BACKEND);
	memset(&values[procno], 0, sizeof(LgValues));
	has_values[procno] = false;
	status[procno].st_procpid = pid;
	status[procno].st_backendType = type;
	status[procno].st_proc_start_timestamp = wall_now();
	if (procno < MaxBackends)
	{
		memset(slot_of(procno), 0, sizeof(LgSlot));
		slot_of(procno)->pid = pid;
		slot_of(procno)->session_start = wall_now();
	}
	session_state(procno, type == B_BACKEND ? STATE_IDLE : STATE_UNDEFINED);
	update_proc_array();
}

/* A PGPROC keeps the pid of its last process, in some versions. */
void
session_ends(int procno)
{
	PGPROC	   *proc = proc_of(procno);

	proc->procLatch.owner_pid = 0;
#if PG_VERSION_NUM >= 170000
	proc->pid = 0;
#endif
	proc->xid = proc->xmin = InvalidTransactionId;
	status[procno].st_procpid = 0;
	update_proc_array();
}

static void
set_lxid(PGPROC *proc, LocalTransactionId lxid)
{
#if PG_VERSION_NUM >= 170000
	proc->vxid.lxid = lxid;
#else
	proc->lxid = lxid;
#endif
}

/* Running begins a transaction if there is none; idle ends it. */
void
session_state(int procno, BackendState state)
{
	static LocalTransactionId next_lxid = 1;
	PGPROC	   *proc = proc_of(procno);
	PgBackendStatus *entry = &status[procno];

	entry->st_state = state;
	entry->st_state_start_timestamp = wall_now();
	switch (state)
	{
		case STATE_RUNNING:
			entry->st_activity_start_timestamp = wall_now();
			if (!LocalTransactionIdIsValid(lg_proc_lxid(proc)))
			{
				set_lxid(proc, next_lxid++);
				entry->st_xact_start_timestamp = wall_now();
			}
			proc->wait_event_info = 0;
			break;
		case STATE_IDLE:
			set_lxid(proc, InvalidLocalTransactionId);
			entry->st_xact_start_timestamp = 0;
			proc->wait_event_info = WAIT_EVENT_CLIENT_READ;
			break;
		case STATE_UNDEFINED:
			break;
		default:
			proc->wait_event_info = WAIT_EVENT_CLIENT_READ;
			break;
	}
}

/* It has given up its transaction id, but not yet its locks. */
void
ends_transaction(int procno)
{
	set_lxid(proc_of(procno), InvalidLocalTransactionId);
}

/* Active, but waiting for its client. */
void
stalled_client(int procno)
{
	proc_of(procno)->wait_event_info = WAIT_EVENT_CLIENT_WRITE;
}

/* As a file in pg_snapshots, named by its virtual transaction. */
void
export_snapshot(int procno)
{
	PGPROC	   *proc = proc_of(procno);

	snprintf(exported_snapshot, sizeof(exported_snapshot), "pg_snapshots/%08X-%08X-1",
			 LG_STATUS_BY_PROC_NUMBER ? procno : procno + 1, lg_proc_lxid(proc));
}

/* As a parallel worker. */
void
join_group(int procno, int leader)
{
	is_regular(proc_of(procno), false);
	proc_of(procno)->lockGroupLeader = proc_of(leader);
	proc_of(leader)->lockGroupLeader = proc_of(leader);
}

/* What lockguard asks for by name. */
static LgGxactTable *prepared_table = NULL;
static LgProcArray *proc_array = NULL;

void *
ShmemInitStruct(const char *name, Size size, bool *found)
{
	*found = true;
	if (strcmp(name, "Proc Array") == 0)
		return proc_array;
	if (prepared_table == NULL)
		prepared_table = calloc(1, size);
	return prepared_table;
}

Size
ProcArrayShmemSize(void)
{
	return offsetof(LgProcArray, pgprocnos) + LG_PROC_ARRAY_MAX * sizeof(int) +
		LG_PROC_ARRAY_REST;
}

/* The array is in the order of the PGPROCs. */
static void
update_proc_array(void)
{
	proc_array->numProcs = 0;
	for (int procno = 0; procno < MaxBackends; procno++)
		if (proc_of(procno)->procLatch.owner_pid != 0)
			proc_array->pgprocnos[proc_array->numProcs++] = procno;
}

Size
TwoPhaseShmemSize(void)
{
	return MAXALIGN(offsetof(LgGxactTable, prepXacts) +
					max_prepared_xacts * sizeof(LgGxact *)) +
		max_prepared_xacts * sizeof(LgGxact);
}

/* The PGPROCs of prepared transactions come last. */
void
prepare_transaction(int procno, TransactionId xid, const char *gid)
{
	LgGxact    *gxact = palloc0(sizeof(LgGxact));
	bool		found;

	if (procno < MaxBackends + NUM_AUXILIARY_PROCS)
		impossible("not a PGPROC for prepared transactions");
	(void) ShmemInitStruct("", TwoPhaseShmemSize(), &found);
	proc_of(procno)->pid = 0;
	proc_of(procno)->xid = xid;
	gxact->pgprocno = procno;
	gxact->xid = xid;
	gxact->valid = true;
	gxact->locking_backend = -1;
	gxact->prepared_at = wall_now();
	strlcpy(gxact->gid, gid, sizeof(gxact->gid));
	prepared_table->prepXacts[prepared_table->numPrepXacts++] = gxact;
}

FullTransactionId
ReadNextFullTransactionId(void)
{
	FullTransactionId result = {next_xid};

	return result;
}

bool
TransactionIdPrecedes(TransactionId a, TransactionId b)
{
	return (int32) (a - b) < 0;
}

/* What the operating system tells. */
bool
server_traffic_read(int pid, const LgSocket *client, LgTraffic *result)
{
	*result = traffic;
	return traffic_known;
}

int
server_access(const char *path, int mode)
{
	files_asked_for++;
	if (exported_snapshot[0] && strcmp(path, exported_snapshot) == 0)
		return 0;
	errno = access_errno;
	return -1;
}

/*
 * Locks.
 */
const LOCKMASK lock_conflicts[] = {
	[AccessShareLock] = LOCKBIT_ON(AccessExclusiveLock),
	[RowShareLock] = LOCKBIT_ON(ExclusiveLock) | LOCKBIT_ON(AccessExclusiveLock),
	[RowExclusiveLock] = LOCKBIT_ON(ShareLock) | LOCKBIT_ON(ShareRowExclusiveLock) |
	LOCKBIT_ON(ExclusiveLock) | LOCKBIT_ON(AccessExclusiveLock),
	[ShareUpdateExclusiveLock] = LOCKBIT_ON(ShareUpdateExclusiveLock) |
	LOCKBIT_ON(ShareLock) | LOCKBIT_ON(ShareRowExclusiveLock) |
	LOCKBIT_ON(ExclusiveLock) | LOCKBIT_ON(AccessExclusiveLock),
	[ShareLock] = LOCKBIT_ON(RowExclusiveLock) | LOCKBIT_ON(ShareUpdateExclusiveLock) |
	LOCKBIT_ON(ShareRowExclusiveLock) | LOCKBIT_ON(ExclusiveLock) |
	LOCKBIT_ON(AccessExclusiveLock),
	[ShareRowExclusiveLock] = LOCKBIT_ON(RowExclusiveLock) |
	LOCKBIT_ON(ShareUpdateExclusiveLock) | LOCKBIT_ON(ShareLock) |
	LOCKBIT_ON(ShareRowExclusiveLock) | LOCKBIT_ON(ExclusiveLock) |
	LOCKBIT_ON(AccessExclusiveLock),
	[ExclusiveLock] = LOCKBIT_ON(RowShareLock) | LOCKBIT_ON(RowExclusiveLock) |
	LOCKBIT_ON(ShareUpdateExclusiveLock) | LOCKBIT_ON(ShareLock) |
	LOCKBIT_ON(ShareRowExclusiveLock) | LOCKBIT_ON(ExclusiveLock) |
	LOCKBIT_ON(AccessExclusiveLock),
	[AccessExclusiveLock] = LOCKBIT_ON(AccessShareLock) | LOCKBIT_ON(RowShareLock) |
	LOCKBIT_ON(RowExclusiveLock) | LOCKBIT_ON(ShareUpdateExclusiveLock) |
	LOCKBIT_ON(ShareLock) | LOCKBIT_ON(ShareRowExclusiveLock) |
	LOCKBIT_ON(ExclusiveLock) | LOCKBIT_ON(AccessExclusiveLock)
};

static const char *const mode_names[] = {
	"INVALID", "AccessShareLock", "RowShareLock", "RowExclusiveLock",
	"ShareUpdateExclusiveLock", "ShareLock", "ShareRowExclusiveLock",
	"ExclusiveLock", "AccessExclusiveLock"
};

static const LockMethodData lock_method = {
	.numLockModes = MaxLockMode,
	.conflictTab = lock_conflicts,
	.lockModeNames = mode_names
};

LockMethod
GetLockTagsMethodTable(const LOCKTAG *tag)
{
	if (tag->locktag_lockmethodid != DEFAULT_LOCKMETHOD &&
		tag->locktag_lockmethodid != USER_LOCKMETHOD)
		impossible("no such lock method");
	return &lock_method;
}

/* As the server's: it does not check what it is given. */
const char *
GetLockmodeName(LOCKMETHODID method, LOCKMODE mode)
{
	if ((method != DEFAULT_LOCKMETHOD && method != USER_LOCKMETHOD) ||
		mode <= NoLock || mode > MaxLockMode)
		impossible("no such lock mode");
	return mode_names[mode];
}

const char *
GetLockNameFromTagType(uint16 type)
{
	return type > LOCKTAG_LAST_TYPE ? "???" : type == LOCKTAG_RELATION ? "relation" : "other";
}

uint32
LockTagHashCode(const LOCKTAG *tag)
{
	const unsigned char *bytes = (const unsigned char *) tag;
	uint32		hash = 2166136261u;

	for (size_t i = 0; i < sizeof(LOCKTAG); i++)
		hash = (hash ^ bytes[i]) * 16777619u;
	return hash;
}

/* One at a time, as far as the files under test say that of themselves. */
bool
LWLockAcquire(LWLock *lock, LWLockMode mode)
{
	void		(*hook) (LWLock *) = on_lwlock;

	if (hook)
	{
		on_lwlock = NULL;
		hook(lock);
	}
	if (lwlocks_taken != 0)
		impossible("takes a lock while it holds another");
	taken[lwlocks_taken++] = lock;
	return true;
}

bool
LWLockConditionalAcquire(LWLock *lock, LWLockMode mode)
{
	return !proc_array_busy && LWLockAcquire(lock, mode);
}

void
LWLockRelease(LWLock *lock)
{
	if (lwlocks_taken != 1 || taken[0] != lock)
		impossible("releases a lock that it does not hold");
	lwlocks_taken--;
}

#if PG_VERSION_NUM >= 160000
#define list_init(list)			dlist_init(list)
#define list_append(list, node) dlist_push_tail(list, node)
#define list_remove(node)		dlist_delete(node)
#define queue_init(lock)		dclist_init(&(lock)->waitProcs)
#define queue_append(lock, proc)	dclist_push_tail(&(lock)->waitProcs, &(proc)->links)
#define queue_insert(lock, proc, next) \
	dclist_insert_before(&(lock)->waitProcs, &(next)->links, &(proc)->links)
#define queue_remove(lock, proc)	dclist_delete_from(&(lock)->waitProcs, &(proc)->links)
#else
#define list_init(list)			SHMQueueInit(list)
#define list_append(list, node) SHMQueueInsertBefore(list, node)
#define list_remove(node)		SHMQueueDelete(node)
#define queue_init(lock)		SHMQueueInit(&(lock)->waitProcs.links)
#define queue_append(lock, proc) \
	SHMQueueInsertBefore(&(lock)->waitProcs.links, &(proc)->links)
#define queue_insert(lock, proc, next) SHMQueueInsertBefore(&(next)->links, &(proc)->links)
#define queue_remove(lock, proc)	SHMQueueDelete(&(proc)->links)

void
SHMQueueInit(SHM_QUEUE * queue)
{
	queue->prev = queue->next = queue;
}

void
SHMQueueInsertBefore(SHM_QUEUE * queue, SHM_QUEUE * elem)
{
	elem->next = queue;
	elem->prev = queue->prev;
	queue->prev->next = elem;
	queue->prev = elem;
}

void
SHMQueueDelete(SHM_QUEUE * queue)
{
	queue->prev->next = queue->next;
	queue->next->prev = queue->prev;
	queue->prev = queue->next = NULL;
}

bool
SHMQueueEmpty(const SHM_QUEUE * queue)
{
	return queue->prev == queue;
}
#endif

LOCK *
lock_on(LockTagType type, uint32 field1, uint32 field2)
{
	LOCKTAG		tag = {0};
	LOCK	   *lock;

	tag.locktag_field1 = field1;
	tag.locktag_field2 = field2;
	tag.locktag_type = type;
	tag.locktag_lockmethodid = type == LOCKTAG_ADVISORY ? USER_LOCKMETHOD : DEFAULT_LOCKMETHOD;
	for (int i = 0; i < nlocks; i++)
		if (memcmp(&locks[i].tag, &tag, sizeof(tag)) == 0)
			return &locks[i];
	if (nlocks >= MAX_LOCKS)
		impossible("too many locks");
	lock = &locks[nlocks++];
	memset(lock, 0, sizeof(*lock));
	lock->tag = tag;
	list_init(&lock->procLocks);
	queue_init(lock);
	return lock;
}

static PROCLOCK *
find_proclock(LOCK *lock, int procno)
{
	PROCLOCK   *proclock = lg_first_proclock(lock);

	while (proclock != NULL && proclock->tag.myProc != proc_of(procno))
		proclock = lg_next_proclock(lock, proclock);
	return proclock;
}

static PROCLOCK *
make_proclock(LOCK *lock, int procno)
{
	PROCLOCK   *proclock = find_proclock(lock, procno);
	PGPROC	   *proc = proc_of(procno);

	if (proclock == NULL)
	{
		proclock = palloc0(sizeof(PROCLOCK));
		proclock->tag.myLock = lock;
		proclock->tag.myProc = proc;
		proclock->groupLeader = proc->lockGroupLeader ? proc->lockGroupLeader : proc;
		list_append(&lock->procLocks, &proclock->lockLink);
		list_append(&proc->myProcLocks[LockHashPartition(LockTagHashCode(&lock->tag))],
					&proclock->procLink);
	}
	return proclock;
}

static void
drop_proclock(LOCK *lock, PROCLOCK *proclock)
{
	PGPROC	   *proc = proclock->tag.myProc;

	if (proclock->holdMask != 0 || proc->waitLock == lock)
		return;
	list_remove(&proclock->lockLink);
	list_remove(&proclock->procLink);
	pfree(proclock);
}

LOCKMASK
held_by(LOCK *lock, int procno)
{
	PROCLOCK   *proclock = find_proclock(lock, procno);

	return proclock ? proclock->holdMask : 0;
}

void
hold(LOCK *lock, int procno, LOCKMODE mode)
{
	PROCLOCK   *proclock = make_proclock(lock, procno);

	if (proclock->holdMask & LOCKBIT_ON(mode))
		return;
	proclock->holdMask |= LOCKBIT_ON(mode);
	lock->nGranted++;
	if (lock->granted[mode]++ == 0)
		lock->grantMask |= LOCKBIT_ON(mode);
}

void
let_go(LOCK *lock, int procno, LOCKMODE mode)
{
	PROCLOCK   *proclock = find_proclock(lock, procno);

	if (proclock == NULL || (proclock->holdMask & LOCKBIT_ON(mode)) == 0)
		return;
	proclock->holdMask &= ~LOCKBIT_ON(mode);
	lock->nGranted--;
	if (--lock->granted[mode] == 0)
		lock->grantMask &= ~LOCKBIT_ON(mode);
	drop_proclock(lock, proclock);
}

/* At the end of the queue. */
void
wait_for_lock(LOCK *lock, int procno, LOCKMODE mode)
{
	wait_ahead_of(lock, procno, mode, -1);
}

void
wait_ahead_of(LOCK *lock, int procno, LOCKMODE mode, int other)
{
	PGPROC	   *proc = proc_of(procno);

	if (proc->waitLock != NULL)
		impossible("waits already");
	proc->waitProcLock = make_proclock(lock, procno);
	proc->waitLock = lock;
	proc->waitLockMode = mode;
	pg_atomic_write_u64(&proc->waitStart, wall_now());
	if (other >= 0)
		queue_insert(lock, proc, proc_of(other));
	else
		queue_append(lock, proc);
}

void
stop_waiting(int procno)
{
	PGPROC	   *proc = proc_of(procno);
	LOCK	   *lock = proc->waitLock;
	PROCLOCK   *proclock = proc->waitProcLock;

	queue_remove(lock, proc);
	proc->waitLock = NULL;
	proc->waitProcLock = NULL;
	pg_atomic_write_u64(&proc->waitStart, 0);
	drop_proclock(lock, proclock);
}

/*
 * Start.
 */
void
server_start(int backends, int prepared)
{
	int			nprocs = backends + NUM_AUXILIARY_PROCS + prepared;

	free_everything();
	MaxBackends = backends;
	max_prepared_xacts = prepared;
	clock_ns = 1000 * LG_NANOS_PER_SEC;
	clock_offset = INT64CONST(800000000000000);
	clock_tick = 0;
	on_wall_clock = NULL;
	on_lwlock = NULL;
	on_wait = NULL;
	on_error = NULL;
	lwlocks_taken = 0;
	latches_set = 0;
	memset(&traffic, 0, sizeof(traffic));
	traffic.counted = true;
	traffic_known = true;
	exported_snapshot[0] = '\0';
	access_errno = ENOENT;
	files_asked_for = 0;
	next_xid = 1000;
	files_open = true;
	disk_full = false;
	ShutdownRequestPending = ConfigReloadPending = false;
	memset(reports, 0, sizeof(reports));
	nlocks = 0;
	if (prepared_table)
		prepared_table->numPrepXacts = 0;
	proc_array = palloc0(offsetof(LgProcArray, pgprocnos) + LG_PROC_ARRAY_MAX * sizeof(int));
	proc_array->maxProcs = LG_PROC_ARRAY_MAX;
	proc_array_busy = false;

	ProcGlobal = palloc0(sizeof(PROC_HDR));
	ProcGlobal->allProcCount = backends + NUM_AUXILIARY_PROCS;
	ProcGlobal->allProcs = palloc0(nprocs * sizeof(PGPROC));
	status = palloc0(nprocs * sizeof(PgBackendStatus));
	values = palloc0(nprocs * sizeof(LgValues));
	has_values = palloc0(nprocs * sizeof(bool));
	MainLWLockArray = palloc0((LOCK_MANAGER_LWLOCK_OFFSET + NUM_LOCK_PARTITIONS + 100) *
							  sizeof(LWLockPadded));
	lg_shared_init(palloc(lg_shared_size()), palloc0(sizeof(LWLock)), true);
	for (int procno = 0; procno < nprocs; procno++)
	{
		PGPROC	   *proc = proc_of(procno);

#if PG_VERSION_NUM < 170000
		proc->pgprocno = procno;
		proc->backendId = procno < backends ? procno + 1 : InvalidBackendId;
#else
		proc->vxid.procNumber = procno;
#endif
		for (int i = 0; i < NUM_LOCK_PARTITIONS; i++)
			list_init(&proc->myProcLocks[i]);
		status[procno].st_appname = palloc0(NAMEDATALEN);
		status[procno].st_activity_raw = palloc0(pgstat_track_activity_query_size);
	}

	/* Whoever runs the code under test is the last one. */
	MyProc = proc_of(backends - 1);
	MyBEEntry = &status[backends - 1];
	MyLatch = &MyProc->procLatch;
	session_begins(backends - 1, 99999, B_BG_WORKER);
}

/*
 * Files, and the loop of the worker that writes them.
 */
FILE *
AllocateFile(const char *name, const char *mode)
{
	if (!files_open)
	{
		errno = EMFILE;
		return NULL;
	}
	return fopen(disk_full && mode[0] == 'w' ? "/dev/full" : name, mode);
}

int
FreeFile(FILE *file)
{
	return fclose(file);
}

int
durable_rename(const char *from, const char *to, int elevel)
{
	return rename(from, to);
}

void
ConditionVariableInit(ConditionVariable *cv)
{
}

void
SetLatch(Latch *latch)
{
	latches_set++;
}

void
ResetLatch(Latch *latch)
{
}

int
WaitLatch(Latch *latch, int events, long timeout, uint32 wait_event_info)
{
	if (on_wait)
		on_wait(timeout);
	return 0;
}

#if PG_VERSION_NUM >= 180000
void
pqsignal(int signo, pqsigfunc func)
{
}
#else
pqsigfunc
pqsignal(int signo, pqsigfunc func)
{
	return NULL;
}
#endif

void
before_shmem_exit(pg_on_exit_callback function, Datum arg)
{
}

void
BackgroundWorkerUnblockSignals(void)
{
}

void
ProcessConfigFile(GucContext context)
{
}

void
ProcessInterrupts(void)
{
}

void
SignalHandlerForConfigReload(SIGNAL_ARGS)
{
}

void
SignalHandlerForShutdownRequest(SIGNAL_ARGS)
{
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
pg_utf_mblen(const unsigned char *s)
{
	return *s < 0x80 ? 1 : (*s & 0xe0) == 0xc0 ? 2 : (*s & 0xf0) == 0xe0 ? 3 :
		(*s & 0xf8) == 0xf0 ? 4 : 1;
}

const char *
pgstat_get_wait_event_type(uint32 wait_event_info)
{
	return wait_event_info == 0 ? NULL : "Type";
}

/* Since 17 the server has no name for an extension's event before that says so. */
const char *
pgstat_get_wait_event(uint32 wait_event_info)
{
	if (lg_wait_event_is_custom(wait_event_info) && wait_event_info != PG_WAIT_EXTENSION)
		impossible("could not find custom name for wait event");
	return "event";
}

int
pg_getnameinfo_all(const struct sockaddr_storage *addr, int salen, char *node, int nodelen,
				   char *service, int servicelen, int flags)
{
	strlcpy(node, "192.0.2.1", nodelen);
	return 0;
}

void
clean_ipv6_addr(int addr_family, char *addr)
{
}

int
pg_inet_net_pton(int af, const char *src, void *dst, size_t size)
{
	return inet_pton(af == PGSQL_AF_INET ? AF_INET : AF_INET6, src, dst) == 1 ? 32 : -1;
}
