"""psycopg 2: see run.sh."""

import subprocess

import psycopg2
import psycopg2.extensions
import psycopg2.pool
from common import *


def connect():
    return psycopg2.connect(dbname=DATABASE, **CONNECT)


def query(conn, sql):
    with conn.cursor() as cur:
        cur.execute(sql)
        return cur.fetchone()


def begin(conn):
    """A transaction that is rolled back, as another session waits for its row."""
    row = new_row()
    before = query(conn, WORK.format(row))
    let_wait(row)
    return row, before


def told(what, expected, call):
    error = None
    try:
        call()
    except psycopg2.Error as e:
        error = e
    diag = error and error.diag
    check_told(what, error, expected, error and error.pgcode, error and diag.message_primary,
               error and diag.message_detail, error and diag.message_hint)
    return error


def goes_on(what, conn, row, before):
    check_again(what, before, query(conn, AGAIN.format(row)))
    conn.commit()
    check_clean(row)


def commits(conn):
    row, before = begin(conn)
    error = told("conn.commit()", "40000", conn.commit)
    check(isinstance(error, psycopg2.OperationalError)
          and isinstance(error, psycopg2.extensions.TransactionRollbackError),
          "which is an OperationalError and a TransactionRollbackError, as a serialization failure is")
    check(conn.closed == 0, "the connection is open")
    goes_on("the next statement", conn, row, before)

    row, before = begin(conn)
    told("conn.commit()", "40000", conn.commit)
    conn.rollback()
    goes_on("conn.rollback() after that does no harm", conn, row, before)

    row = new_row()
    before = []

    def block():
        with conn:
            before.extend(query(conn, WORK.format(row)))
            let_wait(row)

    told("the end of 'with conn:'", "40000", block)
    goes_on("the next statement", conn, row, before)


def statement_first(conn):
    row, before = begin(conn)
    told("a statement", "25P02", lambda: query(conn, AGAIN.format(row)))
    told("and another", "25P02", lambda: query(conn, "SELECT 1"))
    conn.rollback()
    goes_on("after conn.rollback()", conn, row, before)

    row, before = begin(conn)
    told("a statement", "25P02", lambda: query(conn, AGAIN.format(row)))
    told("conn.commit() after it", "40000", conn.commit)
    goes_on("the next statement", conn, row, before)

    row, before = begin(conn)
    conn.rollback()
    goes_on("conn.rollback() at once", conn, row, before)

    row = new_row()
    before = query(conn, WORK.format(row))
    cur = conn.cursor("portions")
    cur.execute("SELECT generate_series(1, 1000)")
    cur.fetchmany(10)
    let_wait(row)
    told("the next rows of a named cursor", "25P02", lambda: cur.fetchmany(10))
    conn.rollback()
    goes_on("after conn.rollback()", conn, row, before)


def pool():
    pool = psycopg2.pool.SimpleConnectionPool(1, 1, dbname=DATABASE, **CONNECT)
    for what in "as it is", "after conn.commit() failed", "after a statement failed":
        conn = pool.getconn()
        row, before = begin(conn)
        try:
            if "commit" in what:
                conn.commit()
            elif "statement" in what:
                query(conn, "SELECT 1")
        except psycopg2.Error:
            pass
        pool.putconn(conn)
        conn = pool.getconn()
        goes_on(f"psycopg2.pool, given back {what} and taken again", conn, row, before)
        pool.putconn(conn)
    pool.closeall()


def shared_server():
    """PgBouncer, transaction pooling: its one server connection, and two clients."""

    def other():
        """What another client gets within 2 seconds: the pid of its backend."""
        try:
            return int(subprocess.run(
                ["psql", "-X", "-At", "-h", CONNECT["host"], "-p", str(CONNECT["port"]), "-U", "app", "-d", DATABASE,
                 "-c", "SELECT pg_backend_pid()"], check=True, capture_output=True, timeout=2).stdout)
        except subprocess.TimeoutExpired:
            return None

    conn = connect()
    row, before = begin(conn)
    check(other() is None, "until the client comes back, the server connection is kept for it")
    told("conn.commit()", "40000", conn.commit)
    check(other() == before[0], "after the COMMIT another client gets that server connection")
    goes_on("the next statement", conn, row, before)

    row, before = begin(conn)
    conn.close()
    pid = other()
    check(pid is not None, "a client that leaves without a word: the next one gets a server connection")
    seen("the same one" if pid == before[0] else "a new one: PgBouncer has closed the other")


def no_transactions():
    """PgBouncer, statement pooling."""
    conn = connect()
    row = new_row()
    try:
        query(conn, WORK.format(row))
        check(False, "a transaction is refused")
    except psycopg2.Error as e:
        check(True, "a transaction is refused")
        seen(f"{name_of(e)}, {e.pgcode}: {str(e).strip()!r}; conn.closed is {conn.closed}")
    conn.close()
    check(value(row) == 0, "its first statement was not run")
    conn = connect()
    conn.autocommit = True
    query(conn, f"UPDATE t SET v = 0 WHERE id = {row} RETURNING v")
    let_wait(row)
    check(value(row) == 1, "with autocommit a statement works, and keeps nobody waiting")
    query(conn, f"UPDATE t SET v = 0 WHERE id = {row} RETURNING v")
    conn.close()


seen(f"psycopg2 {psycopg2.__version__}, libpq {psycopg2.extensions.libpq_version()}")
if POOLING == "statement":
    no_transactions()
else:
    conn = connect()
    commits(conn)
    statement_first(conn)
    conn.close()
    pool()
    if POOLING == "transaction":
        shared_server()
