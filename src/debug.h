/*-------------------------------------------------------------------------
 *
 * debug.h
 *		Points at which tests can make the worker wait or fail.
 *
 * LG_DEBUG_POINT() makes it wait or raise an error there, LG_DEBUG_FAILS() is
 * true if what it names is to fail.
 *
 * Compiled in with LOCKGUARD_DEBUG only.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOCKGUARD_DEBUG_H
#define LOCKGUARD_DEBUG_H

#include "settings.h"

#ifdef LOCKGUARD_DEBUG
/* How long the worker has stood at wait points since its last nap, ns. */
extern int64 lg_debug_waited;

/* Called at a wait point when the configuration has been changed. */
extern void (*lg_debug_reload) (void);

extern void lg_debug_point(const char *name);
#define LG_DEBUG_POINT(name)	lg_debug_point(name)
#define LG_DEBUG_FAILS(name) \
	(lg_debug_error_at && strcmp(lg_debug_error_at, name) == 0)
#else
#define LG_DEBUG_POINT(name)	((void) 0)
#define LG_DEBUG_FAILS(name)	false
#endif

#endif							/* LOCKGUARD_DEBUG_H */
