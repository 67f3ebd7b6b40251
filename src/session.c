/*-------------------------------------------------------------------------
 *
 * session.c
 *		Reads PGPROC and backend status into plain structs.
 *
 * Everything here is read in place and without a lock, except where a
 * function says otherwise.  A PGPROC is never unmapped; a field read while
 * its owner changes it is either the old value or the new.  No signal is sent on
 * the strength of this alone: see proof.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <unistd.h>

#include "access/transam.h"
#include "common/ip.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "postmaster/bgworker.h"
#include "replication/syncrep.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "clientio.h"
#include "clock.h"
#include "compat.h"
#include "layout.h"
#include "session.h"
#include "shared.h"
#include "types.h"

/* Give up on a status that its owner keeps changing while it is read. */
#define MAX_STATUS_READS	1000

/* To pass over fewer PGPROCs than this costs less than to find the live ones. */
#define MANY_PROCS		500

/* See lg_idle_since(). */
#define DISTURBED_LOOK		(20 * LG_NANOS_PER_MS)
#define DISTURBED_LIMITS	10

/*
 * List the PGPROCs of all processes that can wait for a lock, prepared
 * transactions aside: those that are connected, and the auxiliary ones.
 * live->procno has room for one per PGPROC.
 *
 * If there are many PGPROCs, takes ProcArrayLock, shared, if it is to be had
 * at once.  Otherwise these are all PGPROCs there are.
 */
void
lg_live_procs(LgLive *live)
{
	int			nprocs = ProcGlobal->allProcCount;
	LgProcArray *array = nprocs >= MANY_PROCS ? lg_proc_array() : NULL;

	if (array == NULL || !LWLockConditionalAcquire(ProcArrayLock, LW_SHARED))
	{
		if (live->n != nprocs)
			for (int procno = 0; procno < nprocs; procno++)
				live->procno[procno] = procno;
		live->n = nprocs;
		return;
	}
	live->n = 0;
	for (int i = 0; i < array->numProcs; i++)
		if (array->pgprocnos[i] < MaxBackends)
			live->procno[live->n++] = array->pgprocnos[i];
	LWLockRelease(ProcArrayLock);

	for (int procno = MaxBackends; procno < nprocs; procno++)
		live->procno[live->n++] = procno;
}

/*
 * A process's entry in the backend status array, or NULL if it has none.
 * The array is private to backend_status.c, but this process's own entry, which is
 * public, tells where it begins.
 */
static volatile PgBackendStatus *
lg_status_entry(PGPROC *proc)
{
	PgBackendStatus *base;
	int			index = lg_status_index(proc);

	if (MyBEEntry == NULL || MyProc == NULL)
		return NULL;
	base = MyBEEntry - lg_status_index(MyProc);

	if (!LG_STATUS_BY_PROC_NUMBER && lg_proc_number(proc) >= MaxBackends)
	{
		for (int i = 0; i < NUM_AUXILIARY_PROCS; i++)
			if (proc->pid != 0 && base[MaxBackends + i].st_procpid == proc->pid)
				return &base[MaxBackends + i];
		return NULL;
	}
	if (index < 0 || index >= MaxBackends + NUM_AUXILIARY_PROCS)
		return NULL;
	return &base[index];
}

/*
 * True if the session is past the point where its transaction could still be
 * undone, or waits for a synchronous standby: a cancel would make the client
 * believe that a commit failed, or that it is replicated when it is not.
 * "lxid" is that of its transaction, read before: by the time that it is
 * looked up again here, a session that has committed may have cleared it.
 */
static bool
is_committing(PGPROC *proc, LocalTransactionId lxid)
{
	LgSlot	   *slot = lg_slot(lg_proc_number(proc));

	if (((volatile PGPROC *) proc)->syncRepState != SYNC_REP_NOT_WAITING)
		return true;
	return slot != NULL && LocalTransactionIdIsValid(lxid) &&
		slot->pid == proc->pid && slot->committing == lxid;
}

/* What kind of process has that type in its status? */
static LgKind
kind_of(const LgSession *session, BackendType type)
{
	switch (type)
	{
		case B_BACKEND:
			return LG_KIND_CLIENT;
		case B_AUTOVAC_WORKER:
			return LG_KIND_AUTOVACUUM;
		case B_WAL_SENDER:
			return LG_KIND_WALSENDER;
		case B_STARTUP:
			return LG_KIND_STARTUP;
		case B_BG_WORKER:
			return session->leader != session->procno ?
				LG_KIND_PARALLEL : LG_KIND_BACKGROUND;
		default:
			return LG_KIND_OTHER;
	}
}

