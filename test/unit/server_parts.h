/*-------------------------------------------------------------------------
 *
 * server_parts.h
 *		What the files of the server need of each other: server_memory.c,
 *		server_system.c, server_processes.c, server_locks.c and
 *		server_transaction.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef UNIT_SERVER_PARTS_H
#define UNIT_SERVER_PARTS_H

#include "server.h"

/* Ends the test: neither it nor the code under test may do that. */
extern void impossible(const char *what) __attribute__((noreturn));

/* As at the start of a server, for server_start(); in this order. */
extern void memory_start(void);
extern void system_start(void);
extern void locks_start(void);	/* after the processes */
extern void transaction_start(void);	/* after MyProc is known */

#endif							/* UNIT_SERVER_PARTS_H */
