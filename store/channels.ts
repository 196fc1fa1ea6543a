// The names of the notifications between processes, and the sending of them.

import type { Pool } from './pool.ts'

/** Lanes in which a job became ready, comma separated; empty: look everywhere. */
export const jobsChannel = 'llm_mcp_jobs'
/** Jobs that began an attempt or ended, comma separated: for those who follow them from another process. */
export const changedChannel = 'llm_mcp_changed'

/** Machines or models changed: the upstream that is to be looked at again, empty: all of them. */
export const fleetChannel = 'llm_mcp_fleet'

/** A machine went or came: `down` or `up`, a space, its id. */
export const healthChannel = 'llm_mcp_health'

/** What other processes have to say to one: see `Command` in queue/notices.ts. */
export function toProcess(processId: string): string {
  return `llm_mcp_to_${processId}`
}

/** A process has written events of jobs. The payload is empty. */
export function fromProcess(processId: string): string {
  return `llm_mcp_from_${processId}`
}

export interface Notice {
  readonly channel: string
  /** Under 8,000 bytes. */
  readonly payload: string
}

/** Sends them in one statement. Whoever listens hears of them within milliseconds; whoever does not, never. */
export async function notify(pool: Pick<Pool, 'query'>, notices: readonly Notice[]): Promise<void> {
  await pool.query({
    name: 'channels.notify',
    text: 'select pg_notify(channel, payload) from unnest($1::text[], $2::text[]) as notice (channel, payload)',
    values: [notices.map(({ channel }) => channel), notices.map(({ payload }) => payload)]
  })
}
