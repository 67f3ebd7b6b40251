/*-------------------------------------------------------------------------
 *
 * clientio.c
 *		What a session's client has taken and sent, as the kernel counts it.
 *
 * A session that waits for its client shows the same wait event whether the
 * client has stopped or is only slow.  Nor does it help to see whether the
 * process has run: NOTIFY to a session that listens, a reload and the like
 * wake it although its client does nothing, and a client that empties the
 * kernel's buffers need not wake it for minutes.  So the kernel is asked what
 * has gone over the socket (sock_diag, as the program ss does).
 *
 * TCP counts the bytes that the client has sent, and those that its machine
 * has acknowledged.  If the client is on this machine, its own socket also
 * tells how much of that it has read; otherwise, what its machine holds for it
 * counts as taken.
 *
 * A Unix-domain socket counts nothing.  There is only the length of the
 * client's queue, which can be the same again when some of it was taken and
 * the process has written more.  But for that the process must have run:
 *
 * - it has not run, and the queue is the same: nothing has moved;
 * - it has run more often than it was woken by its latch: the client has woken
 *	 it, since only the socket and the latch do.  (The latch is a signalfd, or
 *	 a pipe, and each time it wakes the process it is read, which the kernel
 *	 counts; send() and recv() are not counted there);
 * - otherwise others have woken it, and whether it could write something then
 *	 cannot be told.
 *
 * All of this is asked without blocking, and nothing is kept open.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* Some C libraries come without the headers of the kernel. */
#if defined(__linux__) && defined(__has_include)
#if __has_include(<linux/unix_diag.h>)
#define LG_SOCK_DIAG
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/tcp.h>
#include <linux/unix_diag.h>
#endif
#endif

#include "port/atomics.h"

#include "clientio.h"

/* sizeof(struct signalfd_siginfo), and of what is written to a latch's pipe. */
#define SIGNALFD_BYTES	128
#define PIPE_BYTES		1

/*
 * Describe this process's socket, from its client to the server.  Others may
 * read the result meanwhile: its family comes last.  Does not fail: what cannot
 * be told is left as not known.
 */
void
lg_socket_describe(LgSocket *result, pgsocket fd, const SockAddr *from,
				   const SockAddr *to)
{
	struct stat st;
	int			family = to->addr.ss_family;

	memset(result, 0, sizeof(*result));
	if (fd == PGINVALID_SOCKET || from->addr.ss_family != family || fstat(fd, &st) != 0)
		return;
	result->inode = (uint32) st.st_ino;
	if (family == AF_INET)
	{
		const struct sockaddr_in *client = (const struct sockaddr_in *) &from->addr;
		const struct sockaddr_in *server = (const struct sockaddr_in *) &to->addr;

		result->port = client->sin_port;
		result->local_port = server->sin_port;
		memcpy(result->addr, &client->sin_addr, sizeof(client->sin_addr));
		memcpy(result->local_addr, &server->sin_addr, sizeof(server->sin_addr));
	}
	else if (family == AF_INET6)
	{
		const struct sockaddr_in6 *client = (const struct sockaddr_in6 *) &from->addr;
		const struct sockaddr_in6 *server = (const struct sockaddr_in6 *) &to->addr;

		result->port = client->sin6_port;
		result->local_port = server->sin6_port;
		result->scope = server->sin6_scope_id;
		memcpy(result->addr, &client->sin6_addr, sizeof(client->sin6_addr));
		memcpy(result->local_addr, &server->sin6_addr, sizeof(server->sin6_addr));
	}
	else if (family != AF_UNIX)
		return;
	pg_write_barrier();
	result->family = family;
}

#ifdef LG_SOCK_DIAG

/* One answer of the kernel: about one socket. */
typedef union Answer
{
	struct nlmsghdr header;
	char		bytes[2048];
} Answer;

/*
 * Ask the kernel about one socket.  Returns the answer's message, which is at
 * least "size" bytes long, with all that follows it in *end; NULL if there is
 * no such socket, or the kernel does not tell.
 */
