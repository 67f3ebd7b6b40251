/*-------------------------------------------------------------------------
 *
 * test_clientio.c
 *		What a client has taken and sent, with sockets of the real kernel.
 *
 *-------------------------------------------------------------------------
 */
#include "server.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "unit.h"

/* The two ends of a connection, and what the server's side says of it. */
static int	client;
static int	server;
static LgSocket address;
static LgTraffic before;
static LgTraffic now;

static char bytes[1000000];

/* False if this machine has no such addresses. */
static bool
connected(struct sockaddr *addr, socklen_t size)
{
	int			listener = socket(addr->sa_family, SOCK_STREAM, 0);
	SockAddr	from = {.salen = sizeof(from.addr)};
	SockAddr	to = {.salen = sizeof(to.addr)};
	bool		possible;

	possible = listener >= 0 && bind(listener, addr, size) == 0;
	if (possible)
	{
		CHECK(listen(listener, 1) == 0);
		CHECK(getsockname(listener, addr, &size) == 0);
		client = socket(addr->sa_family, SOCK_STREAM, 0);
		CHECK(connect(client, addr, size) == 0);
		server = accept(listener, (struct sockaddr *) &from.addr, &from.salen);
		CHECK(server >= 0);
		CHECK(getsockname(server, (struct sockaddr *) &to.addr, &to.salen) == 0);
		CHECK(fcntl(server, F_SETFL, O_NONBLOCK) == 0);
		lg_socket_describe(&address, server, &from, &to);
	}
	close(listener);
	return possible;
}

static bool
connected_by_unix(void)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	bool		possible;

	snprintf(addr.sun_path, sizeof(addr.sun_path), "/tmp/lockguard.unit.%d", (int) getpid());
	possible = CHECK(connected((struct sockaddr *) &addr, sizeof(addr)));
	unlink(addr.sun_path);
	return possible;
}

