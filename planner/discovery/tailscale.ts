// Asks the tailscale command who is in the tailnet, and says plainly when it cannot tell.

import { type ExecFileException, execFile } from 'node:child_process'
import { peersOf, type TailnetPeer } from './peers.ts'
import { isObject, type Json, parseJson } from './values.ts'

export type TailscaleState =
  | 'running'
  | 'absent'
  | 'logged_out'
  | 'stopped'
  | 'starting'
  | 'needs_approval'
  | 'unreachable'
  | 'slow'
  | 'unreadable'

export interface TailscaleReading {
  /** Only `running` says anything about machines; with every other one those that are known stay. */
  readonly state: TailscaleState
  /** One sentence for people. Nothing of what the command printed is in it: that may hold a link to log in. */
  readonly message: string
  readonly peers: readonly TailnetPeer[]
  /** No interface of the system's: other machines of the tailnet cannot be reached from this process. */
  readonly userspace: boolean
}

export interface ReadOptions {
  /** Null = `tailscale` on PATH, then where macOS and Windows put it. */
  readonly command: string | null
  readonly signal?: AbortSignal
  readonly timeoutMs?: number
  /** Of the command; by default that of this process. */
  readonly env?: Readonly<Record<string, string | undefined>>
}

type Run =
  | { readonly outcome: 'printed'; readonly text: string }
  | { readonly outcome: 'failed'; readonly error: ExecFileException; readonly complaint: string }

const printedBytesAtMost = 16 * 1024 * 1024
const knownPlaces: Partial<Record<NodeJS.Platform, string>> = {
  darwin: '/Applications/Tailscale.app/Contents/MacOS/Tailscale',
  win32: 'C:\\Program Files\\Tailscale\\tailscale.exe'
}

/** Never throws but when it is called off, with the reason of the signal. */
export async function readTailscale({ command, signal, timeoutMs = 5_000, env }: ReadOptions): Promise<TailscaleReading> {
  const elsewhere = knownPlaces[process.platform]
  const places = command !== null ? [command] : elsewhere === undefined ? ['tailscale'] : ['tailscale', elsewhere]
  let run: Run | null = null
  for (const place of places) {
    run = await runStatus(place, { timeoutMs, ...(signal && { signal }), ...(env && { env }) })
    signal?.throwIfAborted()
    if (run.outcome === 'printed' || run.error.code !== 'ENOENT') break
  }
  if (run === null) return without('absent', 'Tailscale was not looked for.')
  return run.outcome === 'printed' ? readingOf(run.text) : failureOf(run, { command, timeoutMs })
}

/** No shell, and nothing of anybody's in its arguments. */
function runStatus(command: string, options: { timeoutMs: number; signal?: AbortSignal; env?: ReadOptions['env'] }): Promise<Run> {
  const { timeoutMs, signal, env } = options
  return new Promise(resolve => {
    const settings = {
      timeout: timeoutMs,
      killSignal: 'SIGKILL',
      maxBuffer: printedBytesAtMost,
      windowsHide: true,
      ...(signal && { signal }),
      ...(env && { env: { ...env } })
    } as const
    try {
      const child = execFile(command, ['status', '--json'], settings, (error, text, complaint) =>
        resolve(error === null ? { outcome: 'printed', text } : { outcome: 'failed', error, complaint })
      )
      child.stdin?.on('error', () => {}).end()
    } catch (error) {
      // Some refusals of the system are thrown at once: a file that is no program, an empty name.
      resolve({ outcome: 'failed', error: error instanceof Error ? error : new Error('not started'), complaint: '' })
    }
  })
}

function readingOf(text: string): TailscaleReading {
  const json = parseJson(text)
  if (!isObject(json)) return without('unreadable', 'The tailscale command printed something that is not its status.')
  const state = json['BackendState']
  if (state === 'Running') return running(json)
  const known = typeof state === 'string' ? unusable.get(state) : undefined
  return known ?? without('unreadable', 'The tailscale command did not print a state that is known.')
}

function running(json: Json): TailscaleReading {
  const peers = peersOf(json)
  const userspace = json['TUN'] === false
  const others = peers.filter(peer => !peer.isSelf).length
  const count = others === 1 ? '1 other machine is online' : `${others} other machines are online`
  const limit = userspace ? ', but cannot be reached: Tailscale runs without a network interface (userspace networking)' : ''
  return { state: 'running', message: `Tailscale runs: ${count}${limit}.`, peers, userspace }
}

const unusable = new Map([
  ['NeedsLogin', without('logged_out', 'Tailscale is logged out: run "tailscale up" on this machine.')],
  ['NeedsMachineAuth', without('needs_approval', 'Tailscale waits until an administrator of the tailnet approves this machine.')],
  ['Stopped', without('stopped', 'Tailscale is stopped: run "tailscale up" on this machine.')],
  ['Starting', without('starting', 'Tailscale is starting.')],
  ['NoState', without('starting', 'Tailscale is starting.')],
  ['InUseOtherUser', without('unreachable', 'Tailscale is in use by another user of this machine.')]
])

function failureOf(
  { error, complaint }: Run & { outcome: 'failed' },
  { command, timeoutMs }: { command: string | null; timeoutMs: number }
): TailscaleReading {
  const { code } = error
  if (code === 'ENOENT') {
    const place = command === null ? 'is not installed, or not on PATH' : 'is not where TAILSCALE_BIN says'
    return without('absent', `The tailscale command ${place}.`)
  }
  if (code === 'ERR_CHILD_PROCESS_STDIO_MAXBUFFER') {
    return without('unreadable', 'The tailscale command printed more than 16 MB.')
  }
  if (error.killed === true) return without('slow', `The tailscale command did not answer within ${timeoutMs / 1000} s.`)
  if (typeof code !== 'number' && error.signal == null) {
    return without('absent', `The tailscale command cannot be run${typeof code === 'string' ? ` (${code})` : ''}.`)
  }
  if (/denied|permission/i.test(complaint)) {
    return without('unreachable', 'Tailscale does not let the user of this process ask for its status.')
  }
  if (/failed to connect|doesn't appear to be running|not running/i.test(complaint)) {
    return without('unreachable', 'Tailscale is installed, but its service does not run.')
  }
  return without('unreachable', `The tailscale command failed (${error.signal ?? `exit code ${code}`}).`)
}

function without(state: TailscaleState, message: string): TailscaleReading {
  return { state, message, peers: [], userspace: false }
}
