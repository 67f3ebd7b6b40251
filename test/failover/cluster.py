# Two servers under Patroni, "a" and "b", and an etcd: see run.sh.  Arguments: a temporary folder, and the folder
# of PostgreSQL's programs.  Prints a line "ok" or "FAILED" for each check; indented lines say what else was seen.

import atexit
import datetime
import json
import os
import re
import signal
import struct
import subprocess
import sys
import threading
import time
import urllib.request

import psycopg2

tmp, bindir = sys.argv[1:3]
started = []
# Kinds of records in the history file: see history.c.
ACTION = 1
INCIDENT = 2


def checked(good, what):
    print('%-8s%s' % ('ok' if good else 'FAILED', what), flush=True)
    return good


def seen(what):
    print('        ' + what, flush=True)


def same(found, expected, what):
    if not checked(found == expected, what):
        seen('found    %r' % (found,))
        seen('expected %r' % (expected,))


# Whether it comes true.  What cannot be asked yet has not.
def until(condition, seconds=90):
    deadline = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return True
        except (psycopg2.Error, OSError, ValueError):
            pass
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)


# The rest would make no sense without it.
def need(condition, what, seconds=90):
    if not checked(until(condition, seconds), what):
        sys.exit(1)


def start(name, *command):
    with open('%s/%s.log' % (tmp, name), 'ab') as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=tmp)
    started.append(process)
    return process


def stop_all():
    for process in reversed(started):
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


atexit.register(stop_all)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))


