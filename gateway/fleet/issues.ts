// What needs a person, in plain words. Pure.

import type { Snapshot } from '../../store/dashboard.ts'
import type { DeviceRecord } from '../../store/fleet.ts'
import { isUnconfigured } from './device.ts'

export interface Issue {
  readonly severity: 'error' | 'warning' | 'info'
  /** What it is about: a machine, a chore, the queue. */
  readonly subject: string
  readonly text: string
}

// A queue in which nothing runs for so long is stuck.
const stuckMs = 60_000
const namesAtMost = 10

const marks: Readonly<Record<string, string>> = {
  old_ollama: 'runs an Ollama before 0.17.1, which can be made to give away its memory (CVE-2026-7482): update it',
  hostile: 'answers as no honest server does, and is sent nothing'
}

/** The most urgent first. `error` of a machine: why its models could not be read. */
export function issuesOf(
  snapshot: Snapshot,
  devices: readonly (DeviceRecord & { readonly error?: string | null })[],
  nowMs: number
): Issue[] {
  // Whoever took a machine out of the configuration knows that it is gone.
  const used = devices.filter(device => device.state === 'approved' && !isUnconfigured(device))
  const down = used.filter(({ health }) => health === 'down')
  const proposed = devices.filter(({ state, goneAt }) => state === 'proposed' && goneAt === null)
  const waitsMs = snapshot.oldestWaitingAt === null ? 0 : nowMs - snapshot.oldestWaitingAt.getTime()
  const { today } = snapshot.costs
  const isStuck = snapshot.jobs.queued > 0 && snapshot.jobs.running === 0 && waitsMs > stuckMs
  const workers = snapshot.processes.filter(({ role }) => role === 'all' || role === 'worker')
  return [
    ...(isStuck
      ? [
          {
            severity: 'error' as const,
            subject: 'queue',
            text: `${countOf(snapshot.jobs.queued, 'job')} ${snapshot.jobs.queued === 1 ? 'waits' : 'wait'}, the first for ${Math.round(waitsMs / 60_000)} min, and none runs${workers.length === 0 ? ': no process runs jobs (LLM_MCP_ROLE)' : ''}.`
          }
        ]
      : []),
    ...down.map(({ id, healthNote, healthAt }) => ({
      severity: 'error' as const,
      subject: id,
      text: `The machine ${id} is away${healthNote === null ? '' : `: ${healthNote}`}${healthAt === null ? '' : `, since ${healthAt.toISOString()}`}.`
    })),
    ...used.flatMap(({ id, health, stuckModel, stuckUntil }) =>
      // Of one that is away, that is said already.
      stuckModel == null || health === 'down'
        ? []
        : [
            {
              severity: 'error' as const,
              subject: id,
              text: `The machine ${id} does not finish loading "${stuckModel}": nothing is loaded there${stuckUntil == null ? '' : ` until ${stuckUntil.toISOString()}`}, what is in its memory is used. If it stays so, restart its Ollama.`
            }
          ]
    ),
    ...snapshot.failedChores.map(({ name, note }) => ({
      severity: 'warning' as const,
      subject: name,
      text: `${name} failed when it was done last${note === null ? '' : `: ${note.slice(0, 300)}`}.`
    })),
    ...used.flatMap(({ id, url, goneAt }) => {
      if (goneAt === null) return []
      const heir = devices.find(
        other => other.id !== id && other.goneAt === null && URL.parse(other.url)?.origin === URL.parse(url)?.origin
      )
      return [
        {
          severity: 'warning' as const,
          subject: id,
          text: `The machine ${id} is gone: it is not found any more, since ${goneAt.toISOString()}${heir === undefined ? '' : `, and its address is now that of ${heir.id}`}.`
        }
      ]
    }),
    ...used.flatMap(({ id, health, error }) =>
      error == null || health === 'down'
        ? []
        : [
            {
              severity: 'warning' as const,
              subject: id,
              text: `The models of the machine ${id} cannot be read: ${error.slice(0, 300).replace(/\.$/, '')}.`
            }
          ]
    ),
    ...used.flatMap(({ id, marks: found }) =>
      found.map(mark => ({ severity: 'warning' as const, subject: id, text: `The machine ${id} ${marks[mark] ?? `is marked: ${mark}`}.` }))
    ),
    ...(today.unknown === 0
      ? []
      : [
          {
            severity: 'warning' as const,
            subject: 'costs',
            text: `The price of ${countOf(today.unknown, 'call')} of today is unknown, and in no sum: set it under prices in llm-mcp.yaml.`
          }
        ]),
    ...(proposed.length === 0
      ? []
      : [
          {
            severity: 'info' as const,
            subject: 'discovery',
            text: `${countOf(proposed.length, 'machine')} found and not approved: ${proposed
              .slice(0, namesAtMost)
              .map(({ id }) => id)
              .join(', ')}${proposed.length > namesAtMost ? ', …' : ''}.`
          }
        ])
  ]
}

function countOf(count: number, what: string): string {
  return `${count} ${what}${count === 1 ? '' : 's'}`
}
