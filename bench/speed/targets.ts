// What is measured: the provider itself, relays, this gateway as `npm start` starts it, and a peer from npm.

import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, closeSync, existsSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { commandOf, familyOf, pin, startPart } from './processes.ts'

export interface Target {
  readonly name: string
  readonly port: number
  /** Whose time on a processor counts. */
  readonly pids: readonly number[]
  readonly headers: Readonly<Record<string, string>>
  stop(): Promise<void>
}

export interface Gateway extends Target {
  /** Those of its database. */
  readonly databasePids: () => readonly number[]
  readonly url: string
  readonly adminKey: string
  readonly dataDir: string
  readonly logFile: string
}

const here = (name: string): string => fileURLToPath(new URL(name, import.meta.url))
const root = fileURLToPath(new URL('../../', import.meta.url))
const benchFolder = fileURLToPath(new URL('../', import.meta.url))
const adminKey = 'sk-llm-bench-admin-key-0123456789abcdef'

/** Sixteen machines, of 64 places each for a thousand streams. All are the provider. */
export const machineAddresses = Array.from({ length: 16 }, (_, at) => `127.0.0.${at + 2}`)

/** The provider, on the side of the load. */
export async function startMock(): Promise<Target> {
  return part('direct', 'mock.ts', machineAddresses, 'load')
}

export async function startRelay(name: string, module: string, upstream: number): Promise<Target> {
  return part(name, module, [String(upstream)], 'target')
}

async function part(name: string, module: string, args: readonly string[], place: 'load' | 'target'): Promise<Target> {
  const child = startPart(here(module), args, place)
  const [{ port }] = (await once(child, 'message')) as [{ port: number }]
  return { name, port, pids: [child.pid as number], headers: {}, stop: () => ended(child, () => child.disconnect()) }
}

/** All duties on, with its own database; nothing set that README does not name. */
export async function startGateway(upstream: number, env: Readonly<Record<string, string>> = {}, places = 64): Promise<Gateway> {
  const folder = mkdtempSync(join(tmpdir(), 'llm-mcp-bench-'))
  // An embedded database of root's runs as another account, and must be able to come here.
  chmodSync(folder, 0o755)
  const dataDir = join(folder, 'data')
  const logFile = join(folder, 'log')
  const configFile = join(folder, 'llm-mcp.yaml')
  writeFileSync(
    configFile,
    JSON.stringify({
      machines: Object.fromEntries(
        machineAddresses.map((address, at) => [`box${at + 1}`, { url: `http://${address}:${upstream}`, max_concurrency: places }])
      )
    })
  )
  const log = openSync(logFile, 'a')
  const child = spawn('npm', ['start', '--silent'], {
    cwd: root,
    env: {
      PATH: process.env.PATH ?? '',
      HOME: folder,
      PORT: '0',
      LLM_MCP_ADMIN_KEY: adminKey,
      LLM_MCP_DATA_DIR: dataDir,
      LLM_MCP_CONFIG: configFile,
      OPENAI_API_KEY: 'sk-upstream',
      OPENAI_UPSTREAM_URL: `http://127.0.0.1:${upstream}/v1`,
      // No other machine than those of the file.
      OLLAMA_HOST: '127.0.0.1:9',
      ...env
    },
    stdio: ['ignore', log, 'inherit']
  })
  closeSync(log)
  const url = await readyUrl(child, logFile)
  const family = familyOf(child.pid as number)
  const own = family.filter(pid => /\bllm-mcp\.js serve\b/.test(commandOf(pid)) && !/^npm|sh -c/.test(commandOf(pid)))
  if (own.length === 0) throw new Error('The process of the gateway was not found.')
  for (const pid of own) pin(pid, 'target')
  const postmaster = Number(readFileSync(postmasterFile(dataDir), 'utf8').split('\n')[0])
  for (const pid of familyOf(postmaster)) pin(pid, 'load')
  return {
    name: 'llm-mcp',
    port: Number(new URL(url).port),
    pids: own,
    headers: { authorization: `Bearer ${adminKey}` },
    databasePids: () => familyOf(postmaster),
    url,
    adminKey,
    dataDir,
    logFile,
    async stop() {
      await ended(child, () => process.kill(own[0] as number, 'SIGTERM'))
      rmSync(folder, { recursive: true, force: true })
    }
  }
}

