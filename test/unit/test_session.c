/*-------------------------------------------------------------------------
 *
 * test_session.c
 *		Clocks, and sessions as they are read.
 *
 *-------------------------------------------------------------------------
 */
#include "server.h"

#include "postmaster/bgworker.h"
#include "replication/syncrep.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "unit.h"

static LgClock clocks;
static LgSession session;

static void
start(void)
{
	server_start(10, 2);
	memset(&clocks, 0, sizeof(clocks));
	lg_clock_read(&clocks);
}

static void
clock_without_steps(void)
{
	LgMoment	moment = {0};
	TimestampTz then;
	int64		at;

	start();
	CHECK_INT(clocks.now, clock_ns);
	CHECK_INT(clocks.wall, wall_now());
	then = wall_now();
	at = clock_ns;
	clock_ns += 5000 * MS;
	lg_clock_read(&clocks);
	CHECK_INT(lg_clock_at(&clocks, then), at);
	CHECK_INT(lg_clock_wall(&clocks, at), then);
	CHECK_INT(lg_moment(&clocks, &moment, then), at);

	/* The future, and the present moment, count as now. */
	clock_ns += MS;
	CHECK_INT(lg_clock_at(&clocks, clocks.wall), clock_ns);
	CHECK_INT(lg_clock_at(&clocks, clocks.wall + 1), clock_ns);
	CHECK_INT(lg_clock_at(&clocks, clocks.wall + USECS_PER_DAY), clock_ns);
	CHECK_INT(lg_clock_at(&clocks, clocks.wall - 1), clocks.now - 1000);
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

		start();
		then = wall_now();
		at = clock_ns;
		clock_ns += 100 * MS;
		lg_clock_read(&clocks);
		CHECK_INT(lg_moment(&clocks, &seen, then), at);
		clock_ns += 100 * MS;
		clock_offset += steps[i];
		lg_clock_read(&clocks);
		stepped = clocks.now;

		/* What was seen before is known; what was not is as young as can be. */
		CHECK_INT(lg_moment(&clocks, &seen, then), at);
		CHECK(lg_moment(&clocks, &unseen, then) >= stepped);
		clock_ns += 1000 * MS;
		lg_clock_read(&clocks);
		CHECK_INT(clocks.stepped, stepped);
		CHECK(lg_clock_at(&clocks, then) >= stepped);
		CHECK_INT(lg_clock_at(&clocks, clocks.wall - 1000), clocks.now - MS);
	}
}

/* The machine does something else between the two readings, once or always. */
static int	interruptions;

static void
interrupt(void)
{
	if (interruptions-- > 0)
		clock_ns += 50 * MS;
}

static void
clock_torn_readings(void)
{
	start();
	on_wall_clock = interrupt;
	for (int times = 0; times < 9; times++)
	{
		clock_ns += 1000 * MS;
		interruptions = times;
		lg_clock_read(&clocks);
		CHECK_INT(clocks.stepped, PG_INT64_MIN);
		CHECK_INT(clocks.now, clock_ns);
	}
}

