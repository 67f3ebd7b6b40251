/*-------------------------------------------------------------------------
 *
 * victim.c
 *		What runs in every session: its error message says why it was signalled
 *		or rolled back, a deadlock is recorded, and it says when it has begun to
 *		commit.
 *
 * The message, its severity and its SQLSTATE stay PostgreSQL's own.  DETAIL and
 * HINT are added by emit_log_hook, which sees an error before the client does.
 * (PostgreSQL calls it only for errors that are also written to the server log.
 * So with log_min_messages = log, fatal or panic cancelled statements, and those
 * refused after a rollback, but for COMMIT, and with panic terminated sessions, are
 * not told why, and with all three no deadlock is recorded; since 19, with the
 * level that is set for client backends.)
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <unistd.h>

#include "access/parallel.h"
#include "access/xact.h"
#include "executor/executor.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/proc.h"
#include "tcop/utility.h"
#include "utils/backend_status.h"
#include "utils/elog.h"

#include "compat.h"
#include "deadlock.h"
#include "explain.h"
#include "limit.h"
#include "rollback.h"
#include "settings.h"
#include "shared.h"
#include "text.h"
#include "types.h"
#include "victim.h"

static emit_log_hook_type next_emit_log = NULL;
static ExecutorStart_hook_type next_executor_start = NULL;
static ExecutorRun_hook_type next_executor_run = NULL;
static ExecutorEnd_hook_type next_executor_end = NULL;
static ProcessUtility_hook_type next_process_utility = NULL;

static void watch_statements(void);

/* A text before what the server itself says in that place, if anything. */
static char *
before(char *text, const char *server)
{
	return server == NULL ? text : psprintf("%s  %s", text, server);
}

/*
 * Put DETAIL and HINT into an error.  What the server has put there is kept: since
 * 19 it tells the log, in place of the DETAIL for the client, who has sent the
 * signal.
 */
static void
add_to_error(ErrorData *edata, char *detail, const char *hint)
{
	if (edata->detail_log != NULL)
		edata->detail_log = before(detail, edata->detail_log);
	edata->detail = before(detail, edata->detail);
	edata->hint = before(pstrdup(hint), edata->hint);
}

/*
 * Why a session was signalled, in words: "this session ...".  Allocates in the
 * current context.
 */
static char *
story_of(const LgReason *reason)
{
	char		story[256];
	char		value[32];
	char		source[2 * NAMEDATALEN + 64];

	lg_tell(reason->limit, reason->blocked_sessions, reason->measured,
			reason->state, story, sizeof(story));
	if (reason->limit == LG_NO_LIMIT)
		return psprintf("this session %s; process %d asked for this.",
						story, reason->requested_by_pid);

	lg_format_value(reason->limit, reason->value, value, sizeof(value));
	if (reason->other_pid != 0)
		return psprintf("this session %s; lockguard.%s of process %d is %s.",
						story, lg_setting_name(reason->limit),
						reason->other_pid, value);
	lg_describe_source(reason->source,
					   lg_text_for_client(MyProcPort ? MyProcPort->user_name : "", NAMEDATALEN),
					   lg_text_for_client(MyProcPort ? MyProcPort->database_name : "", NAMEDATALEN),
					   source, sizeof(source));
	return psprintf("this session %s; lockguard.%s is %s (%s).",
					story, lg_setting_name(reason->limit), value, source);
}

/* What the client can do so that it does not happen again. */
static const char *
hint_for(const LgReason *reason)
{
	/* Outside a transaction, only advisory locks of the session block others. */
	if (reason->state == STATE_IDLE && lg_limit_is_about_blocking(reason->limit))
		return "Release advisory locks with pg_advisory_unlock(), or take them with pg_advisory_xact_lock().";
	return reason->limit == LG_NO_LIMIT ?
		"Commit or roll back sooner when others wait for the same rows or tables." :
		lg_limit_hint(reason->limit);
}

/* The DETAIL of an error that comes of a transaction that was rolled back. */
static char *
rollback_detail(const LgReason *reason)
{
	return psprintf("lockguard: the transaction was rolled back: %s", story_of(reason));
}

/*
 * Do these errors tell a client in a failed block that its command is refused?
 * Besides the plain one, there are those about a savepoint or a portal that is gone
 * with the transaction, and about text in an encoding that it had set.
 */
static bool
is_refusal(int sqlerrcode)
{
	return sqlerrcode == ERRCODE_IN_FAILED_SQL_TRANSACTION ||
		sqlerrcode == ERRCODE_S_E_INVALID_SPECIFICATION ||
		sqlerrcode == ERRCODE_INVALID_CURSOR_NAME ||
		sqlerrcode == ERRCODE_CHARACTER_NOT_IN_REPERTOIRE;
}