async function readyUrl(child: ChildProcess, logFile: string): Promise<string> {
  for (let waits = 0; waits < 600; waits++) {
    const ready = readFileSync(logFile, 'utf8')
      .split('\n')
      .find(line => line.includes('"event":"ready"'))
    if (ready !== undefined) return JSON.parse(ready).url
    if (child.exitCode !== null) throw new Error('The gateway ended before it was ready.')
    await delay(100)
  }
  throw new Error('The gateway was not ready within a minute.')
}

/** Where root is, the cluster lives in a place of its own, which the data directory names. */
function postmasterFile(dataDir: string): string {
  const found =
    execFileSync('find', ['-L', dataDir, '-maxdepth', '4', '-name', 'postmaster.pid'], { encoding: 'utf8' }).split('\n')[0] ?? ''
  if (found === '') throw new Error('The embedded database was not found.')
  return found
}

/** Portkey's gateway as npm installs it, with the one version of its server that streams (bench/package.json). */
export async function startPortkey(upstream: number): Promise<Target> {
  const program = join(benchFolder, 'node_modules/@portkey-ai/gateway/build/start-server.js')
  if (!existsSync(program))
    execFileSync('npm', ['ci', '--no-audit', '--no-fund', '--ignore-scripts'], { cwd: benchFolder, stdio: 'inherit' })
  const port = await freePort()
  const child = spawn(process.execPath, [program, `--port=${port}`, '--headless'], {
    cwd: benchFolder,
    env: { PATH: process.env.PATH ?? '', NODE_ENV: 'production' },
    stdio: 'ignore'
  })
  pin(child.pid as number, 'target')
  const headers = {
    'x-portkey-provider': 'openai',
    'x-portkey-custom-host': `http://127.0.0.1:${upstream}/v1`,
    authorization: 'Bearer sk-upstream'
  }
  await answering(port)
  return { name: 'portkey', port, pids: [child.pid as number], headers, stop: () => ended(child, () => child.kill('SIGTERM')) }
}

/** nginx before the provider, where it is installed; null where it is not. */
export async function startNginx(upstream: number): Promise<Target | null> {
  const port = await freePort()
  const folder = mkdtempSync(join(tmpdir(), 'llm-mcp-bench-'))
  const config = join(folder, 'nginx.conf')
  writeFileSync(
    config,
    `daemon off; master_process off; pid ${folder}/pid; error_log /dev/null; worker_rlimit_nofile 8192;
events { worker_connections 4096; }
http {
  access_log off; client_body_temp_path ${folder}; proxy_temp_path ${folder}; fastcgi_temp_path ${folder}; uwsgi_temp_path ${folder}; scgi_temp_path ${folder};
  client_body_buffer_size 256k; keepalive_requests 100000000;
  upstream provider { server 127.0.0.1:${upstream}; keepalive 1100; keepalive_requests 100000000; }
  server { listen 127.0.0.1:${port}; location / { proxy_pass http://provider; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; } }
}`
  )
  const child = spawn('nginx', ['-c', config], { stdio: 'ignore' })
  const isStarted = await once(child, 'spawn').then(
    () => true,
    () => false
  )
  if (!isStarted) return null
  pin(child.pid as number, 'target')
  await answering(port)
  return {
    name: 'nginx',
    port,
    pids: [child.pid as number],
    headers: {},
    async stop() {
      await ended(child, () => child.kill('SIGTERM'))
      rmSync(folder, { recursive: true, force: true })
    }
  }
}

async function answering(port: number): Promise<void> {
  for (let waits = 0; waits < 200; waits++) {
    try {
      await fetch(`http://127.0.0.1:${port}/`)
      return
    } catch {
      await delay(50)
    }
  }
  throw new Error(`Nothing listens on port ${port}.`)
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  server.close()
  await once(server, 'close')
  return port
}

async function ended(child: ChildProcess, end: () => void): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  const exit = once(child, 'exit')
  end()
  await exit
}
