"""psycopg 3: see run.sh."""

import logging

import psycopg
import psycopg_pool
from common import *


def connect():
    return psycopg.connect(dbname=DATABASE, **CONNECT)


def query(conn, sql):
    return conn.execute(sql).fetchone()


def begin(conn):
    row = new_row()
    before = query(conn, WORK.format(row))
    let_wait(row)
    return row, before


def told(what, expected, call):
    error = None
    try:
        call()
    except psycopg.Error as e:
        error = e
    diag = error and error.diag
    check_told(what, error, expected, error and error.sqlstate, error and diag.message_primary,
               error and diag.message_detail, error and diag.message_hint)
    return error


def goes_on(what, conn, row, before):
    check_again(what, before, query(conn, AGAIN.format(row)))
    conn.commit()
    check_clean(row)


def commits(conn):
    row, before = begin(conn)
    error = told("conn.commit()", "40000", conn.commit)
    check(isinstance(error, psycopg.OperationalError), "which is an OperationalError, as a serialization failure is")
    check(not conn.closed and not conn.broken, "the connection is open")
    goes_on("the next statement", conn, row, before)

    row, before = begin(conn)
    told("conn.commit()", "40000", conn.commit)
    conn.rollback()
    goes_on("conn.rollback() after that does no harm", conn, row, before)

    row = new_row()
    before = []

    def block():
        with conn.transaction():
            before.extend(query(conn, WORK.format(row)))
            let_wait(row)

    told("the end of 'with conn.transaction():'", "40000", block)
    goes_on("the next statement", conn, row, before)

    row = new_row()

    def inner_block():
        with conn.transaction():
            query(conn, WORK.format(row))
            with conn.transaction():
                let_wait(row)

    told("the end of an inner 'with conn.transaction():'", "25P02", inner_block)
    with conn.transaction():
        query(conn, AGAIN.format(row))
    check_clean(row)

    row = new_row()

    def undone_block():
        with conn.transaction():
            query(conn, WORK.format(row))
            try:
                with conn.transaction():
                    let_wait(row)
                    raise ValueError("the application's own")
            except (ValueError, psycopg.Error) as e:
                seen(f"an inner block that the application undoes by a ValueError: {name_of(e)}")

    told("the end of the outer block then", "40000", undone_block)
    with conn.transaction():
        query(conn, AGAIN.format(row))
    check_clean(row)

    row = new_row()

    def whole_connection():
        with connect() as other:
            query(other, WORK.format(row))
            let_wait(row)

    told("the end of 'with psycopg.connect():'", "40000", whole_connection)


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
    before = []

    def block():
        with conn.transaction():
            before.extend(query(conn, WORK.format(row)))
            let_wait(row)
            query(conn, "SELECT 1")

    told("a statement in 'with conn.transaction():'", "25P02", block)
    goes_on("the next statement after the block", conn, row, before)

    row = new_row()
    before = query(conn, WORK.format(row))
    cur = conn.cursor("portions")
    cur.execute("SELECT generate_series(1, 1000)")
    cur.fetchmany(10)
    let_wait(row)
    told("the next rows of a server-side cursor", "25P02", lambda: cur.fetchmany(10))
    conn.rollback()
    goes_on("after conn.rollback()", conn, row, before)


def pool():
    with psycopg_pool.ConnectionPool(kwargs=dict(dbname=DATABASE, **CONNECT), min_size=1, max_size=1) as pool:
        for what in "as it is", "after a statement failed":
            conn = pool.getconn()
            row, before = begin(conn)
            try:
                if "statement" in what:
                    query(conn, "SELECT 1")
            except psycopg.Error:
                pass
            pool.putconn(conn)
            conn = pool.getconn()
            goes_on(f"psycopg_pool, given back {what} and taken again", conn, row, before)
            pool.putconn(conn)

        row = new_row()
        before = []

        def block():
            with pool.connection() as conn:
                before.extend(query(conn, WORK.format(row)))
                let_wait(row)

        told("the end of 'with pool.connection():'", "40000", block)
        with pool.connection() as conn:
            goes_on("psycopg_pool, taken again", conn, row, before)


# It warns of connections that are given back in a transaction.
logging.getLogger("psycopg").setLevel(logging.ERROR)
logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
seen(f"psycopg {psycopg.__version__}, psycopg_pool {psycopg_pool.__version__}, libpq {psycopg.pq.version()}")
conn = connect()
commits(conn)
statement_first(conn)
conn.close()
pool()
