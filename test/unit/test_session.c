/*-------------------------------------------------------------------------
 *
 * test_session.c
 *		Clocks, and sessions as they are read.
 *
 *-------------------------------------------------------------------------
 */
#include "scene.h"

#include "postmaster/bgworker.h"
#include "replication/syncrep.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "unit.h"

#define LIMIT	100				/* of idle sessions, ms */

static LgSession session;
static LgTrack track;

/* Both clocks have gone on, and have been read. */
static void
later(int64 ms)
{
	pass(ms);
	lg_clock_read(&view.clock);
}

static void
read_session(int procno)
{
	lg_read_session(procno, &session);
}

/* Session 0, and what is remembered of it. */
static void
track_session(void)
{
	read_session(0);
	lg_track_session(&track, &session, &view.clock, true);
}

/* A new session 0 that runs a statement, and waits for its client. */
static void
stalled_session(void)
{
	scene(1);
	stalls(0);
	read_session(0);
	memset(&track, 0, sizeof(track));
}

/* Since when its client has been idle, for a limit of so many ms. */
static int64
idle_by(int ms)
{
	return lg_idle_since(&track, &session, &view.clock, ms * MS);
}

static int64
idle_since(void)
{
	return idle_by(LIMIT);
}

static bool
works_for_others(void)
{
	return lg_works_for_others(&track, &session);
}

static void
clock_without_steps(void)
{
	LgMoment	moment = {0};
	TimestampTz then;
	int64		at;

	scene(1);
	CHECK_INT(view.clock.now, clock_ns);
	CHECK_INT(view.clock.wall, wall_now());
	then = wall_now();
	at = clock_ns;
	later(5000);
	CHECK_INT(lg_clock_at(&view.clock, then), at);
	CHECK_INT(lg_clock_wall(&view.clock, at), then);
	CHECK_INT(lg_moment(&view.clock, &moment, then), at);

	/* The future, and the present moment, count as now. */
	pass(1);
	CHECK_INT(lg_clock_at(&view.clock, view.clock.wall), clock_ns);
	CHECK_INT(lg_clock_at(&view.clock, view.clock.wall + 1), clock_ns);
	CHECK_INT(lg_clock_at(&view.clock, view.clock.wall + USECS_PER_DAY), clock_ns);
	CHECK_INT(lg_clock_at(&view.clock, view.clock.wall - 1), view.clock.now - 1000);
}

static void
clock_with_steps(void)
{
	static const int64 steps[] = {
		-USECS_PER_SEC, USECS_PER_SEC, -USECS_PER_DAY * 365, USECS_PER_DAY * 365,
		USECS_PER_DAY * 365 * 56, 6000, -6000
	};

	for (int i = 0; i < (int) lengthof(steps); i++)
	{
		LgMoment	seen = {0};
		LgMoment	unseen = {0};
		TimestampTz then;
		int64		at;
		int64		stepped;

		scene(1);
		then = wall_now();
		at = clock_ns;
		later(100);
		CHECK_INT(lg_moment(&view.clock, &seen, then), at);
		pass(100);
		clock_offset += steps[i];
		lg_clock_read(&view.clock);
		stepped = view.clock.now;

		/* What was seen before is known; what was not is as young as can be. */
		CHECK_INT(lg_moment(&view.clock, &seen, then), at);
		CHECK(lg_moment(&view.clock, &unseen, then) >= stepped);
		later(1000);
		CHECK_INT(view.clock.stepped, stepped);
		CHECK(lg_clock_at(&view.clock, then) >= stepped);
		CHECK_INT(lg_clock_at(&view.clock, view.clock.wall - 1000), view.clock.now - MS);
	}
}

/* The machine does something else between the two readings, once or always. */
static int	interruptions;

static void
interrupt(void)
{
	if (interruptions-- > 0)
		pass(50);
}