class Node:
    def __init__(self, name, port):
        self.name = name
        self.port = port
        self.data = '%s/%s.data' % (tmp, name)
        self.log = '%s/%s.server.log' % (tmp, name)
        self.history = self.data + '/pg_stat/lockguard.stat'
        self.conf = '%s/%s.json' % (tmp, name)
        # JSON is YAML.
        with open(self.conf, 'w') as conf:
            json.dump({
                'scope': 'lockguard',
                'name': name,
                'restapi': {'listen': '127.0.0.1:%d' % (port + 1000), 'connect_address': '127.0.0.1:%d' % (port + 1000)},
                'etcd3': {'host': '127.0.0.1:2379'},
                'bootstrap': {
                    'dcs': {
                        'ttl': 20, 'loop_wait': 1, 'retry_timeout': 3,
                        'postgresql': {
                            'use_pg_rewind': True,
                            'parameters': {
                                'shared_preload_libraries': 'lockguard',
                                'lockguard.incident_threshold': '200ms',
                            },
                        },
                    },
                    'initdb': ['data-checksums', {'encoding': 'UTF8'}, {'locale': 'C'}],
                },
                'postgresql': {
                    'listen': '127.0.0.1:%d' % port,
                    'connect_address': '127.0.0.1:%d' % port,
                    'data_dir': self.data,
                    'bin_dir': bindir,
                    'use_unix_socket': True,
                    'basebackup': {'checkpoint': 'fast'},
                    'authentication': {
                        'superuser': {'username': 'patroni', 'password': 'p'},
                        'replication': {'username': 'replicator', 'password': 'r'},
                        'rewind': {'username': 'rewinder', 'password': 'w'},
                    },
                    'pg_hba': ['local all all trust', 'host all all 127.0.0.1/32 scram-sha-256',
                               'host replication all 127.0.0.1/32 scram-sha-256'],
                    'parameters': {
                        'unix_socket_directories': tmp,
                        'fsync': 'off',
                        'logging_collector': 'on', 'log_directory': tmp, 'log_filename': name + '.server.log',
                        'log_line_prefix': '%m [%p] ',
                    },
                },
            }, conf)

    def start(self):
        self.patroni = start(self.name + '.patroni', '/usr/bin/patroni', self.conf)

    def connect(self, user='dba', name='observer', dbname='shop'):
        connection = psycopg2.connect(host=tmp, port=self.port, user=user, dbname=dbname, application_name=name)
        connection.autocommit = True
        return connection

    def rows(self, sql, *args, dbname='shop'):
        connection = self.connect(dbname=dbname)
        try:
            with connection.cursor() as cursor:
                cursor.execute(sql, args or None)
                return cursor.fetchall() if cursor.description else None
        finally:
            connection.close()

    def value(self, sql, *args, dbname='shop'):
        return self.rows(sql, *args, dbname=dbname)[0][0]

    def is_primary(self):
        return not self.value('SELECT pg_is_in_recovery()')

    def is_standby(self):
        return self.value("SELECT pg_is_in_recovery() AND EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming')")

    def postmaster(self):
        with open(self.data + '/postmaster.pid') as file:
            return int(file.readline())

    # What its history has of the root blockers of these names.
    def incidents(self, *names):
        return self.rows('SELECT incident_id, application_name, started_at, resolution FROM lockguard.incidents'
                         ' WHERE application_name = ANY(%s) ORDER BY 1', list(names))

    def names(self):
        return {row[0] for row in self.rows('SELECT application_name FROM lockguard.incidents'
                                            ' UNION SELECT application_name FROM lockguard.actions')}

    def actions(self, pid):
        return [' '.join(row) for row in self.rows('SELECT limit_name, action, result FROM lockguard.actions'
                                                   ' WHERE pid = %s ORDER BY action_id', pid)]

    # How many times the server log says that this process was signalled.
    def signalled(self, pid):
        with open(self.log) as log:
            return len(re.findall(r'lockguard: (?:cancelled the statement of|rolls back the transaction of|terminated) process %d ' % pid,
                                  log.read()))

    def promotions(self):
        with open(self.log) as log:
            return log.read().count('received promote request')

    # Is a record of that kind with that name in the history file?  An action comes later than its incident.
    def has_written(self, name, kind=INCIDENT):
        with open(self.history, 'rb') as file:
            data = file.read()
        at = 28
        while at + 16 <= len(data):
            mark, found, length, crc = struct.unpack_from('=4L', data, at)
            if found == kind and name.encode() in data[at + 16:at + 16 + length]:
                return True
            at += 16 + length
        return False

    # The seconds between the last line of the log with one text and the next one with the other.
    def took(self, first, then):
        since = None
        found = None
        with open(self.log) as log:
            for line in log:
                if first in line:
                    since, found = line, None
                elif then in line and found is None:
                    found = line
        moments = [datetime.datetime.strptime(line[:23], '%Y-%m-%d %H:%M:%S.%f') for line in (since, found) if line]
        return (moments[1] - moments[0]).total_seconds() if len(moments) == 2 else float('nan')


# A session whose statements may wait.
class Session:
    def __init__(self, node, user, name):
        self.connection = node.connect(user, name)
        self.pid = self.connection.get_backend_pid()
        self.thread = None
        self.error = None

    def run(self, *statements):
        with self.connection.cursor() as cursor:
            for sql in statements:
                cursor.execute(sql)

    def begin(self, sql):
        def work():
            try:
                self.run(sql)
            except psycopg2.Error as error:
                self.error = error
        self.error = None
        self.thread = threading.Thread(target=work, daemon=True)
        self.thread.start()

    def ends(self, seconds=60):
        self.thread.join(seconds)
        return not self.thread.is_alive()

    def close(self):
        if self.thread is None or self.ends():
            self.connection.close()


# A session that sits idle with an advisory lock, and one that waits for it.  Those can be taken on a standby, too.
def jam(node, user, name, key):
    holder = Session(node, user, name)
    holder.run('BEGIN', 'SELECT pg_advisory_xact_lock(%d)' % key)
    waiter = Session(node, 'waiter', 'behind ' + name)
    waiter.begin('SELECT pg_advisory_xact_lock(%d)' % key)
    return holder, waiter