/*
 * Read what a process reports in its backend status, if it has one: all of one
 * moment.
 */
static void
read_status(LgSession *session)
{
	volatile PgBackendStatus *entry =
		lg_status_entry(&ProcGlobal->allProcs[session->procno]);

	for (int reads = 0; entry != NULL && reads < MAX_STATUS_READS; reads++)
	{
		int			before;
		int			after;
		int			status_pid;
		BackendType type;
		uint64		progress = 0;

		pgstat_begin_read_activity(entry, before);
		status_pid = entry->st_procpid;
		type = entry->st_backendType;
		session->state = entry->st_state;
		session->session_start = entry->st_proc_start_timestamp;
		session->xact_start = entry->st_xact_start_timestamp;
		session->stmt_start = entry->st_activity_start_timestamp;
		session->state_start = entry->st_state_start_timestamp;
		if (entry->st_progress_command != PROGRESS_COMMAND_INVALID)
			for (int i = 0; i < PGSTAT_NUM_PROGRESS_PARAM; i++)
				progress = progress * 31 + (uint64) entry->st_progress_param[i];
		session->progress = progress;
		session->query_id = (int64) entry->st_query_id;
		pgstat_end_read_activity(entry, after);

		if (!pgstat_read_activity_complete(before, after))
			continue;

		if (status_pid != session->pid ||
			(session->procno < MaxBackends && lg_state_is_starting(session->state)))
			break;
		session->has_status = true;
		session->kind = kind_of(session, type);
		break;
	}
	if (session->has_status)
		return;
	session->state = STATE_UNDEFINED;
	session->session_start = 0;
	session->xact_start = session->stmt_start = session->state_start = 0;
}

/*
 * The procno of the process with that pid, or -1.  Takes no lock: it may have
 * ended by now.
 */
int
lg_find_process(int pid)
{
	for (int procno = 0; pid > 0 && procno < (int) ProcGlobal->allProcCount; procno++)
		if (lg_proc_pid((volatile PGPROC *) &ProcGlobal->allProcs[procno]) == pid)
			return procno;
	return -1;
}

/*
 * Read one process.  A client that has no status yet is one that logs in.
 */
void
lg_read_session(int procno, LgSession *session)
{
	PGPROC	   *proc = &ProcGlobal->allProcs[procno];
	volatile PGPROC *vproc = proc;

	memset(session, 0, sizeof(*session));
	session->procno = procno;
	session->leader = procno;
	session->pid = lg_proc_pid(vproc);
	session->lxid = lg_proc_lxid(vproc);
	session->xid = vproc->xid;
	session->xmin = vproc->xmin;
	/* Vacuum does not wait for a VACUUM; see ComputeXidHorizons(). */
	if (vproc->statusFlags & PROC_IN_VACUUM)
		session->xid = session->xmin = InvalidTransactionId;
	session->datid = vproc->databaseId;
	session->userid = vproc->roleId;
	session->wait_event = vproc->wait_event_info;
	session->waiting = vproc->waitLock != NULL;

	if (procno >= MaxBackends + NUM_AUXILIARY_PROCS)
	{
		session->kind = TransactionIdIsValid(session->xid) ?
			LG_KIND_PREPARED : LG_KIND_NONE;
		return;
	}
	if (session->pid == 0)
	{
		session->kind = LG_KIND_NONE;
		return;
	}

	session->leader = lg_leader_number(vproc);
	session->committing = is_committing(proc, session->lxid);
	session->dropping = session->committing && procno < MaxBackends &&
		lg_slot(procno)->dropping == session->lxid;
	session->kind = procno >= MaxBackends ? LG_KIND_OTHER :
		lg_proc_is_regular(vproc) ? LG_KIND_STARTING : LG_KIND_BACKGROUND;

	read_status(session);
	if (session->has_status && session->state == STATE_DISABLED)
	{
		/* It reports nothing, but publishes this; see victim.c. */
		LgSlot	   *slot = lg_slot(procno);

		if (slot != NULL && slot->pid == session->pid)
			session->stmt_start = slot->statement_start;
	}
}

