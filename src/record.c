/*-------------------------------------------------------------------------
 *
 * record.c
 *		What happened and what lockguard did, in shared memory.
 *
 * The last max_history actions, and as many incidents and deadlocks, are kept in
 * three rings; the oldest makes room for the newest.  A lock of its own protects all
 * of it; it is held for the copy of one row at a time.  That something has changed is
 * told to history.c, which keeps a copy on disk.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "storage/latch.h"
#include "storage/proc.h"

#include "record.h"
#include "settings.h"
#include "shared.h"
#include "types.h"

/* How far back one is looked for that another worker may have recorded. */
#define LATEST_DEADLOCKS	32

typedef struct LgRecord
{
	LWLock	   *lock;
	pg_atomic_uint64 recorded;	/* actions, since shared memory was set up */
	pg_atomic_uint32 dirty;		/* changed since it was last written */
	pg_atomic_uint32 writer;	/* procno of its writer; or PG_UINT32_MAX */
	int64		first_action_id;
	int64		next_action_id;
	int64		first_incident_id;
	int64		next_incident_id;
	int64		first_deadlock_id;
	int64		next_deadlock_id;
	int			ncontention;
	LgContention contention[LG_MAX_CONTENTION];
} LgRecord;

static LgRecord *record = NULL;
static LgAction *actions = NULL;
static LgIncident *incidents = NULL;
static LgDeadlock *deadlocks = NULL;

/* Shared memory wanted for max_history rows of each kind. */
Size
lg_record_shmem_size(void)
{
	Size		size = MAXALIGN(sizeof(LgRecord));

	size = add_size(size, mul_size(lg_max_history, MAXALIGN(sizeof(LgAction))));
	size = add_size(size, mul_size(lg_max_history, MAXALIGN(sizeof(LgIncident))));
	return add_size(size, mul_size(lg_max_history, MAXALIGN(sizeof(LgDeadlock))));
}

/* Attach to it, and with "init" make it empty first. */
void
lg_record_shmem_init(void *memory, LWLock *lock, bool init)
{
	record = memory;
	actions = (LgAction *) ((char *) memory + MAXALIGN(sizeof(LgRecord)));
	incidents = (LgIncident *) ((char *) actions +
								lg_max_history * MAXALIGN(sizeof(LgAction)));
	deadlocks = (LgDeadlock *) ((char *) incidents +
								lg_max_history * MAXALIGN(sizeof(LgIncident)));
	if (!init)
		return;
	memset(memory, 0, lg_record_shmem_size());
	record->lock = lock;
	pg_atomic_init_u64(&record->recorded, 0);
	pg_atomic_init_u32(&record->dirty, 0);
	pg_atomic_init_u32(&record->writer, PG_UINT32_MAX);
	record->first_action_id = record->next_action_id = 1;
	record->first_incident_id = record->next_incident_id = 1;
	record->first_deadlock_id = record->next_deadlock_id = 1;
}

/* How many actions have been recorded since shared memory was set up. */
uint64
lg_actions_recorded(void)
{
	return pg_atomic_read_u64(&record->recorded);
}

/* Something has changed: tell the writer, if it has nothing to do as yet. */
void
lg_record_changed(void)
{
	if (pg_atomic_exchange_u32(&record->dirty, 1) == 0)
	{
		uint32		writer = pg_atomic_read_u32(&record->writer);

		if (writer != PG_UINT32_MAX)
			SetLatch(&ProcGlobal->allProcs[writer].procLatch);
	}
}

/* From now on, set the latch of this process when something changes. */
void
lg_record_watch(int procno)
{
	pg_atomic_write_u32(&record->writer, procno);
}

/* Has anything changed since lg_record_clean()? */
bool
lg_record_is_dirty(void)
{
	return pg_atomic_read_u32(&record->dirty) != 0;
}

/* Called before the record is read to be written. */
void
lg_record_clean(void)
{
	pg_atomic_exchange_u32(&record->dirty, 0);
}

/* Where a row is or was; the caller checks that it still is that row. */
static LgAction *
action_row(int64 action_id)
{
	return &actions[action_id % lg_max_history];
}