def open_jam(node, name, key):
    sessions = jam(node, 'spared', name, key)
    need(lambda: [row[3] for row in node.incidents(name)] == [None], 'an incident is open on %s: %s' % (node.name, name))
    return sessions


# One whose statement was cancelled, which has not helped: it keeps its lock.
def stubborn_jam(node, name, key):
    holder = Session(node, 'stubborn', name)
    holder.run('BEGIN', 'SELECT pg_advisory_xact_lock(%d)' % key, 'SAVEPOINT s')
    holder.begin('SELECT pg_sleep(600)')
    waiter = Session(node, 'waiter', 'behind ' + name)
    waiter.begin('SELECT pg_advisory_xact_lock(%d)' % key)
    need(lambda: node.actions(holder.pid) == ['blocker_timeout cancel pending'] and holder.ends(),
         'a victim was signalled on %s, and the outcome is open: %s' % (node.name, name))
    return holder, waiter


# The limit of the role ends a jam there, and no sooner than after a second of blocking.
def enforces(node, name, key):
    holder, waiter = jam(node, 'app', name, key)
    checked(waiter.ends() and waiter.error is None, '%s ends a jam: %s' % (node.name, name))
    need(lambda: node.actions(holder.pid) == ['idle_blocker_timeout rollback released'], 'by its limit for the role')
    waited = node.value('SELECT longest_wait FROM lockguard.actions WHERE pid = %s', holder.pid).total_seconds()
    checked(1 <= waited < 30, 'which is 1 s: it acted after %.3f s' % waited)
    try:
        holder.run('COMMIT')
        checked(False, 'the victim is told')
    except psycopg2.Error as error:
        checked(error.pgcode == '40000' and 'set for role "app"' in error.diag.message_detail, 'the victim is told')
    need(lambda: [row[3] for row in node.incidents(name)] == ['rolled back'], 'the incident is on record')
    close(holder, waiter)


def close(*sessions):
    for session in sessions:
        session.close()


def patronictl(*command):
    done = subprocess.run(['/usr/bin/patronictl', '-c', a.conf] + list(command), cwd=tmp, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True, timeout=180)
    with open(tmp + '/patronictl.log', 'a') as log:
        log.write('%s\n%s\n' % (command, done.stdout))
    if done.returncode != 0:
        seen('patronictl %s: %s' % (' '.join(command), done.stdout.strip()))
    return done.returncode == 0


def set_in_dcs(**values):
    command = ['edit-config', 'lockguard', '--force', '--quiet']
    for name, value in values.items():
        command += ['-p', 'lockguard.%s=%s' % (name, value)]
    checked(patronictl(*command), 'patronictl edit-config %s' % ' '.join(command[4:]))


def switchover(old, new):
    since = time.monotonic()
    checked(patronictl('switchover', 'lockguard', '--leader', old.name, '--candidate', new.name, '--force'),
            'patronictl switchover from %s to %s' % (old.name, new.name))
    need(new.is_primary, '%s is the primary' % new.name)
    seen('after %.1f s' % (time.monotonic() - since))
    need(lambda: old.is_standby() and new.value('SELECT count(*) FROM pg_stat_replication') == 1,
         '%s has come back as its standby' % old.name)


def rewound(node):
    with open('%s/%s.patroni.log' % (tmp, node.name)) as log:
        return 'running pg_rewind' in log.read()


def times(old, new, what):
    stop = old.took('received fast shutdown request', 'database system is shut down')
    promote = new.took('received promote request', 'database system is ready to accept connections')
    seen('%s: %.3f s for the shutdown, %.3f s for the promotion' % (what, stop, promote))
    return stop, promote


a, b = Node('a', 5501), Node('b', 5502)
start('etcd', '/usr/bin/etcd', '--data-dir', tmp + '/etcd', '--listen-client-urls', 'http://127.0.0.1:2379',
      '--advertise-client-urls', 'http://127.0.0.1:2379', '--listen-peer-urls', 'http://127.0.0.1:2380',
      '--initial-advertise-peer-urls', 'http://127.0.0.1:2380', '--initial-cluster', 'default=http://127.0.0.1:2380',
      '--unsafe-no-fsync')