/* ntpd slews the clock by at most 0.5 ms a second: that is no step. */
static void
clock_slewed(void)
{
	start();
	for (int i = 0; i < 1000; i++)
	{
		clock_ns += 1000 * MS;
		clock_offset += i < 500 ? 500 : -500;
		lg_clock_read(&clocks);
		CHECK_INT(clocks.stepped, PG_INT64_MIN);
	}
}

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
		{B_BG_WORKER, LG_KIND_BACKGROUND},
		{B_CHECKPOINTER, LG_KIND_OTHER}
	};

	for (int i = 0; i < (int) lengthof(types); i++)
	{
		start();
		session_begins(0, 100, types[i].type);
		lg_read_session(0, &session);
		CHECK_INT(session.kind, types[i].kind);
		CHECK_INT(session.pid, 100);
		CHECK_INT(session.leader, 0);
		CHECK(session.has_status);
		CHECK(lg_backend_type(session.kind) != NULL && lg_kind_text(session.kind) != NULL);
	}

	/* A worker with a leader is a parallel worker. */
	start();
	session_begins(0, 100, B_BACKEND);
	session_begins(1, 101, B_BG_WORKER);
	joins_group(1, 0);
	lg_read_session(1, &session);
	CHECK_INT(session.kind, LG_KIND_PARALLEL);
	CHECK_INT(session.leader, 0);

	/* Still logging in: a PGPROC, but no status yet. */
	status_of(0)->st_procpid = 0;
	lg_read_session(0, &session);
	CHECK_INT(session.kind, LG_KIND_STARTING);
	CHECK(!session.has_status);
	CHECK_TEXT(lg_state_text(&session), "starting");

	/* The status of the one that was there before. */
	status_of(0)->st_procpid = 99;
	lg_read_session(0, &session);
	CHECK_INT(session.kind, LG_KIND_STARTING);

	/* Gone. */
	session_ends(0);
	lg_read_session(0, &session);
	CHECK_INT(session.kind, LG_KIND_NONE);
	CHECK_INT(session.pid, 0);

	/* An auxiliary process is found by its pid up to 16, by its number since. */
	session_begins(MaxBackends + 2, 500, B_STARTUP);
	lg_read_session(MaxBackends + 2, &session);
	CHECK_INT(session.kind, LG_KIND_STARTUP);

	/* Prepared transactions have no pid. */
	prepare_transaction(LG_TOTAL_PROCS - 1, 55, "p");
	lg_read_session(LG_TOTAL_PROCS - 1, &session);
	CHECK_INT(session.kind, LG_KIND_PREPARED);
	CHECK_TEXT(lg_state_text(&session), "prepared");
	lg_read_session(LG_TOTAL_PROCS - 2, &session);
	CHECK_INT(session.kind, LG_KIND_NONE);
}

/* Its owner changes the status all the time: what was half read is not used. */
static void
status_that_changes(void)
{
	start();
	session_begins(0, 100, B_BACKEND);
	session_state(0, STATE_RUNNING);
	status_of(0)->st_changecount = 7;
	lg_read_session(0, &session);
	CHECK(!session.has_status);
	CHECK_INT(session.kind, LG_KIND_STARTING);
	CHECK_INT(session.xact_start, 0);
	CHECK_INT(session.state, STATE_UNDEFINED);
	status_of(0)->st_changecount = 8;
	lg_read_session(0, &session);
	CHECK(session.has_status);
	CHECK_INT(session.kind, LG_KIND_CLIENT);
}

static void
texts(void)
{
	char		query[LG_QUERY_SIZE];
	char		application_name[NAMEDATALEN];
	char		client_addr[LG_ADDR_SIZE];

	start();
	session_begins(0, 100, B_BACKEND);
	memset(status_of(0)->st_activity_raw, 'q', pgstat_track_activity_query_size - 1);
	strcpy(status_of(0)->st_appname, "psql");
	status_of(0)->st_clientaddr.addr.ss_family = AF_INET;
	lg_read_session(0, &session);
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
		start();
		session_begins(0, 100, B_BACKEND);
		session_state(0, STATE_RUNNING);
		session_state(0, states[i]);
		proc_of(0)->wait_event_info = 0;
		lg_read_session(0, &session);
		CHECK(!lg_in_transit(&session) || states[i] == STATE_IDLE);
		ends_transaction(0);
		lg_read_session(0, &session);
		CHECK_INT(lg_in_transit(&session), expected[i]);
		proc_of(0)->wait_event_info = WAIT_EVENT_CLIENT_READ;
		lg_read_session(0, &session);
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
	LgTrack		track = {0};

	start();
	session_begins(0, 100, B_BACKEND);
	session_state(0, STATE_RUNNING);
	lg_read_session(0, &session);
	lg_track_session(&track, &session, &clocks, true);
	CHECK_INT(track.held_next_xid, InvalidTransactionId);
	proc_of(0)->xmin = 3;
	lg_read_session(0, &session);
	lg_track_session(&track, &session, &clocks, true);
	CHECK_INT(track.held_next_xid, next_xid);
	CHECK_INT(track.xact_seen, clock_ns);
	clock_ns += MS;
	next_xid++;
	lg_track_session(&track, &session, &clocks, true);
	CHECK_INT(track.held_next_xid, next_xid - 1);
	CHECK_INT(track.xact_seen, clock_ns - MS);

	/* Between two statements it holds nothing back. */
	proc_of(0)->xmin = InvalidTransactionId;
	lg_read_session(0, &session);
	lg_track_session(&track, &session, &clocks, true);
	CHECK_INT(track.held_next_xid, InvalidTransactionId);

	session_state(0, STATE_IDLE);
	session_state(0, STATE_RUNNING);
	lg_read_session(0, &session);
	track.open_action = 5;
	lg_track_session(&track, &session, &clocks, true);
	CHECK_INT(track.held_next_xid, InvalidTransactionId);
	CHECK_INT(track.xact_seen, clock_ns);
	CHECK_INT(track.open_action, 5);

	/* The same pid again, of another process; then another pid. */
	status_of(0)->st_proc_start_timestamp++;
	lg_read_session(0, &session);
	lg_track_session(&track, &session, &clocks, true);
	CHECK_INT(track.open_action, 0);
	track.open_action = 5;
	session_begins(0, 200, B_BACKEND);
	lg_read_session(0, &session);
	lg_track_session(&track, &session, &clocks, true);
	CHECK_INT(track.open_action, 0);
	CHECK_INT(track.pid, 200);
}

