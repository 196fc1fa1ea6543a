// The embedded PostgreSQL: starts the server of a data directory, or adopts the one that runs there, and keeps it alive.

import { spawn } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { existsSync } from 'node:fs'
import { chmod, lstat, open, readdir, readFile, rename, rm, rmdir, stat, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { blockedAt, packageDirectory, packageVersion, privateDirectory, removeTree, usableBinaries } from './postgres-binaries.ts'
import { answers, type Connection, othersConnected, user } from './postgres-client.ts'
import { identityOf } from './postgres-identity.ts'
import { underLock } from './postgres-lock.ts'
import { boundLog } from './postgres-log.ts'
import { type EmbeddedPostgresOptions, lockOf, makeDataDir, type Site, survey, writeWhole } from './postgres-place.ts'
import { findPostmaster, type Postmaster, settled, startServer, stopServer } from './postgres-process.ts'
import { adviceFor, type Binaries, failure, hasCode, ignoreMissing, lastWords, onWindows, run, spawnOptions } from './postgres-tools.ts'

export type { Connection } from './postgres-client.ts'
export type { EmbeddedPostgresOptions } from './postgres-place.ts'

export interface EmbeddedPostgres {
  /** For pg. `host` is the socket directory, on Windows 127.0.0.1. Stays the same when the server is restarted. */
  readonly connection: Connection
  /** Of the binaries: "18.4". */
  readonly version: string
  /** Where the cluster really is. */
  readonly dataDir: string
  /** True: it was already running. */
  readonly adopted: boolean
  /** Makes sure the postmaster lives; restarts it when it died. At most about 15 s. Throws one clear line; safe to call at any time before `release`. */
  ensureRunning(): Promise<void>
  /** Stops watching, and the server too if no other client is connected: close your own pools first. Never rejects; twice is the same as once. */
  release(): Promise<void>
}

interface Running {
  readonly postmaster: Postmaster
  readonly connection: Connection
  readonly adopted: boolean
}

// These survive a reboot, unlike /tmp, and unlike /var/tmp are not swept of files nobody has read for a month.
const watchMs = 250

/**
 * A server for `dataDir`, ready for connections. Any number of processes may call this at once: one starts it, the others
 * adopt it. It outlives a killed gateway and is adopted by the next.
 * Throws an Error with one line saying what was attempted, what came back and what to do.
 */
export async function startEmbeddedPostgres(options: EmbeddedPostgresOptions): Promise<EmbeddedPostgres> {
  try {
    const packageDir = options.packageDir ?? (await packageDirectory())
    const version = await packageVersion(packageDir)
    const dataDir = await makeDataDir(options.dataDir)
    const { site, running } = await underLock(lockOf(dataDir), async () => {
      const site = await survey({ ...options, packageDir, version, dataDir })
      return { site, running: await bringUp(site) }
    })
    return watch(site, running)
  } catch (error) {
    throw inOneLine(error, options.dataDir)
  }
}

/** Under the lock: adopts, or starts. With a `previous` connection it comes back at the same address, and makes no new cluster. */
async function bringUp(site: Site, previous?: Connection): Promise<Running> {
  const { cluster, place, account } = site
  await assertVersion(site)
  const found = await adoptable(site)
  if (found !== undefined) return found

  const binaries = await binariesFor(site)
  for (const name of await readdir(place)) {
    // of a launcher that was killed
    if (/^postgres\.[0-9a-f]+\.unfinished$/.test(name)) await removeTree(join(place, name)).catch(() => {})
  }
  if (!(await isWhole(site))) {
    if (previous !== undefined)
      throw failure(
        `restart the database in ${cluster}`,
        'its files are gone',
        'restart the gateway to begin with an empty one, or set DATABASE_URL'
      )
    await createCluster(site, binaries)
  }
  if (!onWindows) await chmod(cluster, 0o700) // a copied or restored directory may have lost it, and PostgreSQL insists
  const socketDir = onWindows ? place : (previous?.host ?? (await shortSocketDir(site)))
  await privateDirectory(socketDir, account)
  const port = previous?.port ?? (onWindows ? await freePort() : 5432)
  const postmaster = await startServer({ ...site, binaries, socketDir, port })
  syncLater(site, binaries)
  return { postmaster, connection: await connectionOf(site, postmaster, socketDir), adopted: false }
}

/** The server that is there and answers. One that was killed this instant, or is frozen, looks alive in every other way. */
async function adoptable(site: Site): Promise<Running | undefined> {
  const begunMs = performance.now()
  for (;;) {
    const postmaster = await settled(site.cluster)
    if (postmaster === undefined) return undefined
    const connection = await connectionOf(site, postmaster, await socketDirOf(site, postmaster))
    if (await answers(connection)) return { postmaster, connection, adopted: true }
    if (performance.now() - begunMs > 15_000) {
      throw failure(
        `use the server of ${site.cluster}`,
        `pid ${postmaster.pid} does not answer`,
        `end it (kill -9 ${postmaster.pid}), or set DATABASE_URL`
      )
    }
    await delay(20)
  }
}

function binariesFor(site: Site): Promise<Binaries> {
  return usableBinaries({ ...site, copyTo: process.getuid?.() === 0 ? [...site.sharedDirs, site.dataDir] : [site.dataDir] })
}

async function assertVersion({ cluster, version }: Site): Promise<void> {
  const text = await readFile(join(cluster, 'PG_VERSION'), 'utf8').catch(ignoreMissing)
  const made = /^\d+(\.\d+)?$/.exec(text?.trim() ?? '')?.[0]
  if (made === undefined || made === version.split('.')[0]) return
  throw failure(
    `use the database in ${cluster}`,
    `it was made by PostgreSQL ${made}, and this is ${version}`,
    `carry it over with a dump from PostgreSQL ${made}, or move it away to begin with an empty one, or set DATABASE_URL`
  )
}

/** initdb works beside and a rename finishes, so only a power cut, or a hand, leaves a cluster without one of these. */
async function isWhole({ cluster, log }: Site): Promise<boolean> {
  const sizeOf = async (name: string) => (await stat(join(cluster, name)).catch(ignoreMissing))?.size ?? 0
  const [version, control] = [await sizeOf('PG_VERSION'), await sizeOf('global/pg_control')]
  if (version > 0 && control > 0) return true
  if ((await lstat(cluster).catch(ignoreMissing)) === undefined) return false
  if (control === 0) {
    log(`PostgreSQL data in ${cluster} is unfinished and made anew`)
    await removeTree(cluster)
  } else {
    const aside = `${cluster}-incomplete-${randomBytes(4).toString('hex')}`
    log(`PostgreSQL data in ${cluster} has no version; kept as ${aside}, and begun anew`)
    await rename(cluster, aside)
  }
  return false
}

async function createCluster({ cluster, place, account }: Site, binaries: Binaries): Promise<void> {
  const unfinished = join(place, `postgres.${randomBytes(8).toString('hex')}.unfinished`)
  await privateDirectory(unfinished, account)
  const login = onWindows ? ['--auth=scram-sha-256', `--pwfile=${await newPasswordFile(place)}`] : ['--auth=trust'] // the socket directory is the account's alone
  const made = await run(
    binaries.initdb,
    ['-D', unfinished, `--username=${user}`, ...login, '--encoding=UTF8', '--locale=C', '--no-sync', '--no-instructions'],
    { account, timeoutMs: 30_000 }
  )
  if (made.code !== 0) {
    await removeTree(unfinished).catch(() => {})
    throw failure(`make a database in ${cluster}`, `initdb: ${lastWords(made.output) || `exit code ${made.code}`}`, adviceFor(made.output))
  }
  await writeWhole(unsyncedMarker(place), '')
  await rename(unfinished, cluster)
}

/** Beside the data, unless the path is too long for a unix socket: 107 bytes on Linux, 103 on macOS. */
async function shortSocketDir({ cluster, place, account }: Site): Promise<string> {
  const short = `llm-mcp-${createHash('sha256').update(cluster).digest('hex').slice(0, 8)}`
  const candidates = [join(place, 'postgres-socket'), join(tmpdir(), short), join('/tmp', short)]
  for (const candidate of candidates) {
    if (Buffer.byteLength(socketFile(candidate)) > (process.platform === 'linux' ? 107 : 103)) continue
    if ((await blockedAt(dirname(candidate), account)) === undefined) return candidate
  }
  throw failure(
    'make a socket for the server',
    `the paths ${candidates.join(', ')} are too long or closed to ${account?.name ?? 'this account'}`,
    'use a shorter data directory, or set DATABASE_URL'
  )
}

function socketFile(socketDir: string): string {
  return join(socketDir, '.s.PGSQL.5432')
}

/** Where it listens now: the pid file has the path of the day it started, and the data directory may have moved since. */
async function socketDirOf(site: Site, postmaster: Postmaster): Promise<string> {
  if (onWindows) return site.place
  const expected = await shortSocketDir(site)
  return (await lstat(socketFile(expected)).catch(() => undefined)) === undefined ? postmaster.socketDir : expected
}

/** initdb leaves its files to the page cache; a power cut before they reach the disk would cost the whole database. */
function syncLater({ cluster, place, account }: Site, binaries: Binaries): void {
  const marker = unsyncedMarker(place)
  if (!existsSync(marker)) return
  const child = spawn(binaries.initdb, ['--sync-only', '-D', cluster], { ...spawnOptions(account), detached: true, stdio: 'ignore' })
  child.unref()
  child.once('error', () => {}) // the marker stays, and the next start tries again
  child.once('exit', code => {
    if (code === 0)
      syncDirectory(place)
        .then(
          () => rm(marker),
          () => {}
        )
        .catch(() => {})
  })
}

async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, 'r')
  try {
    await directory.sync()
  } finally {
    await directory.close()
  }
}

