/*-------------------------------------------------------------------------
 *
 * clientio.h
 *		What a session's client has taken and sent.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOCKGUARD_CLIENTIO_H
#define LOCKGUARD_CLIENTIO_H

#include "postgres.h"

#include "libpq/pqcomm.h"

/*
 * The connection to a client, as the operating system knows it.  Published by
 * the session when it has logged in, and the same as long as it lives.
 */
typedef struct LgSocket
{
	uint16		family;			/* AF_INET, AF_INET6 or AF_UNIX; 0 = not known */
	uint16		port;			/* the client's, in network order */
	uint16		local_port;		/* the server's */
	uint32		scope;			/* of a link-local address; else 0 */
	uint32		inode;
	uint8		addr[16];		/* the client's */
	uint8		local_addr[16]; /* the server's */
} LgSocket;

/*
 * What has gone over it up to now.  All numbers but "unread" and "queued" only
 * ever grow.
 */
typedef struct LgTraffic
{
	bool		counted;		/* TCP, which counts every byte */
	uint64		sent;			/* bytes from the client */
	uint64		taken;			/* bytes that its machine has acknowledged */
	bool		local;			/* the client is on this machine, too; */
	uint64		read;			/* then, bytes that it has read itself */

	/* Of a Unix-domain socket, and of the process on the server's side. */
	uint64		unread;			/* bytes in the client's queue */
	uint64		queued;			/* memory that they take */
	uint64		switches;		/* how often it has left the processor */
	uint64		sleeps;			/* and how often to wait for something */
	uint64		reads;			/* system calls to read a file or a latch */
	uint64		read_bytes;		/* and what they have read */
	bool		awake;			/* it runs now: these do not belong together */
} LgTraffic;

typedef enum LgProgress
{
	LG_STOOD_STILL,				/* the client has taken and sent nothing */
	LG_MOVED,					/* it has, or it cannot be told */
	LG_DISTURBED				/* it may have, while others woke the process */
} LgProgress;

extern void lg_socket_describe(LgSocket *socket, pgsocket fd, const SockAddr *from,
							   const SockAddr *to);
extern bool lg_traffic_read(int pid, const LgSocket *client, LgTraffic *traffic);
extern LgProgress lg_traffic_compare(const LgTraffic *before, const LgTraffic *now);

#endif							/* LOCKGUARD_CLIENTIO_H */
