/*-------------------------------------------------------------------------
 *
 * rollback.c
 *		Has a session that is idle in a transaction roll it back, and keep its
 *		connection.
 *
 * No ERROR can be raised in a session that waits for its client: the client is
 * not asking, and would take it for the answer to its next command.  So the
 * session rolls back without a word, and is left in an empty transaction block
 * that has failed.  Its client hears of it when it comes back: whatever it sends
 * is refused (25P02), and so is COMMIT, by process_utility() in victim.c.
 *
 * How the session is reached.  While it waits for a command, PostgreSQL's
 * ProcessClientReadInterrupt() serves the interrupt by which a process is told
 * to catch up with shared invalidation messages (ProcessCatchupInterrupt(),
 * sinval.c): it reads them, and for one about a relation it calls the callbacks
 * of CacheRegisterRelcacheCallback().  The process that asks leaves in the
 * session's slot what is to be rolled back and why, under LgShared->lock, as it
 * does for a signal; then, with no lock in hand, it sends a message about a
 * relation that cannot exist, and the interrupt (lg_wake_for_rollback()).
 *
 * Why the session is the proof.  The callback runs wherever messages are read,
 * and acts only if is_same_idle_period() and may_roll_back() hold.  So a request that
 * comes late hits neither another transaction nor the same one at work: the session
 * compares idle period and transaction with its own.  What the process that asks has
 * proved of others (that they wait for it) was so when it asked.
 *
 * Why it is safe at that place, condition by condition:
 *
 * - InterruptHoldoffCount is 0.  An abort reads invalidation messages itself
 *	 (AtEOXact_Inval(), AtEOSubXact_Inval()), and holds interrupts: without this, a
 *	 session that dies with a request open would abort in the middle of its
 *	 abort.  ProcessClientReadInterrupt() is called with none held.
 * - A message is being read (pq_is_reading_msg()), CurrentMemoryContext is
 *	 MessageContext, and no portal is active: PostgresMain() waits for a command,
 *	 and no statement is under way that waits for more of its client (COPY FROM
 *	 STDIN).  MessageContext is no transaction's, so that the buffer into which the
 *	 command is being read outlives the abort.  The message may have been read in
 *	 part, also from TLS or GSS: secure_read() serves interrupts only between two
 *	 reads.
 * - Its transaction block was begun by the client (is_explicit_block()).  In the
 *	 block of a pipeline or of a query string, a failed state would outlive it.
 *
 * Interrupts are held meanwhile, and the latch is set afterwards, as the caller goes
 * back to sleep without looking at what has come.
 *
 * AbortOutOfAnyTransaction() is what PostgreSQL does with a transaction at the end
 * of a session.  The empty block is begun and failed by xact.c's own functions, and
 * is the state in which an ERROR of the client's own would have left it
 * (TBLOCK_ABORT): no lock, snapshot, savepoint or portal.  The messages that were
 * read together with ours are processed by the transaction start within
 * (ReceiveSharedInvalidMessages() allows for recursion), and other callbacks must
 * not rely on a transaction anyway (see inval.c).  An error in an abort ends in
 * FATAL here, as it does when a session that reads a command is told to die:
 * PostgresMain() gives up a connection in the middle of a message.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "replication/walsender.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "storage/procsignal.h"
#include "storage/sinval.h"
#include "tcop/pquery.h"
#include "tcop/tcopprot.h"
#include "utils/backend_status.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/ps_status.h"

#include "compat.h"
#include "libpq/libpq.h"
#include "rollback.h"
#include "session.h"
#include "shared.h"
#include "types.h"

/*
 * An OID that no relation can have: it is that of the database template1, and
 * the OIDs that PostgreSQL itself gives out are unique over all catalogs.
 */
#define NO_RELATION		((Oid) 1)

#define STATE_BITS		2
#define STATE_MASK		((uint64) ((1 << STATE_BITS) - 1))

static inline uint64
rollback_word(LocalTransactionId lxid, LgRollbackState state)
{
	return (uint64) lxid << STATE_BITS | (uint64) state;
}

/* Change the state of one request; false if it is in another. */
static bool
change_state(LgSlot *slot, LocalTransactionId lxid, LgRollbackState from,
			 LgRollbackState to)
{
	uint64		expected = rollback_word(lxid, from);

	return pg_atomic_compare_exchange_u64(&slot->rollback, &expected,
										  rollback_word(lxid, to));
}

/*
 * Leave the request, for the reason that has just been left with the session.
 * False if it has begun to roll that transaction back already.  The caller holds
 * LgShared->lock, exclusive, and calls lg_wake_for_rollback() when it holds none.
 */
