// A pretended machine with Ollama, as a process of its own: it loads one model at a time, reads and writes at speeds it was given,
// shares them among its callers, and keeps count of what it was asked. `node test/fleet/machine.ts '<json of MachineSpec>'`.

import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'

export interface ModelSpec {
  readonly name: string
  /** At rest; milliseconds. */
  readonly loadMs: number
  readonly promptTokensPerS: number
  /** For one caller. */
  readonly tokensPerS: number
  /** How much longer a token takes for each further caller: 0.5 = half as long again. */
  readonly slowdown: number
  readonly bytes?: number
  readonly contextTokens?: number
  readonly embedding?: boolean
}

export interface MachineSpec {
  readonly host?: string
  readonly port?: number
  readonly version?: string
  readonly models: readonly ModelSpec[]
  /** Answers at once; the rest waits in the machine. */
  readonly slots: number
  /** Tokens of an answer without num_predict. */
  readonly answerTokens?: number
  /** Models are in memory at the start. */
  readonly isWarm?: boolean
}

/** What it may be told by POST /_fault, and says at GET /_bill. */
export interface Fault {
  /** Delay of /api/version, ms. */
  readonly versionMs?: number
  /** All speeds are divided by this. */
  readonly throttle?: number
  /** The load of this model never ends; null = it does. */
  readonly stuckLoad?: string | null
}

export interface Bill {
  /** Prompts that came, by model. */
  readonly prompts: Readonly<Record<string, number>>
  readonly mostAtOnce: number
  /** Calls that are being answered, and whose client is still there. */
  readonly answering: number
  readonly loads: number
  /** Addresses and ports that asked for the version, each once. */
  readonly probers: readonly string[]
  /** What it was told without a prompt, in order: `load a`, `unload b`. */
  readonly commands: readonly string[]
  /** Models that were to leave while they answered. */
  readonly unloadedInUse: readonly string[]
  /** Different models that were to be loaded at once. */
  readonly mostLoadsAtOnce: number
  readonly loaded: readonly string[]
}

const spec = JSON.parse(process.argv[2] ?? '{}') as MachineSpec
const models = new Map(spec.models.map(model => [model.name, model]))
const loaded = new Set(spec.isWarm === true ? models.keys() : [])
const prompts: Record<string, number> = {}
const probers = new Map<string, number>()
let fault: Fault = {}
let running = 0
let mostAtOnce = 0
let loads = 0
let loading: Promise<void> = Promise.resolve()
const waiting: (() => void)[] = []
const commands: string[] = []
const unloadedInUse: string[] = []
/** One for each call whose client is still there. */
const answering = new Set<{ readonly name: string }>()
const loadingNow = new Map<string, number>()
let mostLoadsAtOnce = 0

const server = createServer((request, response) => {
  void read(request)
    .then(body => answer(request, response, body))
    .catch(() => response.destroy())
})
server.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EADDRINUSE' || spec.port !== undefined) throw error
  listen()
})
server.on('listening', () => {
  process.stdout.write(`${JSON.stringify({ ready: true, port: (server.address() as AddressInfo).port })}\n`)
})
listen()

/** Below the ports that calls go out from: a machine that is started again finds its own still free. */
function listen(): void {
  server.listen(spec.port ?? 22_000 + Math.floor(Math.random() * 10_000), spec.host ?? '127.0.0.1')
}

async function answer(request: IncomingMessage, response: ServerResponse, body: Record<string, unknown>): Promise<void> {
  const path = request.url ?? ''
  if (path === '/_bill') {
    const bill: Bill = {
      prompts,
      mostAtOnce,
      answering: answering.size,
      loads,
      probers: [...probers.keys()],
      commands,
      unloadedInUse,
      mostLoadsAtOnce,
      loaded: [...loaded]
    }
    return json(response, bill)
  }
  if (path === '/_fault') {
    fault = { ...fault, ...body }
    return json(response, fault)
  }
  if (path === '/api/version') {
    const from = `${request.socket.remoteAddress}:${request.socket.remotePort}`
    probers.set(from, (probers.get(from) ?? 0) + 1)
    await delay(fault.versionMs ?? 0)
    return json(response, { version: spec.version ?? '0.32.7' })
  }
  if (path === '/api/tags') return json(response, { models: spec.models.map(tagOf) })
  if (path === '/api/ps') return json(response, { models: spec.models.filter(isListed).map(psOf) })
  const model = models.get(String(body['model']))
  if (model === undefined) return json(response, { error: `model '${String(body['model'])}' not found` }, 404)
  if (path === '/api/show') return json(response, showOf(model))
  if (path === '/api/generate' && body['prompt'] === undefined) return command(model, body, response)
  if (path === '/api/embed')
    return json(response, { model: model.name, embeddings: [[0.6, 0.8]], total_duration: 1e6, prompt_eval_count: 3 })
  if (path === '/api/chat' || path === '/api/generate') return generate(path, model, body, response)
  json(response, { error: 'not found' }, 404)
}

/** Ollama lists also what it is loading. */
function isListed({ name }: ModelSpec): boolean {
  return loaded.has(name) || loadingNow.has(name)
}

