/*-------------------------------------------------------------------------
 *
 * debug.c
 *		Wait points, and what tests need inside a session.
 *
 * Compiled in with LOCKGUARD_DEBUG only; see debug.h.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "clock.h"
#include "debug.h"
#include "settings.h"

#ifdef LOCKGUARD_DEBUG

#include <sys/stat.h>

#include "fmgr.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/pmsignal.h"
#include "utils/builtins.h"
#include "utils/wait_event.h"

int64		lg_debug_waited = 0;
void		(*lg_debug_reload) (void) = NULL;

/*
 * Wait here as long as lockguard.debug_wait_at names this point; fail if
 * debug_error_at does.  The activity says where the worker waits.
 */
void
lg_debug_point(const char *name)
{
	int64		start;

	if (LG_DEBUG_FAILS(name))
		elog(ERROR, "lockguard: made to fail at \"%s\"", name);
	if (!lg_debug_wait_at || strcmp(lg_debug_wait_at, name) != 0 || MyProcPort != NULL)
		return;
	start = lg_now();
	pgstat_report_activity(STATE_RUNNING, name);
	while (lg_debug_wait_at && strcmp(lg_debug_wait_at, name) == 0)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_EXIT_ON_PM_DEATH, 0,
						 PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending && lg_debug_reload != NULL)
			lg_debug_reload();
	}
	pgstat_report_activity(STATE_IDLE, NULL);
	lg_debug_waited += lg_now() - start;
}

PG_FUNCTION_INFO_V1(lockguard_debug_deaf);

/*
 * debug_deaf(path): as long as there is that file, do not listen to cancels
 * and terminations.  Not part of the extension; a test creates the function.
 */
Datum
lockguard_debug_deaf(PG_FUNCTION_ARGS)
{
	char	   *path = text_to_cstring(PG_GETARG_TEXT_PP(0));
	struct stat st;

	HOLD_INTERRUPTS();
	while (stat(path, &st) == 0 && PostmasterIsAlive())
		pg_usleep(10000);
	RESUME_INTERRUPTS();
	CHECK_FOR_INTERRUPTS();
	PG_RETURN_VOID();
}

#endif
