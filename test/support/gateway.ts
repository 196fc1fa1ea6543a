// Starts the real program as a process of its own, and talks to it over TCP.

import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import OpenAI from 'openai'
import type { Test } from 'tap'
import { until } from './wait.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))
const program = join(root, 'bin/llm-mcp.js')
export const adminKey = 'sk-llm-test-admin-key-0123456789abcdef'

export interface GatewayOptions {
  readonly databaseUrl: string
  /** llm-mcp.yaml, as a value: JSON is YAML. */
  readonly config?: object
  readonly env?: Readonly<Record<string, string>>
  /** Kept between two starts of the same gateway. */
  readonly folder?: string
  /** By `npm start`, as an operator would, instead of the program itself. */
  readonly npmStart?: boolean
  /** No LLM_MCP_ADMIN_KEY: it makes one. */
  readonly ownKey?: boolean
}

export interface RunningGateway {
  readonly url: string
  readonly key: string
  readonly child: ChildProcess
  readonly folder: string
  readonly ready: Record<string, unknown>
  /** Everything it printed, as lines that parsed as JSON. */
  lines(): Record<string, unknown>[]
  output(): string
  client(options?: { readonly apiKey?: string; readonly maxRetries?: number }): OpenAI
  fetch(path: string, init?: RequestInit & { readonly json?: unknown }): Promise<Response>
  /** Sends a signal and waits for the end. */
  stop(signal?: NodeJS.Signals): Promise<{ code: number | null; signal: NodeJS.Signals | null }>
}

/** A new folder for a gateway, removed when `t` ends. */
export async function newFolder(t: Test): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'llm-mcp-e2e-'))
  // An embedded database runs as another account, and must be able to come here.
  await chmod(folder, 0o755)
  t.teardown(() => rm(folder, { recursive: true, force: true }))
  return folder
}

/** Starts a gateway on a free port and waits until it listens; stopped when `t` ends. */
export async function startGateway(t: Test, options: GatewayOptions): Promise<RunningGateway> {
  const folder = options.folder ?? (await newFolder(t))
  if (options.config !== undefined) await writeFile(join(folder, 'llm-mcp.yaml'), JSON.stringify(options.config))
  const [command, ...args] = options.npmStart === true ? ['npm', 'start'] : [process.execPath, program, 'serve']
  const child = spawn(command as string, args, {
    cwd: options.npmStart === true ? root : folder,
    // npm, its shell and the gateway, to be ended together.
    detached: options.npmStart === true,
    env: {
      ...(options.npmStart === true && options.config !== undefined ? { LLM_MCP_CONFIG: join(folder, 'llm-mcp.yaml') } : {}),
      PATH: process.env.PATH ?? '',
      HOME: folder,
      PORT: '0',
      DATABASE_URL: options.databaseUrl,
      ...(options.ownKey === true ? {} : { LLM_MCP_ADMIN_KEY: adminKey }),
      LLM_MCP_DATA_DIR: join(folder, '.data'),
      // Nothing listens there: the tests say what there is.
      OLLAMA_HOST: '127.0.0.1:9',
      ...options.env
    },
    stdio: ['ignore', 'pipe', 'pipe']
  })
  let output = ''
  child.stdout?.on('data', chunk => {
    output += chunk
  })
  child.stderr?.on('data', chunk => {
    output += chunk
  })
  const kill = (signal: NodeJS.Signals): unknown =>
    options.npmStart === true && child.pid !== undefined ? process.kill(-child.pid, signal) : child.kill(signal)
  const exited = once(child, 'exit') as Promise<[number | null, NodeJS.Signals | null]>
  const lines = (): Record<string, unknown>[] => output.split('\n').flatMap(parsed)
  t.teardown(async () => {
    if (child.exitCode === null && child.signalCode === null) kill('SIGKILL')
    await exited
  })
  const ready = await until(
    'the gateway to be ready',
    () => {
      if (child.exitCode !== null) throw new Error(`the gateway ended: ${output}`)
      return lines().find(line => line.event === 'ready')
    },
    30_000
  )
  const url = String(ready.url)
  return {
    url,
    key: adminKey,
    child,
    folder,
    ready,
    lines,
    output: () => output,
    client: (given = {}) => new OpenAI({ baseURL: `${url}/v1`, apiKey: given.apiKey ?? adminKey, maxRetries: given.maxRetries ?? 0 }),
    fetch: (path, { json, ...init } = {}) =>
      fetch(`${url}${path}`, {
        ...(json === undefined ? {} : { method: 'POST', body: JSON.stringify(json) }),
        ...init,
        headers: {
          authorization: `Bearer ${adminKey}`,
          ...(json === undefined ? {} : { 'content-type': 'application/json' }),
          ...init.headers
        }
      }),
    async stop(signal = 'SIGTERM') {
      kill(signal)
      const [code, by] = await exited
      return { code, signal: by }
    }
  }
}

function parsed(line: string): Record<string, unknown>[] {
  try {
    const value: unknown = JSON.parse(line)
    return typeof value === 'object' && value !== null ? [value as Record<string, unknown>] : []
  } catch {
    return []
  }
}
