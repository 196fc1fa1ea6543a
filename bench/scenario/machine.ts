// An own node of a scenario as a machine with Ollama: the simulator's physics behind Ollama's native API.

import type { ServerResponse } from 'node:http'
import type { SimulatedOwnNode } from '../../simulate/own-node.ts'
import type { End } from '../../simulate/ports.ts'
import type { Request } from '../../simulate/traffic.ts'
import type { OwnNode, Scenario } from '../../simulate/types.ts'
import type { LiveAgenda } from './agenda.ts'
import { type Json, json, type Served, serve } from './http.ts'
import { numberIn } from './prompts.ts'

/** A node behind a socket. */
export interface Front extends Served {
  /** Sends the tokens that are there by now. */
  tick(): void
  ended(end: End): void
  /** Own machines: a load is over. */
  loaded(): void
}

interface Call {
  readonly request: Request
  readonly response: ServerResponse
  readonly line: string
  /** Its model was not in memory when it came. */
  readonly isCold: boolean
  readonly sentS: number
  written: number
}

interface WaitingLoad {
  readonly model: string
  readonly response: ServerResponse
}

const gib = 1024 ** 3
// What the gateway takes the weights to need in memory (routing/targets.ts): both sizes are to come to the scenario's.
const weightFactor = 1.1
const contextTokens = 131_072
// Of a model that is in memory Ollama tells some milliseconds.
const warmLoadS = 0.02
const aS = 1e9

