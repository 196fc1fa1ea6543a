// The server process: starts it, finds it, stops it.

import { type ChildProcess, spawn } from 'node:child_process'
import { readdir, readFile, readlink, rm } from 'node:fs/promises'
import { createConnection, type NetConnectOpts } from 'node:net'
import { basename, join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { identityOf, processStatus, signal } from './postgres-identity.ts'
import { boundLog, openLog } from './postgres-log.ts'
import {
  type Account,
  adviceFor,
  type Binaries,
  failure,
  ignoreMissing,
  lastWords,
  onWindows,
  run,
  spawnOptions
} from './postgres-tools.ts'

export interface Server {
  readonly cluster: string
  /** Undefined: the server runs as we do. */
  readonly account: Account | undefined
  readonly binaries: Binaries
  readonly socketDir: string
  readonly port: number
  readonly logFile: string
}

/** A live postmaster, as its pid file describes it. */
export interface Postmaster {
  readonly pid: number
  /** Start time of the process, so that a reused pid is not taken for it. */
  readonly identity: string
  readonly port: number
  readonly socketDir: string
  /** "starting", "ready" or "stopping"; empty while the pid file is being written. */
  readonly status: string
}

/** The postmaster of this cluster, if its pid file names a live process that really is one: not a zombie, not a stranger with a reused pid. */
export async function findPostmaster(cluster: string): Promise<Postmaster | undefined> {
  const lines = (await readFile(join(cluster, 'postmaster.pid'), 'utf8').catch(ignoreMissing))?.split('\n')
  const pid = Number.parseInt(lines?.[0] ?? '', 10)
  if (lines === undefined || !(pid > 0)) return undefined
  const identity = await identityOf(pid)
  if (identity === undefined) return undefined
  const postmaster = {
    pid,
    identity,
    port: Number.parseInt(lines[3] ?? '', 10),
    socketDir: lines[4] ?? '',
    status: (lines[7] ?? '').trim()
  }
  return (await isServerOf(cluster, postmaster)) ? postmaster : undefined
}

/** The server that is there, once it is ready; undefined when there is none, or it has stopped. Throws after 15 s. */
export async function settled(cluster: string): Promise<Postmaster | undefined> {
  const begunMs = performance.now()
  for (;;) {
    const postmaster = await findPostmaster(cluster)
    if (postmaster === undefined || postmaster.status === 'ready') return postmaster
    if (performance.now() - begunMs > 15_000) throw notReady(cluster, postmaster)
    await delay(5)
  }
}

/** Starts a server that outlives us, also after a crash of the last one, and waits until it is ready. Throws after 15 s. */
export async function startServer(server: Server): Promise<Postmaster> {
  const { cluster, logFile } = server
  await clearRemains(cluster, join(server.socketDir, `.s.PGSQL.${server.port}`))
  const begunMs = performance.now()
  for (;;) {
    await boundLog(logFile)
    const log = await openLog(logFile)
    const from = (await log.stat()).size
    let end: string | undefined
    try {
      const child = spawnServer(server, log.fd)
      child.unref()
      child.once('error', error => {
        end = error.message
      })
      child.once('exit', (code, signalName) => {
        if (!onWindows || code !== 0) end = `the server ended with ${code ?? signalName}`
      })
    } finally {
      await log.close()
    }
    const postmaster = await untilReady(cluster, () => end)
    if (postmaster !== undefined) return postmaster
    const said = (await readFile(logFile)).subarray(from).toString('utf8')
    // A predecessor that is not quite gone; where /proc does not tell, trying again does.
    if (!/shared memory block|lock file .* already exists/.test(said) || performance.now() - begunMs > 5000) {
      throw failure(`start on ${cluster}`, [end, lastWords(said)].join(': '), adviceFor(`${said} ${end}`))
    }
    await delay(100)
  }
}

/** Fast shutdown: clients are cut off, nothing committed is lost. Through `pgCtl` where there are no signals. Throws when it takes more than 10 s. */
export async function stopServer(cluster: string, { pid }: Postmaster, pgCtl: string | undefined): Promise<void> {
  if (pgCtl === undefined) signal(pid, 'SIGINT')
  else await run(pgCtl, ['stop', '-W', '-m', 'fast', '-D', cluster], { account: undefined, timeoutMs: 5000 })
  const begunMs = performance.now()
  // The pid file is the last thing it removes; the process itself may linger as a zombie.
  while ((await findPostmaster(cluster)) !== undefined) {
    if (performance.now() - begunMs > 10_000)
      throw failure(`stop the server of ${cluster}`, 'it has not ended within 10 s', 'see postgres.log in the data directory')
    await delay(5)
  }
}

/** In a process group of its own: Ctrl-C at a terminal is for the gateway, which still needs the database to finish its work. */
function spawnServer(server: Server, logFd: number): ChildProcess {
  const { cluster, account, binaries, logFile } = server
  const options = settings(server)
  if (!onWindows)
    return spawn(binaries.postgres, ['-D', cluster, ...options], {
      ...spawnOptions(account),
      detached: true,
      stdio: ['ignore', logFd, logFd]
    })
  // pg_ctl, because the server itself refuses to run with an administrator's rights.
  const words = options.map(word => `"${word}"`).join(' ')
  return spawn(binaries.pgCtl, ['start', '-W', '-s', '-D', cluster, '-l', logFile, '-o', words], {
    ...spawnOptions(account),
    stdio: 'ignore'
  })
}

/**
 * On the command line, so that a newer gateway's settings hold for an older cluster. Statements and details stay out of
 * the log, because they can hold prompts and keys.
 */
function settings({ socketDir, port }: Server): string[] {
  const values = {
    listen_addresses: onWindows ? '127.0.0.1' : '',
    port,
    unix_socket_directories: onWindows ? '' : `"${socketDir.replaceAll('"', '""')}"`,
    unix_socket_permissions: '0700',
    // Some twenty for each process, and several of them on one machine.
    max_connections: 250,
    shared_buffers: '128MB',
    wal_level: 'minimal',
    max_wal_senders: 0,
    max_wal_size: '1GB',
    wal_compression: 'on',
    random_page_cost: 1.1,
    jit: 'off',
    log_checkpoints: 'off',
    log_error_verbosity: 'terse',
    log_min_error_statement: 'panic'
  }
  return Object.entries(values).flatMap(([name, value]) => ['-c', `${name}=${value}`])
}

/** Undefined when it ended instead. */
async function untilReady(cluster: string, ended: () => string | undefined): Promise<Postmaster | undefined> {
  const begunMs = performance.now()
  for (;;) {
    const hasEnded = ended() !== undefined // asked first: the file may name a server that has ended since
    const postmaster = await findPostmaster(cluster)
    if (postmaster?.status === 'ready') return postmaster
    if (hasEnded) return undefined
    if (performance.now() - begunMs > 15_000) throw notReady(cluster, postmaster)
    await delay(5)
  }
}

/** It is left to go on: killing a server that recovers from a crash would begin the recovery anew each time. */
function notReady(cluster: string, postmaster: Postmaster | undefined): Error {
  const found =
    postmaster === undefined ? 'no server came up within 15 s' : `pid ${postmaster.pid} is still "${postmaster.status}" after 15 s`
  return failure(
    `start on ${cluster}`,
    found,
    'if it recovers from a crash (see postgres.log in the data directory), start again in a minute; or set DATABASE_URL'
  )
}

/**
 * Readies a cluster whose postmaster is gone without a proper stop: waits until its last backends have ended (PostgreSQL
 * refuses with "pre-existing shared memory block is still in use"), and removes lock files that name a zombie or a
 * stranger, which PostgreSQL would take for a live server. At most about 5 s.
 */
async function clearRemains(cluster: string, socketPath: string): Promise<void> {
  if (onWindows) return
  const pidFile = join(cluster, 'postmaster.pid')
  const locks = [pidFile, `${socketPath}.lock`]
  const holders = await Promise.all(locks.map(async path => Number.parseInt(await readFile(path, 'utf8').catch(() => ''), 10)))
  if (!holders.some(pid => pid > 0)) return
  const begunMs = performance.now()
  while (await answers({ path: socketPath })) {
    // The sockets of a killed server close a moment after it is gone from /proc.
    if (performance.now() - begunMs < 2000) await delay(10)
    else
      throw failure(
        `start on ${cluster}`,
        `a server that is not visible from here (another container?) answers at ${socketPath}`,
        'give each its own data directory, or set DATABASE_URL for both'
      )
  }
  for (;;) {
    const backends = await backendsOf(cluster)
    if (backends.length === 0) break
    const waitedMs = performance.now() - begunMs
    if (waitedMs > 5000)
      throw failure(
        `start on ${cluster}`,
        `processes of its last server do not end (pid ${backends.join(', ')})`,
        'end them, or set DATABASE_URL'
      )
    // They end by themselves within milliseconds, unless stopped or busy; without a postmaster they can do nothing useful.
    if (waitedMs > 1000) for (const backend of backends) signal(backend, 'SIGKILL')
    await delay(10)
  }
  if ((await findPostmaster(cluster)) !== undefined) return
  for (const [index, pid] of holders.entries()) {
    const path = locks[index]
    if (path !== undefined && pid > 0 && signal(pid, 0)) await rm(path, { force: true })
  }
}

async function isServerOf(cluster: string, { pid, port, status }: Postmaster): Promise<boolean> {
  if (onWindows) return status !== 'ready' || answers({ host: '127.0.0.1', port })
  if (process.platform !== 'linux') return `${await processStatus(pid, ['command='])} `.includes(`postgres -D ${cluster} `)
  const words = (await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')).split('\0')
  if (basename(words[0] ?? '') !== 'postgres' || words[1] !== '-D') return false
  // A directory moved while its server runs: the command line has the old path, the working directory follows.
  return words[2] === cluster || (await readlink(`/proc/${pid}/cwd`).catch(() => '')) === cluster
}

/** Processes of a server work in its data directory. Linux only; elsewhere the start is retried instead. */
async function backendsOf(cluster: string): Promise<number[]> {
  if (process.platform !== 'linux') return []
  const pids = (await readdir('/proc')).filter(name => /^\d+$/.test(name))
  const found = await Promise.all(
    pids.map(async pid => {
      if ((await readlink(`/proc/${pid}/cwd`).catch(() => '')) !== cluster) return []
      const title = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')
      return title.startsWith('postgres:') && (await identityOf(Number(pid))) !== undefined ? [Number(pid)] : []
    })
  )
  return found.flat()
}

/** Whether something accepts connections there. */
function answers(address: NetConnectOpts): Promise<boolean> {
  return new Promise(resolve => {
    const socket = createConnection({ ...address, timeout: 500 })
    const end = (answered: boolean) => {
      socket.destroy()
      resolve(answered)
    }
    socket
      .once('connect', () => end(true))
      .once('timeout', () => end(false))
      .once('error', () => end(false))
  })
}
