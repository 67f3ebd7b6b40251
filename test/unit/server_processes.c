/*-------------------------------------------------------------------------
 *
 * server_processes.c
 *		The server's processes: their PGPROCs, status, transactions and settings;
 *		see server.h.
 *
 *-------------------------------------------------------------------------
 */
#include "server_parts.h"

#include "access/transam.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/shmem.h"
#include "utils/wait_event.h"

/* What the server's headers declare. */
PROC_HDR   *ProcGlobal;
PGPROC	   *MyProc;
PgBackendStatus *MyBEEntry;
Oid			MyDatabaseId;
int			MaxBackends;
int			max_prepared_xacts;
int			pgstat_track_activity_query_size = LG_QUERY_SIZE;
bool		EnableHotStandby = true;

/* What other files of lockguard have. */
BackgroundWorker *MyBgworkerEntry;
int			lg_max_history = 1000;
int			lg_incident_threshold = 1000;
int			lg_naptime = 1000;
int			lg_max_actions_per_minute = 60;
bool		lg_dry_run = false;
bool		lg_log_incidents = true;
bool		lg_enabled = true;

TransactionId next_xid;

static PgBackendStatus *status;
static LgValues *values;
static bool *has_values;

/* What lockguard asks for by name. */
sigjmp_buf *PG_exception_stack;
ErrorContextCallback *error_context_stack;
volatile uint32 InterruptHoldoffCount;
volatile uint32 QueryCancelHoldoffCount;
volatile uint32 CritSectionCount;
static LgGxactTable *prepared_table = NULL;
static LgProcArray *proc_array = NULL;

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

/* The array is in the order of the PGPROCs. */
static void
update_proc_array(void)
{
	proc_array->numProcs = 0;
	for (int procno = 0; procno < MaxBackends; procno++)
		if (proc_of(procno)->procLatch.owner_pid != 0)
			proc_array->pgprocnos[proc_array->numProcs++] = procno;
}

static void
is_regular(PGPROC *proc, bool regular)
{
#if PG_VERSION_NUM >= 190000
	proc->backendType = regular ? B_BACKEND : B_BG_WORKER;
#elif PG_VERSION_NUM >= 180000
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
stalls(int procno)
{
	proc_of(procno)->wait_event_info = WAIT_EVENT_CLIENT_WRITE;
}

/* As a file in pg_snapshots, named by its virtual transaction. */
void
exports_snapshot(int procno)
{
	PGPROC	   *proc = proc_of(procno);

	snprintf(exported_snapshot, sizeof(exported_snapshot), "pg_snapshots/%08X-%08X-1",
			 LG_STATUS_BY_PROC_NUMBER ? procno : procno + 1, lg_proc_lxid(proc));
}

/* As a parallel worker. */
void
joins_group(int procno, int leader)
{
	is_regular(proc_of(procno), false);
	proc_of(procno)->lockGroupLeader = proc_of(leader);
	proc_of(leader)->lockGroupLeader = proc_of(leader);
}

/* Of the expected size: another one, and the error, are tested by test/t/006_prepared.pl. */
void *
ShmemInitStruct(const char *name, Size size, bool *found)
{
	bool		array = strcmp(name, "Proc Array") == 0;

	if (size != (array ? LG_PROC_ARRAY_SIZE : LG_GXACT_TABLE_SIZE))
		impossible("a structure of another size");
	*found = true;
	if (array)
		return proc_array;
	if (prepared_table == NULL)
		prepared_table = calloc(1, size);
	return prepared_table;
}

void
FlushErrorState(void)
{
}

void
LWLockReleaseAll(void)
{
}

/* The PGPROCs of prepared transactions come last. */
void
prepare_transaction(int procno, TransactionId xid, const char *gid)
{
	LgGxact    *gxact = palloc0(sizeof(LgGxact));
	bool		found;

	if (procno < MaxBackends + NUM_AUXILIARY_PROCS)
		impossible("not a PGPROC for prepared transactions");
	(void) ShmemInitStruct("Prepared Transaction Table", LG_GXACT_TABLE_SIZE, &found);
	proc_of(procno)->pid = 0;
	proc_of(procno)->xid = xid;
	gxact->pgprocno = procno;
#if PG_VERSION_NUM >= 190000
	gxact->fxid = FullTransactionIdFromEpochAndXid(0, xid);
#else
	gxact->xid = xid;
#endif
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

#if PG_VERSION_NUM < 190000
bool
TransactionIdPrecedes(TransactionId a, TransactionId b)
{
	return (int32) (a - b) < 0;
}
#endif

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

/*
 * Settings.
 */
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

void
lg_settings_smallest(const LgValues *server, int *smallest)
{
	memset(smallest, 0, LG_NUM_LIMITS * sizeof(int));
	for (int procno = 0; procno < LG_TOTAL_PROCS; procno++)
	{
		const LgValues *one = has_values[procno] ? &values[procno] : server;

		for (int limit = 0; limit < LG_NUM_LIMITS; limit++)
			if (one->value[limit] > 0 &&
				(smallest[limit] == 0 || one->value[limit] < smallest[limit]))
				smallest[limit] = one->value[limit];
	}
}

const char *
lg_setting_name(int id)
{
	return "a_setting";
}

const char *
lg_setting_unit(int id)
{
	return id == LG_MAX_BLOCKED_SESSIONS || id == LG_MAX_LOCKS ||
		id == LG_MAX_XMIN_AGE ? NULL : "ms";
}

/* The tables of all processes, without any process. */
static void
processes_start(int backends, int prepared)
{
	int			nprocs;

	MaxBackends = backends;
	max_prepared_xacts = prepared;
	nprocs = LG_TOTAL_PROCS;
	next_xid = 1000;
	if (prepared_table)
		prepared_table->numPrepXacts = 0;
	proc_array = palloc0(LG_PROC_ARRAY_SIZE);
	proc_array->maxProcs = LG_PROC_ARRAY_MAX;

	ProcGlobal = palloc0(sizeof(PROC_HDR));
	ProcGlobal->allProcCount = backends + NUM_AUXILIARY_PROCS;
	ProcGlobal->allProcs = (PGPROC *) TYPEALIGN(PG_CACHE_LINE_SIZE, palloc0(nprocs * sizeof(PGPROC) +
																			PG_CACHE_LINE_SIZE));
	status = palloc0(nprocs * sizeof(PgBackendStatus));
	values = palloc0(nprocs * sizeof(LgValues));
	has_values = palloc0(nprocs * sizeof(bool));
	lg_shared_init(palloc(lg_shared_size()), palloc0(sizeof(LWLock)), true);
	for (int procno = 0; procno < nprocs; procno++)
	{
#if PG_VERSION_NUM < 170000
		proc_of(procno)->pgprocno = procno;
		proc_of(procno)->backendId = procno < backends ? procno + 1 : InvalidBackendId;
#else
		proc_of(procno)->vxid.procNumber = procno;
#endif
		status[procno].st_appname = palloc0(NAMEDATALEN);
		status[procno].st_activity_raw = palloc0(pgstat_track_activity_query_size);
	}
}

/* The process that runs the code under test is the last backend. */
void
server_start(int backends, int prepared)
{
	memory_start();
	system_start();
	processes_start(backends, prepared);
	locks_start();

	MyProc = proc_of(backends - 1);
	MyBEEntry = &status[backends - 1];
	MyLatch = &MyProc->procLatch;
	session_begins(backends - 1, 99999, B_BG_WORKER);
	transaction_start();
}