function unsyncedMarker(place: string): string {
  return join(place, 'postgres-unsynced')
}

async function connectionOf({ place }: Site, { port }: Postmaster, socketDir: string): Promise<Connection> {
  if (!onWindows) return { host: socketDir, port, user, database: 'postgres' }
  return { host: '127.0.0.1', port, user, database: 'postgres', password: await readFile(join(place, 'postgres-password'), 'utf8') }
}

function watch(site: Site, first: Running): EmbeddedPostgres {
  const { connection } = first
  let { postmaster } = first
  let reviving: Promise<void> | undefined
  let releasing: Promise<void> | undefined
  let ticks = 0
  let failures = 0
  let retryAtMs = 0

  const isAlive = async () => (await identityOf(postmaster.pid)) === postmaster.identity

  async function revive(): Promise<void> {
    if (await isAlive()) return
    const begunMs = performance.now()
    const before = postmaster.pid
    try {
      const running = await underLock(lockOf(site.dataDir), () => bringUp(site, connection))
      postmaster = running.postmaster
      site.log(
        `PostgreSQL (pid ${before}) was gone; ${running.adopted ? 'found' : 'restarted'} as pid ${postmaster.pid} after ${Math.round(performance.now() - begunMs)} ms`
      )
    } catch (error) {
      throw inOneLine(error, site.dataDir)
    }
  }

  async function ensureRunning(): Promise<void> {
    if (releasing !== undefined) throw failure('restart the server', 'it has been released', 'start it again')
    reviving ??= revive().finally(() => {
      reviving = undefined
    })
    return reviving
  }

  async function tick(): Promise<void> {
    if (reviving !== undefined || releasing !== undefined || performance.now() < retryAtMs) return
    if (++ticks % 240 === 0) await boundLog(site.logFile) // once a minute
    if ((await isAlive()) || releasing !== undefined) return
    try {
      await ensureRunning()
      failures = 0
    } catch (error) {
      retryAtMs = performance.now() + Math.min(30_000, watchMs * 2 ** ++failures)
      site.log(error instanceof Error ? error.message : String(error))
    }
  }

  const timer = setInterval(() => {
    tick().catch(() => {})
  }, watchMs).unref()

  async function stopIfLast(): Promise<void> {
    clearInterval(timer)
    await reviving?.catch(() => {})
    try {
      await underLock(lockOf(site.dataDir), async () => {
        const last = await findPostmaster(site.cluster)
        if (last === undefined || (await othersConnected(connection))) return
        await stopServer(site.cluster, last, onWindows ? (await binariesFor(site)).pgCtl : undefined)
        if (!onWindows && dirname(connection.host) !== site.place) await rmdir(connection.host).catch(() => {})
      })
    } catch (error) {
      site.log(inOneLine(error, site.dataDir).message)
    }
  }

  return {
    connection,
    version: site.version.split('.').slice(0, 2).join('.'),
    dataDir: site.cluster,
    adopted: first.adopted,
    ensureRunning,
    release: () => (releasing ??= stopIfLast())
  }
}

async function newPasswordFile(place: string): Promise<string> {
  const path = join(place, 'postgres-password')
  await writeFile(path, randomBytes(24).toString('base64url'), { mode: 0o600 })
  return path
}

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer()
      .once('error', reject)
      .listen(0, '127.0.0.1', () => {
        const address = server.address()
        server.close(() => resolve(typeof address === 'object' && address !== null ? address.port : 0))
      })
  })
}

/** What the file system refused, said in our words; our own errors pass. */
function inOneLine(error: unknown, dataDir: string): Error {
  if (!(error instanceof Error)) return failure('start', String(error))
  if (!('code' in error)) return error
  const path = 'dest' in error ? error.dest : 'path' in error ? error.path : dataDir
  const refusal = `${error.message.split(',')[0]} (${path})`
  if (hasCode(error, 'ENOSPC', 'EDQUOT'))
    return failure(`write to ${dataDir}`, `the disk is full: ${refusal}`, 'free disk space, or set DATABASE_URL')
  if (hasCode(error, 'EROFS', 'EACCES', 'EPERM', 'ENOTDIR'))
    return failure(`use ${dataDir}`, refusal, 'choose a data directory this account may write to, or set DATABASE_URL')
  return failure(`use ${dataDir}`, refusal)
}
