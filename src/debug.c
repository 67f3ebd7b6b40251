/*-------------------------------------------------------------------------
 *
 * debug.c
 *		What tests need inside a session.
 *
 * Compiled in with LOCKGUARD_DEBUG only; see debug.h.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "debug.h"

#ifdef LOCKGUARD_DEBUG

#include <sys/stat.h>

#include "fmgr.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/pmsignal.h"
#include "utils/builtins.h"

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
