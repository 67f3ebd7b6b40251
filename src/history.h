/*-------------------------------------------------------------------------
 *
 * history.h
 *		The history on disk.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOCKGUARD_HISTORY_H
#define LOCKGUARD_HISTORY_H

extern void lg_history_load(void);
extern PGDLLEXPORT void lg_history_main(Datum main_arg);

#endif							/* LOCKGUARD_HISTORY_H */
