// The real program as a process of its own, with an embedded database, for benches.

import { spawn } from 'node:child_process'
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

export interface BenchGateway {
  readonly url: string
  fetch(path: string, init?: { readonly method?: string; readonly json?: unknown }): Promise<Response>
  /** Time on a processor since its start, ms. */
  cpuMs(): number
  stop(): Promise<void>
}

const key = 'sk-llm-bench-admin-key-0123456789abcdef'
// Of the kernel's clock, which /proc counts in.
const msPerTick = 10

/** `config`: llm-mcp.yaml, as a value. Ready when this resolves. */
export async function startBenchGateway(config: object): Promise<BenchGateway> {
  const folder = mkdtempSync(join(tmpdir(), 'llm-mcp-bench-'))
  // An embedded database of root's runs as another account, and must be able to come here.
  chmodSync(folder, 0o755)
  writeFileSync(join(folder, 'llm-mcp.yaml'), JSON.stringify(config))
  const child = spawn(process.execPath, [fileURLToPath(new URL('../../bin/llm-mcp.js', import.meta.url)), 'serve'], {
    cwd: folder,
    env: {
      PATH: process.env.PATH ?? '',
      HOME: folder,
      PORT: '0',
      LLM_MCP_ADMIN_KEY: key,
      LLM_MCP_DATA_DIR: join(folder, '.data'),
      OLLAMA_HOST: '127.0.0.1:9',
      LOG_LEVEL: 'error'
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
