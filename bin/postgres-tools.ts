// Runs the tools that come with PostgreSQL, and says in one line for the operator what went wrong.

import { spawn } from 'node:child_process'

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

export function hasCode(error: unknown, ...codes: readonly string[]): boolean {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' && codes.includes(error.code)
}

/** For `.catch`: a file that is not there is no error. */
export function ignoreMissing(error: unknown): undefined {
  if (!hasCode(error, 'ENOENT', 'ENOTDIR')) throw error
}