static void
clock_torn_readings(void)
{
	scene(1);
	on_wall_clock = interrupt;
	for (int times = 0; times < 9; times++)
	{
		pass(1000);
		interruptions = times;
		lg_clock_read(&view.clock);
		CHECK_INT(view.clock.stepped, PG_INT64_MIN);
		CHECK_INT(view.clock.now, clock_ns);
	}
}

/* ntpd slews the clock by at most 0.5 ms a second: that is no step. */
static void
clock_slewed(void)
{
	scene(1);
	for (int i = 0; i < 1000; i++)
	{
		pass(1000);
		clock_offset += i < 500 ? 500 : -500;
		lg_clock_read(&view.clock);
		CHECK_INT(view.clock.stepped, PG_INT64_MIN);
	}
}

#ifndef BACKEND_NUM_TYPES		/* PostgreSQL 15 */
#define BACKEND_NUM_TYPES	(B_LOGGER + 1)
#endif

static void
kinds(void)
{
	static const struct
	{
		BackendType type;
		LgKind		kind;
	}			types[] =
	{
		{B_BACKEND, LG_KIND_CLIENT},
		{B_AUTOVAC_WORKER, LG_KIND_AUTOVACUUM},
		{B_WAL_SENDER, LG_KIND_WALSENDER},
		{B_STARTUP, LG_KIND_STARTUP},
		{B_BG_WORKER, LG_KIND_BACKGROUND}
	};

	/* All that this version has: none but a client's can be a victim. */
	for (int type = B_INVALID; type < BACKEND_NUM_TYPES; type++)
	{
		LgKind		kind = LG_KIND_OTHER;

		for (int i = 0; i < (int) lengthof(types); i++)
			if (types[i].type == (BackendType) type)
				kind = types[i].kind;
		scene(1);
		comes(0, type);
		read_session(0);
		CHECK_INT(session.kind, kind);
		CHECK_INT(session.pid, 100);
		CHECK_INT(session.leader, 0);
		CHECK(session.has_status);
		CHECK(lg_backend_type(session.kind) != NULL && lg_kind_text(session.kind) != NULL);
	}

	/* A worker with a leader is a parallel worker. */
	scene(1);
	comes(1, B_BG_WORKER);
	joins_group(1, 0);
	read_session(1);
	CHECK_INT(session.kind, LG_KIND_PARALLEL);
	CHECK_INT(session.leader, 0);

	/* Still logging in: a PGPROC, but no status yet. */
	status_of(0)->st_procpid = 0;
	read_session(0);
	CHECK_INT(session.kind, LG_KIND_STARTING);
	CHECK(!session.has_status);
	CHECK_TEXT(lg_state_text(&session), "starting");

	/* The status of the one that was there before. */
	status_of(0)->st_procpid = 99;
	read_session(0);
	CHECK_INT(session.kind, LG_KIND_STARTING);

	/* Gone. */
	session_ends(0);
	read_session(0);
	CHECK_INT(session.kind, LG_KIND_NONE);
	CHECK_INT(session.pid, 0);

	/* An auxiliary process is found by its pid up to 16, by its number since. */
	session_begins(MaxBackends + 2, 500, B_STARTUP);
	read_session(MaxBackends + 2);
	CHECK_INT(session.kind, LG_KIND_STARTUP);

	/* Prepared transactions have no pid. */
	read_session(prepares("p"));
	CHECK_INT(session.kind, LG_KIND_PREPARED);
	CHECK_TEXT(lg_state_text(&session), "prepared");
	read_session(LG_TOTAL_PROCS - 2);
	CHECK_INT(session.kind, LG_KIND_NONE);
}

/* Its owner changes the status all the time: what was half read is not used. */
static void
status_that_changes(void)
{
	scene(1);
	status_of(0)->st_changecount = 7;
	read_session(0);
	CHECK(!session.has_status);
	CHECK_INT(session.kind, LG_KIND_STARTING);
	CHECK_INT(session.xact_start, 0);
	CHECK_INT(session.state, STATE_UNDEFINED);
	status_of(0)->st_changecount = 8;
	read_session(0);
	CHECK(session.has_status);
	CHECK_INT(session.kind, LG_KIND_CLIENT);
}