async function command(model: ModelSpec, body: Record<string, unknown>, response: ServerResponse): Promise<void> {
  const isUnload = body['keep_alive'] === 0
  commands.push(`${isUnload ? 'unload' : 'load'} ${model.name}`)
  if (!isUnload) await load(model)
  else {
    if ([...answering].some(({ name }) => name === model.name)) unloadedInUse.push(model.name)
    loaded.delete(model.name)
  }
  json(response, { model: model.name, response: '', done: true, done_reason: isUnload ? 'unload' : 'load' })
}

async function generate(path: string, model: ModelSpec, body: Record<string, unknown>, response: ServerResponse): Promise<void> {
  const text = JSON.stringify(body['messages'] ?? body['prompt'] ?? '')
  prompts[model.name] = (prompts[model.name] ?? 0) + 1
  let isGone = false
  response.on('close', () => {
    isGone = true
  })
  if (running >= spec.slots) await new Promise<void>(resolve => waiting.push(resolve))
  running++
  const here = { name: model.name }
  if (!isGone) answering.add(here)
  response.on('close', () => answering.delete(here))
  mostAtOnce = Math.max(mostAtOnce, running)
  try {
    const loadMs = loaded.has(model.name) ? 0 : await load(model)
    const promptTokens = Math.max(1, Math.ceil(text.length / 4))
    const readMs = (promptTokens / model.promptTokensPerS) * 1_000 * factor()
    await delay(readMs)
    const options = (body['options'] ?? {}) as { num_predict?: number }
    const tokens = Math.max(1, Math.min(options.num_predict ?? spec.answerTokens ?? 20, spec.answerTokens ?? 1_000_000))
    response.writeHead(200, { 'content-type': 'application/x-ndjson' })
    const piece = (content: string): object => (path === '/api/chat' ? { message: { role: 'assistant', content } } : { response: content })
    const head = { model: model.name, created_at: '2026-09-01T10:00:00Z' }
    const beganAt = performance.now()
    let dueAt = beganAt
    for (let token = 0; token < tokens && !isGone; token++) {
      dueAt += (1_000 / model.tokensPerS) * factor() * (1 + model.slowdown * (running - 1))
      const restMs = dueAt - performance.now()
      if (restMs > 1) await delay(restMs)
      response.write(`${JSON.stringify({ ...head, ...piece(`w${token} `), done: false })}\n`)
    }
    const evalNs = Math.round((performance.now() - beganAt) * 1e6)
    const counters = {
      done: true,
      done_reason: 'stop',
      total_duration: Math.round((loadMs + readMs) * 1e6) + evalNs,
      load_duration: Math.round(loadMs * 1e6),
      prompt_eval_count: promptTokens,
      prompt_eval_duration: Math.round(readMs * 1e6),
      eval_count: tokens,
      eval_duration: evalNs
    }
    response.end(`${JSON.stringify({ ...head, ...piece(''), ...counters })}\n`)
  } finally {
    running--
    answering.delete(here)
    waiting.shift()?.()
  }
}

/** One at a time, as Ollama does. Returns how long it took. */
async function load(model: ModelSpec): Promise<number> {
  const beganAt = performance.now()
  if (loaded.has(model.name)) return 0
  const before = loading
  loadingNow.set(model.name, (loadingNow.get(model.name) ?? 0) + 1)
  mostLoadsAtOnce = Math.max(mostLoadsAtOnce, loadingNow.size)
  loading = before.then(async () => {
    if (loaded.has(model.name)) return
    loads++
    await delay(model.loadMs * factor())
    while (fault.stuckLoad === model.name) await delay(20)
    loaded.add(model.name)
  })
  await loading
  const others = (loadingNow.get(model.name) ?? 1) - 1
  if (others === 0) loadingNow.delete(model.name)
  else loadingNow.set(model.name, others)
  return performance.now() - beganAt
}

function factor(): number {
  return fault.throttle ?? 1
}

function tagOf({ name, bytes = 2e9 }: ModelSpec): object {
  return {
    name,
    model: name,
    modified_at: '2026-09-01T10:00:00Z',
    size: bytes,
    digest: `sha256:${Buffer.from(name).toString('hex')}`,
    details: { family: 'llama', families: ['llama'], parameter_size: '3.2B', quantization_level: 'Q4_K_M' }
  }
}

function psOf(model: ModelSpec): object {
  return { ...tagOf(model), size_vram: model.bytes ?? 2e9, context_length: 8_192, expires_at: '2099-01-01T00:00:00Z' }
}

function showOf({ contextTokens = 131_072, embedding = false }: ModelSpec): object {
  return {
    details: { family: 'llama' },
    model_info: { 'general.architecture': 'llama', 'llama.context_length': contextTokens, 'llama.embedding_length': 2 },
    capabilities: embedding ? ['embedding'] : ['completion', 'tools']
  }
}

function json(response: ServerResponse, value: unknown, status = 200): void {
  response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(value))
}

async function read(request: IncomingMessage): Promise<Record<string, unknown>> {
  const chunks: Buffer[] = []
  for await (const chunk of request) chunks.push(chunk as Buffer)
  try {
    return JSON.parse(Buffer.concat(chunks).toString('utf8')) as Record<string, unknown>
  } catch {
    return {}
  }
}