static LgIncident *
incident_row(int64 incident_id)
{
	return &incidents[incident_id % lg_max_history];
}

static LgDeadlock *
deadlock_row(int64 deadlock_id)
{
	return &deadlocks[deadlock_id % lg_max_history];
}

/* Count an outcome in the statistics.  Takes LgShared->lock. */
static void
count_result(const LgAction *action, LgResult result)
{
	LgStats    *stats = &lg_shared->stats;

	LWLockAcquire(lg_shared->lock, LW_EXCLUSIVE);
	switch (result)
	{
		case LG_PENDING:
			if (action->action == LG_DO_CANCEL)
				stats->cancels++;
			else if (action->action == LG_DO_TERMINATE)
				stats->terminations++;
			else if (action->action == LG_DO_ROLLBACK)
				stats->rollbacks++;
			break;
		case LG_SELF_RESOLVED:
			stats->self_resolved++;
			break;
		case LG_UNRESPONSIVE:
			stats->unresponsive++;
			break;
		case LG_SUPPRESSED:
			stats->suppressed++;
			break;
		case LG_LOGGED:
			stats->logged++;
			break;
		default:
			break;
	}
	LWLockRelease(lg_shared->lock);
}

/*
 * Add a row.  Its action_id is filled in and returned.  Takes the lock.
 */
int64
lg_record_action(LgAction *action)
{
	LWLockAcquire(record->lock, LW_EXCLUSIVE);
	action->action_id = record->next_action_id++;
	action->open.action_id = action->action_id;
	record->first_action_id = Max(record->first_action_id,
								  record->next_action_id - lg_max_history);
	*action_row(action->action_id) = *action;
	pg_atomic_fetch_add_u64(&record->recorded, 1);
	LWLockRelease(record->lock);
	lg_record_changed();
	count_result(action, action->result);

	LWLockAcquire(lg_shared->lock, LW_EXCLUSIVE);
	lg_shared->stats.actions[action->limit + 1]
		[action->result == LG_PENDING ? action->action : LG_DO_LOG]++;
	LWLockRelease(lg_shared->lock);
	return action->action_id;
}

/*
 * Change the result of a row, if it is still kept.  released_after is in us,
 * or -1.  Takes the lock.
 */
void
lg_record_result(int64 action_id, LgResult result, int64 released_after)
{
	LgAction   *action = action_row(action_id);

	LWLockAcquire(record->lock, LW_EXCLUSIVE);
	if (action_id >= record->first_action_id && action->action_id == action_id)
	{
		action->result = result;
		action->open.unresponsive = result == LG_UNRESPONSIVE;
		if (result == LG_PENDING)
			action->reason[0] = '\0';
		if (released_after >= 0)
			action->released_after = released_after;
	}
	LWLockRelease(record->lock);
	lg_record_changed();
	if (result != LG_PENDING)
		count_result(action, result);
}

/*
 * Say in the row of a lock request that lets others pass how many have passed, and
 * in whose incident it is (0 = none).  Takes the lock.
 */
void
lg_record_yield(int64 action_id, int64 let_pass, int64 incident_id)
{
	LgAction   *action = action_row(action_id);

	LWLockAcquire(record->lock, LW_EXCLUSIVE);
	if (action_id >= record->first_action_id && action->action_id == action_id)
	{
		action->blocked_sessions = (int) Min(let_pass, INT_MAX);
		if (action->incident_id == 0)
			action->incident_id = incident_id;
	}
	LWLockRelease(record->lock);
	lg_record_changed();
}

/* Say in a row why nothing was done after all.  Takes the lock. */
void
lg_record_reason(int64 action_id, const char *reason)
{
	LgAction   *action = action_row(action_id);

	LWLockAcquire(record->lock, LW_EXCLUSIVE);
	if (action_id >= record->first_action_id && action->action_id == action_id)
		strlcpy(action->reason, reason, sizeof(action->reason));
	LWLockRelease(record->lock);
	lg_record_changed();
}