static void
texts(void)
{
	char		query[LG_QUERY_SIZE];
	char		application_name[NAMEDATALEN];
	char		client_addr[LG_ADDR_SIZE];

	scene(1);
	memset(status_of(0)->st_activity_raw, 'q', pgstat_track_activity_query_size - 1);
	strcpy(status_of(0)->st_appname, "psql");
	status_of(0)->st_clientaddr.addr.ss_family = AF_INET;
	read_session(0);
	for (size_t size = 1; size <= sizeof(query); size++)
	{
		char	   *exact = malloc(size);

		CHECK(lg_read_texts(&session, exact, size, application_name, client_addr));
		CHECK_INT(strlen(exact), size - 1);
		free(exact);
	}
	CHECK_TEXT(application_name, "psql");
	CHECK_TEXT(client_addr, "192.0.2.1");

	/* Characters of 2, 3 and 4 bytes are not cut in the middle. */
	for (int bytes = 2; bytes <= 4; bytes++)
	{
		static const char *const characters[] = {"\303\244", "\342\202\254", "\360\237\230\200"};
		char	   *raw = status_of(0)->st_activity_raw;

		for (int i = 0; i + bytes < pgstat_track_activity_query_size; i += bytes)
			strcpy(raw + i, characters[bytes - 2]);
		for (size_t size = 1; size <= 50; size++)
		{
			char	   *exact = malloc(size);

			CHECK(lg_read_texts(&session, exact, size, NULL, NULL));
			CHECK_INT(strlen(exact), (size - 1) / bytes * bytes);
			free(exact);
		}
	}
	CHECK(lg_read_texts(&session, NULL, 0, NULL, NULL));

	/* Another session in its place, or a status that does not hold still. */
	status_of(0)->st_proc_start_timestamp++;
	CHECK(!lg_read_texts(&session, query, sizeof(query), application_name, client_addr));
	CHECK_TEXT(query, "");
	CHECK_TEXT(application_name, "");
	CHECK_TEXT(client_addr, "");
	status_of(0)->st_proc_start_timestamp--;
	status_of(0)->st_changecount = 1;
	CHECK(!lg_read_texts(&session, query, sizeof(query), application_name, client_addr));
	CHECK_TEXT(query, "");
}

/* A query of so many "q", this behind it, as it is read into so many bytes. */
static char *
read_query(int length, const char *end, size_t size)
{
	static char query[LG_QUERY_SIZE];
	char	   *raw = status_of(0)->st_activity_raw;
	char	   *exact = malloc(size);

	memset(raw, 'q', length);
	strcpy(raw + length, end);
	CHECK(lg_read_texts(&session, exact, size, NULL, NULL));
	strcpy(query, exact);
	free(exact);
	return query;
}