static void *
ask_kernel(const void *question, size_t question_size, Answer *answer, size_t size,
		   char **end)
{
	struct
	{
		struct nlmsghdr header;
		char		question[128];
	}			request;
	ssize_t		len;
	int			fd;

	Assert(question_size <= sizeof(request.question));
	fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_SOCK_DIAG);
	if (fd < 0)
		return NULL;
	memset(&request, 0, sizeof(request));
	request.header.nlmsg_len = NLMSG_LENGTH(question_size);
	request.header.nlmsg_type = SOCK_DIAG_BY_FAMILY;
	request.header.nlmsg_flags = NLM_F_REQUEST;
	memcpy(request.question, question, question_size);

	/* The answer is there when send() returns. */
	len = send(fd, &request, request.header.nlmsg_len, MSG_DONTWAIT);
	if (len == (ssize_t) request.header.nlmsg_len)
		len = recv(fd, answer, sizeof(*answer), MSG_DONTWAIT);
	else
		len = -1;
	close(fd);

	if (len < (ssize_t) NLMSG_LENGTH(size) ||
		answer->header.nlmsg_type != SOCK_DIAG_BY_FAMILY ||
		answer->header.nlmsg_len < NLMSG_LENGTH(size) ||
		answer->header.nlmsg_len > (size_t) len)
		return NULL;
	*end = answer->bytes + answer->header.nlmsg_len;
	return NLMSG_DATA(&answer->header);
}

/*
 * Copy "size" bytes of an attribute of that type, of those between "from" and
 * "end".  False if there is none, or it is shorter.
 */
static bool
get_attribute(char *from, const char *end, int type, void *result, size_t size)
{
	while (end - from >= (ptrdiff_t) sizeof(struct rtattr))
	{
		const struct rtattr *attribute = (const struct rtattr *) from;

		if (attribute->rta_len < sizeof(struct rtattr) || attribute->rta_len > end - from)
			return false;
		if (attribute->rta_type == type)
		{
			if (attribute->rta_len < RTA_LENGTH(size))
				return false;
			memcpy(result, from + RTA_LENGTH(0), size);
			return true;
		}
		from += RTA_ALIGN(attribute->rta_len);
	}
	return false;
}

/*
 * Both directions of a TCP connection in bytes, as one of its two sockets has
 * counted them; *unread is what its owner has yet to read.
 */
static bool
read_tcp(const LgSocket *client, bool of_client, uint64 *acked, uint64 *received,
		 uint64 *unread)
{
	struct inet_diag_req_v2 question = {0};
	struct tcp_info info;
	struct inet_diag_msg *message;
	Answer		answer;
	char	   *end;

	question.sdiag_family = client->family;
	question.sdiag_protocol = IPPROTO_TCP;
	question.idiag_ext = 1 << (INET_DIAG_INFO - 1);
	question.idiag_states = -1;
	question.id.idiag_sport = of_client ? client->port : client->local_port;
	question.id.idiag_dport = of_client ? client->local_port : client->port;
	memcpy(question.id.idiag_src, of_client ? client->addr : client->local_addr, 16);
	memcpy(question.id.idiag_dst, of_client ? client->local_addr : client->addr, 16);
	question.id.idiag_if = client->scope;
	question.id.idiag_cookie[0] = question.id.idiag_cookie[1] = INET_DIAG_NOCOOKIE;

	message = ask_kernel(&question, sizeof(question), &answer, sizeof(*message), &end);

	/*
	 * In place of one that does not exist, the kernel finds the socket that
	 * listens there.
	 */
	if (message == NULL || message->id.idiag_sport != question.id.idiag_sport ||
		message->id.idiag_dport != question.id.idiag_dport ||
		!get_attribute((char *) (message + 1), end, INET_DIAG_INFO, &info,
					   offsetof(struct tcp_info, tcpi_bytes_received) +
					   sizeof(info.tcpi_bytes_received)))
		return false;
	*acked = info.tcpi_bytes_acked;
	*received = info.tcpi_bytes_received;
	*unread = message->idiag_rqueue;
	return true;
}

/*
 * The queue of a Unix-domain socket, and the inode of the one that it is
 * connected to (0 if there is none).
 */
static bool
read_unix(uint32 inode, struct unix_diag_rqlen *queue, uint32 *peer)
{
	struct unix_diag_req question = {0};
	struct unix_diag_msg *message;
	Answer		answer;
	char	   *end;

	question.sdiag_family = AF_UNIX;
	question.udiag_states = -1;
	question.udiag_ino = inode;
	question.udiag_show = UDIAG_SHOW_PEER | UDIAG_SHOW_RQLEN;
	question.udiag_cookie[0] = question.udiag_cookie[1] = INET_DIAG_NOCOOKIE;

	message = ask_kernel(&question, sizeof(question), &answer, sizeof(*message), &end);
	if (message == NULL || message->udiag_ino != inode ||
		!get_attribute((char *) (message + 1), end, UNIX_DIAG_RQLEN, queue, sizeof(*queue)))
		return false;
	if (!get_attribute((char *) (message + 1), end, UNIX_DIAG_PEER, peer, sizeof(*peer)))
		*peer = 0;
	return true;
}

