// Where a command that speaks to a running gateway finds it, and with which key.

import { readFile } from 'node:fs/promises'
import { resolve } from 'node:path'
import { parseEnv } from 'node:util'
import { readEnvironment } from './environment.ts'
import type { Environment } from './expansion.ts'
import { ConfigError, shown } from './problems.ts'
import { parseUrl } from './urls.ts'

export interface ClientSettings {
  /** Without a slash or `/v1` at the end. */
  readonly url: string
  readonly key: string | null
}

/** The options of the command line. */
export interface ClientOptions {
  readonly url?: string
  readonly key?: string
}

/**
 * What is given wins over LLM_MCP_URL and LLM_MCP_KEY, and these over the gateway's own HOST, PORT and LLM_MCP_ADMIN_KEY.
 * llm-mcp.yaml is not read: a fault in it is no reason to leave a running gateway alone. Throws ConfigError.
 */
export async function readClientSettings(
  given: ClientOptions,
  { env, cwd }: { readonly env: Environment; readonly cwd: string } = { env: process.env, cwd: process.cwd() }
): Promise<ClientSettings> {
  const environment = { ...(await dotEnv(cwd)), ...env }
  return {
    url: given.url !== undefined ? checkedUrl('--url', given.url) : urlOf(environment, cwd),
    key: given.key !== undefined ? checkedKey('--key', given.key) : keyOf(environment, cwd)
  }
}

function urlOf(environment: Environment, cwd: string): string {
  const url = environment.LLM_MCP_URL?.trim()
  if (url) return checkedUrl('LLM_MCP_URL', url)
  const problems: string[] = []
  const { host, port } = readEnvironment({ HOST: environment.HOST, PORT: environment.PORT }, cwd, problems)
  if (problems.length > 0) throw new ConfigError(problems)
  if (port === 0) throw new ConfigError(['With PORT=0 the gateway listens on any free port: say which with --url or LLM_MCP_URL'])
  const reachable = host === '0.0.0.0' ? '127.0.0.1' : host === '::' ? '::1' : host
  return `http://${reachable.includes(':') ? `[${reachable}]` : reachable}:${port}`
}

function keyOf(environment: Environment, cwd: string): string | null {
  const key = environment.LLM_MCP_KEY?.trim()
  if (key) return checkedKey('LLM_MCP_KEY', key)
  const problems: string[] = []
  const { adminKey } = readEnvironment({ LLM_MCP_ADMIN_KEY: environment.LLM_MCP_ADMIN_KEY }, cwd, problems)
  if (problems.length > 0) throw new ConfigError(problems)
  return adminKey
}

function checkedUrl(name: string, text: string): string {
  const parsed = parseUrl(text)
  if ('fault' in parsed) throw new ConfigError([`${name} must be ${parsed.fault}${parsed.secret ? '' : `, got ${shown(text)}`}`])
  // OpenAI's clients want the /v1, and it is copied from there.
  return parsed.url.replace(/\/v1$/, '')
}

function checkedKey(name: string, text: string): string {
  const key = text.trim()
  if (/^[\x21-\x7e]+$/.test(key)) return key
  throw new ConfigError([`${name} ${key === '' ? 'is empty' : 'holds a space or a character that no key has (its value is not shown)'}`])
}

async function dotEnv(cwd: string): Promise<Environment> {
  try {
    return parseEnv(await readFile(resolve(cwd, '.env'), 'utf8'))
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? String(error.code) : ''
    if (code === 'ENOENT') return {}
    throw new ConfigError([`.env: cannot be read (${code})`])
  }
}