static void
comments(void)
{
	char		comment[400];
	char	   *query;

	scene(1);
	read_session(0);
	for (size_t size = 400; size <= 700; size += 100)
	{
		query = read_query(800, "/*a='1',b='2'*/", size);
		CHECK_INT(strlen(query), size - 1);
		CHECK_TEXT(query + size - 1 - 18, ".../*a='1',b='2'*/");
		CHECK_INT(strspn(query, "q"), size - 1 - 18);
		CHECK_TEXT(read_query(800, "/* b */ q /*a='1'*/ ; \n", size) + size - 1 - 12, ".../*a='1'*/");
	}

	/* It fits, or the buffer is small, or there is none. */
	CHECK_INT(strlen(read_query(384, "/*a='1',b='2'*/", 400)), 399);
	CHECK_INT(strspn(query = read_query(384, "/*a='1',b='2'*/", 400), "q"), 384);
	CHECK_TEXT(query + 384, "/*a='1',b='2'*/");
	CHECK_INT(strspn(read_query(385, "/*a='1',b='2'*/", 400), "q"), 381);
	CHECK_INT(strspn(read_query(800, "/*a*/", 399), "q"), 398);
	CHECK_INT(strspn(read_query(800, "/*a*/ q", 400), "q"), 399);
	CHECK_INT(strspn(read_query(800, "/*a", 400), "q"), 399);
	CHECK_INT(strspn(read_query(800, "*/", 400), "q"), 399 - 3 - 200);

	/* Longer than what is kept; not from the middle of a character on. */
	memset(comment, 'c', sizeof(comment));
	memcpy(comment, "/*", 2);
	strcpy(comment + 397, "*/");
	query = read_query(500, comment, 500);
	CHECK_INT(strlen(query), 499);
	CHECK_INT(strspn(query, "q"), 499 - 203);
	CHECK_TEXT(query + 499 - 200, comment + 399 - 200);
	memcpy(comment + 399 - 202, "\360\237\230\200", 4);
	query = read_query(500, comment, 500);
	CHECK_INT(strspn(query, "q"), 499 - 201);
	CHECK_TEXT(query + 499 - 198, comment + 399 - 198);
	for (int i = 0; i < 4; i++)
	{
		/* Half a character before the gap. */
		memset(status_of(0)->st_activity_raw, 'q', 800);
		for (int at = i; at + 4 < 800; at += 4)
			memcpy(status_of(0)->st_activity_raw + at, "\360\237\230\200", 4);
		strcpy(status_of(0)->st_activity_raw + 800, "/*a*/");
		CHECK(lg_read_texts(&session, comment, 400, NULL, NULL));
		CHECK_INT((strlen(comment) - i - 8) % 4, 0);
		CHECK(strlen(comment) > 395 - 4);
		CHECK_TEXT(comment + strlen(comment) - 8, ".../*a*/");
	}
}

/* Neither in its transaction any more nor out of the way. */
static void
in_transit(void)
{
	static const BackendState states[] = {
		STATE_IDLE, STATE_RUNNING, STATE_IDLEINTRANSACTION, STATE_FASTPATH,
		STATE_IDLEINTRANSACTION_ABORTED, STATE_DISABLED
	};
	static const bool expected[] = {false, true, true, true, false, true};

	for (int i = 0; i < (int) lengthof(states); i++)
	{
		scene(1);
		session_state(0, states[i]);
		proc_of(0)->wait_event_info = 0;
		read_session(0);
		CHECK(!lg_in_transit(&session) || states[i] == STATE_IDLE);
		ends_transaction(0);
		read_session(0);
		CHECK_INT(lg_in_transit(&session), expected[i]);
		proc_of(0)->wait_event_info = WAIT_EVENT_CLIENT_READ;
		read_session(0);
		CHECK(!lg_in_transit(&session));
	}
}

/* Those that are connected, and the auxiliary ones; all, if that cannot be told. */
static void
live_procs(void)
{
	for (int backends = 100; backends <= 1000; backends += 900)
		for (int busy = 0; busy < 2; busy++)
		{
			LgLive		live = {0};
			bool		all = backends < 500 || busy;
			int			n = 0;

			server_start(backends, 3);
			live.procno = palloc_array(int, LG_TOTAL_PROCS);
			for (int i = 0; i < backends; i += 7)
				session_begins(i, 1000 + i, B_BACKEND);
			session_ends(14);
			proc_array_busy = busy;
			lg_live_procs(&live);
			lg_live_procs(&live);
			for (int procno = 0; procno < backends + NUM_AUXILIARY_PROCS; procno++)
				if (all || procno >= backends || proc_of(procno)->procLatch.owner_pid != 0)
					CHECK_INT(live.procno[n++], procno);
			CHECK_INT(live.n, n);
			CHECK_INT(lwlocks_taken, 0);
		}
}

