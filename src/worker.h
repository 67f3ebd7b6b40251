/*-------------------------------------------------------------------------
 *
 * worker.h
 *		The background worker.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOCKGUARD_WORKER_H
#define LOCKGUARD_WORKER_H

extern PGDLLEXPORT void lg_worker_main(Datum main_arg);

#endif							/* LOCKGUARD_WORKER_H */