/*
 * Say in a row that the session has begun to roll back: in its slot this shows only
 * until it is asked again.  Takes the lock.
 */
void
lg_record_obeyed(int64 action_id)
{
	LgAction   *action = action_row(action_id);

	LWLockAcquire(record->lock, LW_EXCLUSIVE);
	if (action_id >= record->first_action_id && action->action_id == action_id)
		action->open.obeyed = true;
	LWLockRelease(record->lock);
}

/* Copy a row; false if it is no longer kept.  Takes the lock, shared. */
bool
lg_fetch_action(int64 action_id, LgAction *action)
{
	bool		found;

	LWLockAcquire(record->lock, LW_SHARED);
	found = action_id >= record->first_action_id &&
		action_id < record->next_action_id &&
		action_row(action_id)->action_id == action_id;
	if (found)
		*action = *action_row(action_id);
	LWLockRelease(record->lock);
	return found;
}

/* The ids kept: from *first to before *next.  Takes the lock, shared. */
void
lg_action_range(int64 *first, int64 *next)
{
	LWLockAcquire(record->lock, LW_SHARED);
	*first = record->first_action_id;
	*next = record->next_action_id;
	LWLockRelease(record->lock);
}

/* Add a row.  Its incident_id is filled in and returned.  Takes the lock. */
int64
lg_record_incident(LgIncident *incident)
{
	LWLockAcquire(record->lock, LW_EXCLUSIVE);
	incident->incident_id = record->next_incident_id++;
	record->first_incident_id = Max(record->first_incident_id,
									record->next_incident_id - lg_max_history);
	memcpy(incident_row(incident->incident_id), incident, LG_INCIDENT_SIZE(incident));
	LWLockRelease(record->lock);
	lg_record_changed();

	LWLockAcquire(lg_shared->lock, LW_EXCLUSIVE);
	lg_shared->stats.incidents++;
	LWLockRelease(lg_shared->lock);
	return incident->incident_id;
}

/*
 * Put the present state of an incident in its row, if it is still kept; with
 * its sessions only if these have changed.  Takes the lock.
 */
void
lg_update_incident(const LgIncident *incident, bool with_arena)
{
	LgIncident *row = incident_row(incident->incident_id);

	LWLockAcquire(record->lock, LW_EXCLUSIVE);
	if (row->incident_id == incident->incident_id)
		memcpy(row, incident, with_arena ? LG_INCIDENT_SIZE(incident) :
			   offsetof(LgIncident, arena));
	LWLockRelease(record->lock);
	lg_record_changed();
}

/* Copy a row; false if it is no longer kept.  Takes the lock, shared. */
bool
lg_fetch_incident(int64 incident_id, LgIncident *incident)
{
	LgIncident *row = incident_row(incident_id);
	bool		found;

	if (incident_id <= 0)
		return false;
	LWLockAcquire(record->lock, LW_SHARED);
	found = incident_id >= record->first_incident_id &&
		incident_id < record->next_incident_id &&
		row->incident_id == incident_id;
	if (found)
		memcpy(incident, row, LG_INCIDENT_SIZE(row));
	LWLockRelease(record->lock);
	return found;
}

/* The ids kept: from *first to before *next.  Takes the lock, shared. */
void
lg_incident_range(int64 *first, int64 *next)
{
	LWLockAcquire(record->lock, LW_SHARED);
	*first = record->first_incident_id;
	*next = record->next_incident_id;
	LWLockRelease(record->lock);
}

/*
 * How many of the incidents kept are open.  The rows are read without the
 * lock: there may be a million, and a caller that asks all the time must not keep
 * others from recording.
 */
int
lg_count_open_incidents(void)
{
	int			n = 0;
	int64		first;
	int64		next;

	lg_incident_range(&first, &next);
	for (int64 id = first; id < next; id++)
	{
		volatile LgIncident *row = incident_row(id);

		if (row->incident_id == id && row->ended_at == 0)
			n++;
	}
	return n;
}

/*
 * Has a deadlock of the same statement been recorded just now?  A statement fails
 * once, but several of its parallel workers may get the error.  The caller holds
 * the lock.
 */
