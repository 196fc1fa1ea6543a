// What a gateway process holds: memory, sockets, timers. For tests that look for what is left behind.

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { RunningGateway } from './gateway.ts'
import { until } from './wait.ts'

export interface Held {
  readonly number: number
  readonly rss: number
  readonly heap: number
  /** Handles and timers by Node's names for them. */
  readonly resources: Readonly<Record<string, number>>
}

/** The environment that makes a gateway answer `heldBy`. */
export function probeEnv(folder: string): Record<string, string> {
  return { NODE_OPTIONS: `--import=${fileURLToPath(new URL('./probe.mjs', import.meta.url))}`, PROBE_FILE: join(folder, 'probe.json') }
}

/** After a collection of garbage. */
export async function heldBy(gateway: RunningGateway): Promise<Held> {
  const path = join(gateway.folder, 'probe.json')
  const before = read(path)?.number ?? 0
  gateway.child.kill('SIGWINCH')
  return until('the probe', () => {
    const held = read(path)
    return held !== null && held.number > before ? held : null
  })
}

function read(path: string): Held | null {
  try {
    return JSON.parse(readFileSync(path, 'utf8')) as Held
  } catch {
    return null
  }
}