static bool
connected_by_tcp(int version)
{
	struct sockaddr_in addr = {.sin_family = AF_INET,.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct sockaddr_in6 addr6 = {.sin6_family = AF_INET6,.sin6_addr = IN6ADDR_LOOPBACK_INIT};

	return version == 4 ? connected((struct sockaddr *) &addr, sizeof(addr)) :
		connected((struct sockaddr *) &addr6, sizeof(addr6));
}

/* A kernel that does not tell is no failure: the README says what is then. */
static bool
is_told(void)
{
	memset(&before, 0, sizeof(before));
	if (lg_traffic_read(getpid(), &address, &before))
		return true;
	printf("        (the kernel does not tell)\n");
	return false;
}

static LgProgress
progress(void)
{
	LgProgress	result;

	CHECK(lg_traffic_read(getpid(), &address, &now));
	result = lg_traffic_compare(&before, &now);
	before = now;
	return result;
}

/* Wait until what is on its way has come. */
static void
settle(void)
{
	for (int i = 0; i < 100 && progress() != LG_STOOD_STILL; i++)
		usleep(20000);
}

static void
tcp(void)
{
	for (int version = 4; version <= 6; version += 2)
	{
		if (!connected_by_tcp(version) || !is_told())
			continue;
		CHECK(before.counted && before.local);
		CHECK_INT(progress(), LG_STOOD_STILL);

		/* What the client sends. */
		CHECK_INT(write(client, bytes, 1), 1);
		settle();
		CHECK_INT(before.sent, 1);
		CHECK_INT(read(server, bytes, 1), 1);
		CHECK_INT(progress(), LG_STOOD_STILL);

		/* All that fits in between. */
		while (write(server, bytes, sizeof(bytes)) > 0)
			;
		settle();
		CHECK_INT(before.read, 0);
		CHECK(before.taken > 0);

		/* Each byte that it reads counts, though no more is acknowledged. */
		CHECK_INT(read(client, bytes, 1), 1);
		CHECK_INT(progress(), LG_MOVED);
		CHECK_INT(before.read, 1);
		CHECK_INT(progress(), LG_STOOD_STILL);

		/* Seen from elsewhere, it is what its machine has taken. */
		before.local = now.local = false;
		before.read = now.read = 0;
		CHECK_INT(lg_traffic_compare(&before, &now), LG_STOOD_STILL);
		now.taken++;
		CHECK_INT(lg_traffic_compare(&before, &now), LG_MOVED);
		before = now;
		now.local = true;
		CHECK_INT(lg_traffic_compare(&before, &now), LG_MOVED);

		/* The socket is gone; no other is taken for it. */
		close(server);
		close(client);
		address.port ^= 0xffff;
		CHECK(!lg_traffic_read(getpid(), &address, &now));
	}
}

static void
unix_domain(void)
{
	uint64		full;

	if (!connected_by_unix() || !is_told())
		return;
	CHECK(!before.counted);
	CHECK_INT(before.unread, 0);
	while (write(server, bytes, 8192) > 0)
		;
	progress();
	full = before.unread;
	CHECK(full > 0);
	CHECK(before.queued >= full);

	/* Each byte that the client reads shows. */
	CHECK_INT(read(client, bytes, 1), 1);
	CHECK_INT(progress(), LG_MOVED);
	CHECK_INT(before.unread, full - 1);
	CHECK_INT(read(client, bytes, 8191), 8191);
	CHECK_INT(progress(), LG_MOVED);

	/* It is full again, but for that the process has run. */
	now.awake = before.awake = false;	/* this process is always */
	now.unread = before.unread = full;
	now.queued = before.queued;
	now.switches = before.switches;
	CHECK_INT(lg_traffic_compare(&before, &now), LG_STOOD_STILL);
	now.switches++;
	now.sleeps++;
	CHECK_INT(lg_traffic_compare(&before, &now), LG_MOVED);

	/* Not connected, or not there. */
	close(client);
	CHECK(lg_traffic_read(getpid(), &address, &now));
	close(server);
	CHECK(!lg_traffic_read(getpid(), &address, &now));
	memset(&address, 0, sizeof(address));
	CHECK(!lg_traffic_read(getpid(), &address, &now));
}

/*
 * A process that others wake by its latch, as PostgreSQL's processes wait, has
 * read it each time.  One that its client wakes has not.
 */
static void
woken(void)
{
	sigset_t	signals;
	int			to_child[2];
	int			from_child[2];
	pid_t		child;

	if (!connected_by_unix() || !is_told())
		return;
	sigemptyset(&signals);
	sigaddset(&signals, SIGURG);
	sigprocmask(SIG_BLOCK, &signals, NULL);
	CHECK(pipe(to_child) == 0 && pipe(from_child) == 0);
	fflush(stdout);
	child = fork();
	if (child == 0)
	{
		int			latch = signalfd(-1, &signals, SFD_NONBLOCK);
		struct signalfd_siginfo info;
		char		byte = 0;

		while (write(server, bytes, 8192) > 0)
			;
		(void) !write(from_child[1], &byte, 1);
		for (;;)
		{
			fd_set		readable;
			fd_set		writable;

			FD_ZERO(&readable);
			FD_ZERO(&writable);
			FD_SET(latch, &readable);
			FD_SET(server, &writable);
			select(Max(latch, server) + 1, &readable, &writable, NULL, NULL);
			if (FD_ISSET(latch, &readable))
				(void) !read(latch, &info, sizeof(info));
			while (send(server, bytes, 8192, 0) > 0)
				;
		}
	}
	CHECK_INT(read(from_child[0], bytes, 1), 1);
	for (int i = 0; i < 100; i++)
	{
		usleep(20000);
		CHECK(lg_traffic_read(child, &address, &now));
		if (lg_traffic_compare(&before, &now) == LG_STOOD_STILL)
			break;
		before = now;
	}
	CHECK_INT(lg_traffic_compare(&before, &now), LG_STOOD_STILL);

	kill(child, SIGURG);
	usleep(200000);
	CHECK(lg_traffic_read(child, &address, &now));
	if (now.reads > 0)			/* else the kernel does not count them */
		CHECK_INT(lg_traffic_compare(&before, &now), LG_DISTURBED);
	before = now;

	/* The client takes all there is, and it is written again. */
	CHECK_INT(recv(client, bytes, before.unread, MSG_WAITALL), before.unread);
	usleep(200000);
	CHECK(lg_traffic_read(child, &address, &now));
	CHECK_INT(now.unread, before.unread);
	CHECK_INT(lg_traffic_compare(&before, &now), LG_MOVED);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
}

/* Which wake-ups are explained. */
static void
compared(void)
{
	static const struct
	{
		int			sleeps;
		int			reads;
		int			bytes;
		LgProgress	progress;
	}			cases[] = {
		{0, 0, 0, LG_DISTURBED},	/* it runs still */
		{1, 0, 0, LG_MOVED},
		{1, 1, 128, LG_DISTURBED},
		{1, 1, 1, LG_DISTURBED},	/* by a pipe */
		{2, 1, 128, LG_MOVED},
		{2, 2, 256, LG_DISTURBED},
		{1, 2, 256, LG_DISTURBED},
		{2, 2, 129, LG_MOVED},
		{1, 1, 8192, LG_MOVED}, /* has read a page */
		{1, 1, 0, LG_MOVED},
		{1, 2, 128 + 8192, LG_MOVED}
	};

	for (int i = 0; i < (int) lengthof(cases); i++)
	{
		memset(&before, 0, sizeof(before));
		before.switches = before.sleeps = before.reads = before.read_bytes = 1000;
		before.unread = before.queued = 1000;
		now = before;
		CHECK_INT(lg_traffic_compare(&before, &now), LG_STOOD_STILL);
		now.switches += cases[i].sleeps + 1;
		now.sleeps += cases[i].sleeps;
		now.reads += cases[i].reads;
		now.read_bytes += cases[i].bytes;
		if (!CHECK_INT(lg_traffic_compare(&before, &now), cases[i].progress))
			printf("    case %d\n", i);
		for (int awake = 0; awake < 2; awake++)
		{
			now.awake = awake;
			before.awake = !awake;
			CHECK_INT(lg_traffic_compare(&before, &now), LG_DISTURBED);
		}
		now.queued--;
		CHECK_INT(lg_traffic_compare(&before, &now), LG_MOVED);
	}
	memset(&now, 0, sizeof(now));
	now.counted = true;
	CHECK_INT(lg_traffic_compare(&before, &now), LG_MOVED);
}

const Test	clientio_tests[] = {
	{"clientio: TCP", tcp},
	{"clientio: a Unix-domain socket", unix_domain},
	{"clientio: a process that is woken", woken},
	{"clientio: what explains that a process has run", compared},
	{NULL, NULL}
};