/* The last character of a text that was cut may be half a one of UTF-8: drop it. */
void
lg_drop_half_character(char *string)
{
	int			len = strlen(string);
	int			last = len - 1;

	while (last > 0 && len - last < 4 && (string[last] & 0xC0) == 0x80)
		last--;
	if (last >= 0 && pg_utf_mblen((unsigned char *) string + last) > len - last)
		string[last] = '\0';
}

/*
 * A query was cut to size - 1 bytes, and "end" has its last bytes.  If a comment
 * stands there, as tools write them that say where a query comes from, the end of what
 * was kept gives way to "..." and that comment, or its last LG_COMMENT_SIZE bytes.
 * Nothing is parsed: what looks like a comment is taken for one.
 */
static void
keep_comment(char *query, size_t size, char *end)
{
	size_t		len = strlen(end);
	char	   *comment = NULL;
	char	   *p;

	while (len > 0 && strchr("; \t\r\n", end[len - 1]) != NULL)
		len--;
	if (size < 2 * LG_COMMENT_SIZE || len < 4 || memcmp(end + len - 2, "*/", 2) != 0)
		return;
	end[len] = '\0';
	p = end + (len > LG_COMMENT_SIZE ? len - LG_COMMENT_SIZE : 0);
	for (char *next = p; (next = strstr(next, "/*")) != NULL; next++)
		comment = next;
	if (comment == NULL)
	{
		/* It is longer; do not begin in the middle of a character. */
		comment = p;
		while (comment < p + 3 && ((unsigned char) *comment & 0xC0) == 0x80)
			comment++;
	}
	p = query + size - 1 - strlen(comment) - 3;
	*p = '\0';
	lg_drop_half_character(query);
	strcat(strcat(query, "..."), comment);
}

/*
 * Copy a session's query, application name (NAMEDATALEN) and client address
 * (LG_ADDR_SIZE) as raw bytes; returns false, with empty strings, if the
 * session is gone or has no status.  Any of them may be NULL.  Of a query that is
 * longer, the first part is copied, and a comment at its end.
 */
bool
lg_read_texts(const LgSession *session, char *query, size_t query_size,
			  char *application_name, char *client_addr)
{
	PGPROC	   *proc = &ProcGlobal->allProcs[session->procno];
	volatile PgBackendStatus *entry;
	SockAddr	addr;
	char		end[LG_COMMENT_SIZE + 50];	/* some more for what follows it */
	size_t		len = 0;
	bool		done = false;

	if (query)
		query[0] = '\0';
	if (application_name)
		application_name[0] = '\0';
	if (client_addr)
		client_addr[0] = '\0';
	if (session->kind == LG_KIND_PREPARED || !session->has_status)
		return false;

	entry = lg_status_entry(proc);
	for (int reads = 0; entry != NULL && !done && reads < MAX_STATUS_READS; reads++)
	{
		int			before;
		int			after;
		bool		same;

		pgstat_begin_read_activity(entry, before);
		same = entry->st_procpid == session->pid &&
			entry->st_proc_start_timestamp == session->session_start;
		if (same)
		{
			/* The texts are NUL-terminated in their last byte at all times. */
			if (query)
			{
				char	   *raw = (char *) entry->st_activity_raw;

				len = strlcpy(query, raw, Min(query_size, (size_t) pgstat_track_activity_query_size));
				strlcpy(end, raw + (len >= sizeof(end) ? len - sizeof(end) + 1 : 0), sizeof(end));
			}
			if (application_name)
				strlcpy(application_name, (char *) entry->st_appname, NAMEDATALEN);
			if (client_addr)
				memcpy(&addr, unvolatize(SockAddr *, &entry->st_clientaddr),
					   sizeof(addr));
		}
		pgstat_end_read_activity(entry, after);

		if (pgstat_read_activity_complete(before, after))
		{
			if (!same)
				break;
			done = true;
		}
	}
	if (!done)
	{
		if (query)
			query[0] = '\0';
		if (application_name)
			application_name[0] = '\0';
		return false;
	}
	if (query && strlen(query) + 1 ==
		Min(query_size, (size_t) pgstat_track_activity_query_size))
		lg_drop_half_character(query);
	if (query && len >= query_size)
		keep_comment(query, query_size, end);

	if (client_addr &&
		(addr.addr.ss_family == AF_INET || addr.addr.ss_family == AF_INET6))
	{
		if (pg_getnameinfo_all(&addr.addr, addr.salen, client_addr, LG_ADDR_SIZE,
							   NULL, 0, NI_NUMERICHOST | NI_NUMERICSERV) != 0)
			client_addr[0] = '\0';
		/* The type inet knows no zones. */
		clean_ipv6_addr(addr.addr.ss_family, client_addr);
	}
	return true;
}

