"""What the Python programs share: a row for each story, the session that waits for it, and the checks."""

import os
import subprocess

CONNECT = dict(host=os.environ["DRIVER_HOST"], port=int(os.environ["DRIVER_PORT"]), user="app")
DATABASE = "postgres"
POOLING = os.environ["DRIVER_POOLING"]  # PgBouncer's, if it is in front

WORK = "UPDATE t SET v = v + 1000 WHERE id = {} RETURNING pg_backend_pid(), pg_current_xact_id()::text"
AGAIN = "UPDATE t SET v = v + 10 WHERE id = {} RETURNING pg_backend_pid(), pg_current_xact_id()::text"
WAIT = ["psql", "-X", "-q", "-U", "waiter", "-d", DATABASE, "-c"]

_last_row = 0


def new_row():
    global _last_row
    _last_row += 1
    return _last_row


def waiter(row):
    return WAIT + [f"UPDATE t SET v = v + 1 WHERE id = {row}"]


def let_wait(row):
    """Another session waits for the row, until it gets through."""
    subprocess.run(waiter(row), check=True)


def value(row):
    query = ["-At", "-c", f"SELECT v FROM t WHERE id = {row}"]
    return int(subprocess.run(WAIT[:-1] + query, check=True, capture_output=True).stdout)


def check(ok, what):
    print(f"{'ok' if ok else 'FAILED':8}{what}", flush=True)


def seen(what):
    print(f"{'':8}{what}", flush=True)


def name_of(error):
    cls = type(error)
    return f"{cls.__module__}.{cls.__qualname__}"


def check_told(what, error, expected, sqlstate, message, detail, hint):
    """The error is of that SQLSTATE, and says who has rolled back and what to do."""
    if error is None:
        check(False, f"{what}: no error")
        return
    check(
        sqlstate == expected
        and (detail or "").startswith("lockguard: the transaction was rolled back: ")
        and "again" in (hint or ""),
        f"{what}: {name_of(error)}, {sqlstate}, with DETAIL and HINT",
    )
    if sqlstate != expected or check_told.verbose.get(expected, True):
        check_told.verbose[expected] = False
        for line in (f"message: {message}", f"detail:  {detail}", f"hint:    {hint}"):
            seen(line)


check_told.verbose = {}


def check_again(what, before, after):
    """What the same statement returned in the first transaction, and then."""
    check(before[0] == after[0] and before[1] != after[1], f"{what}: same backend, new transaction")


def check_clean(row):
    check(value(row) == 11, "which commits; nothing of the first transaction is there")