/* What is remembered of a process is not that of another, or another transaction. */
static void
tracks(void)
{
	scene(1);
	track_session();
	CHECK_INT(track.held_next_xid, InvalidTransactionId);
	proc_of(0)->xmin = 3;
	track_session();
	CHECK_INT(track.held_next_xid, next_xid);
	CHECK_INT(track.xact_seen, clock_ns);
	pass(1);
	next_xid++;
	track_session();
	CHECK_INT(track.held_next_xid, next_xid - 1);
	CHECK_INT(track.xact_seen, clock_ns - MS);

	/* Between two statements it holds nothing back. */
	proc_of(0)->xmin = InvalidTransactionId;
	track_session();
	CHECK_INT(track.held_next_xid, InvalidTransactionId);

	next_transaction(0);
	track.open_action = 5;
	track_session();
	CHECK_INT(track.held_next_xid, InvalidTransactionId);
	CHECK_INT(track.xact_seen, clock_ns);
	CHECK_INT(track.open_action, 5);

	/* The same pid again, of another process; then another pid. */
	status_of(0)->st_proc_start_timestamp++;
	track_session();
	CHECK_INT(track.open_action, 0);
	track.open_action = 5;
	session_begins(0, 200, B_BACKEND);
	track_session();
	CHECK_INT(track.open_action, 0);
	CHECK_INT(track.pid, 200);
}

/* The operating system is asked at the beginning, and when it would matter. */
static void
stalled(void)
{
	int64		began;

	stalled_session();
	began = clock_ns;
	CHECK_INT(idle_since(), began);
	traffic.taken++;			/* has moved, but that is not asked yet */
	later(99);
	CHECK_INT(idle_since(), began);
	CHECK(lg_client_has_moved(&track, &session));
	later(1);
	CHECK_INT(idle_since(), clock_ns);
	CHECK(!lg_client_has_moved(&track, &session));
	began = clock_ns;
	later(100);
	CHECK_INT(idle_since(), began);

	/* Any progress counter that moves, another statement, another wait. */
	later(1);
	session.progress++;
	CHECK_INT(idle_since(), clock_ns);
	pass(1);
	session.stmt_start++;
	CHECK_INT(idle_since(), clock_ns);
	pass(1);
	session.wait_event = WAIT_EVENT_CLIENT_READ;
	CHECK_INT(idle_since(), clock_ns);
	pass(1);
	session.lxid++;
	CHECK_INT(idle_since(), clock_ns);

	/* It cannot be told. */
	later(100);
	traffic_known = false;
	CHECK_INT(idle_since(), LG_NEVER);
	CHECK(lg_client_has_moved(&track, &session));
	CHECK_INT(reports[LOG], 0);

	/* It is not asked again soon. */
	traffic_known = true;
	later(999);
	CHECK_INT(idle_since(), LG_NEVER);
	later(1);
	CHECK_INT(idle_since(), clock_ns);

	/* Only the worker says so, once, and not of a session that goes on. */
	traffic_known = false;
	MyBgworkerEntry = palloc0(sizeof(BackgroundWorker));
	for (int i = 0; i < 3; i++)
	{
		if (i == 0)
			proc_of(0)->wait_event_info = 0;
		else
			stalls(0);
		later(1000);
		CHECK_INT(idle_since(), LG_NEVER);
		CHECK_INT(reports[LOG], i > 0);
	}
	MyBgworkerEntry = NULL;
}

