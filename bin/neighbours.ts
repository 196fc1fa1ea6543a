// Other model servers on this machine, looked for at the ports they use by habit. Only shown: nothing is sent to them until configured.

import { createAddressGuard, defaultRanges } from '../planner/discovery/guard.ts'
import { habits, ollamaPort } from '../planner/discovery/habits.ts'
import { createProbe } from '../planner/discovery/probe.ts'
import type { Upstream } from '../routing/types.ts'

export interface Neighbour {
  readonly name: string
  readonly url: string
  readonly models: number
}

/** Those that answer with a list of models within `ms`, and are not configured already. Ollama is found by itself. */
export async function findNeighbours(known: readonly Upstream[], ms: number): Promise<Neighbour[]> {
  const probe = createProbe(createAddressGuard(defaultRanges), { totalMs: ms })
  const found = await Promise.all(
    habits.map(async ({ name, port }): Promise<Neighbour | null> => {
      const origin = `http://127.0.0.1:${port}`
      if (port === ollamaPort || known.some(({ baseUrl }) => baseUrl.startsWith(`${origin}/`) || baseUrl === origin)) return null
      const answer = await probe('127.0.0.1', port)
      return answer.kind === 'openai' ? { name, url: answer.url, models: answer.modelCount } : null
    })
  )
  return found.filter(neighbour => neighbour !== null)
}