/*
 * Raise an error for a ROLLBACK with which other statements come, quoted for settings
 * that have gone with the transaction: what the client means as text could be run.
 * Alone, or after this error, it is done.
 */
static void
refuse_rollback(void)
{
	lg_client_told();
	ereport(ERROR,
			(errcode(ERRCODE_IN_FAILED_SQL_TRANSACTION),
			 errmsg("current transaction is aborted, commands ignored until end of transaction block")));
}

/* Add DETAIL and HINT to an error that lockguard has caused. */
static void
explain(ErrorData *edata, const LgReason *reason)
{
	add_to_error(edata, psprintf("lockguard: %s", story_of(reason)), hint_for(reason));
}

/* The same for a command that is refused after a rollback. */
static void
explain_refusal(ErrorData *edata, const LgReason *reason)
{
	add_to_error(edata, rollback_detail(reason),
				 psprintf("Issue ROLLBACK and run the transaction again.  %s",
						  hint_for(reason)));
}

/*
 * Raise an error for a COMMIT of a transaction that was rolled back.  As after any
 * COMMIT that fails, the client is outside a transaction then.  (Left to
 * PostgreSQL, it would succeed, with ROLLBACK as its answer, which most drivers
 * take for a commit.)
 */
static void
refuse_commit(const LgReason *reason)
{
	LgReason	copy = *reason;

	UserAbortTransactionBlock(false);
	ereport(ERROR,
			(errcode(ERRCODE_TRANSACTION_ROLLBACK),
			 lg_limit_is_about_blocking(copy.limit) ?
			 errmsg("transaction was rolled back because it blocked other sessions") :
			 errmsg("transaction was rolled back because it was over lockguard.%s",
					lg_setting_name(copy.limit)),
			 errdetail_internal("%s", rollback_detail(&copy)),
			 errhint("Run the transaction again.  %s", hint_for(&copy))));
}

/* Can this error be the end of a wait for a lock? */
static bool
ends_a_wait(const ErrorData *edata)
{
	if (edata->elevel != ERROR || edata->message_id == NULL)
		return false;
	if (edata->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE)
		return strcmp(edata->message_id, "canceling statement due to lock timeout") == 0;
	return edata->sqlerrcode == ERRCODE_QUERY_CANCELED &&
		(strcmp(edata->message_id, "canceling statement due to user request") == 0 ||
		 strcmp(edata->message_id, "canceling statement due to statement timeout") == 0);
}

/* Say which process blocked this session, after what the error says already. */
static void
explain_wait(ErrorData *edata)
{
	char	   *wait = lg_explain_wait();

	if (wait == NULL)
		return;
	if (edata->detail != NULL)
		edata->detail = psprintf("%s  It %s", edata->detail, wait);
	else
		edata->detail = psprintf("lockguard: it %s", wait);
	if (edata->detail_log != NULL)
		edata->detail_log = psprintf("%s  lockguard: it %s", edata->detail_log, wait);
}

/*
 * Sees each error before it is logged, and records a deadlock.  Is it the error
 * that a signal of lockguard causes?  A cancel counts only within the
 * transaction, or the statement, that it was meant for, so that a later one by
 * another process is not explained by it.
 */
static void
emit_log(ErrorData *edata)
{
	bool		explained = edata->detail != NULL &&
		strncmp(edata->detail, "lockguard: ", 11) == 0;
	LgReason	reason;
	const LgReason *rolled_back;

	/* One that is reported again has been explained already. */
	if (edata->elevel >= ERROR && edata->message_id != NULL && !IsParallelWorker() &&
		!explained)
	{
		if (edata->elevel == FATAL &&
			edata->sqlerrcode == ERRCODE_ADMIN_SHUTDOWN &&
			strcmp(edata->message_id,
				   "terminating connection due to administrator command") == 0)
		{
			if (lg_read_reason(&reason) && reason.action == LG_DO_TERMINATE)
				explain(edata, &reason);
		}
		else if (edata->elevel <= FATAL &&	/* FATAL in a login event trigger */
				 edata->sqlerrcode == ERRCODE_QUERY_CANCELED &&
				 strcmp(edata->message_id,
						"canceling statement due to user request") == 0)
		{
			if (lg_read_reason(&reason) && reason.action == LG_DO_CANCEL &&
				reason.lxid == lg_proc_lxid(MyProc) &&
				(reason.stmt_start == 0 ||
				 reason.stmt_start == GetCurrentStatementStartTimestamp()))
				explain(edata, &reason);
		}
		else if (edata->elevel == ERROR && is_refusal(edata->sqlerrcode) &&
				 (rolled_back = lg_rolled_back_for()) != NULL)
			explain_refusal(edata, rolled_back);
	}
	if (edata->elevel == ERROR)
		lg_client_told();
	if (!explained && ends_a_wait(edata))
		explain_wait(edata);
	if (unlikely(edata->sqlerrcode == ERRCODE_T_R_DEADLOCK_DETECTED))
		lg_note_deadlock(edata);
	if (next_emit_log)
		next_emit_log(edata);
}

