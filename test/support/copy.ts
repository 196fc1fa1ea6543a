// A copy of the project in a folder of its own, started there with `npm start` as an operator would, and taken away without a trace.

import { type ChildProcess, execFile, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmod, copyFile, mkdir, mkdtemp, readdir, readFile, realpath, rm, stat, symlink, writeFile } from 'node:fs/promises'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { basename, delimiter, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Test } from 'tap'
import { until } from './wait.ts'

const root = fileURLToPath(new URL('../../', import.meta.url))

export interface CopyOptions {
  /** Only its owner may enter it: as root, the database's account cannot. */
  readonly closed?: boolean
  /** False: as it is before `npm ci`. */
  readonly installed?: boolean
}

export interface Outcome {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

export interface StartOptions {
  readonly env?: Readonly<Record<string, string>>
  /** llm-mcp.yaml, as a value: JSON is YAML. */
  readonly config?: object
}

export interface Copy {
  readonly folder: string
  /** What an operator's shell has: no PATH of ours, a home of its own, any free port, and what is given. */
  env(more?: Readonly<Record<string, string>>): Record<string, string>
  /** `npm start`, until it says that it is ready. Throws with its output when it ends before. */
  start(options?: StartOptions): Promise<Started>
  /** `npm start`, which is expected to give up. Resolves with what it said, npm's own lines left out. */
  startInVain(options?: StartOptions): Promise<{ readonly code: number | null; readonly lines: readonly string[] }>
  /** Runs a program in the copy to its end. */
  run(file: string, args: readonly string[], env?: Readonly<Record<string, string>>): Promise<Outcome>
  /** `npm run llm-mcp -- …` */
  command(...args: readonly string[]): Promise<Outcome>
  /** The pid of the copy's PostgreSQL; null when it has stopped. */
  databasePid(): Promise<number | null>
}

export interface Started {
  readonly url: string
  /** The admin key, where this start made one. */
  readonly key: string | null
  readonly ready: Readonly<Record<string, unknown>>
  /** The process of `npm start`. */
  readonly npm: ChildProcess
  /** The gateway itself, a grandchild of npm's. */
  readonly pid: number
  output(): string
  /** Resolves with npm's exit code, which is the gateway's. */
  readonly ended: Promise<number | null>
  /** Sends the gateway a signal and waits for the end. */
  stop(signal?: NodeJS.Signals): Promise<number | null>
}

/** Removed when `t` ends, with every process that was started in it. */
export async function copyProject(t: Test, options: CopyOptions = {}): Promise<Copy> {
  const folder = await realpath(await mkdtemp(join(tmpdir(), 'llm-mcp-copy-')))
  const started: { npm: ChildProcess; pids: Set<number> }[] = []
  t.teardown(async () => {
    for (const { npm, pids } of started) {
      for (const pid of [...pids, ...(npm.pid === undefined ? [] : descendants(npm.pid, await processes()))]) kill(pid, 'SIGKILL')
      npm.kill('SIGKILL')
    }
    await removeData(join(folder, '.data'))
    await rm(folder, { recursive: true, force: true, maxRetries: 3 })
  })
  // mkdtemp makes it 0700, which is what `closed` means.
  if (options.closed !== true) await chmod(folder, 0o755)
  for (const file of projectFiles()) {
    await mkdir(dirname(join(folder, file)), { recursive: true })
    await copyFile(join(root, file), join(folder, file))
  }
  if (options.installed !== false) await symlink(join(root, 'node_modules'), join(folder, 'node_modules'))
  await mkdir(join(folder, '.home'))

  function env(more: Readonly<Record<string, string>> = {}): Record<string, string> {
    return { PATH: systemPath(), HOME: join(folder, '.home'), PORT: '0', npm_config_update_notifier: 'false', ...more }
  }

  async function launch({ env: more, config }: StartOptions) {
    if (config !== undefined) await writeFile(join(folder, 'llm-mcp.yaml'), JSON.stringify(config))
    const npm = spawn('npm', ['start'], { cwd: folder, env: env(more), stdio: ['ignore', 'pipe', 'pipe'] })
    const pids = new Set<number>()
    started.push({ npm, pids })
    let output = ''
    for (const stream of [npm.stdout, npm.stderr]) {
      stream?.setEncoding('utf8').on('data', chunk => {
        output += chunk
      })
    }
    // `close` comes when nobody holds the pipes any more: the gateway has ended, and npm too.
    const ended = once(npm, 'close').then(([code]) => code as number | null)
    return { npm, pids, ended, output: () => output }
  }

  async function start(given: StartOptions = {}): Promise<Started> {
    const { npm, pids, ended, output } = await launch(given)
    const ready = await until(
      'the gateway to be ready',
      () => {
        if (npm.exitCode !== null) throw new Error(`npm start ended: ${output()}`)
        return parsedLines(output()).find(line => line.event === 'ready')
      },
      60_000
    )
    const pid = await gatewayPid(npm.pid as number)
    pids.add(pid)
    return {
      url: String(ready.url),
      key: typeof ready.admin_key === 'string' ? ready.admin_key : null,
      ready,
      npm,
      pid,
      output,
      ended,
      async stop(signal = 'SIGTERM') {
        kill(pid, signal)
        return within(ended, 40_000, 'npm start to end')
      }
    }
  }

  async function startInVain(given: StartOptions = {}) {
    const { ended, output } = await launch(given)
    const code = await within(ended, 60_000, 'npm start to give up')
    return { code, lines: ownLines(output()) }
  }

  function run(file: string, args: readonly string[], more: Readonly<Record<string, string>> = {}): Promise<Outcome> {
    return new Promise(resolve => {
      const child = execFile(file, [...args], { cwd: folder, env: env(more), timeout: 60_000 }, (_error, stdout, stderr) =>
        resolve({ code: child.exitCode, stdout, stderr })
      )
      child.stdin?.end()
    })
  }

  return {
    folder,
    env,
    start,
    startInVain,
    run,
    command: (...args) => run('npm', ['run', '--silent', 'llm-mcp', '--', ...args]),
    databasePid: () => postmasterOf(join(folder, '.data'))
  }
}

/** Every line that is a JSON object. */
export function parsedLines(output: string): Record<string, unknown>[] {
  return output.split('\n').flatMap(line => {
    if (!line.startsWith('{')) return []
    try {
      return [JSON.parse(line) as Record<string, unknown>]
    } catch {
      return []
    }
  })
}

/** What the program itself said: without npm's announcement and npm's own complaint. */
export function ownLines(output: string): string[] {
  return output.split('\n').filter(line => line.trim() !== '' && !/^(> |npm (error|warn|notice|verbose)\b)/.test(line))
}

export async function within<T>(promise: Promise<T>, ms: number, what: string): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`waited ${ms} ms in vain for: ${what}`)), ms)
  })
  return Promise.race([promise, late]).finally(() => clearTimeout(timer))
}