static bool
recorded_just_now(const LgDeadlock *deadlock)
{
	for (int64 id = record->next_deadlock_id - 1;
		 id >= Max(record->first_deadlock_id, record->next_deadlock_id - LATEST_DEADLOCKS); id--)
		if (deadlock_row(id)->pid == deadlock->pid &&
			deadlock_row(id)->stmt_start == deadlock->stmt_start)
			return true;
	return false;
}

/*
 * Add a row, and count it; of a parallel worker, only if its statement has none.
 * Its deadlock_id is filled in.  Takes the lock; called in the process that gets the
 * error, and raises none.
 */
void
lg_record_deadlock(LgDeadlock *deadlock, bool is_parallel_worker)
{
	/*
	 * It still holds its heavyweight locks.  If a process has been stopped
	 * with this lock in hand, the record is lost; the deadlock must end.
	 */
	for (int tries = 0; !LWLockConditionalAcquire(record->lock, LW_EXCLUSIVE); tries++)
	{
		if (tries == 1000)
			return;
		pg_usleep(100);
	}
	if (is_parallel_worker && recorded_just_now(deadlock))
	{
		LWLockRelease(record->lock);
		return;
	}
	deadlock->deadlock_id = record->next_deadlock_id++;
	record->first_deadlock_id = Max(record->first_deadlock_id,
									record->next_deadlock_id - lg_max_history);
	memcpy(deadlock_row(deadlock->deadlock_id), deadlock, LG_DEADLOCK_SIZE(deadlock));
	LWLockRelease(record->lock);
	lg_record_changed();
	pg_atomic_fetch_add_u64(&lg_shared->scan_stats.deadlocks, 1);
}

/* Copy a row; false if it is no longer kept.  Takes the lock, shared. */
bool
lg_fetch_deadlock(int64 deadlock_id, LgDeadlock *deadlock)
{
	LgDeadlock *row = deadlock_row(deadlock_id);
	bool		found;

	if (deadlock_id <= 0)
		return false;
	LWLockAcquire(record->lock, LW_SHARED);
	found = deadlock_id >= record->first_deadlock_id &&
		deadlock_id < record->next_deadlock_id &&
		row->deadlock_id == deadlock_id;
	if (found)
		memcpy(deadlock, row, LG_DEADLOCK_SIZE(row));
	LWLockRelease(record->lock);
	return found;
}

/* The ids kept: from *first to before *next.  Takes the lock, shared. */
void
lg_deadlock_range(int64 *first, int64 *next)
{
	LWLockAcquire(record->lock, LW_SHARED);
	*first = record->first_deadlock_id;
	*next = record->next_deadlock_id;
	LWLockRelease(record->lock);
}

/* Are both about the same database, role, query id and kind of lock? */
static bool
same_cause(const LgContention *a, const LgContention *b)
{
	return a->query_id == b->query_id && a->relation == b->relation &&
		a->locktype == b->locktype && a->mode == b->mode &&
		a->userid == b->userid && a->datid == b->datid && a->lock_datid == b->lock_datid;
}

/*
 * Add to what a database, role and query id have cost with a kind of lock.  If
 * there is no room for another, the one that has cost least makes room.  Takes
 * the lock.
 */
void
lg_count_contention(const LgContention *more)
{
	LgContention *entry = NULL;
	LgContention *least = NULL;

	LWLockAcquire(record->lock, LW_EXCLUSIVE);
	for (int i = 0; i < record->ncontention; i++)
	{
		LgContention *one = &record->contention[i];

		if (same_cause(one, more))
		{
			entry = one;
			break;
		}
		if (least == NULL || one->lost < least->lost)
			least = one;
	}
	if (entry == NULL)
	{
		entry = record->ncontention < LG_MAX_CONTENTION ?
			&record->contention[record->ncontention++] : least;
		memset(entry, 0, sizeof(*entry));
		entry->datid = more->datid;
		entry->userid = more->userid;
		entry->query_id = more->query_id;
		entry->lock_datid = more->lock_datid;
		entry->relation = more->relation;
		entry->locktype = more->locktype;
		entry->mode = more->mode;
	}
	entry->incidents += more->incidents;
	entry->sessions += more->sessions;
	entry->lost += more->lost;
	entry->longest_wait = Max(entry->longest_wait, more->longest_wait);
	entry->actions += more->actions;
	LWLockRelease(record->lock);
	lg_record_changed();
}