/* This process's slot, once it has one; else NULL. */
static LgSlot *
my_slot(void)
{
	LgSlot	   *slot = MyProc ? lg_slot(lg_proc_number(MyProc)) : NULL;

	return slot != NULL && slot->pid == MyProcPid ? slot : NULL;
}

/*
 * A transaction ends.  If this session has got the last lock that it waited for,
 * say so: the worker cannot tell that from having given up, once the session waits
 * again.  (A wait that is given up leaves an error behind in the PGPROC.)
 */
static void
note_granted(LgSlot *slot)
{
	if (MyProc->waitStatus == PROC_WAIT_STATUS_OK)
		slot->granted_waits++;
}

/*
 * Say that this transaction has begun to commit.  From here on lockguard
 * sends it no signal: a cancel that arrives while the commit waits for a
 * synchronous standby would end that wait.
 *
 * A signaller raises "signalling" before it reads "committing", and this sets
 * "committing" before it reads "signalling": so one of the two notices the
 * other.  The signaller is never waited for in vain: while it has raised
 * "signalling", it holds LWLocks and does nothing that can fail or wait.  If it
 * is stopped then, the lock manager stands still as well, and a commit here
 * would not come further; a signal that arrives meanwhile is still obeyed.
 *
 * What was sent before that, to this transaction or to the one before it, is
 * taken care of here, while this can still abort; the system call has it
 * delivered.
 */
static void
commit_begins(LgSlot *slot)
{
	slot->committing = lg_proc_lxid(MyProc);
	pg_memory_barrier();
	while (pg_atomic_read_u32(&slot->signalling) != 0)
	{
		pg_usleep(10);
		CHECK_FOR_INTERRUPTS();
	}
	pg_read_barrier();
	if (slot->reason.pid == MyProcPid)
	{
		(void) getppid();
		CHECK_FOR_INTERRUPTS();
	}
}

/*
 * The statement that note_statement() has noted is over.  A function that is
 * called by the fast-path protocol after it must not be taken for it.
 */
static inline void
forget_statement(void)
{
	LgSlot	   *slot = my_slot();

	if (slot != NULL && slot->statement_start != 0)
		slot->statement_start = 0;
}

static void
transaction_event(XactEvent event, void *arg)
{
	static bool logged_in = false;
	LgSlot	   *slot;

	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
		case XACT_EVENT_PRE_PREPARE:

			/* The first transaction of a process is the one that logs it in. */
			if (!logged_in)
			{
				lg_settings_login();
				logged_in = true;
			}
			slot = my_slot();
			if (slot != NULL)
			{
				note_granted(slot);
				commit_begins(slot);
			}
			watch_statements();
			break;
		case XACT_EVENT_ABORT:
			slot = my_slot();
			if (slot != NULL)
				note_granted(slot);
			forget_statement();
			break;
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_PREPARE:
			forget_statement();
			break;
		default:
			break;
	}
}

/*
 * A statement begins.  Note when, if the session does not report that itself.
 */
static inline void
note_statement(void)
{
	LgSlot	   *slot;

	if (unlikely(!pgstat_track_activities) && (slot = my_slot()) != NULL)
	{
		slot->statement_start = GetCurrentStatementStartTimestamp();
		slot->statements++;
	}
}

/* The first query of a statement, which ends when all others have; or NULL. */
static QueryDesc *first_query = NULL;

static void
executor_start(QueryDesc *query, int eflags)
{
	LgSlot	   *slot = my_slot();

	if (slot != NULL && slot->statement_start != GetCurrentStatementStartTimestamp())
		first_query = query;
	note_statement();
	if (next_executor_start)
		next_executor_start(query, eflags);
	else
		standard_ExecutorStart(query, eflags);
}

/* A portal is run again: the client has fetched some of its rows before. */
static void
executor_run(QueryDesc *query, ScanDirection direction, uint64 count LG_EXECUTE_ONCE_ARG)
{
	note_statement();
	if (next_executor_run)
		next_executor_run(query, direction, count LG_EXECUTE_ONCE);
	else
		standard_ExecutorRun(query, direction, count LG_EXECUTE_ONCE);
}