/*
 * Since when, in transaction ids, has a transaction held a snapshot?  One of
 * READ COMMITTED takes a new one with each statement; seen with one between two
 * statements, it has a cursor open, or is of a higher isolation level.
 */
static void
track_horizon(LgTrack *track, const LgSession *session)
{
	bool		snapshot = TransactionIdIsValid(session->xmin);

	if (lg_state_is_idle(session))
		track->keeps_snapshot = snapshot;
	if (!snapshot)
		track->held_next_xid = InvalidTransactionId;
	else if (!TransactionIdIsValid(track->held_next_xid) ||
			 track->held_xmin != session->xmin ||
			 (!track->keeps_snapshot && track->held_stmt != session->stmt_start))
	{
		track->held_next_xid = ReadNextTransactionId();
		track->held_xmin = session->xmin;
		track->held_stmt = session->stmt_start;
	}
}

/*
 * Bring what is remembered of a process up to date: forget another process,
 * another transaction.  With want_next_xid, note where the transaction ids
 * stood when its snapshot was first seen (takes XidGenLock, shared).
 */
void
lg_track_session(LgTrack *track, const LgSession *session,
				 const LgClock *clock, bool want_next_xid)
{
	if (track->pid != session->pid ||
		(session->has_status && track->session_start != 0 &&
		 track->session_start != session->session_start))
	{
		memset(track, 0, sizeof(*track));
		track->pid = session->pid;
	}
	if (session->has_status)
		track->session_start = session->session_start;
	if (track->lxid != session->lxid)
	{
		track->lxid = session->lxid;
		track->xact_seen = 0;
		track->held_next_xid = InvalidTransactionId;
		track->keeps_snapshot = false;
	}
	if (track->xact_seen == 0)
		track->xact_seen = lg_now();
	if (want_next_xid)
		track_horizon(track, session);
}

/* Idle, as it reports itself. */
bool
lg_state_is_idle(const LgSession *session)
{
	return session->state == STATE_IDLE ||
		session->state == STATE_IDLEINTRANSACTION ||
		session->state == STATE_IDLEINTRANSACTION_ABORTED;
}

/*
 * Has it logged in, but not come to its first statement?  It runs login event
 * triggers then (PostgreSQL 17 and later), and a cancel ends the session.
 */
bool
lg_runs_login_trigger(const LgSession *session)
{
	return session->kind == LG_KIND_CLIENT && session->state == STATE_UNDEFINED;
}

/*
 * At the end of its transaction: a session clears its local transaction id
 * shortly before it releases its locks.  It is then no longer in that
 * transaction, but still holds its locks.  (Idle with session-level locks, or
 * after a failed transaction, a session has no transaction id either; then it
 * waits for its client.)
 */
bool
lg_in_transit(const LgSession *session)
{
	if (!session->has_status || LocalTransactionIdIsValid(session->lxid) ||
		lg_waits_for_client(session))
		return false;
	return session->state == STATE_RUNNING || session->state == STATE_FASTPATH ||
		session->state == STATE_IDLEINTRANSACTION ||
		session->state == STATE_DISABLED;
}

/* Waits for its client to send or to receive, whatever its state. */
bool
lg_waits_for_client(const LgSession *session)
{
	return session->wait_event == WAIT_EVENT_CLIENT_READ ||
		session->wait_event == WAIT_EVENT_CLIENT_WRITE;
}

/* Can a cancel reach a session?  Not one that waits for its client. */
bool
lg_cancel_reaches(const LgSession *session)
{
	return !lg_state_is_idle(session) && !lg_waits_for_client(session);
}

/*
 * Can it be asked to roll its transaction back?  Only while it is idle in one.  (Of a
 * session that does not report its state, this is a guess: it may be in the
 * middle of a statement that waits for its client.  It knows that itself, and
 * does nothing then.)  After an error without a savepoint, no transaction is left.
 */
