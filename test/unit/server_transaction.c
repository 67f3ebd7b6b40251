/*-------------------------------------------------------------------------
 *
 * server_transaction.c
 *		The session that runs the code under test, and its transaction; see
 *		server.h.
 *
 *-------------------------------------------------------------------------
 */
#include "server_parts.h"

#include "access/xact.h"
#include "libpq/libpq.h"
#include "miscadmin.h"
#include "replication/walsender.h"
#include "storage/ipc.h"
#include "storage/procsignal.h"
#include "storage/sinval.h"
#include "parser/parser.h"
#include "tcop/pquery.h"
#include "tcop/tcopprot.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/ps_status.h"

/* What the server's headers declare. */
int			MyProcPid;
TimestampTz MyStartTimestamp;
BackendType MyBackendType;
struct Port *MyProcPort;
bool		am_walsender;
Portal		ActivePortal;
MemoryContext MessageContext;
bool		proc_exit_inprogress;
CommandDest whereToSendOutput;
bool		standard_conforming_strings;

Block		block;
int			nest_level;
bool		read_only;
bool		reading_message;
Oid			last_invalidated;
pid_t		last_woken;
int			times_woken;

static RelcacheCallbackFunction relation_callback;
static Datum relation_arg;
static XactCallback transaction_callback;
static void *transaction_arg;

TimestampTz
GetCurrentStatementStartTimestamp(void)
{
	return MyBEEntry != NULL ? MyBEEntry->st_activity_start_timestamp : 0;
}

/* What CurrentMemoryContext and the like point to. */
static char somewhere[2];

/* From now on the code under test runs in this session, which waits for a command. */
void
becomes(int procno)
{
	MyProc = proc_of(procno);
	MyBEEntry = status_of(procno);
	MyProcPid = MyProc->pid;
	MyStartTimestamp = slot_of(procno)->session_start;
	MyBackendType = MyBEEntry->st_backendType;
	MyProcPort = (struct Port *) somewhere;
	block = EXPLICIT_BLOCK;
	reading_message = true;
	CurrentMemoryContext = MessageContext;
}

/* It reads this message, as it does wherever it reads messages. */
void
reads_invalidation(Oid relation)
{
	relation_callback(relation_arg, relation);
}

void
transaction_event(XactEvent event)
{
	if (transaction_callback)
		transaction_callback(event, transaction_arg);
}

/*
 * How others reach it.
 */
void
CacheRegisterRelcacheCallback(RelcacheCallbackFunction func, Datum arg)
{
	relation_callback = func;
	relation_arg = arg;
}

void
RegisterXactCallback(XactCallback callback, void *arg)
{
	transaction_callback = callback;
	transaction_arg = arg;
}

void
SendSharedInvalidMessages(const SharedInvalidationMessage *msgs, int n)
{
	if (lwlocks_taken != 0)
		impossible("sends messages with a lock in hand");
	if (n != 1 || msgs->id != SHAREDINVALRELCACHE_ID)
		impossible("another message");
	last_invalidated = msgs->rc.relId;
}

int
SendProcSignal(pid_t pid, ProcSignalReason reason,
#if PG_VERSION_NUM >= 170000
			   ProcNumber number
#else
			   BackendId number
#endif
)
{
	if (lwlocks_taken != 0)
		impossible("wakes a process with a lock in hand");
	if (reason != PROCSIG_CATCHUP_INTERRUPT)
		impossible("another interrupt");
	if (proc_of(LG_STATUS_BY_PROC_NUMBER ? number : number - 1)->pid != pid)
		impossible("another process");
	last_woken = pid;
	times_woken++;
	return 0;
}

bool
pq_is_reading_msg(void)
{
	return reading_message;
}

/*
 * Its transaction.
 */
bool
IsTransactionBlock(void)
{
	return block != NO_BLOCK;
}

bool
IsAbortedTransactionBlockState(void)
{
	return block == FAILED_BLOCK;
}

int
GetCurrentTransactionNestLevel(void)
{
	return nest_level;
}

void
BeginImplicitTransactionBlock(void)
{
	if (block == NO_BLOCK)
		block = IMPLICIT_BLOCK;
}

void
EndImplicitTransactionBlock(void)
{
	if (block == IMPLICIT_BLOCK)
		block = NO_BLOCK;
}

void
StartTransactionCommand(void)
{
	BackendState state = MyBEEntry->st_state;

	if (LocalTransactionIdIsValid(lg_proc_lxid(MyProc)))
		impossible("a transaction is under way");
	session_state(lg_proc_number(MyProc), STATE_RUNNING);
	MyBEEntry->st_state = state;
	read_only = false;
	nest_level = 1;
}

void
BeginTransactionBlock(void)
{
	block = EXPLICIT_BLOCK;
}

void
CommitTransactionCommand(void)
{
	if (!LocalTransactionIdIsValid(lg_proc_lxid(MyProc)))
		impossible("no transaction is under way");
}

/* All that the transaction holds goes.  Messages are read meanwhile. */
static void
aborts(void)
{
	static bool aborting = false;

	if (aborting)
		impossible("an abort in an abort");
	aborting = true;
	HOLD_INTERRUPTS();
	releases_all(lg_proc_number(MyProc));
	ends_transaction(lg_proc_number(MyProc));
	nest_level = 1;
	transaction_event(XACT_EVENT_ABORT);
	if (relation_callback)
		reads_invalidation(InvalidOid);
	RESUME_INTERRUPTS();
	aborting = false;
}

void
AbortCurrentTransaction(void)
{
	aborts();
	if (block != NO_BLOCK)
		block = FAILED_BLOCK;
}

void
AbortOutOfAnyTransaction(void)
{
	aborts();
	block = NO_BLOCK;
	CurrentMemoryContext = TopMemoryContext;
}

void
RollbackAndReleaseCurrentSubTransaction(void)
{
	aborts();
	nest_level--;
}

void
SaveTransactionCharacteristics(SavedTransactionCharacteristics *s)
{
	memset(s, 0, sizeof(*s));
	s->save_XactReadOnly = read_only;
}

void
RestoreTransactionCharacteristics(const SavedTransactionCharacteristics *s)
{
	read_only = s->save_XactReadOnly;
}

void
pgstat_report_activity(BackendState state, const char *cmd_str)
{
	if (MyBEEntry->st_state != STATE_DISABLED)
		session_state(lg_proc_number(MyProc), state);
}

#if PG_VERSION_NUM >= 160000
void
set_ps_display_with_len(const char *activity, size_t len)
{
}
#else
void
set_ps_display(const char *activity)
{
}
#endif

void
transaction_start(void)
{
	MyProcPid = MyProc->pid;
	MyStartTimestamp = 0;
	MyBackendType = B_BG_WORKER;
	MyProcPort = NULL;
	am_walsender = proc_exit_inprogress = reading_message = read_only = false;
	ActivePortal = NULL;
	TopMemoryContext = (MemoryContext) &somewhere[0];
	MessageContext = (MemoryContext) &somewhere[1];
	block = NO_BLOCK;
	nest_level = 1;
	last_invalidated = InvalidOid;
	last_woken = times_woken = 0;
	relation_callback = NULL;
	transaction_callback = NULL;
}