/* The operating system is asked at the beginning, and when it would matter. */
static void
stalled(void)
{
	LgTrack		track = {0};
	int64		began;
	int64		limit = 100 * MS;

	start();
	session_begins(0, 100, B_BACKEND);
	session_state(0, STATE_RUNNING);
	stalls(0);
	lg_read_session(0, &session);
	began = clock_ns;
	CHECK_INT(lg_idle_since(&track, &session, &clocks, limit), began);
	traffic.taken++;			/* has moved, but nobody asks yet */
	clock_ns += 99 * MS;
	lg_clock_read(&clocks);
	CHECK_INT(lg_idle_since(&track, &session, &clocks, limit), began);
	CHECK(lg_client_has_moved(&track, &session));
	clock_ns += MS;
	lg_clock_read(&clocks);
	CHECK_INT(lg_idle_since(&track, &session, &clocks, limit), clock_ns);
	CHECK(!lg_client_has_moved(&track, &session));
	began = clock_ns;
	clock_ns += 100 * MS;
	lg_clock_read(&clocks);
	CHECK_INT(lg_idle_since(&track, &session, &clocks, limit), began);

	/* Any progress counter that moves, another statement, another wait. */
	clock_ns += MS;
	lg_clock_read(&clocks);
	session.progress++;
	CHECK_INT(lg_idle_since(&track, &session, &clocks, limit), clock_ns);
	clock_ns += MS;
	session.stmt_start++;
	CHECK_INT(lg_idle_since(&track, &session, &clocks, limit), clock_ns);
	clock_ns += MS;
	session.wait_event = WAIT_EVENT_CLIENT_READ;
	CHECK_INT(lg_idle_since(&track, &session, &clocks, limit), clock_ns);
	clock_ns += MS;
	session.lxid++;
	CHECK_INT(lg_idle_since(&track, &session, &clocks, limit), clock_ns);

	/* It cannot be told. */
	clock_ns += 100 * MS;
	lg_clock_read(&clocks);
	traffic_known = false;
	CHECK_INT(lg_idle_since(&track, &session, &clocks, limit), LG_NEVER);
	CHECK(lg_client_has_moved(&track, &session));
	CHECK_INT(reports[LOG], 0);

	/* It is not asked again soon. */
	traffic_known = true;
	clock_ns += 999 * MS;
	lg_clock_read(&clocks);
	CHECK_INT(lg_idle_since(&track, &session, &clocks, limit), LG_NEVER);
	clock_ns += MS;
	lg_clock_read(&clocks);
	CHECK_INT(lg_idle_since(&track, &session, &clocks, limit), clock_ns);

	/* Only the worker says so, once, and not of a session that goes on. */
	traffic_known = false;
	MyBgworkerEntry = palloc0(sizeof(BackgroundWorker));
	for (int i = 0; i < 3; i++)
	{
		if (i == 0)
			proc_of(0)->wait_event_info = 0;
		else
			stalls(0);
		clock_ns += 1000 * MS;
		lg_clock_read(&clocks);
		CHECK_INT(lg_idle_since(&track, &session, &clocks, limit), LG_NEVER);
		CHECK_INT(reports[LOG], i > 0);
	}
	MyBgworkerEntry = NULL;
}