bool
lg_rollback_reaches(const LgSession *session)
{
	return session->kind == LG_KIND_CLIENT && LocalTransactionIdIsValid(session->lxid) &&
		(session->state == STATE_IDLEINTRANSACTION ||
		 session->state == STATE_IDLEINTRANSACTION_ABORTED ||
		 (session->state == STATE_DISABLED &&
		  session->wait_event == WAIT_EVENT_CLIENT_READ));
}

/*
 * What has gone between a session and its client up to now; false if that
 * cannot be told.
 */
static bool
read_traffic(const LgSession *session, LgTraffic *traffic)
{
	LgSlot	   *slot = lg_slot(session->procno);
	LgSocket	client;

	if (slot == NULL)
		return false;
	client = slot->client;
	pg_read_barrier();
	if (slot->pid != session->pid || slot->session_start != session->session_start ||
		!lg_traffic_read(session->pid, &client, traffic))
		return false;

	/*
	 * Outside a transaction, notifications are passed on to the client: what
	 * it takes can be another session's doing.
	 */
	if (!LocalTransactionIdIsValid(session->lxid))
		traffic->taken = traffic->read = 0;
	return true;
}

/*
 * That cannot be told: the session counts as not idle, and is not asked about
 * again soon, as the kernel may look for a module each time.  The worker says
 * so once.
 */
static void
traffic_is_unknown(LgTrack *track, const LgSession *session, const LgClock *clock)
{
	static bool reported = false;
	LgSession	now;

	track->stalled = 0;
	track->stall_unknown = clock->now;
	if (reported || MyBgworkerEntry == NULL)
		return;

	/* Unless it was just about to end. */
	lg_read_session(session->procno, &now);
	if (now.pid != session->pid || !lg_waits_for_client(&now))
		return;
	reported = true;
	ereport(LOG,
			(errmsg("lockguard: the operating system does not report what the client of process %d has received and sent",
					session->pid),
			 errdetail("Active sessions that wait for such a client are not treated as idle.")));
}

/*
 * Since when a session has been idle (monotonic ns), or LG_NEVER if it is not.
 *
 * A session that waits for its client counts if the client has taken and sent
 * nothing for "limit" ns.  The wait event alone cannot tell: a dump that is
 * read slowly shows the same event at every look.  So the operating system is
 * asked, but only twice per limit: when the session is first seen to wait, and
 * when it would be over the limit.
 *
 * Where others wake the process, it may not be possible to tell of the time in
 * which they do; see lg_traffic_compare().  Such time does not count, and
 * neither does time when the process is seen not to wait.  The process is then
 * looked at every 20 ms, and has to have stood still for ten limits of the time
 * that counts: a client that is slow, but not as slow as the limit, can hide
 * what it takes in the time between, but not every time.
 */
int64
lg_idle_since(LgTrack *track, const LgSession *session, const LgClock *clock,
			  int64 limit)
{
	LgTraffic	traffic;
	bool		same;

	if (session->has_status && lg_state_is_idle(session))
	{
		track->stalled = 0;
		return lg_moment(clock, &track->state, session->state_start);
	}

	same = track->stalled != 0 && session->has_status &&
		track->stall_lxid == session->lxid &&
		track->stall_stmt == session->stmt_start &&
		track->stall_progress == session->progress;

	if (!session->has_status || !lg_waits_for_client(session))
	{
		if (same)
			track->stalled = Min(track->stalled + clock->now - track->stall_seen, clock->now);
		else
			track->stalled = 0;
		track->stall_seen = clock->now;
		return LG_NEVER;
	}

	if (track->stall_unknown != 0 &&
		clock->now - track->stall_unknown < LG_NANOS_PER_SEC)
		return LG_NEVER;

	if (same && track->stall_event == session->wait_event)
	{
		LgProgress	progress;

		track->stall_seen = clock->now;
		if (!track->stall_disturbed && clock->now - track->stalled < limit)
			return track->stalled;
		if (!read_traffic(session, &traffic))
		{
			traffic_is_unknown(track, session, clock);
			return LG_NEVER;
		}
		progress = lg_traffic_compare(&track->stall_traffic, &traffic);
		if (progress != LG_MOVED)
		{
			if (progress == LG_DISTURBED)
			{
				track->stall_disturbed = true;
				track->stalled = Min(track->stalled + clock->now - track->stall_read,
									 clock->now);
			}
			if (!traffic.awake)
			{
				track->stall_read = clock->now;
				track->stall_traffic = traffic;
			}
			if (clock->now - track->stalled >=
				(track->stall_disturbed ? limit * DISTURBED_LIMITS : limit))
				return track->stalled;

			/* Not yet: have it looked at again soon. */
			return clock->now - limit + DISTURBED_LOOK;
		}
	}
	else if (!read_traffic(session, &traffic))
	{
		traffic_is_unknown(track, session, clock);
		return LG_NEVER;
	}

	/* Not stalled, or first seen: begin anew, unless it is at work just now. */
	if (traffic.awake)
	{
		track->stalled = 0;
		return LG_NEVER;
	}
	track->stall_traffic = traffic;
	track->stall_disturbed = false;
	track->stall_event = session->wait_event;
	track->stall_lxid = session->lxid;
	track->stall_stmt = session->stmt_start;
	track->stall_progress = session->progress;
	track->stall_seen = clock->now;
	track->stalled = track->stall_read = lg_now();
	return track->stalled;
}