bool
lg_ask_rollback(int procno, LocalTransactionId lxid)
{
	LgSlot	   *slot = lg_slot(procno);
	uint64		word = pg_atomic_read_u64(&slot->rollback);

	if (word == rollback_word(lxid, LG_ROLLBACK_BEGUN) ||
		word == rollback_word(lxid, LG_ROLLBACK_DONE))
		return false;
	return pg_atomic_compare_exchange_u64(&slot->rollback, &word,
										  rollback_word(lxid, LG_ROLLBACK_ASKED));
}

/*
 * Wake a session that has been asked.  Takes SInvalWriteLock, and SInvalReadLock
 * if the queue of messages is full; the caller holds no lock.  All processes of
 * its database will read the message.  If the session has ended, whichever process
 * has its place is woken, and finds no request.
 */
void
lg_wake_for_rollback(const LgSession *session)
{
	SharedInvalidationMessage message;

	memset(&message, 0, sizeof(message));
	message.rc.id = SHAREDINVALRELCACHE_ID;
	message.rc.dbId = session->datid;
	message.rc.relId = NO_RELATION;
	SendSharedInvalidMessages(&message, 1);
	(void) SendProcSignal(session->pid, PROCSIG_CATCHUP_INTERRUPT,
						  lg_signal_number(&ProcGlobal->allProcs[session->procno]));
}

#ifdef LOCKGUARD_DEBUG
/* Wake any processes at all, none of which has been asked. */
void
lg_debug_wake_some(void)
{
	for (int procno = 0; procno < MaxBackends; procno++)
	{
		LgSession	session;

		lg_read_session(procno, &session);
		if (session.pid != 0 && session.pid != MyProcPid && random() % 3 == 0)
			lg_wake_for_rollback(&session);
	}
}
#endif

/*
 * How far the rollback of that transaction has come, as long as no other process
 * has taken the PGPROC.  Reads without a lock.
 */
LgRollbackState
lg_rollback_state(int procno, int pid, LocalTransactionId lxid)
{
	LgSlot	   *slot = lg_slot(procno);
	uint64		word = slot == NULL ? 0 : pg_atomic_read_u64(&slot->rollback);

	if (slot == NULL || slot->pid != pid || word >> STATE_BITS != lxid)
		return LG_NOT_ASKED;
	return (LgRollbackState) (word & STATE_MASK);
}

/*
 * Was that a request to roll back, which the session has not begun to obey?  Reads
 * without a lock.
 */
bool
lg_awaits_rollback(const LgOpen *open)
{
	return open->action == LG_DO_ROLLBACK && open->pid != 0 && !open->obeyed &&
		lg_rollback_state(open->procno, open->pid, open->lxid) < LG_ROLLBACK_BEGUN;
}

/*
 * Withdraw a request.  False if there is none: the session has begun to obey it, or
 * it has been withdrawn before.
 */
bool
lg_withdraw_rollback(int procno, LocalTransactionId lxid)
{
	LgSlot	   *slot = lg_slot(procno);

	return slot != NULL &&
		change_state(slot, lxid, LG_ROLLBACK_ASKED, LG_NOT_ASKED);
}

/*
 * Withdraw all requests to those sessions, when nothing may be done any more.  The
 * caller has seen to it that no process leaves a new one.
 */
void
lg_withdraw_rollbacks(LgSlot *slots, int n)
{
	for (int i = 0; i < n; i++)
	{
		uint64		word = pg_atomic_read_u64(&slots[i].rollback);

		if ((word & STATE_MASK) == LG_ROLLBACK_ASKED)
			(void) pg_atomic_compare_exchange_u64(&slots[i].rollback, &word, 0);
	}
}

/*
 * All below runs in the session that is asked.
 */

/* Why it has left the client in a failed block; while "left_failed". */
static LgReason rolled_back_for;
static bool left_failed = false;

/*
 * Does the client quote text for settings that have gone with the transaction?  Until
 * it is told, with the answer to its next command.
 */
static bool quoting_changed = false;

/*
 * Has the client begun this transaction block?  There is no function that tells such
 * a block from an implicit one.  But these two have no effect on it, and undo each
 * other in an implicit one.
 */
static bool
is_explicit_block(void)
{
	bool		is_explicit;

	if (!IsTransactionBlock())
		return false;
	EndImplicitTransactionBlock();
	is_explicit = IsTransactionBlock();
	if (!is_explicit)
		BeginImplicitTransactionBlock();
	return is_explicit;
}

/* Is this still the idle period in which the session was asked? */
static bool
is_same_idle_period(const LgSlot *slot, const LgReason *reason)
{
	if (MyBEEntry == NULL)
		return false;
	if (MyBEEntry->st_state == STATE_DISABLED)
		return reason->state_start == 0 && reason->statements == slot->statements;
	return (MyBEEntry->st_state == STATE_IDLEINTRANSACTION ||
			MyBEEntry->st_state == STATE_IDLEINTRANSACTION_ABORTED) &&
		MyBEEntry->st_state_start_timestamp == reason->state_start;
}

/*
 * Is it in that transaction, and at the place where it can roll it back?  See the head
 * of this file.
 */