/* For a moment it does not wait for its client: that time does not count. */
static void
stalled_with_breaks(void)
{
	LgTrack		track = {0};
	int64		limit = 100 * MS;
	int64		began;

	start();
	session_begins(0, 100, B_BACKEND);
	session_state(0, STATE_RUNNING);
	stalls(0);
	lg_read_session(0, &session);
	began = clock_ns;
	CHECK_INT(lg_idle_since(&track, &session, &clocks, limit), began);
	for (int i = 0; i < 3; i++)
	{
		clock_ns += 10 * MS;
		lg_clock_read(&clocks);
		CHECK_INT(lg_idle_since(&track, &session, &clocks, limit), began);
		clock_ns += 10 * MS;
		lg_clock_read(&clocks);
		session.wait_event = 0;
		CHECK_INT(lg_idle_since(&track, &session, &clocks, limit), LG_NEVER);
		began += 10 * MS;
		session.wait_event = WAIT_EVENT_CLIENT_WRITE;
	}
	clock_ns = began + limit;
	lg_clock_read(&clocks);
	CHECK_INT(lg_idle_since(&track, &session, &clocks, limit), began);

	/* Something else meanwhile: it begins anew. */
	clock_ns += MS;
	lg_clock_read(&clocks);
	session.wait_event = 0;
	session.stmt_start++;
	CHECK_INT(lg_idle_since(&track, &session, &clocks, limit), LG_NEVER);
	session.wait_event = WAIT_EVENT_CLIENT_WRITE;
	clock_ns += MS;
	lg_clock_read(&clocks);
	CHECK_INT(lg_idle_since(&track, &session, &clocks, limit), clock_ns);

	/* Or the client has taken something. */
	clock_ns += limit;
	lg_clock_read(&clocks);
	session.wait_event = 0;
	CHECK_INT(lg_idle_since(&track, &session, &clocks, limit), LG_NEVER);
	session.wait_event = WAIT_EVENT_CLIENT_WRITE;
	traffic.taken++;
	clock_ns += limit;
	lg_clock_read(&clocks);
	CHECK_INT(lg_idle_since(&track, &session, &clocks, limit), clock_ns);

	/* It says that it is idle. */
	session.state = STATE_IDLEINTRANSACTION;
	session.state_start = wall_now();
	CHECK_INT(lg_idle_since(&track, &session, &clocks, limit), clock_ns);
	CHECK_INT(track.stalled, 0);
}

/* Its process is running when it is looked at. */
static void
stalled_but_awake(void)
{
	LgTrack		track = {0};
	int64		limit = 100 * MS;
	int64		began;

	start();
	traffic.counted = false;
	session_begins(0, 100, B_BACKEND);
	session_state(0, STATE_RUNNING);
	stalls(0);
	lg_read_session(0, &session);
	traffic.awake = true;
	CHECK_INT(lg_idle_since(&track, &session, &clocks, limit), LG_NEVER);
	traffic.awake = false;
	began = clock_ns;
	CHECK_INT(lg_idle_since(&track, &session, &clocks, limit), began);
	clock_ns += limit;
	lg_clock_read(&clocks);
	CHECK_INT(lg_idle_since(&track, &session, &clocks, limit), began);

	/*
	 * It has read its latch, and goes to sleep only then: that is one
	 * wake-up.
	 */
	traffic.awake = true;
	traffic.reads++;
	traffic.read_bytes += 128;
	clock_ns += MS;
	lg_clock_read(&clocks);
	CHECK_INT(lg_idle_since(&track, &session, &clocks, limit), clock_ns - limit + 20 * MS);
	traffic.awake = false;
	traffic.sleeps++;
	traffic.switches++;
	clock_ns += MS;
	lg_clock_read(&clocks);
	CHECK_INT(lg_idle_since(&track, &session, &clocks, limit), clock_ns - limit + 20 * MS);

	/* What is known of the time since adds up to ten limits. */
	clock_ns += 9 * limit;
	lg_clock_read(&clocks);
	CHECK_INT(lg_idle_since(&track, &session, &clocks, limit), clock_ns - limit + 20 * MS);
	clock_ns += limit;
	lg_clock_read(&clocks);
	CHECK(clock_ns - lg_idle_since(&track, &session, &clocks, limit) >= 10 * limit);
}

/* Outside a transaction, a client may be sent what others want it to know. */
static void
notified(void)
{
	for (int in_transaction = 0; in_transaction < 2; in_transaction++)
	{
		LgTrack		track = {0};
		int64		limit = 100 * MS;
		int64		began;

		start();
		session_begins(0, 100, B_BACKEND);
		session_state(0, STATE_RUNNING);
		lg_read_session(0, &session);
		session.state = STATE_DISABLED;
		session.wait_event = WAIT_EVENT_CLIENT_READ;
		if (!in_transaction)
			session.lxid = InvalidLocalTransactionId;
		began = clock_ns;
		CHECK_INT(lg_idle_since(&track, &session, &clocks, limit), began);
		traffic.taken++;
		clock_ns += limit;
		lg_clock_read(&clocks);
		CHECK_INT(lg_idle_since(&track, &session, &clocks, limit),
				  in_transaction ? clock_ns : began);
		traffic.sent++;
		clock_ns += limit;
		lg_clock_read(&clocks);
		CHECK_INT(lg_idle_since(&track, &session, &clocks, limit), clock_ns);
	}
}

