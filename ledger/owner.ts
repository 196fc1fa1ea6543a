// Tells whether the process that wrote a journal still lives.

import { readFileSync, readlinkSync } from 'node:fs'
import { hostname } from 'node:os'
import type { JournalOwner } from './journal.ts'

/** This process, as others will know it. */
export function thisOwner(processId: string): JournalOwner {
  return { processId, pid: process.pid, startTicks: startTicksOf(process.pid), realm: realm() }
}

/** `alive` or `dead` for a process within our own boot and pid namespace; `unknown` elsewhere: then the database decides. */
export function stateOf(owner: JournalOwner): 'alive' | 'dead' | 'unknown' {
  if (owner.realm !== realm()) return 'unknown'
  if (owner.startTicks !== null) return startTicksOf(owner.pid) === owner.startTicks ? 'alive' : 'dead'
  try {
    process.kill(owner.pid, 0)
    return 'unknown'
  } catch (error) {
    // A process of another user may not be signalled, but it is there.
    return (error as NodeJS.ErrnoException).code === 'ESRCH' ? 'dead' : 'unknown'
  }
}

let cachedRealm: string | null = null

function realm(): string {
  cachedRealm ??= [hostname(), read('/proc/sys/kernel/random/boot_id'), link('/proc/self/ns/pid')].join(' ')
  return cachedRealm
}

/** Fields 3 and 22 of /proc/<pid>/stat, counted after the name, which may hold anything. Null when there is no such process, or it has ended. */
function startTicksOf(pid: number): string | null {
  const stat = read(`/proc/${pid}/stat`)
  const [state, ...fields] = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  // A zombie has ended, though its parent has not looked at it yet.
  return state === 'Z' || state === 'X' ? null : (fields[18] ?? null)
}

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8').trim()
  } catch {
    return ''
  }
}

function link(path: string): string {
  try {
    return readlinkSync(path)
  } catch {
    return ''
  }
}