/** The PATH of the machine, without the one npm and tap put in front of it. */
export function systemPath(): string {
  return (process.env.PATH ?? '')
    .split(delimiter)
    .filter(entry => basename(entry) !== '.bin' && basename(entry) !== 'node-gyp-bin')
    .join(delimiter)
}

/** An Ollama of the developer's own, which a gateway that is told nothing would find: its answers are not for tests. */
export function ollamaRuns(): Promise<boolean> {
  return new Promise(resolve => {
    const socket = connect(11_434, '127.0.0.1')
    socket.once('connect', () => resolve(true))
    socket.once('error', () => resolve(false))
    socket.once('close', () => resolve(false))
    socket.setTimeout(1_000, () => socket.destroy())
    socket.once('connect', () => socket.destroy())
  })
}

/** What a clone would have, and what is new: tracked files and those that are neither tracked nor ignored. */
function projectFiles(): string[] {
  const list = execFileSync('git', ['ls-files', '-z', '--cached', '--others', '--exclude-standard', '--deduplicate'], { cwd: root })
  const gone = execFileSync('git', ['ls-files', '-z', '--deleted'], { cwd: root })
  const deleted = new Set(gone.toString('utf8').split('\0'))
  return list
    .toString('utf8')
    .split('\0')
    .filter(file => file !== '' && !deleted.has(file))
}

interface ProcessRow {
  readonly pid: number
  readonly parent: number
  readonly command: string
}

async function processes(): Promise<ProcessRow[]> {
  if (process.platform !== 'linux') {
    return execFileSync('ps', ['-axo', 'pid=,ppid=,args='], { encoding: 'utf8' }).split('\n').flatMap(psRow)
  }
  const pids = (await readdir('/proc')).filter(name => /^\d+$/.test(name))
  const rows = await Promise.all(
    pids.map(async (pid): Promise<ProcessRow[]> => {
      const line = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '')
      const command = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')
      // The name before the last parenthesis may hold anything.
      const parent = line.slice(line.lastIndexOf(')') + 2).split(' ')[1]
      return parent === undefined ? [] : [{ pid: Number(pid), parent: Number(parent), command: command.replaceAll('\0', ' ') }]
    })
  )
  return rows.flat()
}

function psRow(line: string): ProcessRow[] {
  const [, pid, parent, command] = /^\s*(\d+)\s+(\d+)\s+(.*)$/.exec(line) ?? []
  return pid === undefined ? [] : [{ pid: Number(pid), parent: Number(parent), command: command ?? '' }]
}

function descendants(pid: number, rows: readonly ProcessRow[]): number[] {
  return rows.filter(row => row.parent === pid).flatMap(row => [row.pid, ...descendants(row.pid, rows)])
}

/** The last in the line of npm, its shell, perhaps an old Node, and the Node that runs the gateway. */
async function gatewayPid(npmPid: number): Promise<number> {
  const rows = await processes()
  const below = descendants(npmPid, rows).flatMap(pid => rows.find(row => row.pid === pid) ?? [])
  const gateways = below.filter(row => /^\S*node\S* .*bin\/llm-mcp\.js serve/.test(row.command))
  const pid = gateways.find(row => !gateways.some(other => other.parent === row.pid))?.pid
  if (pid === undefined) throw new Error(`no gateway among ${below.map(row => row.command).join(' | ')}`)
  return pid
}

function kill(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
  }
}

/** Where the database of a data directory is: in it, or where its account can get to. */
async function placeOf(dataDir: string): Promise<string> {
  return (await readFile(join(dataDir, 'postgres-location'), 'utf8').catch(() => dataDir)).trim()
}

async function postmasterOf(dataDir: string): Promise<number | null> {
  const file = join(await placeOf(dataDir), 'postgres', 'postmaster.pid')
  const pid = Number.parseInt(await readFile(file, 'utf8').catch(() => ''), 10)
  if (!(pid > 0)) return null
  const command = process.platform === 'linux' ? await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '') : 'postgres'
  return command.includes('postgres') ? pid : null
}

/** Stops a database that was left running, and removes what it put outside of the copy. */
export async function removeData(dataDir: string): Promise<void> {
  const pid = await postmasterOf(dataDir)
  if (pid !== null) {
    kill(pid, 'SIGINT')
    await until('the database to stop', async () => (await postmasterOf(dataDir)) === null)
  }
  const place = await placeOf(dataDir)
  if (place === dataDir || (await stat(place).catch(() => null)) === null) return
  const owner = await readFile(join(place, 'owner'), 'utf8').catch(() => '')
  if (owner === dataDir) await rm(place, { recursive: true, force: true })
}
