// node-postgres: see run.sh.

const { execFile } = require('child_process');
const { promisify } = require('util');
const pg = require('pg');
const run = promisify(execFile);

const CONNECT = {
  host: process.env.DRIVER_HOST, port: Number(process.env.DRIVER_PORT), user: 'app', database: 'postgres',
};
const POOLING = process.env.DRIVER_POOLING;     // PgBouncer's, if it is in front
const RETURNING = 'RETURNING pg_backend_pid() AS pid, pg_current_xact_id()::text AS xid';
const WORK = `UPDATE t SET v = v + 1000 WHERE id = $1 ${RETURNING}`;
const AGAIN = `UPDATE t SET v = v + 10 WHERE id = $1 ${RETURNING}`;

let row = 0;
let events = 0;         // what clients emit while they are idle
const told_in_full = new Set();

const seen = (what) => console.log(' '.repeat(8) + what);
const check = (ok, what) => console.log((ok ? 'ok' : 'FAILED').padEnd(8) + what);

async function sql(statement) {
  const { stdout } = await run('psql', ['-X', '-q', '-At', '-U', 'waiter', '-d', 'postgres', '-c', statement]);
  return stdout.trim();
}

const value = async (id) => Number(await sql(`SELECT v FROM t WHERE id = ${id}`));

async function connect() {
  const client = new pg.Client(CONNECT);
  client.on('error', () => events++);
  await client.connect();
  return client;
}

async function query(client, statement) {
  return (await client.query(statement, [row])).rows[0];
}

// A transaction that is rolled back, as another session waits for its row.
async function begin(client) {
  row++;
  await client.query('BEGIN');
  const before = await query(client, WORK);
  await sql(`UPDATE t SET v = v + 1 WHERE id = ${row}`);
  return before;
}

async function told(what, expected, promise) {
  let error;
  try {
    await promise;
  } catch (e) {
    error = e;
  }
  if (error === undefined) {
    check(false, `${what}: no error`);
    return undefined;
  }
  check(error.code === expected && /^lockguard: the transaction was rolled back: /.test(error.detail) &&
    /again/.test(error.hint), `${what}: ${error.constructor.name}, ${error.code}, with DETAIL and HINT`);
  if (error.code !== expected || !told_in_full.has(expected)) {
    told_in_full.add(expected);
    ['message', 'detail', 'hint'].forEach((key) => seen(`${key}: ${error[key]}`));
  }
  return error;
}

async function goes_on(what, client, before) {
  await client.query('BEGIN');
  const after = await query(client, AGAIN);
  await client.query('COMMIT');
  check(before.pid === after.pid && before.xid !== after.xid, `${what}: same backend, new transaction`);
  check(await value(row) === 11, 'which commits; nothing of the first transaction is there');
}

async function commits(client) {
  let before = await begin(client);
  const error = await told("client.query('COMMIT')", '40000', client.query('COMMIT'));
  check(error instanceof pg.DatabaseError, 'which is a DatabaseError');
  const after = await query(client, AGAIN);
  check(before.pid === after.pid && before.xid !== after.xid, 'the next statement: same backend, new transaction');
  check(await value(row) === 11, 'which commits; nothing of the first transaction is there');

  before = await begin(client);
  await told("client.query('COMMIT')", '40000', client.query('COMMIT'));
  await client.query('ROLLBACK');
  await goes_on('ROLLBACK after that does no harm', client, before);
}

async function statement_first(client) {
  let before = await begin(client);
  await told('a statement', '25P02', query(client, AGAIN));
  await told('and another', '25P02', client.query('SELECT 1'));
  await client.query('ROLLBACK');
  await goes_on('after ROLLBACK', client, before);

  before = await begin(client);
  await told('a statement', '25P02', query(client, AGAIN));
  await told("client.query('COMMIT') after it", '40000', client.query('COMMIT'));
  await goes_on('the next transaction', client, before);

  before = await begin(client);
  await client.query('ROLLBACK');
  await goes_on('ROLLBACK at once', client, before);

  before = await begin(client);
  await told('BEGIN without an end', '25P02', client.query('BEGIN'));
  await client.query('ROLLBACK');
  await goes_on('after ROLLBACK', client, before);
}

async function pool() {
  const pool = new pg.Pool({ ...CONNECT, max: 1 });
  pool.on('error', () => events++);
  for (const what of ['COMMIT failed', 'a statement failed and ROLLBACK']) {
    let client = await pool.connect();
    const before = await begin(client);
    await client.query(what === 'COMMIT failed' ? 'COMMIT' : 'SELECT 1').catch(() => {});
    if (what !== 'COMMIT failed') await client.query('ROLLBACK');
    client.release();
    client = await pool.connect();
    await goes_on(`pg.Pool, released after ${what}, and taken again`, client, before);
    client.release();
  }

  // This pool gives out connections as they were released, whatever their state.
  let client = await pool.connect();
  const before = await begin(client);
  client.release();
  client = await pool.connect();
  try {
    const after = (await client.query('SELECT pg_backend_pid() AS pid')).rows[0];
    seen(`pg.Pool, released as it is: ${before.pid === after.pid ? 'given out again, clean' : 'another connection'}`);
  } catch (error) {
    check(error.code === '25P02' && /^lockguard: /.test(error.detail),
      "pg.Pool, released as it is: the next user's statement is refused (25P02), with DETAIL");
  }
  await client.query('ROLLBACK').catch(() => {});
  client.release();
  client = await pool.connect();
  await query(client, AGAIN);
  check(await value(row) === 11, 'after ROLLBACK it works');
  client.release();
  await pool.end();
}

// PgBouncer, statement pooling.
async function no_transactions() {
  let client = await connect();
  try {
    await client.query('BEGIN');
    check(false, 'BEGIN is refused');
  } catch (error) {
    check(true, 'BEGIN is refused');
    seen(`${error.constructor.name}, ${error.code}: ${error.message}`);
  }
  await client.query('SELECT 1').then(
    () => seen('the connection still works'), (error) => seen(`the next statement: ${error.message}`));
  await client.end().catch(() => {});
  client = await connect();
  row++;
  await query(client, 'UPDATE t SET v = v + 1 WHERE id = $1');
  await sql(`UPDATE t SET v = v - 1 WHERE id = ${row}`);
  check(await value(row) === 0, 'a single statement works, and keeps nobody waiting');
  await client.end();
}

async function main() {
  seen(`pg ${require('pg/package.json').version}, Node.js ${process.version}`);
  if (POOLING === 'statement') {
    await no_transactions();
    return;
  }
  const client = await connect();
  await commits(client);
  await statement_first(client);
  await client.end();
  await pool();
  check(events === 0, "no 'error' event while a connection was idle");
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
