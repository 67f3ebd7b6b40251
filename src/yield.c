/*-------------------------------------------------------------------------
 *
 * yield.c
 *		Which lock requests let others pass, since when, and what comes of it.
 *
 * A request of a session with queue_yield_timeout "stands" first, as any does.
 * Once it has held others up for that long, it "yields": as long as anything is
 * behind it, a step (stepaside.c) every STEP lets those pass that need not wait
 * for others.  When all that it waited for when it began to yield are gone, it
 * stands again: those that have passed meanwhile end soon, and if one of them does
 * not, the request yields anew after as long.  So each set of slow holders holds
 * others up once, for queue_yield_timeout, and the request cannot starve.
 *
 * It does not yield while others wait for a lock that its session holds: they
 * would wait for longer.
 *
 * All of this is the worker's own, and is forgotten when it ends; then the queue
 * is an ordinary one.  LgSlot.yielding tells the views.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "storage/proc.h"
#include "utils/memutils.h"

#include "brakes.h"
#include "clock.h"
#include "compat.h"
#include "debug.h"
#include "enforce.h"
#include "incident.h"
#include "judge.h"
#include "look.h"
#include "record.h"
#include "session.h"
#include "shared.h"
#include "stepaside.h"
#include "types.h"
#include "waitgraph.h"
#include "yield.h"

/* Between two steps, ns: while waiters come, and when none has come for a while. */
#define STEP			(150 * 1000)
#define LAZY_STEP		LG_NANOS_PER_MS
#define LAZY_AFTER		(20 * LG_NANOS_PER_MS)

/* If a step has let none pass, and no process has come or gone since. */
#define STEP_IN_VAIN	(2 * LG_NANOS_PER_MS)

/*
 * A lock's steps take at most one part in so many of the time: of those that let
 * some pass, and of those that let none.
 */
#define STEP_SHARE		2
#define VAIN_SHARE		20

/* How often the row of a request is brought up to date, ns. */
#define UPDATE_ROW		LG_NANOS_PER_SEC

/* A request that yields, or has yielded in this wait. */
typedef struct LgYield
{
	LgAside		aside;
	bool		yielding;		/* else it stands */
	uint32		granted_waits;	/* lg_granted_waits() in this wait */
	LgVerdict	verdict;		/* when it began to yield first */
	int64		began;			/* that is when (monotonic ns) */
	int64		action_id;		/* its row; 0 = none has passed yet */
	int64		let_pass;
	int64		in_row;			/* of these */
	int64		row_updated;	/* monotonic ns */
	int64		incident_id;	/* in that row; 0 = none yet */

	/* When to make the next step (monotonic ns): */
	int64		not_before;
	int64		retry_at;		/* although "counts" has not changed */
	int64		counts;			/* of the lock, see counts_of() */
} LgYield;

struct LgYields
{
	int			n;
	LgYield   **yields;			/* one per PGPROC at most */
	int		   *of_proc;		/* index in yields, by procno; -1 = none */
	LgAside   **batch;			/* the requests of one lock */
	LgYield   **batch_yields;
	bool	   *done;			/* by procno: has been in a batch */
	LgStepRoom	room;
	int64		passed_at;		/* when any has passed last, monotonic ns */
	MemoryContext context;
};

/*
 * All memory that is needed but for the lists of entries, in the current
 * context.  The rows of a worker before this one are closed: what became of these
 * requests is not known.
 */
LgYields *
lg_yields_create(LgView *view)
{
	LgYields   *yields = palloc0(sizeof(LgYields));
	int64		first;
	int64		next;

	yields->yields = palloc0_array(LgYield *, LG_TOTAL_PROCS);
	yields->of_proc = palloc_array(int, LG_TOTAL_PROCS);
	memset(yields->of_proc, -1, LG_TOTAL_PROCS * sizeof(int));
	yields->batch = palloc_array(LgAside *, LG_TOTAL_PROCS);
	yields->batch_yields = palloc_array(LgYield *, LG_TOTAL_PROCS);
	yields->done = palloc0_array(bool, LG_TOTAL_PROCS);
	yields->room.queue = palloc_array(PGPROC *, LG_TOTAL_PROCS);
	yields->room.steps = palloc0_array(bool, LG_TOTAL_PROCS);
	yields->room.waiting = palloc0_array(int, LG_TOTAL_PROCS);
	yields->room.goes_on = palloc0_array(bool, LG_TOTAL_PROCS);
	yields->context = CurrentMemoryContext;
	view->asides = palloc_array(LgAside *, LG_TOTAL_PROCS);

	for (int procno = 0; procno < MaxBackends; procno++)
		pg_atomic_write_u64(&lg_shared->slots[procno].yielding, 0);
	lg_action_range(&first, &next);
	for (int64 id = first; id < next; id++)
	{
		LgAction	action;

		if (lg_fetch_action(id, &action) && action.action == LG_DO_YIELD &&
			action.result == LG_PENDING)
			lg_record_result(id, LG_SELF_RESOLVED, -1);
	}
	return yields;
}