/* For a moment it does not wait for its client: that time does not count. */
static void
stalled_with_breaks(void)
{
	int64		began;

	stalled_session();
	began = clock_ns;
	CHECK_INT(idle_since(), began);
	for (int i = 0; i < 3; i++)
	{
		later(10);
		CHECK_INT(idle_since(), began);
		later(10);
		session.wait_event = 0;
		CHECK_INT(idle_since(), LG_NEVER);
		began += 10 * MS;
		session.wait_event = WAIT_EVENT_CLIENT_WRITE;
	}
	pass_until(began + LIMIT * MS);
	lg_clock_read(&view.clock);
	CHECK_INT(idle_since(), began);

	/* Something else meanwhile: it begins anew. */
	later(1);
	session.wait_event = 0;
	session.stmt_start++;
	CHECK_INT(idle_since(), LG_NEVER);
	session.wait_event = WAIT_EVENT_CLIENT_WRITE;
	later(1);
	CHECK_INT(idle_since(), clock_ns);

	/* Or the client has taken something. */
	later(LIMIT);
	session.wait_event = 0;
	CHECK_INT(idle_since(), LG_NEVER);
	session.wait_event = WAIT_EVENT_CLIENT_WRITE;
	traffic.taken++;
	later(LIMIT);
	CHECK_INT(idle_since(), clock_ns);

	/* It says that it is idle. */
	session.state = STATE_IDLEINTRANSACTION;
	session.state_start = wall_now();
	CHECK_INT(idle_since(), clock_ns);
	CHECK_INT(track.stalled, 0);
}

/* Its process is running when it is looked at. */
static void
stalled_but_awake(void)
{
	int64		began;

	stalled_session();
	traffic.counted = false;
	traffic.awake = true;
	CHECK_INT(idle_since(), LG_NEVER);
	traffic.awake = false;
	began = clock_ns;
	CHECK_INT(idle_since(), began);
	later(LIMIT);
	CHECK_INT(idle_since(), began);

	/*
	 * It has read its latch, and goes to sleep only then: that is one
	 * wake-up.
	 */
	traffic.awake = true;
	traffic.reads++;
	traffic.read_bytes += 128;
	later(1);
	CHECK_INT(idle_since(), clock_ns - (LIMIT - 20) * MS);
	traffic.awake = false;
	traffic.sleeps++;
	traffic.switches++;
	later(1);
	CHECK_INT(idle_since(), clock_ns - (LIMIT - 20) * MS);

	/* What is known of the time since adds up to ten limits. */
	later(9 * LIMIT);
	CHECK_INT(idle_since(), clock_ns - (LIMIT - 20) * MS);
	later(LIMIT);
	CHECK(clock_ns - idle_since() >= 10 * LIMIT * MS);
}

/* Outside a transaction, a client may be sent what others want it to know. */
static void
notified(void)
{
	for (int in_transaction = 0; in_transaction < 2; in_transaction++)
	{
		int64		began;

		stalled_session();
		session.state = STATE_DISABLED;
		session.wait_event = WAIT_EVENT_CLIENT_READ;
		if (!in_transaction)
			session.lxid = InvalidLocalTransactionId;
		began = clock_ns;
		CHECK_INT(idle_since(), began);
		traffic.taken++;
		later(LIMIT);
		CHECK_INT(idle_since(), in_transaction ? clock_ns : began);
		traffic.sent++;
		later(LIMIT);
		CHECK_INT(idle_since(), clock_ns);
	}
}

/*
 * A client on a Unix-domain socket that takes something now and then, while
 * others wake its session at random.  Whenever its session has not run, that
 * shows; otherwise, it is never told.
 */
static void
slow_and_disturbed(void)
{
	for (int round = 0; round < rounds; round++)
	{
		int			limit = 1 + random_below(200);
		int			pause = 1 + random_below(limit);
		int			noise = 1 + random_below(100);
		int			step = 1 + random_below(20);
		int			left = 0;
		int			next_take = 0;

		stalled_session();
		traffic.counted = false;
		traffic.unread = 1000;
		for (int ms = 0; ms < 2000; ms++)
		{
			pass(1);

			/* At random, but never with a longer pause than that. */
			if (ms >= next_take)
			{
				left++;
				next_take = ms + 1 + random_below(pause);
			}
			if (one_in(noise))
			{
				left = 0;
				disturb();
			}
			traffic.unread = 1000 - left;
			if (ms % step == 0)
			{
				int64		since;

				lg_clock_read(&view.clock);
				since = idle_by(limit);
				if (!CHECK(since == LG_NEVER || view.clock.now - since < limit * MS))
				{
					printf("    round %d: limit %d ms, pause %d ms, a wake-up in %d ms, looks each %d ms\n",
						   round, limit, pause, noise, step);
					return;
				}
			}
		}
	}
}