/*
 * A client on a Unix-domain socket that takes something now and then, while
 * others wake its session at random.  Whenever its session has not run, that
 * shows; otherwise, we are never told.
 */
static void
slow_and_disturbed(void)
{
	for (int round = 0; round < rounds; round++)
	{
		LgTrack		track = {0};
		int64		limit = (1 + random_below(200)) * MS;
		int64		pause = 1 + random_below(limit / MS);
		int			noise = 1 + random_below(100);
		int64		step = 1 + random_below(20);
		int			left = 0;
		int64		next_take = 0;

		start();
		traffic.counted = false;
		session_begins(0, 100, B_BACKEND);
		session_state(0, STATE_RUNNING);
		stalls(0);
		lg_read_session(0, &session);
		traffic.unread = 1000;
		for (int ms = 0; ms < 2000; ms++)
		{
			clock_ns += MS;

			/* At random, but never with a longer pause than that. */
			if (ms >= next_take)
			{
				left++;
				next_take = ms + 1 + random_below(pause);
			}
			if (one_in(noise))
			{
				left = 0;
				traffic.switches++;
				traffic.sleeps++;
				traffic.reads++;
				traffic.read_bytes += 128;
			}
			traffic.unread = 1000 - left;
			if (ms % step == 0)
			{
				int64		since;

				lg_clock_read(&clocks);
				since = lg_idle_since(&track, &session, &clocks, limit);
				if (!CHECK(since == LG_NEVER || clocks.now - since < limit))
				{
					printf("    round %d: limit %lld ms, pause %lld ms, a wake-up in %d ms, looks each %lld ms\n",
						   round, (long long) (limit / MS), (long long) pause, noise, (long long) step);
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
	LgTrack		track = {0};

	start();
	session_begins(0, 100, B_BACKEND);
	lg_read_session(0, &session);
	CHECK(!lg_works_for_others(&track, &session));
	CHECK_INT(files_asked_for, 0);	/* is in no transaction */

	session_state(0, STATE_RUNNING);
	session_state(0, STATE_IDLEINTRANSACTION);
	lg_read_session(0, &session);
	CHECK(!lg_works_for_others(&track, &session));
	CHECK(!lg_works_for_others(&track, &session));
	CHECK_INT(files_asked_for, 1);

	/* It has run another statement. */
	clock_ns += MS;
	session_state(0, STATE_RUNNING);
	exports_snapshot(0);
	lg_read_session(0, &session);
	CHECK(lg_works_for_others(&track, &session));
	session_state(0, STATE_IDLEINTRANSACTION);
	lg_read_session(0, &session);
	CHECK(lg_works_for_others(&track, &session));
	CHECK_INT(files_asked_for, 2);

	/* Its next transaction; the file has been left behind. */
	session_state(0, STATE_IDLE);
	session_state(0, STATE_RUNNING);
	session_state(0, STATE_IDLEINTRANSACTION);
	lg_read_session(0, &session);
	CHECK(!lg_works_for_others(&track, &session));
	CHECK_INT(files_asked_for, 3);

	/* As long as it is active, it may do so any time. */
	session_state(0, STATE_RUNNING);
	lg_read_session(0, &session);
	CHECK(!lg_works_for_others(&track, &session));
	exports_snapshot(0);
	CHECK(lg_works_for_others(&track, &session));

	/* It cannot be seen, and then it can. */
	session_state(0, STATE_IDLE);
	session_state(0, STATE_RUNNING);
	session_state(0, STATE_IDLEINTRANSACTION);
	lg_read_session(0, &session);
	access_errno = EACCES;
	CHECK(lg_works_for_others(&track, &session));
	access_errno = ENOENT;
	CHECK(!lg_works_for_others(&track, &session));
}

static void
prepared_transactions(void)
{
	char		gid[LG_GID_SIZE];
	TimestampTz prepared_at;
	bool		busy;
	int			procno;

	start();
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