need(lambda: urllib.request.urlopen('http://127.0.0.1:2379/health').status == 200, 'etcd runs')

print('\nConfigured through Patroni', flush=True)
a.start()


def create_dba():
    connection = psycopg2.connect(host=tmp, port=a.port, user='patroni', dbname='postgres')
    connection.autocommit = True
    connection.cursor().execute('CREATE ROLE dba SUPERUSER LOGIN')
    connection.close()
    return True


need(lambda: os.path.exists(a.data + '/postmaster.pid') and create_dba(), 'Patroni has made the first server')
need(lambda: a.value('SELECT NOT pg_is_in_recovery()', dbname='postgres'), 'which is the primary')
a.rows('CREATE DATABASE shop', dbname='postgres')
a.rows("""
CREATE EXTENSION lockguard;
ALTER ROLE dba SET lockguard.exempt = on;
CREATE ROLE app LOGIN;
ALTER ROLE app SET lockguard.idle_blocker_timeout = '1s';
CREATE ROLE spared LOGIN;
ALTER ROLE spared SET lockguard.action = 'log';
CREATE ROLE stubborn LOGIN;
ALTER ROLE stubborn SET lockguard.blocker_timeout = '300ms';
ALTER ROLE stubborn SET lockguard.escalation_delay = '1h';
CREATE ROLE waiter LOGIN;
CREATE TABLE t (id int PRIMARY KEY, v int);
""")
checked(a.value('SELECT worker_pid IS NOT NULL FROM lockguard.stats'), 'lockguard runs there')
enforces(a, 'before the copy', 1)

print('\nA new standby', flush=True)
at_copy = open_jam(a, 'open at the copy', 2)
need(lambda: a.has_written('open at the copy'), "it is in the primary's history file")
b.start()
need(b.is_standby, 'Patroni has made the second server')
checked(b.value('SELECT worker_pid IS NOT NULL FROM lockguard.stats'), 'lockguard runs there')
same(b.incidents('before the copy'), a.incidents('before the copy'), "pg_basebackup has copied the primary's history")
same([row[3] for row in a.incidents('open at the copy')], [None], 'an incident is open still on the primary')
same([row[3] for row in b.incidents('open at the copy')], ['server restarted'], 'and closed in the copy')
newest = b.value('SELECT max(incident_id) FROM lockguard.incidents')
b.rows('SELECT lockguard.reset_history()')
same(b.names(), set(), 'reset_history() on the standby removes it there')
checked(bool(a.incidents('before the copy')), 'and not on the primary')
close(*at_copy)

print('\nEach server has a history of its own', flush=True)
enforces(a, 'on a', 1)
enforces(b, 'on b', 1)
same((a.names() & {'on a', 'on b'}, b.names()), ({'on a'}, {'on b'}), 'each has what happened there')
same([row[0] > newest for row in b.incidents('on b')], [True], 'numbers continue')

print("\nPatroni's own connections", flush=True)
mine = "FROM lockguard.actions WHERE usename = 'patroni'"
set_in_dcs(idle_session_timeout='200ms')
for node in a, b:
    need(lambda: node.value('SHOW lockguard.idle_session_timeout') == '200ms', 'both servers have a limit: %s' % node.name)
for node in a, b:
    need(lambda: node.value('SELECT count(*) %s AND action = %%s' % mine, 'terminate') > 1,
         "Patroni's connections are ended as any other's: %s" % node.name)
checked(a.is_primary() and b.is_standby(), 'Patroni connects again, and nothing else happens')
a.rows('ALTER ROLE patroni SET lockguard.exempt = on; ALTER ROLE rewinder SET lockguard.exempt = on')
need(lambda: b.value("SELECT count(*) FROM lockguard.limits WHERE usename IN ('patroni', 'rewinder') AND name = 'exempt'") == 2,
     'they are exempt: the values of roles reach the standby')
