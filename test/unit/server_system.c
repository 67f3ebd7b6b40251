/*-------------------------------------------------------------------------
 *
 * server_system.c
 *		What the server's operating system gives it: clocks, files, sockets and
 *		signals; see server.h.
 *
 *-------------------------------------------------------------------------
 */
#include "server_parts.h"

#include <arpa/inet.h>
#include <time.h>
#include <unistd.h>

#include "common/ip.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/inet.h"
#include "utils/timestamp.h"

/* What the server's headers declare. */
Latch	   *MyLatch;
volatile sig_atomic_t InterruptPending;
volatile sig_atomic_t ConfigReloadPending;
volatile sig_atomic_t ShutdownRequestPending;

int64		clock_ns;
TimestampTz clock_offset;
int64		clock_tick;
void		(*on_wall_clock) (void);
LgTraffic	traffic;
bool		traffic_known;
char		exported_snapshot[MAXPGPATH];
int			access_errno;
int			files_asked_for;
int			latches_set;
int			signals_sent;
int			last_signal;
pid_t		last_signalled;
void		(*on_wait) (long timeout);
bool		files_open = true;
bool		disk_full;

/* The names that the Makefile gives to what the tested files call. */
extern int	server_clock_gettime(clockid_t clock, struct timespec *ts);
extern bool server_traffic_read(int pid, const LgSocket *client, LgTraffic *result);
extern int	server_access(const char *path, int mode);
extern int	server_kill(pid_t pid, int sig);

/*
 * Clocks.
 */
int
server_clock_gettime(clockid_t clock, struct timespec *ts)
{
	ts->tv_sec = clock_ns / LG_NANOS_PER_SEC;
	ts->tv_nsec = clock_ns % LG_NANOS_PER_SEC;
	clock_ns += clock_tick;
	return 0;
}

TimestampTz
wall_now(void)
{
	return clock_offset + clock_ns / 1000;
}

TimestampTz
GetCurrentTimestamp(void)
{
	if (on_wall_clock)
		on_wall_clock();
	return wall_now();
}

/*
 * Signals.
 */
int
server_kill(pid_t pid, int sig)
{
	last_signal = sig;
	last_signalled = pid;
	signals_sent++;
	return 0;
}

/*
 * Sockets.
 */
bool
server_traffic_read(int pid, const LgSocket *client, LgTraffic *result)
{
	*result = traffic;
	return traffic_known;
}

int
pg_getnameinfo_all(const struct sockaddr_storage *addr, int salen, char *node, int nodelen,
				   char *service, int servicelen, int flags)
{
	strlcpy(node, "192.0.2.1", nodelen);
	return 0;
}

void
clean_ipv6_addr(int addr_family, char *addr)
{
}

int
pg_inet_net_pton(int af, const char *src, void *dst, size_t size)
{
	return inet_pton(af == PGSQL_AF_INET ? AF_INET : AF_INET6, src, dst) == 1 ? 32 : -1;
}

/*
 * Files.
 */
FILE *
AllocateFile(const char *name, const char *mode)
{
	if (!files_open)
	{
		errno = EMFILE;
		return NULL;
	}
	return fopen(disk_full && mode[0] == 'w' ? "/dev/full" : name, mode);
}

int
FreeFile(FILE *file)
{
	return fclose(file);
}

int
durable_rename(const char *from, const char *to, int elevel)
{
	return rename(from, to);
}

int
server_access(const char *path, int mode)
{
	files_asked_for++;
	if (exported_snapshot[0] && strcmp(path, exported_snapshot) == 0)
		return 0;
	errno = access_errno;
	return -1;
}

/*
 * Latches and signals, for the loop of the worker.
 */
void
ConditionVariableInit(ConditionVariable *cv)
{
}

void
SetLatch(Latch *latch)
{
	latches_set++;
}

void
ResetLatch(Latch *latch)
{
}

int
WaitLatch(Latch *latch, int events, long timeout, uint32 wait_event_info)
{
	if (on_wait)
		on_wait(timeout);
	return 0;
}

#if PG_VERSION_NUM >= 180000
void
pqsignal(int signo, pqsigfunc func)
{
}
#else
pqsigfunc
pqsignal(int signo, pqsigfunc func)
{
	return NULL;
}
#endif

void
before_shmem_exit(pg_on_exit_callback function, Datum arg)
{
}

void
BackgroundWorkerUnblockSignals(void)
{
}

void
ProcessConfigFile(GucContext context)
{
}

void
ProcessInterrupts(void)
{
}

void
SignalHandlerForConfigReload(SIGNAL_ARGS)
{
}

void
SignalHandlerForShutdownRequest(SIGNAL_ARGS)
{
}

void
system_start(void)
{
	clock_ns = 1000 * LG_NANOS_PER_SEC;
	clock_offset = INT64CONST(800000000000000);
	clock_tick = 0;
	on_wall_clock = NULL;
	memset(&traffic, 0, sizeof(traffic));
	traffic.counted = true;
	traffic_known = true;
	exported_snapshot[0] = '\0';
	access_errno = ENOENT;
	files_asked_for = 0;
	files_open = true;
	disk_full = false;
	latches_set = signals_sent = last_signal = last_signalled = 0;
	on_wait = NULL;
	ShutdownRequestPending = ConfigReloadPending = false;
}