static bool
may_roll_back(const LgReason *reason)
{
	return LocalTransactionIdIsValid(reason->lxid) && reason->lxid == lg_proc_lxid(MyProc) &&
		InterruptHoldoffCount == 0 && CritSectionCount == 0 && !proc_exit_inprogress &&
		MyBackendType == B_BACKEND && !am_walsender && MyProcPort != NULL &&
		pq_is_reading_msg() && CurrentMemoryContext == MessageContext &&
		ActivePortal == NULL && is_explicit_block();
}

/*
 * Roll the transaction back, and leave a failed block in its place, with the
 * characteristics of the transaction: ROLLBACK AND CHAIN goes on with them.
 */
static void
roll_back(void)
{
	MemoryContext context = CurrentMemoryContext;
	CommandDest destination = whereToSendOutput;
	bool		conforming = lg_conforming_strings;
	int			encoding = pg_get_client_encoding();
	SavedTransactionCharacteristics characteristics;

	/*
	 * Nothing goes to the client, which may not read: it is not asking.  A
	 * subtransaction may be READ ONLY by itself.
	 */
	whereToSendOutput = DestNone;
	while (GetCurrentTransactionNestLevel() > 1)
		RollbackAndReleaseCurrentSubTransaction();
	SaveTransactionCharacteristics(&characteristics);
	AbortOutOfAnyTransaction();
	StartTransactionCommand();
	BeginTransactionBlock();
	CommitTransactionCommand();
	AbortCurrentTransaction();
	RestoreTransactionCharacteristics(&characteristics);
	MemoryContextSwitchTo(context);
	whereToSendOutput = destination;
	quoting_changed = conforming != lg_conforming_strings ||
		encoding != pg_get_client_encoding();

	/* As PostgresMain() does in that state. */
	set_ps_display("idle in transaction (aborted)");
	pgstat_report_activity(STATE_IDLEINTRANSACTION_ABORTED, NULL);
}

/*
 * Invalidation messages have come: for a relation, or, if there were too many, for
 * all (InvalidOid).  Runs in every process, and mostly at once ends.
 */
static void
relation_invalidated(Datum arg, Oid relation)
{
	LgSlot	   *slot;
	LgReason	reason;

	if ((relation != NO_RELATION && OidIsValid(relation)) || MyProc == NULL)
		return;
	slot = lg_slot(lg_proc_number(MyProc));
	if (slot == NULL ||
		(pg_atomic_read_u64(&slot->rollback) & STATE_MASK) != LG_ROLLBACK_ASKED ||
		!lg_read_reason(&reason) || reason.action != LG_DO_ROLLBACK)
		return;

	/* It has gone on: say so, so that it can be judged anew. */
	if (!is_same_idle_period(slot, &reason))
	{
		(void) change_state(slot, reason.lxid, LG_ROLLBACK_ASKED, LG_NOT_ASKED);
		return;
	}
	if (!may_roll_back(&reason) ||
		!change_state(slot, reason.lxid, LG_ROLLBACK_ASKED, LG_ROLLBACK_BEGUN))
		return;

	HOLD_INTERRUPTS();
	roll_back();
	rolled_back_for = reason;
	left_failed = true;
	pg_write_barrier();
	(void) change_state(slot, reason.lxid, LG_ROLLBACK_BEGUN, LG_ROLLBACK_DONE);
	RESUME_INTERRUPTS();

	/*
	 * What has come meanwhile is to be served before the session sleeps: the
	 * abort may have reset the latch (as postgres_fdw's does), and the caller
	 * has checked for interrupts before.
	 */
	SetLatch(MyLatch);
}

/* A transaction has ended: so the failed block has, too, or is yet to be left. */
static void
transaction_ended(XactEvent event, void *arg)
{
	left_failed = false;
}

/*
 * If the transaction block that this session is in is the failed one that was left
 * for its client, why; else NULL.  (ROLLBACK ends it without any callback.  But a
 * later block that has failed had a transaction that has ended; in a
 * subtransaction, ours never is.)
 */
const LgReason *
lg_rolled_back_for(void)
{
	return left_failed && IsAbortedTransactionBlockState() &&
		GetCurrentTransactionNestLevel() == 1 ? &rolled_back_for : NULL;
}

/*
 * May the client have quoted the command that it sends now for other settings than
 * those in force?  True until lg_client_told().
 */
bool
lg_quoting_changed(void)
{
	return quoting_changed && lg_rolled_back_for() != NULL;
}

/* The client is told which settings are in force, with the answer to a command. */
void
lg_client_told(void)
{
	quoting_changed = false;
}

/* Called once, in the postmaster, whose children have the callbacks, too. */
void
lg_rollback_install(void)
{
	CacheRegisterRelcacheCallback(relation_invalidated, (Datum) 0);
	RegisterXactCallback(transaction_ended, NULL);
}
