"""asyncpg: see run.sh."""

import asyncio

import asyncpg
from common import *


async def wait(row):
    process = await asyncio.create_subprocess_exec(*waiter(row))
    if await process.wait() != 0:
        raise RuntimeError("the session that waits has failed")


async def told(what, expected, awaitable):
    error = None
    try:
        await awaitable
    except asyncpg.PostgresError as e:
        error = e
    check_told(what, error, expected, error and error.sqlstate, error and error.args[0],
               error and error.detail, error and error.hint)
    return error


async def goes_on(what, con, row, before):
    async with con.transaction():
        check_again(what, before, await con.fetchrow(AGAIN.format(row)))
    check_clean(row)


async def block(con, row, before, statement=None):
    async with con.transaction():
        before.extend(await con.fetchrow(WORK.format(row)))
        await wait(row)
        if statement is not None:
            await con.fetchrow(statement)


async def commits(con):
    row, before = new_row(), []
    error = await told("the end of 'async with con.transaction():'", "40000", block(con, row, before))
    check(isinstance(error, asyncpg.TransactionRollbackError),
          "which is a TransactionRollbackError, as a serialization failure is")
    check(not con.is_closed() and not con.is_in_transaction(), "the connection is open, outside a transaction")
    check_again("the next statement", before, await con.fetchrow(AGAIN.format(row)))
    check_clean(row)

    row = new_row()
    transaction = con.transaction()
    await transaction.start()
    before = await con.fetchrow(WORK.format(row))
    await wait(row)
    await told("transaction.commit()", "40000", transaction.commit())
    await goes_on("the next transaction", con, row, before)

    row = new_row()

    async def inner_block():
        async with con.transaction():
            await con.fetchrow(WORK.format(row))
            async with con.transaction():
                await wait(row)

    await told("the end of an inner 'async with con.transaction():'", "25P02", inner_block())
    async with con.transaction():
        await con.fetchrow(AGAIN.format(row))
    check_clean(row)

    row = new_row()

    async def undone_block():
        async with con.transaction():
            await con.fetchrow(WORK.format(row))
            try:
                async with con.transaction():
                    await wait(row)
                    raise ValueError("the application's own")
            except (ValueError, asyncpg.PostgresError) as e:
                seen(f"an inner block that the application undoes by a ValueError: {name_of(e)}")

    await told("the end of the outer block then", "40000", undone_block())
    async with con.transaction():
        await con.fetchrow(AGAIN.format(row))
    check_clean(row)


async def statement_first(con):
    row, before = new_row(), []
    await told("a statement in the block", "25P02", block(con, row, before, "SELECT 1"))
    await goes_on("the next transaction", con, row, before)

    row = new_row()

    async def careless_block():
        async with con.transaction():
            await con.fetchrow(WORK.format(row))
            await wait(row)
            await told("a statement", "25P02", con.fetchrow("SELECT 1"))

    await told("the end of the block that has caught that", "40000", careless_block())
    async with con.transaction():
        await con.fetchrow(AGAIN.format(row))
    check_clean(row)

    row = new_row()
    transaction = con.transaction()
    await transaction.start()
    before = await con.fetchrow(WORK.format(row))
    await wait(row)
    await told("a statement", "25P02", con.fetchrow("SELECT 1"))
    await told("and another", "25P02", con.execute("SELECT 1"))
    await transaction.rollback()
    await goes_on("after transaction.rollback()", con, row, before)

    row = new_row()
    transaction = con.transaction()
    await transaction.start()
    before = await con.fetchrow(WORK.format(row))
    await wait(row)
    await transaction.rollback()
    await goes_on("transaction.rollback() at once", con, row, before)

    row = new_row()
    transaction = con.transaction()
    await transaction.start()
    before = await con.fetchrow(WORK.format(row))
    cursor = await con.cursor("SELECT generate_series(1, 1000)")
    await cursor.fetch(10)
    await wait(row)
    await told("the next rows of a cursor", "34000", cursor.fetch(10))
    await transaction.rollback()
    await goes_on("after transaction.rollback()", con, row, before)


async def pool():
    async with asyncpg.create_pool(database=DATABASE, min_size=1, max_size=1, **CONNECT) as pool:
        row = new_row()
        con = await pool.acquire()
        await con.execute("BEGIN")
        before = await con.fetchrow(WORK.format(row))
        await wait(row)
        await pool.release(con)
        async with pool.acquire() as con:
            await goes_on("asyncpg's pool, given back as it is and taken again", con, row, before)

        for what, statement in ("the COMMIT", None), ("a statement", "SELECT 1"):
            row, before = new_row(), []

            async def use():
                async with pool.acquire() as con:
                    await block(con, row, before, statement)

            try:
                await use()
            except asyncpg.PostgresError:
                pass
            async with pool.acquire() as con:
                await goes_on(f"asyncpg's pool, given back after {what} failed and taken again", con, row, before)


async def main():
    seen(f"asyncpg {asyncpg.__version__}")
    asyncio.get_running_loop().set_exception_handler(lambda _, context: seen(f"asyncio is told: {context['message']}"))
    con = await asyncpg.connect(database=DATABASE, **CONNECT)
    await commits(con)
    await statement_first(con)
    await con.close()
    await pool()


asyncio.run(main())