for node in a, b:
    node.rows("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'patroni'")
    need(lambda: node.value('SELECT count(*) FROM lockguard.sessions WHERE usename = %s AND exempt', 'patroni') > 0,
         'Patroni has logged in again: %s' % node.name)
    node.rows('SELECT lockguard.reset_history()')
    need(lambda: node.value('SELECT count(*) %s' % mine) > 0, 'they are over the limit, which is recorded: %s' % node.name)
    same(node.rows('SELECT DISTINCT result %s' % mine), [('exempt',)], 'and are not signalled')
set_in_dcs(idle_session_timeout='null')
for node in a, b:
    need(lambda: node.value('SHOW lockguard.idle_session_timeout') == '0', 'the limit is gone: %s' % node.name)
enforces(a, 'kept by a', 1)
enforces(b, 'kept by b', 1)

print('\nSwitchover, with incidents open and victims signalled on both', flush=True)
old_open, new_open = open_jam(a, 'open on a', 11), open_jam(b, 'open on b', 11)
old_victim, new_victim = stubborn_jam(a, 'victim on a', 12), stubborn_jam(b, 'victim on b', 12)
before = a.incidents('kept by a', 'open on a')
before_new = b.incidents('open on b')
switchover(a, b)
times(a, b, 'with lockguard, and with incidents open')
try:
    old_open[0].run('SELECT 1')
    checked(False, "the old primary's sessions have ended")
except psycopg2.Error as error:
    checked(error.pgcode in ('57P01', None), "the old primary's sessions have ended")
same(b.incidents('open on b'), before_new, "the new primary's own sessions stay, and their incident is the same, open")
same(b.actions(new_victim[0].pid), ['blocker_timeout cancel pending'], 'its victim was signalled once')
same(b.signalled(new_victim[0].pid), 1, 'by its log, too')
same({'open on a', 'victim on a'} & b.names(), set(), "it knows nothing of the old primary's")
checked(not rewound(a), 'the old primary was not rewound')
after = a.incidents('kept by a', 'open on a')
same([row[:3] for row in after], [row[:3] for row in before], 'it has its history still')
# The worker may see the session end before it is ended itself.
checked(after[1][3] in ('server restarted', 'session ended'), 'what was open is closed')
same(a.actions(old_victim[0].pid), ['blocker_timeout cancel released'], 'and its victim was signalled once')
same(a.signalled(old_victim[0].pid), 1, 'by its log, too')
close(*old_open, *old_victim, *new_open, *new_victim)
enforces(b, 'after the switchover', 1)

print('\nThe primary crashes, and Patroni starts it again', flush=True)
crashed = open_jam(b, 'open at the crash', 21)
victim = stubborn_jam(b, 'victim of the crash', 22)
need(lambda: b.has_written('open at the crash') and b.has_written('victim of the crash', ACTION), 'they are in the history file')
promotions = a.promotions()
os.kill(b.postmaster(), signal.SIGKILL)
close(*crashed, *victim)
need(lambda: b.value("SELECT pg_postmaster_start_time() > now() - interval '60 s'") and b.is_primary(), 'b is the primary again')
same(a.promotions(), promotions, 'a has not been meanwhile')
same([row[3] for row in b.incidents('open at the crash')], ['server restarted'], 'the incident is closed')
same(b.actions(victim[0].pid), ['blocker_timeout cancel released'], 'the action, too')
same(b.signalled(victim[0].pid), 1, 'the victim was signalled once')
enforces(b, 'after the crash', 1)
need(lambda: a.is_standby(), 'a is its standby')

