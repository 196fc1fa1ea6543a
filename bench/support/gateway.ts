// The real program as a process of its own, with an embedded database, for benches.

import { spawn } from 'node:child_process'
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

export interface BenchGateway {
  readonly url: string
  /** Where its embedded database is. */
  readonly dataDir: string
  fetch(path: string, init?: { readonly method?: string; readonly json?: unknown }): Promise<Response>
  /** Time on a processor since its start, ms. */
  cpuMs(): number
  stop(): Promise<void>
}

const key = 'sk-llm-bench-admin-key-0123456789abcdef'
// Of the kernel's clock, which /proc counts in.
const msPerTick = 10

export interface BenchGatewayOptions {
  /** The program: this one, or a copy of it. */
  readonly root?: string
  /** Modules that are loaded before it. */
  readonly imports?: readonly URL[]
  readonly env?: Readonly<Record<string, string>>
  /** Before it starts. */
  readonly prepare?: (dataDir: string) => Promise<void>
}

/** `config`: llm-mcp.yaml, as a value. Ready when this resolves. */
export async function startBenchGateway(config: object, options: BenchGatewayOptions = {}): Promise<BenchGateway> {
  const { root = fileURLToPath(new URL('../../', import.meta.url)), imports = [], env = {} } = options
  const folder = mkdtempSync(join(tmpdir(), 'llm-mcp-bench-'))
  // An embedded database of root's runs as another account, and must be able to come here.
  chmodSync(folder, 0o755)
  writeFileSync(join(folder, 'llm-mcp.yaml'), JSON.stringify(config))
  const dataDir = join(folder, '.data')
  await options.prepare?.(dataDir)
  const preloads = imports.flatMap(({ href }) => ['--import', href])
  const child = spawn(process.execPath, [...preloads, join(root, 'bin/llm-mcp.js'), 'serve'], {
    cwd: folder,
    env: {
      PATH: process.env.PATH ?? '',
      HOME: folder,
      PORT: '0',
      LLM_MCP_ADMIN_KEY: key,
      LLM_MCP_DATA_DIR: dataDir,
      OLLAMA_HOST: '127.0.0.1:9',
      LOG_LEVEL: 'error',
      ...env
    },
    stdio: ['ignore', 'pipe', 'inherit']
  })
  const url = await new Promise<string>((resolve, reject) => {
    let text = ''
    child.stdout.on('data', chunk => {
      text += chunk
      const ready = text.split('\n').find(line => line.includes('"event":"ready"'))
      if (ready !== undefined) resolve(JSON.parse(ready).url)
    })
    child.on('exit', () => reject(new Error('the gateway ended')))
  })
  return {
    url,
    dataDir,
    fetch: (path, { json, method = json === undefined ? 'GET' : 'POST' } = {}) =>
      fetch(`${url}${path}`, {
        method,
        headers: { authorization: `Bearer ${key}`, ...(json === undefined ? {} : { 'content-type': 'application/json' }) },
        ...(json === undefined ? {} : { body: JSON.stringify(json) })
      }),
    cpuMs() {
      const [, after = ''] = readFileSync(`/proc/${child.pid}/stat`, 'utf8').split(') ')
      const fields = after.split(' ')
      return (Number(fields[11]) + Number(fields[12])) * msPerTick
    },
    async stop() {
      child.removeAllListeners('exit')
      child.kill('SIGTERM')
      await new Promise(resolve => child.on('exit', resolve))
      rmSync(folder, { recursive: true, force: true })
    }
  }
}