/* Whether a session has exported a snapshot, and how often that is asked. */
static void
exported(void)
{
	scene(1);
	session_state(0, STATE_IDLE);
	read_session(0);
	CHECK(!works_for_others());
	CHECK_INT(files_asked_for, 0);	/* is in no transaction */

	runs(0);
	sits_idle(0);
	read_session(0);
	CHECK(!works_for_others());
	CHECK(!works_for_others());
	CHECK_INT(files_asked_for, 1);

	/* It has run another statement. */
	pass(1);
	runs(0);
	exports_snapshot(0);
	read_session(0);
	CHECK(works_for_others());
	sits_idle(0);
	read_session(0);
	CHECK(works_for_others());
	CHECK_INT(files_asked_for, 2);

	/* Its next transaction; the file has been left behind. */
	next_transaction(0);
	sits_idle(0);
	read_session(0);
	CHECK(!works_for_others());
	CHECK_INT(files_asked_for, 3);

	/* As long as it is active, it may do so any time. */
	runs(0);
	read_session(0);
	CHECK(!works_for_others());
	exports_snapshot(0);
	CHECK(works_for_others());

	/* It cannot be seen, and then it can. */
	next_transaction(0);
	sits_idle(0);
	read_session(0);
	access_errno = EACCES;
	CHECK(works_for_others());
	access_errno = ENOENT;
	CHECK(!works_for_others());
}

static void
prepared_transactions(void)
{
	char		gid[LG_GID_SIZE];
	TimestampTz prepared_at;
	bool		busy;
	int			procno;

	scene(1);
	procno = LG_TOTAL_PROCS - 1;
	CHECK(!lg_any_prepared());
	CHECK(!lg_prepared_transaction(procno, gid, &prepared_at, &busy));
	CHECK_TEXT(gid, "");
	prepare_transaction(procno, 77, "the gid");
	CHECK(lg_any_prepared());
	CHECK(lg_prepared_transaction(procno, gid, &prepared_at, &busy));
	CHECK_TEXT(gid, "the gid");
	CHECK_INT(prepared_at, wall_now());
	CHECK(!busy);

	/* Another one has taken its place since. */
	proc_of(procno)->xid = 78;
	CHECK(!lg_prepared_transaction(procno, gid, &prepared_at, &busy));
	CHECK(!lg_prepared_transaction(procno - 1, gid, &prepared_at, &busy));
	CHECK_INT(lwlocks_taken, 0);
}

const Test	session_tests[] = {
	{"clock: a clock without steps", clock_without_steps},
	{"clock: a clock with steps", clock_with_steps},
	{"clock: torn readings of the clocks", clock_torn_readings},
	{"clock: a slewed clock", clock_slewed},
	{"session: kinds of processes", kinds},
	{"session: a status that changes", status_that_changes},
	{"session: texts", texts},
	{"session: texts, comments", comments},
	{"session: at the end of a transaction", in_transit},
	{"session: processes that are there", live_procs},
	{"session: what is remembered", tracks},
	{"session: stalled clients", stalled},
	{"session: stalled clients, with breaks", stalled_with_breaks},
	{"session: stalled clients whose process runs", stalled_but_awake},
	{"session: clients that are notified", notified},
	{"session: slow clients that others disturb", slow_and_disturbed},
	{"session: exported snapshots", exported},
	{"session: prepared transactions", prepared_transactions},
	{NULL, NULL}
};