/* Tell the views, and those that judge, which requests yield. */
static void
publish(const LgYields *yields, LgView *view)
{
	view->nasides = 0;
	for (int i = 0; i < yields->n; i++)
		if (yields->yields[i]->yielding)
			view->asides[view->nasides++] = &yields->yields[i]->aside;
}

static void
set_yielding(LgYield *yield, bool yielding)
{
	yield->yielding = yielding;
	pg_atomic_write_u64(&lg_shared->slots[yield->aside.procno].yielding,
						yielding ? (uint64) yield->aside.wait_start : 0);
}

/* From now on the request stands in the way as any other does. */
static void
stand(LgYield *yield, LgView *view)
{
	set_yielding(yield, false);
	lg_restart_yield_time(&view->times[yield->aside.procno], lg_now());
}

/*
 * Bring the row of a request up to date: how many have passed, and its incident.
 * It is written, and logged, when the first has passed.
 */
static void
update_row(LgYield *yield, LgView *view, int64 now)
{
	if (yield->let_pass == 0)
		return;
	if (yield->action_id == 0)
	{
		/* Of those behind it, only the present ones can be told. */
		if (lg_node(view->graph, yield->aside.procno) == NULL)
			yield->verdict.blocked_sessions = 0;
		yield->action_id = lg_record_verdict(view, &yield->verdict);
	}
	yield->in_row = yield->let_pass;
	yield->row_updated = now;
	if (yield->incident_id == 0)
		yield->incident_id = lg_incident_of(view, yield->aside.procno);
	lg_record_yield(yield->action_id, yield->let_pass, yield->incident_id);
}

/*
 * The wait is over: say in the row whether the request was granted.  One that was
 * granted and whose transaction has ended since is told by LgSlot.granted_waits.
 */
static void
finish(LgYields *yields, LgView *view, int index)
{
	LgYield    *yield = yields->yields[index];
	const LgAside *aside = &yield->aside;
	bool		granted = lg_aside_holds(aside) ||
		lg_granted_waits(aside->procno, aside->pid, yield->granted_waits) != yield->granted_waits;
	int64		now = lg_now();

	if (yield->yielding)
		set_yielding(yield, false);
	update_row(yield, view, now);
	if (yield->action_id != 0)
	{
		lg_record_result(yield->action_id, granted ? LG_RELEASED : LG_SELF_RESOLVED,
						 (now - yield->began) / 1000);
	}
	yields->of_proc[aside->procno] = -1;
	yields->yields[index] = yields->yields[--yields->n];
	if (index < yields->n)
		yields->of_proc[yields->yields[index]->aside.procno] = index;
	if (aside->entries != NULL)
		pfree(aside->entries);
	pfree(yield);
}

/* The entry of a process's request in this wait; NULL if there is none. */
static LgYield *
find_yield(const LgYields *yields, int procno, const LgWaiter *request)
{
	LgYield    *yield = yields->of_proc[procno] < 0 ? NULL :
		yields->yields[yields->of_proc[procno]];

	return yield != NULL && request != NULL && yield->aside.pid == request->pid &&
		yield->aside.wait_start == request->wait_start ? yield : NULL;
}

/* A new entry for a request, which stands as yet. */
static LgYield *
add_yield(LgYields *yields, const LgGraph *graph, const LgWaiter *request)
{
	LgYield    *yield = MemoryContextAllocZero(yields->context, sizeof(LgYield));

	yield->aside.procno = request->procno;
	yield->aside.pid = request->pid;
	yield->aside.wait_start = request->wait_start;
	yield->aside.tag = graph->locks[request->lock].tag;
	yield->aside.mode = request->mode;
	yield->aside.lock = graph->locks[request->lock].address;
	yield->granted_waits = lg_granted_waits(request->procno, request->pid, 0);
	yields->of_proc[request->procno] = yields->n;
	yields->yields[yields->n++] = yield;
	return yield;
}