/*
 * Copy all of contention; "all" has room for LG_MAX_CONTENTION.  Returns how
 * many there are.  Takes the lock, shared.
 */
int
lg_fetch_contention(LgContention *all)
{
	int			n;

	LWLockAcquire(record->lock, LW_SHARED);
	n = record->ncontention;
	memcpy(all, record->contention, n * sizeof(LgContention));
	LWLockRelease(record->lock);
	return n;
}

/* Forget contention.  Takes the lock. */
void
lg_forget_contention(void)
{
	LWLockAcquire(record->lock, LW_EXCLUSIVE);
	record->ncontention = 0;
	LWLockRelease(record->lock);
	lg_record_changed();
}

/*
 * Remove all actions, incidents and deadlocks; those that are open are still
 * followed, but not kept.  Takes the lock.
 */
void
lg_forget_history(void)
{
	LWLockAcquire(record->lock, LW_EXCLUSIVE);
	record->first_action_id = record->next_action_id;
	record->first_incident_id = record->next_incident_id;
	record->first_deadlock_id = record->next_deadlock_id;
	memset(actions, 0, lg_max_history * sizeof(LgAction));
	memset(incidents, 0, lg_max_history * sizeof(LgIncident));
	memset(deadlocks, 0, lg_max_history * sizeof(LgDeadlock));
	LWLockRelease(record->lock);
	lg_record_changed();
}

/*
 * Put rows of an earlier life of the server back, under their old ids and in
 * any order.  Only at start, in the postmaster, before other processes are there:
 * takes no lock.
 */

/* Make room for an id; false if the ring already holds later ones only. */
static bool
restore_id(int64 id, int64 *first, int64 *next)
{
	*first = *next == 1 ? id : Min(*first, id);
	*next = Max(*next, id + 1);
	*first = Max(*first, *next - lg_max_history);
	return id >= *first;
}

void
lg_restore_action(const LgAction *action)
{
	if (restore_id(action->action_id, &record->first_action_id, &record->next_action_id))
		*action_row(action->action_id) = *action;
}

void
lg_restore_incident(const LgIncident *incident)
{
	if (restore_id(incident->incident_id, &record->first_incident_id,
				   &record->next_incident_id))
		memcpy(incident_row(incident->incident_id), incident, LG_INCIDENT_SIZE(incident));
}

void
lg_restore_deadlock(const LgDeadlock *deadlock)
{
	if (restore_id(deadlock->deadlock_id, &record->first_deadlock_id,
				   &record->next_deadlock_id))
		memcpy(deadlock_row(deadlock->deadlock_id), deadlock, LG_DEADLOCK_SIZE(deadlock));
}

/* What a damaged file holds twice counts once. */
void
lg_restore_contention(const LgContention *contention)
{
	for (int i = 0; i < record->ncontention; i++)
		if (same_cause(&record->contention[i], contention))
			return;
	if (record->ncontention < LG_MAX_CONTENTION)
		record->contention[record->ncontention++] = *contention;
}

/*
 * The ids that the next action, incident and deadlock get; some before may be
 * missing.  No lock.
 */
static void
restore_next(int64 id, int64 *first, int64 *next)
{
	if (id <= *next)
		return;
	if (*next == 1)
		*first = id;
	*next = id;
	*first = Max(*first, id - lg_max_history);
}

void
lg_restore_ids(int64 next_action_id, int64 next_incident_id, int64 next_deadlock_id)
{
	restore_next(next_action_id, &record->first_action_id, &record->next_action_id);
	restore_next(next_incident_id, &record->first_incident_id,
				 &record->next_incident_id);
	restore_next(next_deadlock_id, &record->first_deadlock_id,
				 &record->next_deadlock_id);
}