/* Read a file of a process in /proc; false if that cannot be done. */
static bool
read_proc(int pid, const char *name, char *buf, size_t size)
{
	char		path[64];
	int			fd;
	ssize_t		len;

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	len = read(fd, buf, size - 1);
	close(fd);
	if (len <= 0)
		return false;
	buf[len] = '\0';
	return true;
}

/* The number behind "label", which begins with the end of the line before. */
static bool
get_number(const char *string, const char *label, uint64 *number)
{
	const char *found = strstr(string, label);

	if (found == NULL)
		return false;
	*number = strtou64(found + strlen(label), NULL, 10);
	return true;
}

/* How often a process has run, and whether it is asleep. */
static bool
read_switches(int pid, uint64 *switches, uint64 *sleeps, bool *asleep)
{
	char		buf[4096];
	uint64		involuntary;

	if (!read_proc(pid, "status", buf, sizeof(buf)) ||
		!get_number(buf, "\nvoluntary_ctxt_switches:", sleeps) ||
		!get_number(buf, "\nnonvoluntary_ctxt_switches:", &involuntary))
		return false;
	*switches = *sleeps + involuntary;
	*asleep = strstr(buf, "\nState:\tS") != NULL;
	return true;
}

/*
 * How often a process has run, and been woken by its latch.  One that is just
 * being woken has read its latch, but not gone to sleep again: then the numbers
 * do not belong together.  Tries a few times to find it asleep.
 */
static bool
read_process(int pid, LgTraffic *traffic)
{
	traffic->awake = true;
	for (int tries = 0; tries < 5 && traffic->awake; tries++)
	{
		char		buf[1024];
		uint64		switches;
		uint64		sleeps;
		bool		asleep;
		bool		still_asleep;

		if (!read_switches(pid, &traffic->switches, &traffic->sleeps, &asleep))
			return false;

		/* Some kernels do not count these.  Then the latch explains nothing. */
		buf[0] = '\n';
		if (!read_proc(pid, "io", buf + 1, sizeof(buf) - 1) ||
			!get_number(buf, "\nsyscr:", &traffic->reads) ||
			!get_number(buf, "\nrchar:", &traffic->read_bytes))
			traffic->reads = traffic->read_bytes = 0;

		if (!read_switches(pid, &switches, &sleeps, &still_asleep))
			return false;
		traffic->awake = !asleep || !still_asleep || switches != traffic->switches;
	}
	return true;
}

#endif							/* LG_SOCK_DIAG */

/*
 * Read what has gone over a socket of the process, which waits for its client.
 * False if the operating system does not tell.  Neither blocks nor allocates.
 */
bool
lg_traffic_read(int pid, const LgSocket *client, LgTraffic *traffic)
{
	memset(traffic, 0, sizeof(*traffic));
#ifdef LG_SOCK_DIAG
	if (client->family == AF_INET || client->family == AF_INET6)
	{
		uint64		acked;
		uint64		received;
		uint64		unread;

		traffic->counted = true;
		if (!read_tcp(client, false, &traffic->taken, &traffic->sent, &unread))
			return false;
		traffic->local = read_tcp(client, true, &acked, &received, &unread);
		if (traffic->local)
			traffic->read = received - unread;
		return true;
	}
	if (client->family == AF_UNIX)
	{
		struct unix_diag_rqlen queue;
		uint32		peer;
		uint32		ignored;

		/* The queues first: that the process has run since has to show. */
		if (!read_unix(client->inode, &queue, &peer))
			return false;
		traffic->queued = queue.udiag_wqueue;

		/* A client in another network namespace does not show. */
		if (peer != 0 && read_unix(peer, &queue, &ignored))
			traffic->unread = queue.udiag_rqueue;
		return read_process(pid, traffic);
	}
#endif
	return false;
}

/* Has a client taken or sent anything between two readings? */
LgProgress
lg_traffic_compare(const LgTraffic *before, const LgTraffic *now)
{
	uint64		reads = now->reads - before->reads;
	uint64		bytes = now->read_bytes - before->read_bytes;

	if (before->counted || now->counted)
		return before->counted == now->counted && before->sent == now->sent &&
			before->taken == now->taken && before->local == now->local &&
			before->read == now->read ? LG_STOOD_STILL : LG_MOVED;

	if (before->unread != now->unread || before->queued != now->queued)
		return LG_MOVED;
	if (before->awake || now->awake)
		return LG_DISTURBED;
	if (before->switches == now->switches)
		return LG_STOOD_STILL;

	/* If anything else was read, it was at work. */
	if (now->sleeps - before->sleeps <= reads &&
		(bytes == reads * SIGNALFD_BYTES || bytes == reads * PIPE_BYTES))
		return LG_DISTURBED;
	return LG_MOVED;
}