/*
 * Begin to yield: list the lock's entries.  False if it waits no more.
 * Takes the partition lock, shared.
 */
static bool
list_entries(LgYields *yields, LgYield *yield)
{
	LgAside    *aside = &yield->aside;
	int			wanted;

	while (!lg_aside_begin(aside, &wanted))
	{
		if (wanted == 0)
			return false;
		aside->max_entries = wanted + 16;
		if (aside->entries != NULL)
			pfree(aside->entries);
		aside->entries = MemoryContextAlloc(yields->context,
											aside->max_entries * sizeof(LgEntry));
	}
	return true;
}

/* A session is over queue_yield_timeout: have its request let others pass. */
static void
begin(LgYields *yields, LgView *view, LgVerdict *verdict, const LgWaiter *request)
{
	LgYield    *yield = find_yield(yields, request->procno, request);

	if (verdict->brake != LG_NO_BRAKE)
	{
		if (yield == NULL || yield->action_id == 0)
			(void) lg_carry_out(view, verdict, NULL, NULL);
		return;
	}
	if (yield == NULL)
	{
		/* What another wait of the process has left is finished first. */
		if (yields->of_proc[request->procno] >= 0)
			finish(yields, view, yields->of_proc[request->procno]);
		yield = add_yield(yields, view->graph, request);
	}
	LG_DEBUG_POINT("before_yield");
	if (!list_entries(yields, yield))
		return;
	if (yield->began == 0)
	{
		yield->began = lg_now();
		yield->verdict = *verdict;
	}
	yield->not_before = yield->retry_at = 0;
	set_yielding(yield, true);
}

/*
 * After a look: which requests begin to yield, and which of those that do may no
 * longer?  When the next one is over its limit is noted in the verdicts.  The
 * verdicts of this scan have been carried out.
 */
void
lg_yields_scan(LgYields *yields, LgView *view, LgVerdicts *verdicts)
{
	LgGraph    *graph = view->graph;
	int64		now = view->clock.now;
	bool		braked = lg_standing_brake(now) != LG_NO_BRAKE;

	if (yields->n == 0 && view->smallest[LG_QUEUE_YIELD_TIMEOUT] == 0)
		return;
	for (int i = yields->n - 1; i >= 0; i--)
	{
		LgYield    *yield = yields->yields[i];
		int			procno = yield->aside.procno;
		LgNode	   *node;

		if (lg_aside_is_over(&yield->aside))
		{
			finish(yields, view, i);
			continue;
		}
		if ((yield->in_row != yield->let_pass &&
			 (yield->action_id == 0 || now - yield->row_updated >= UPDATE_ROW)) ||
			(yield->action_id != 0 && yield->incident_id == 0 &&
			 lg_incident_of(view, procno) != 0))
			update_row(yield, view, now);
		node = view->looked ? lg_node(graph, procno) : NULL;
		if (!yield->yielding || node == NULL)
			continue;
		lg_load_node(graph, node);
		if (braked || node->known->values.value[LG_QUEUE_YIELD_TIMEOUT] == 0 ||
			lg_holds_what_others_want(graph, node))
			stand(yield, view);
		else
			lg_restart_yield_time(&view->times[procno], now);
	}

	for (int i = 0; view->looked && view->smallest[LG_QUEUE_YIELD_TIMEOUT] > 0 &&
		 i < graph->nactive; i++)
	{
		int			procno = graph->active[i];
		LgVerdict	verdict;

		if (lg_judge_yield(view, procno, verdicts, &verdict))
			begin(yields, view, &verdict,
				  lg_request_in_the_way(graph, &graph->nodes[procno]));
	}
	publish(yields, view);

	/* What a first step does is recorded with what this scan has seen. */
	(void) lg_yields_step(yields, view);
	for (int i = 0; i < yields->n; i++)
		if (yields->yields[i]->action_id == 0)
			update_row(yields->yields[i], view, now);
}

/*
 * How many have asked for a lock and have been granted it, as one number: whether
 * it changes.  Reads without a lock, as a hint.
 */