/*
 * Has the client of a session, which was taken for idle at this look because
 * of that client, taken or sent anything since?
 */
bool
lg_client_has_moved(const LgTrack *track, const LgSession *session)
{
	LgTraffic	traffic;

	return !read_traffic(session, &traffic) ||
		lg_traffic_compare(&track->stall_traffic, &traffic) == LG_MOVED;
}

/*
 * Do others work on a session's behalf, so that it is not idle although it
 * waits for its client?  So they do if it has exported a snapshot in this
 * transaction: the leader of a parallel pg_dump holds the locks by which its
 * workers dump one state of the tables.
 *
 * Asks the file system, once per transaction, or once for each time that the
 * session is idle.  Where that gives no answer, it is taken for not idle.
 */
bool
lg_works_for_others(LgTrack *track, const LgSession *session)
{
	PGPROC	   *proc = &ProcGlobal->allProcs[session->procno];
	char		path[MAXPGPATH];

	if (!LocalTransactionIdIsValid(session->lxid))
		return false;
	if (track->exported_lxid == session->lxid)
		return true;
	if (track->unexported_lxid == session->lxid && lg_state_is_idle(session) &&
		track->unexported_state == session->state_start &&
		track->unexported_stmt == session->stmt_start)
		return false;

	/* The first one, which stays as long as the transaction. */
	snprintf(path, sizeof(path), "pg_snapshots/%08X-%08X-1",
			 (unsigned int) lg_vxid_number(proc), (unsigned int) session->lxid);
	if (access(path, F_OK) == 0)
	{
		track->exported_lxid = session->lxid;
		return true;
	}
	if (errno != ENOENT)
		return true;

	/* As long as it is idle, it does not export one. */
	track->unexported_lxid = session->lxid;
	track->unexported_state = session->state_start;
	track->unexported_stmt = session->stmt_start;
	return false;
}

/*
 * When a session's transaction began (monotonic ns), or LG_NEVER if it has
 * none.  An aborted transaction no longer has a start.  Of a session that
 * does not report its activity, the time when it was first seen.
 */
int64
lg_transaction_start(LgTrack *track, const LgSession *session,
					 const LgClock *clock)
{
	if (!session->has_status || !LocalTransactionIdIsValid(session->lxid))
		return LG_NEVER;
	if (session->state == STATE_DISABLED)
		return track->xact_seen;
	if (session->xact_start == 0)
		return LG_NEVER;
	return lg_moment(clock, &track->xact, session->xact_start);
}

/*
 * When a session's running statement began (monotonic ns), or LG_NEVER.
 */
int64
lg_statement_start(LgTrack *track, const LgSession *session,
				   const LgClock *clock)
{
	if (!session->has_status)
		return LG_NEVER;

	if (session->state == STATE_RUNNING || session->state == STATE_FASTPATH)
		return session->stmt_start == 0 ? LG_NEVER :
			lg_moment(clock, &track->stmt, session->stmt_start);

	/*
	 * A session that reports nothing is taken for running only from the
	 * moment when it is first seen at work on a statement.
	 */
	if (session->state == STATE_DISABLED)
	{
		TimestampTz start = session->stmt_start;

		if (start == 0 || session->wait_event == WAIT_EVENT_CLIENT_READ)
		{
			track->quiet_stmt = 0;
			return LG_NEVER;
		}
		if (track->quiet_stmt != start)
		{
			track->quiet_stmt = start;
			track->quiet_stmt_seen = lg_now();
		}
		return track->quiet_stmt_seen;
	}
	return LG_NEVER;
}

