// The server process: starts it, tells it from strangers and zombies, stops it; and the lock that lets one launcher act at a time.

import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { constants } from 'node:fs'
import {
  copyFile,
  type FileHandle,
  open,
  readdir,
  readFile,
  readlink,
  rename,
  rm,
  stat,
  symlink,
  truncate,
  unlink,
  writeFile
} from 'node:fs/promises'
import { createConnection, type NetConnectOpts } from 'node:net'
import { basename, dirname, join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'

/** The account a server of root's runs as: PostgreSQL refuses to run as root. */
export interface Account {
  readonly uid: number
  readonly gid: number
  readonly name: string
}

export interface Binaries {
  readonly postgres: string
  readonly initdb: string
  readonly pgCtl: string
}

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

export interface Outcome {
  /** Null when the tool could not be run or had to be killed; `output` says which. */
  readonly code: number | null
  readonly output: string
}

export const onWindows = process.platform === 'win32'

/** One line for the operator: what was attempted, what came back, what to do. */
export function failure(attempted: string, cameBack: string, advice = 'set DATABASE_URL to use a server of your own'): Error {
  return new Error(
    `embedded PostgreSQL: cannot ${attempted}: ${cameBack
      .trim()
      .replaceAll(/\s*\n\s*/g, ' | ')
      .slice(-600)}; ${advice}`
  )
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

/** The server appends to the file it was given, so a log of more than 5 MB is emptied in place; what it said is kept once. */
export async function boundLog(path: string): Promise<void> {
  const info = await stat(path).catch(ignoreMissing)
  if (info === undefined || info.size <= 5 * 1024 * 1024) return
  await copyFile(path, `${path}.1`)
  await truncate(path)
}

/**
 * Runs the task while this process alone holds the lock. The lock names its holder; a dead holder's lock is broken.
 * Should two ever hold it at once, PostgreSQL's own interlock and the rename of a finished cluster keep the data whole.
 */
export async function underLock<T>(path: string, task: () => Promise<T>): Promise<T> {
  const mine = `${process.pid} ${await identityOf(process.pid)} ${randomUUID()}`
  const begunMs = performance.now()
  while (!(await takeLock(path, mine))) {
    await breakStaleLock(path)
    // 75 s: longer than any holder may take (initdb 30 s, waiting for a predecessor 15 s, start 15 s, stop 10 s).
    if (performance.now() - begunMs > 75_000)
      throw failure(`lock ${path}`, 'another process has held it for 75 s', 'end that process, or set DATABASE_URL')
    await delay(10)
  }
  try {
    return await task()
  } finally {
    if ((await lockHolder(path)) === mine) await unlink(path).catch(() => {})
  }
}

/** A symbolic link that leads nowhere: it appears together with its text, even on a full disk. On Windows it would need special rights. */
async function takeLock(path: string, holder: string): Promise<boolean> {
  try {
    await (onWindows ? writeFile(path, holder, { flag: 'wx' }) : symlink(holder, path))
    return true
  } catch (error) {
    if (hasCode(error, 'EEXIST')) return false
    throw error
  }
}

function lockHolder(path: string): Promise<string | undefined> {
  return (onWindows ? readFile(path, 'utf8') : readlink(path)).catch(ignoreMissing)
}

async function breakStaleLock(path: string): Promise<void> {
  const holder = await lockHolder(path)
  if (holder === undefined) return
  const [pid = '', identity] = holder.split(' ')
  if ((await identityOf(Number.parseInt(pid, 10))) === identity) return
  const aside = `${path}.${randomUUID()}`
  await rename(path, aside).catch(ignoreMissing) // of several breakers one succeeds
  const taken = await lockHolder(aside)
  if (taken === undefined) return
  if (taken !== holder) await takeLock(path, taken) // another had broken it and taken it since we looked: it gets it back
  await unlink(aside)
}

/** What a spawned PostgreSQL tool gets: the account, and no environment of ours, which holds provider keys. */
export function spawnOptions(account: Account | undefined) {
  if (onWindows) return { windowsHide: true }
  return {
    cwd: '/',
    // LC_ALL: on macOS a postmaster without a locale refuses to start. TZ: saves initdb the search for the local zone.
    env: { LC_ALL: 'C', TZ: 'UTC', PATH: '/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin' },
    ...(account === undefined ? {} : { uid: account.uid, gid: account.gid })
  }
}

/** Runs a tool to its end, at most `timeoutMs`. Never rejects. */
export function run(
  file: string,
  args: readonly string[],
  how: { readonly account: Account | undefined; readonly timeoutMs: number }
): Promise<Outcome> {
  return new Promise(resolve => {
    let output = ''
    const child = spawn(file, args, { ...spawnOptions(how.account), stdio: ['ignore', 'pipe', 'pipe'] })
    const collect = (chunk: string) => {
      output = (output + chunk).slice(-16_384)
    }
    child.stdout?.setEncoding('utf8').on('data', collect)
    child.stderr?.setEncoding('utf8').on('data', collect)
    const end = (code: number | null, lastLine = '') => {
      clearTimeout(timer)
      resolve({ code, output: output + lastLine })
    }
    const timer = setTimeout(() => {
      child.kill('SIGKILL')
      child.stdout?.destroy() // its own children may hold the pipes open
      child.stderr?.destroy()
      end(null, `\nkilled after ${how.timeoutMs} ms`)
    }, how.timeoutMs)
    child.once('error', error => end(null, `\n${error.message}`))
    child.once('close', code => end(code))
  })
}

/** The lines that say why, without the time and pid before them: the first complaint and what came last. */
export function lastWords(output: string): string {
  const lines = output
    .split('\n')
    .map(line => line.replace(/^[\d-]+ [\d:.]+ \S+ \[\d+\] /, '').trim())
    .filter(line => line !== '' && !/is shut down|removing (contents|data)|^(Aborted|child process exited)/.test(line))
  const cause = lines.findIndex(line => /\b(FATAL|PANIC|ERROR|error): /.test(line))
  return lines.filter((_line, index) => index === cause || index >= lines.length - 2).join(' | ')
}

export function adviceFor(said: string): string {
  if (said.includes('No space left on device')) return 'free disk space, or set DATABASE_URL'
  if (/spawn .* (EACCES|EPERM)/.test(said))
    return 'this process may not start them as that account (a container without that right?): start as a normal user, or set DATABASE_URL'
  if (/ENOENT|shared libraries|GLIBC/.test(said)) return 'the binaries need glibc 2.27 or newer (not Alpine); elsewhere set DATABASE_URL'
  if (/Read-only file system|Permission denied|EACCES|EPERM/.test(said))
    return 'make the data directory writable for that account, or set DATABASE_URL'
  return 'see postgres.log in the data directory, or set DATABASE_URL'
}

/** Root may have started it once in a user's directory; the user will want to go on without root. */
async function openLog(path: string): Promise<FileHandle> {
  const log = await open(path, constants.O_WRONLY | constants.O_APPEND | constants.O_CREAT | (constants.O_NOFOLLOW ?? 0), 0o600)
  const { uid, gid } = await stat(dirname(path))
  if (process.getuid?.() === 0) await log.chown(uid, gid)
  return log
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
    max_connections: 80,
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

/** When the process began, in whatever form the system gives it; undefined when it is dead, and a zombie is dead. */
export async function identityOf(pid: number): Promise<string | undefined> {
  if (onWindows) {
    try {
      process.kill(pid, 0)
      return 'alive'
    } catch (error) {
      return hasCode(error, 'EPERM') ? 'alive' : undefined
    }
  }
  if (process.platform === 'linux') {
    const text = await readFile(`/proc/${pid}/stat`, 'latin1').catch(() => '')
    const [state, ...fields] = text.slice(text.lastIndexOf(')') + 2).split(' ') // the name before may hold anything
    return state === 'Z' || state === 'X' ? undefined : fields[18]
  }
  const [state = '', ...started] = (await processStatus(pid, ['stat=', 'lstart='])).split(/\s+/)
  return started.length === 0 || state.startsWith('Z') ? undefined : started.join('-')
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

/** Whether the process could be signalled; 0 only asks. */
function signal(pid: number, name: NodeJS.Signals | 0): boolean {
  try {
    process.kill(pid, name)
    return true
  } catch (error) {
    return hasCode(error, 'EPERM')
  }
}

function processStatus(pid: number, columns: readonly string[]): Promise<string> {
  return new Promise(resolve => {
    execFile('ps', [...columns.flatMap(column => ['-o', column]), '-p', String(pid)], { timeout: 2000 }, (_error, stdout) =>
      resolve(stdout.trim())
    )
  })
}

export function hasCode(error: unknown, ...codes: readonly string[]): boolean {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' && codes.includes(error.code)
}

/** For `.catch`: a file that is not there is no error. */
export function ignoreMissing(error: unknown): undefined {
  if (!hasCode(error, 'ENOENT', 'ENOTDIR')) throw error
}