export async function openMachine(
  node: SimulatedOwnNode,
  { config, scenario, agenda, requests }: { config: OwnNode; scenario: Scenario; agenda: LiveAgenda; requests: readonly Request[] }
): Promise<Front> {
  const calls = new Map<Request, Call>()
  const models = new Map(Object.keys(config.models).map(name => [`${name}:latest`, name]))
  let waitingLoads: WaitingLoad[] = []
  const leaving = new Set<string>()

  const served = await serve((path, body, response) => {
    if (path === '/api/version') return json(response, { version: '0.32.7' })
    if (path === '/api/tags') return json(response, { models: [...models.keys()].map(tagOf) })
    if (path === '/api/ps') return json(response, { models: inMemory().map(psOf) })
    const name = models.get(fullName(body['model']))
    if (name === undefined) return json(response, { error: `model '${String(body['model'])}' not found` }, { status: 404 })
    if (path === '/api/show') return json(response, show)
    if (path === '/api/chat') return chat(name, body, response)
    if (path === '/api/generate' && isEmpty(body['prompt'])) return hold(name, body, response)
    json(response, { error: 'not found' }, { status: 404 })
  })

  /** Ollama lists also what it is only loading. */
  function inMemory(): string[] {
    const { loaded, loading } = node.view
    return [...models].filter(([, name]) => loaded.has(name) || loading?.model === name).map(([full]) => full)
  }

  function chat(name: string, body: Json, response: ServerResponse): void {
    const request = requests[numberIn(body['messages']) ?? -1]
    if (request === undefined || request.job.model !== name)
      return json(response, { error: 'this is no prompt of the scenario' }, { status: 400 })
    agenda.enter(() => {
      const { nowS } = agenda
      const isCold = !node.view.loaded.has(name)
      const line = `${JSON.stringify({ ...head(name), message: { role: 'assistant', content: 'word ' }, done: false })}\n`
      calls.set(request, { request, response, line, isCold, sentS: nowS, written: 0 })
      // It is wanted again.
      leaving.delete(name)
      response.on('close', () => {
        if (calls.get(request)?.response === response) agenda.enter(() => node.cancel(request))
      })
      node.send(request)
    })
  }

  /** Without anything to answer: into memory, or out of it. */
  function hold(name: string, body: Json, response: ServerResponse): void {
    agenda.enter(() => {
      if (body['keep_alive'] === 0) {
        if (!node.unload(name)) leaving.add(name)
        return json(response, { ...head(name), response: '', done: true, done_reason: 'unload' })
      }
      leaving.delete(name)
      waitingLoads.push({ model: name, response })
      goOnLoading()
    })
  }

  /** The first that waits, as soon as nothing else is loaded; what is idle makes room, by the alphabet. */
  function goOnLoading(): void {
    for (const { model, response } of waitingLoads.filter(({ model }) => node.view.loaded.has(model))) {
      json(response, { ...head(model), response: '', done: true, done_reason: 'load' })
    }
    waitingLoads = waitingLoads.filter(({ model, response }) => !node.view.loaded.has(model) && !response.destroyed)
    const [first] = waitingLoads
    if (first === undefined || node.view.loading !== null) return
    const busy = new Set(node.view.active.map(({ job }) => job.model))
    const idle = [...node.view.loaded].filter(model => !busy.has(model)).sort()
    for (let count = 0; count <= idle.length; count++) if (node.load(first.model, idle.slice(0, count))) return
  }

  function tick(): void {
    for (const { job, streamed } of node.view.active) {
      const call = calls.get(requests[job.id] as Request)
      if (call !== undefined) write(call, streamed)
    }
  }

  function write(call: Call, tokens: number): void {
    if (tokens <= call.written || call.response.destroyed) return
    if (!call.response.headersSent) call.response.writeHead(200, { 'content-type': 'application/x-ndjson' })
    call.response.write(call.line.repeat(tokens - call.written))
    call.written = tokens
  }

  function ended({ request, finished }: End): void {
    const call = calls.get(request)
    calls.delete(request)
    for (const name of leaving) if (node.unload(name)) leaving.delete(name)
    goOnLoading()
    if (call === undefined || finished.outcome === 'cancelled') return
    const { response } = call
    if (finished.outcome !== 'done') {
      if (response.headersSent) response.destroy()
      else json(response, { error: 'llama runner process has terminated' }, { status: 500 })
      return
    }
    write(call, finished.outputTokens)
    const loadS = call.isCold ? finished.startedS - call.sentS : warmLoadS
    const counters = {
      done: true,
      done_reason: finished.isCut ? 'length' : 'stop',
      total_duration: Math.round((loadS + finished.promptS + finished.outputS) * aS),
      load_duration: Math.round(loadS * aS),
      prompt_eval_count: finished.promptTokens,
      prompt_eval_duration: Math.round(finished.promptS * aS),
      eval_count: finished.outputTokens,
      eval_duration: Math.round(finished.outputS * aS)
    }
    response.end(`${JSON.stringify({ ...head(request.job.model), message: { role: 'assistant', content: '' }, ...counters })}\n`)
  }

  function head(name: string): object {
    return { model: `${name}:latest`, created_at: new Date().toISOString() }
  }

  function bytesOf(full: string): number {
    return (scenario.models[models.get(full) ?? '']?.gb ?? 0) * gib
  }

  function tagOf(full: string): object {
    return {
      name: full,
      model: full,
      modified_at: '2026-09-01T10:00:00Z',
      size: Math.round(bytesOf(full) / weightFactor),
      digest: Buffer.from(full).toString('hex').padEnd(64, '0'),
      details: { format: 'gguf', family: 'llama', families: ['llama'], quantization_level: 'Q4_K_M' }
    }
  }

  function psOf(full: string): object {
    const size = Math.round(bytesOf(full))
    return { ...tagOf(full), size, size_vram: size, context_length: contextTokens, expires_at: '2099-01-01T00:00:00Z' }
  }

  return { ...served, tick, ended, loaded: goOnLoading }
}

const show = {
  details: { family: 'llama' },
  model_info: { 'general.architecture': 'llama', 'llama.context_length': contextTokens },
  capabilities: ['completion']
}

function fullName(model: unknown): string {
  const name = String(model)
  return name.includes(':') ? name : `${name}:latest`
}

function isEmpty(prompt: unknown): boolean {
  return prompt === undefined || prompt === ''
}
