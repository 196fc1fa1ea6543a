// What an operator sees at the start: for a terminal a page, otherwise one JSON line with the same facts.

import { styleText } from 'node:util'
import type { UpstreamReport } from '../planner/inventory.ts'
import type { Neighbour } from './neighbours.ts'

export interface BannerFacts {
  readonly version: string
  readonly role: string
  /** Null: this process listens on no port. */
  readonly url: string | null
  readonly readyMs: number
  readonly database: string
  /** Only when it was made just now. */
  readonly newAdminKey: string | null
  readonly auth: boolean
  readonly upstreams: readonly UpstreamReport[]
  /** Last characters of the keys of rented upstreams, by id. */
  readonly rentedKeys: ReadonlyMap<string, string | null>
  readonly neighbours: readonly Neighbour[]
}

/** The text to print, ending with a line break. */
export function banner(facts: BannerFacts, isTerminal: boolean): string {
  return isTerminal ? page(facts) : `${JSON.stringify(line(facts))}\n`
}

function line(facts: BannerFacts): object {
  return {
    event: 'ready',
    version: facts.version,
    role: facts.role,
    ...(facts.url === null ? {} : { url: facts.url, base_url: `${facts.url}/v1` }),
    ready_ms: facts.readyMs,
    database: facts.database,
    ...(facts.newAdminKey === null ? {} : { admin_key: facts.newAdminKey }),
    found: facts.upstreams.map(({ upstream, models, error }) => ({
      id: upstream.id,
      url: upstream.baseUrl,
      own: upstream.own,
      models: models.length,
      error,
      ...(upstream.own ? {} : { key: facts.rentedKeys.get(upstream.id) ?? null })
    })),
    neighbours: facts.neighbours
  }
}

function page(facts: BannerFacts): string {
  const bold = (text: string): string => styleText('bold', text)
  const dim = (text: string): string => styleText('dim', text)
  const title = `${bold(`llm-mcp ${facts.version}`)}  ready in ${(facts.readyMs / 1_000).toFixed(1)} s`
  const lines = (rows: readonly [string, string][]): string =>
    `\n${title}\n${rows.map(([name, text]) => `  ${name.padEnd(10)}${text}`).join('\n')}\n\n`
  if (facts.url === null) {
    return lines([
      ['Role', `${facts.role}; it listens on no port`],
      ['Postgres', facts.database],
      ...found(facts).map((text, index): [string, string] => [index === 0 ? 'Found' : '', text])
    ])
  }
  const key = facts.newAdminKey ?? (facts.auth ? '$OPENAI_API_KEY' : 'none')
  const rows: [string, string][] = [
    ['API', `${facts.url}/v1`],
    ['Postgres', facts.database],
    ...(facts.newAdminKey === null
      ? [
          [
            'Key',
            facts.auth ? dim('as before; make another: npm run llm-mcp -- keys create --source me') : 'not needed (LLM_MCP_AUTH=off)'
          ] as [string, string]
        ]
      : [['Key', `${bold(facts.newAdminKey)}  ${dim('(admin; shown this once)')}`] as [string, string]]),
    ...found(facts).map((text, index): [string, string] => [index === 0 ? 'Found' : '', text]),
    [
      'Try',
      `curl ${facts.url}/v1/chat/completions -H "Authorization: Bearer ${key}" \\\n${' '.repeat(14)}-H "content-type: application/json" -d '{"model":"auto","stream":true,"messages":[{"role":"user","content":"hi"}]}'`
    ],
    ['SDK', `export OPENAI_BASE_URL=${facts.url}/v1\n${' '.repeat(12)}export OPENAI_API_KEY=${key}`]
  ]
  return lines(rows)
}

function found(facts: BannerFacts): string[] {
  const rows = facts.upstreams.map(({ upstream, models, error }) => {
    const key = upstream.own ? '' : `  key ${facts.rentedKeys.get(upstream.id) ?? 'none'}`
    const what =
      error === null
        ? models.length === 0
          ? ''
          : `  ${models.length} models (${models.slice(0, 3).join(', ')}${models.length > 3 ? ', …' : ''})`
        : `  ${error}`
    return `${upstream.id}  ${upstream.baseUrl}${key}${what}`
  })
  for (const { name, url, models } of facts.neighbours) {
    rows.push(`${name}  ${url}  ${models} models; to use it, add a machine to llm-mcp.yaml: { url: ${url}, type: openai }`)
  }
  if (facts.upstreams.length === 0) rows.push('no model yet: a demo answers. Start Ollama, or set OPENROUTER_API_KEY or OPENAI_API_KEY')
  return rows
}
