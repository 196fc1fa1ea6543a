// Other model servers on this machine, looked for at the ports they use by habit. Only shown: nothing is sent to them until configured.

import type { Outbound } from '../outbound/client.ts'
import type { Upstream } from '../routing/types.ts'

export interface Neighbour {
  readonly name: string
  readonly url: string
  readonly models: number
}

const habits = [
  { name: 'LM Studio', port: 1234 },
  { name: 'vLLM', port: 8000 },
  { name: 'llama.cpp', port: 8080 }
]

/** Those that answer with a list of models within `ms`, and are not configured already. */
export async function findNeighbours(outbound: Outbound, known: readonly Upstream[], ms: number): Promise<Neighbour[]> {
  const found = await Promise.all(
    habits.map(async ({ name, port }): Promise<Neighbour | null> => {
      const origin = `http://127.0.0.1:${port}`
      if (known.some(upstream => upstream.baseUrl.startsWith(`${origin}/`) || upstream.baseUrl === origin)) return null
      const request = { origin, path: '/v1/models', method: 'GET' as const, headers: {}, body: null, connectMs: ms }
      try {
        const answer = await outbound.fetchText(request, { maxBytes: 256 * 1024, timeoutMs: ms })
        const json: unknown = JSON.parse(answer.text)
        const models = (json as { data?: unknown }).data
        return answer.status === 200 && Array.isArray(models) ? { name, url: `${origin}/v1`, models: models.length } : null
      } catch {
        // Nobody there, or nobody we know: that is what was asked.
        return null
      }
    })
  )
  return found.filter(neighbour => neighbour !== null)
}
