/*-------------------------------------------------------------------------
 *
 * library.h
 *		From which file lockguard runs in this server.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOCKGUARD_LIBRARY_H
#define LOCKGUARD_LIBRARY_H

/*
 * What background workers are to be started from: those that start with the
 * server, and others.  Set at preload.
 */
extern const char *lg_library_name;
extern const char *lg_dynamic_library_name;

extern void lg_name_library(void);
extern const char *lg_preloaded_path(void);
extern void lg_require_preloaded(void);

#endif							/* LOCKGUARD_LIBRARY_H */