static void
executor_end(QueryDesc *query)
{
	if (query == first_query)
	{
		first_query = NULL;
		forget_statement();
	}
	if (next_executor_end)
		next_executor_end(query);
	else
		standard_ExecutorEnd(query);
}

/*
 * With track_activities off, nothing in shared memory tells one statement from
 * the next.  Only a session that has turned it off pays for the hooks that
 * note_statement() needs: it installs them for itself, at the end of the
 * statement or transaction in which it was turned off.
 */
static void
watch_statements(void)
{
	static bool watching = false;

	if (likely(pgstat_track_activities) || watching || !IsUnderPostmaster)
		return;
	watching = true;
	next_executor_start = ExecutorStart_hook;
	ExecutorStart_hook = executor_start;
	next_executor_run = ExecutorRun_hook;
	ExecutorRun_hook = executor_run;
	next_executor_end = ExecutorEnd_hook;
	ExecutorEnd_hook = executor_end;
}

/*
 * Does this statement pass its point of no return before transaction_event()
 * hears of it?  COMMIT PREPARED and ROLLBACK PREPARED write the record of the
 * prepared transaction on their own.  DROP DATABASE and DROP TABLESPACE remove
 * files before they commit, which no abort brings back: interrupted there, the
 * database is invalid from then on.
 */
static inline bool
cannot_be_undone(Node *statement)
{
	switch (nodeTag(statement))
	{
		case T_TransactionStmt:
			return ((TransactionStmt *) statement)->kind == TRANS_STMT_COMMIT_PREPARED ||
				((TransactionStmt *) statement)->kind == TRANS_STMT_ROLLBACK_PREPARED;
		case T_DropdbStmt:
		case T_DropTableSpaceStmt:
			return true;
		default:
			return false;
	}
}

/* ROLLBACK, with other statements in the same query string? */
static bool
is_rollback_of_several(PlannedStmt *pstmt, const char *query_string)
{
	const char *rest = query_string + Max(pstmt->stmt_location, 0);

	if (!IsA(pstmt->utilityStmt, TransactionStmt) ||
		((TransactionStmt *) pstmt->utilityStmt)->kind != TRANS_STMT_ROLLBACK)
		return false;
	if (pstmt->stmt_location > 0)
		return true;
	if (pstmt->stmt_len == 0)
		return false;
	rest += pstmt->stmt_len;
	return rest[strspn(rest, "; \t\r\n")] != '\0';
}

/* COMMIT, in each of its forms that end a transaction block. */
static inline bool
is_commit(Node *statement)
{
	return IsA(statement, TransactionStmt) &&
		(((TransactionStmt *) statement)->kind == TRANS_STMT_COMMIT ||
		 ((TransactionStmt *) statement)->kind == TRANS_STMT_PREPARE);
}

static void
process_utility(PlannedStmt *pstmt, const char *query_string, bool read_only_tree,
				ProcessUtilityContext context, ParamListInfo params,
				QueryEnvironment *environment, DestReceiver *dest,
				QueryCompletion *completion)
{
	LgSlot	   *slot;
	const LgReason *rolled_back;

	if (unlikely(pg_atomic_read_u32(&lg_shared->dozing) != 0))
		lg_end_doze();
	note_statement();
	if (is_commit(pstmt->utilityStmt) && (rolled_back = lg_rolled_back_for()) != NULL)
		refuse_commit(rolled_back);
	if (unlikely(lg_quoting_changed()) && is_rollback_of_several(pstmt, query_string))
		refuse_rollback();

	/* Anywhere else they fail, and what is done after that can be undone. */
	if (context == PROCESS_UTILITY_TOPLEVEL && !IsTransactionBlock() && !IsSubTransaction() &&
		cannot_be_undone(pstmt->utilityStmt) && (slot = my_slot()) != NULL)
	{
		if (!IsA(pstmt->utilityStmt, TransactionStmt))
			slot->dropping = lg_proc_lxid(MyProc);
		commit_begins(slot);
	}
	if (next_process_utility)
		next_process_utility(pstmt, query_string, read_only_tree, context, params,
							 environment, dest, completion);
	else
		standard_ProcessUtility(pstmt, query_string, read_only_tree, context, params,
								environment, dest, completion);
	if (context == PROCESS_UTILITY_TOPLEVEL)
		forget_statement();
	watch_statements();
}

/* Install all of the above.  Called once, in the postmaster. */
void
lg_victim_install(void)
{
	next_emit_log = emit_log_hook;
	emit_log_hook = emit_log;
	next_process_utility = ProcessUtility_hook;
	ProcessUtility_hook = process_utility;
	RegisterXactCallback(transaction_event, NULL);
	lg_rollback_install();
	lg_explain_install();
}