print('\nThe primary crashes, and the standby takes over; the old primary has gone on longer, and is rewound', flush=True)
checked(patronictl('edit-config', 'lockguard', '--force', '--quiet', '-s', 'primary_start_timeout=0'),
        'patronictl edit-config -s primary_start_timeout=0')
need(lambda: json.load(urllib.request.urlopen('http://127.0.0.1:6502/config'))['primary_start_timeout'] == 0, 'is known')
enforces(a, 'kept by a again', 1)
need(lambda: a.has_written('kept by a again'), "it is in a's history file")
lost = open_jam(b, 'lost by b', 31)
victim = stubborn_jam(b, 'victim lost by b', 32)
need(lambda: b.has_written('lost by b') and b.has_written('victim lost by b', ACTION), 'they are in the history file')
with open(b.history + '.damaged', 'w') as file:
    file.write('an older file that was kept\n')
walsender = b.value('SELECT pid FROM pg_stat_replication')
os.kill(walsender, signal.SIGSTOP)
b.rows('INSERT INTO t SELECT i, 0 FROM generate_series(1, 100) i')
checked(a.value('SELECT count(*) FROM t') == 0, 'the standby does not get the last transaction')
os.kill(b.postmaster(), signal.SIGKILL)
os.kill(walsender, signal.SIGKILL)
close(*lost, *victim)
need(a.is_primary, 'a is the primary')
same(a.value('SELECT count(*) FROM t'), 0, 'without that transaction')
same({'lost by b', 'victim lost by b'} & a.names(), set(), 'it knows nothing of what was open on the old one')
same(a.signalled(victim[0].pid), 0, 'and has not signalled its victim')
# Before it is rewound, Patroni starts it as it is.
need(lambda: b.is_standby() and b.value('SELECT count(*) FROM t') == 0, 'b has come back as its standby, without it, too', 180)
checked(rewound(b), 'Patroni has run pg_rewind there')
same(b.signalled(victim[0].pid), 1, 'its victim was signalled once')
same({'kept by b', 'after the crash', 'lost by b', 'victim lost by b'} & b.names(), set(), 'and its history, too')
same(b.incidents('kept by a again', 'kept by a'), a.incidents('kept by a again', 'kept by a'),
     "pg_rewind has put the new primary's in its place")
checked(not os.path.exists(b.history + '.damaged'), 'and has removed a file that lockguard had kept aside')
enforces(a, 'after the failover', 1)
enforces(b, 'on the rewound standby', 1)
checked('on the rewound standby' not in a.names() and 'after the failover' not in b.names(), 'from here on, each has its own')

print('\nWithout lockguard, for comparison', flush=True)
jammed = open_jam(a, 'with lockguard', 41)
switchover(a, b)
close(*jammed)
with_it = times(a, b, 'with lockguard, and with an incident open')
checked(patronictl('edit-config', 'lockguard', '--force', '--quiet', '-p', 'shared_preload_libraries=null'),
        'patronictl edit-config -p shared_preload_libraries=null')
need(lambda: all(node.value("SELECT pending_restart FROM pg_settings WHERE name = 'shared_preload_libraries'") for node in (a, b))
     and all('pending_restart' in json.load(urllib.request.urlopen('http://127.0.0.1:%d/patroni' % (node.port + 1000))) for node in (a, b)),
     'both servers wait for a restart')
checked(patronictl('restart', 'lockguard', '--force'), 'patronictl restart')
for node in b, a:
    need(lambda: node.value('SHOW shared_preload_libraries') == '', '%s runs without it' % node.name)
need(lambda: a.is_standby(), 'a follows again')
jammed = jam(b, 'app', 'without lockguard', 41)
need(lambda: b.value("SELECT count(*) FROM pg_locks WHERE NOT granted") == 1, 'a session waits there')
switchover(b, a)
close(*jammed)
without = times(b, a, 'without it')
for i, what in enumerate(('a shutdown', 'a promotion')):
    checked(with_it[i] < without[i] + 5, '%s takes no longer with lockguard' % what)
