// That the gateway did all it is there for while it was measured: a row of cost, a line of the log and a count for each request, and limits that hold.

import { createReadStream } from 'node:fs'
import { createInterface } from 'node:readline'
import { setTimeout as delay } from 'node:timers/promises'
import { startEmbeddedPostgres } from '../../bin/postgres.ts'
import { createPool } from '../../store/pool.ts'
import type { Gateway } from './targets.ts'

export interface Evidence {
  readonly rows: number
  readonly lines: number
  readonly counted: number
  /** Of the eight requests of a key that has five a minute. */
  readonly refused: number
}

/** Waits until as many rows are there as requests were answered, or it is sure that they never will be. */
export async function evidenceOf(gateway: Gateway, answered: number): Promise<Evidence> {
  const refused = await refusedOf(gateway)
  const server = await startEmbeddedPostgres({ dataDir: gateway.dataDir, log: () => {} })
  const pool = createPool(server.connection, { max: 1, name: 'bench', onError: () => {}, queryMs: 60_000 })
  try {
    let rows = -1
    for (let before = -2; rows !== before; ) {
      before = rows
      await delay(1_500)
      const { rows: found } = await pool.query('select count(*)::integer as count from llm_costs')
      rows = found[0].count
      if (rows >= answered) break
    }
    return { rows, lines: await linesOf(gateway.logFile), counted: await countedOf(gateway), refused }
  } finally {
    await pool.end()
    await server.release()
  }
}

async function refusedOf({ url, adminKey }: Gateway): Promise<number> {
  const made = await fetch(`${url}/v1/keys`, {
    method: 'POST',
    headers: { authorization: `Bearer ${adminKey}`, 'content-type': 'application/json' },
    body: JSON.stringify({ source: 'limited', limits: { requests_per_minute: 5 } })
  })
  const { key } = (await made.json()) as { key: string }
  let refused = 0
  for (let at = 0; at < 8; at++) {
    const response = await fetch(`${url}/v1/chat/completions`, {
      method: 'POST',
      headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
      body: JSON.stringify({ model: 'gpt-4o-mini', messages: [{ role: 'user', content: 'hi' }] })
    })
    await response.arrayBuffer()
    if (response.status === 429) refused++
  }
  return refused
}

/** Lines of model requests. */
async function linesOf(file: string): Promise<number> {
  let count = 0
  for await (const line of createInterface({ input: createReadStream(file) })) {
    if (line.includes('"route":"/v1/chat/completions"')) count++
  }
  return count
}

async function countedOf({ url, adminKey }: Gateway): Promise<number> {
  const response = await fetch(`${url}/metrics`, { headers: { authorization: `Bearer ${adminKey}` } })
  const text = await response.text()
  return text
    .split('\n')
    .filter(line => line.startsWith('llm_mcp_requests_total{') && line.includes('route="/v1/chat/completions"'))
    .reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0)
}