/*
 * How many entries of the shared lock table a process holds, counted up to
 * limit + 1.  Takes the partition locks one after the other, shared, only
 * where the process has any.
 */
int
lg_count_locks(int procno, int limit)
{
	PGPROC	   *proc = &ProcGlobal->allProcs[procno];
	int			count = 0;
	int64		longest = 0;

	for (int partition = 0; partition < NUM_LOCK_PARTITIONS; partition++)
	{
		PROCLOCK   *proclock;
		int64		locked;

		if (lg_holds_none(proc, partition))
			continue;
		LWLockAcquire(LockHashPartitionLockByIndex(partition), LW_SHARED);
		locked = lg_now();
		for (proclock = lg_first_held(proc, partition);
			 proclock != NULL && count <= limit;
			 proclock = lg_next_held(proc, partition, proclock))
			if (proclock->holdMask != 0)
				count++;
		locked = lg_now() - locked;
		LWLockRelease(LockHashPartitionLockByIndex(partition));
		longest = Max(longest, locked);
		if (count > limit)
			break;
	}
	lg_note_partition_lock_time(longest);
	return count;
}

/* How many slots of its PGPROC a process has locks in; an unlocked look. */
static int
count_fast_locks(PGPROC *proc)
{
	int			count = 0;

	for (int group = 0; group < LG_FAST_GROUPS; group++)
	{
		uint64		bits = lg_fast_bits(proc, group);

		for (; bits != 0; bits >>= 3)
			count += (bits & 7) != 0;
	}
	return count;
}

/*
 * The locks on relations that a process holds, one twice if it is moved
 * meanwhile; NULL if it has none.  Allocated in the current context, *n tells how
 * many.  Takes the process's fpInfoLock and then the partition locks one after
 * the other, shared, only where it has any.
 *
 * A session that wants such a lock moves it to the shared lock table: so that is
 * read last.  If more locks are taken meanwhile, some may be left out.
 */
LgTableLock *
lg_table_locks(int procno, int *n)
{
	PGPROC	   *proc = &ProcGlobal->allProcs[procno];
	int			fast = count_fast_locks(proc);
	int			max = lg_count_locks(procno, INT_MAX / 2 - 1) + 2 * fast;
	LgTableLock *locks;
	int64		longest = 0;

	*n = 0;
	if (max == 0)
		return NULL;
	locks = MemoryContextAllocHuge(CurrentMemoryContext, max * sizeof(LgTableLock));

	if (fast > 0)
	{
		LWLockAcquire(&proc->fpInfoLock, LW_SHARED);
		for (int group = 0; group < LG_FAST_GROUPS; group++)
		{
			uint64		bits = lg_fast_bits(proc, group);

			for (int slot = 0; bits != 0 && *n < max; slot++, bits >>= 3)
			{
				if ((bits & 7) == 0)
					continue;
				locks[*n].datid = proc->databaseId;
				locks[*n].relation = proc->fpRelId[group * LG_FAST_SLOTS + slot];
				locks[(*n)++].mode = AccessShareLock + pg_leftmost_one_pos32(bits & 7);
			}
		}
		LWLockRelease(&proc->fpInfoLock);
	}

	for (int partition = 0; partition < NUM_LOCK_PARTITIONS && *n < max; partition++)
	{
		int64		locked;

		if (lg_holds_none(proc, partition))
			continue;
		LWLockAcquire(LockHashPartitionLockByIndex(partition), LW_SHARED);
		locked = lg_now();
		for (PROCLOCK *proclock = lg_first_held(proc, partition);
			 proclock != NULL && *n < max;
			 proclock = lg_next_held(proc, partition, proclock))
		{
			const LOCKTAG *tag = &proclock->tag.myLock->tag;

			if (tag->locktag_type != LOCKTAG_RELATION || proclock->holdMask == 0)
				continue;
			locks[*n].datid = tag->locktag_field1;
			locks[*n].relation = tag->locktag_field2;
			locks[(*n)++].mode = pg_leftmost_one_pos32((uint32) proclock->holdMask);
		}
		locked = lg_now() - locked;
		LWLockRelease(LockHashPartitionLockByIndex(partition));
		longest = Max(longest, locked);
	}
	lg_note_partition_lock_time(longest);
	return locks;
}