static inline int64
counts_of(const LOCK *lock)
{
	return ((int64) ((volatile LOCK *) lock)->nRequested << 32) |
		(uint32) ((volatile LOCK *) lock)->nGranted;
}

/*
 * Collect the requests that yield for the lock of the one at "first".  Returns how
 * many there are; 0 if none of them has to step aside now.
 */
static int
collect_batch(LgYields *yields, int first, int64 now)
{
	const LgAside *like = &yields->yields[first]->aside;
	int			n = 0;
	bool		followed = false;
	bool		due = false;

	for (int i = first; i < yields->n; i++)
	{
		LgYield    *yield = yields->yields[i];

		if (!yield->yielding || yields->done[yield->aside.procno] ||
			yield->aside.lock != like->lock ||
			memcmp(&yield->aside.tag, &like->tag, sizeof(LOCKTAG)) != 0)
			continue;
		yields->done[yield->aside.procno] = true;
		yields->batch[n] = &yield->aside;
		yields->batch_yields[n++] = yield;
		followed |= lg_aside_is_followed(&yield->aside);
		due |= now >= yield->not_before &&
			(now >= yield->retry_at || counts_of(like->lock) != yield->counts);
	}
	return followed && due ? n : 0;
}

/*
 * What has come of a step, begun at "start" (monotonic ns), for the first n
 * requests of the batch.
 */
static void
take_results(LgYields *yields, LgView *view, int n, int passed, int64 start)
{
	LgScanStats *stats = &lg_shared->scan_stats;
	int64		now = lg_now();
	int			stepped = 0;
	bool		stands = false;

	for (int i = 0; i < n; i++)
	{
		LgYield    *yield = yields->batch_yields[i];

		yield->counts = counts_of(yield->aside.lock);
		yield->retry_at = passed > 0 ? 0 : now + STEP_IN_VAIN;
		yield->not_before = now + (now - start) * ((passed > 0 ? STEP_SHARE : VAIN_SHARE) - 1);
		if (yield->aside.result == LG_STEP_DONE)
		{
			yield->let_pass += passed;
			stepped++;
		}
		else if (yield->aside.result == LG_STEP_STANDS)
		{
			stand(yield, view);
			stands = true;
		}
	}
	if (stands)
		publish(yields, view);
	if (stepped > 0)
		pg_atomic_fetch_add_u64(&stats->yields, stepped);
	if (passed > 0)
	{
		pg_atomic_fetch_add_u64(&stats->let_pass, passed);
		yields->passed_at = now;
	}
}

/*
 * A step for each lock with requests that yield and have others behind them.
 * Returns when the next is due (monotonic ns); LG_NEVER if none yields.  Takes
 * partition locks, one at a time, exclusively.
 */
int64
lg_yields_step(LgYields *yields, LgView *view)
{
	int64		now = yields->n == 0 ? 0 : lg_now();
	bool		any = false;
	bool		changed = false;

	if (yields->n == 0 || lg_standing_brake(now) != LG_NO_BRAKE)
		return LG_NEVER;
	for (int i = 0; i < yields->n; i++)
	{
		int			n;

		if (!yields->yields[i]->yielding)
			continue;
		any = true;
		n = collect_batch(yields, i, now);
		if (n > 0)
		{
			int64		start = lg_now();

			take_results(yields, view, n, lg_step_aside(yields->batch, n, &yields->room),
						 start);
		}
	}
	for (int i = yields->n - 1; i >= 0; i--)
	{
		LgYield    *yield = yields->yields[i];

		yields->done[yield->aside.procno] = false;
		if (!lg_aside_is_over(&yield->aside))
			continue;
		finish(yields, view, i);
		changed = true;
	}
	if (changed)
		publish(yields, view);
	if (!any)
		return LG_NEVER;
	return now + (now - yields->passed_at < LAZY_AFTER ? STEP : LAZY_STEP);
}

/* None may yield any more. */
void
lg_yields_stop(LgYields *yields, LgView *view)
{
	for (int i = yields->n - 1; i >= 0; i--)
	{
		if (yields->yields[i]->yielding)
			stand(yields->yields[i], view);
		if (lg_aside_is_over(&yields->yields[i]->aside))
			finish(yields, view, i);
	}
	publish(yields, view);
}
