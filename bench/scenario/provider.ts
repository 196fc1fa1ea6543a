// A rented node of a scenario as a provider: the simulator's physics behind OpenRouter's API.

import type { ServerResponse } from 'node:http'
import type { End } from '../../simulate/ports.ts'
import type { SimulatedRentedNode } from '../../simulate/rented-node.ts'
import type { Request } from '../../simulate/traffic.ts'
import type { RentedNode } from '../../simulate/types.ts'
import type { LiveAgenda } from './agenda.ts'
import { type Json, json, serve } from './http.ts'
import type { Front } from './machine.ts'
import { numberIn } from './prompts.ts'

interface Call {
  readonly request: Request
  readonly response: ServerResponse
  readonly isStream: boolean
  /** When its first token comes. */
  readonly startsS: number
  /** It will fail instead, and says nothing before. */
  readonly fails: boolean
  written: number
}

const contextTokens = 131_072

export async function openProvider(
  node: SimulatedRentedNode,
  { config, agenda, requests }: { config: RentedNode; agenda: LiveAgenda; requests: readonly Request[] }
): Promise<Front> {
  const calls = new Map<Request, Call>()

  const served = await serve((path, body, response) => {
    if (path.startsWith('/api/v1/models')) return json(response, { data: Object.keys(config.models).map(listed) })
    if (path === '/api/v1/chat/completions') return chat(body, response)
    failure(response, 404, 'not found')
  })

  function chat(body: Json, response: ServerResponse): void {
    const request = requests[numberIn(body['messages']) ?? -1]
    if (request === undefined || request.job.model !== body['model']) return failure(response, 400, 'this is no prompt of the scenario')
    agenda.enter(() => {
      const { ttftS, fails } = node.draw(request, agenda.nowS)
      const startsS = agenda.nowS + ttftS
      calls.set(request, { request, response, isStream: body['stream'] === true, startsS, fails, written: 0 })
      response.on('close', () => {
        if (calls.get(request)?.response === response) agenda.enter(() => node.cancel(request))
      })
      node.send(request)
      if (calls.has(request)) agenda.at(startsS, tick)
    })
  }

  function tick(): void {
    for (const { job, streamed } of node.view.active) {
      const call = calls.get(requests[job.id] as Request)
      if (call !== undefined && !call.fails && agenda.nowS >= call.startsS) write(call, Math.max(1, streamed))
    }
  }

  function write(call: Call, tokens: number): void {
    const { response, isStream } = call
    if (!isStream || tokens <= call.written || response.destroyed) return
    if (!response.headersSent) response.writeHead(200, { 'content-type': 'text/event-stream' })
    response.write(
      event(call.request, { delta: { role: 'assistant', content: 'word ' }, finish_reason: null }).repeat(tokens - call.written)
    )
    call.written = tokens
  }

  function ended(end: End): void {
    const { request, finished, usd } = end
    const call = calls.get(request)
    calls.delete(request)
    if (call === undefined || finished.outcome === 'cancelled') return
    const { response } = call
    if (finished.outcome === 'refused') {
      const retryAfter = String(Math.max(1, Math.ceil(60 / config.rpm)))
      return failure(response, 429, 'Rate limit exceeded', { 'retry-after': retryAfter })
    }
    if (finished.outcome !== 'done') return failure(response, 502, 'Provider returned error')
    const { promptTokens, outputTokens, isCut } = finished
    const usage = {
      prompt_tokens: promptTokens,
      completion_tokens: outputTokens,
      total_tokens: promptTokens + outputTokens,
      cost: usd
    }
    const finish = isCut ? 'length' : 'stop'
    if (!call.isStream) {
      const message = { role: 'assistant', content: 'word '.repeat(outputTokens) }
      const choices = [{ index: 0, message, finish_reason: finish }]
      return json(response, { ...head(request, 'chat.completion'), choices, usage })
    }
    write(call, outputTokens)
    const last = { ...head(request, 'chat.completion.chunk'), choices: [], usage }
    response.end(`${event(request, { delta: {}, finish_reason: finish })}data: ${JSON.stringify(last)}\n\ndata: [DONE]\n\n`)
  }

  function listed(id: string): object {
    const { pin, pout } = config.models[id] ?? { pin: 0, pout: 0 }
    const price = (usdPer1m: number): string => (usdPer1m / 1e6).toFixed(15)
    return {
      id,
      created: 1_756_700_000,
      context_length: contextTokens,
      architecture: { input_modalities: ['text'], output_modalities: ['text'] },
      pricing: { prompt: price(pin), completion: price(pout) },
      top_provider: { context_length: contextTokens, max_completion_tokens: null },
      supported_parameters: ['max_tokens', 'temperature']
    }
  }

  return { ...served, url: `${served.url}/api/v1`, tick, ended, loaded: () => {} }
}

function head({ key, job }: Request, object: string): object {
  return { id: `gen-${key}`, object, created: Math.floor(Date.now() / 1_000), model: job.model }
}

function event(request: Request, choice: object): string {
  return `data: ${JSON.stringify({ ...head(request, 'chat.completion.chunk'), choices: [{ index: 0, ...choice }] })}\n\n`
}

function failure(response: ServerResponse, status: number, message: string, headers: Record<string, string> = {}): void {
  // In the middle of an answer there is no status left.
  if (response.headersSent) return void response.destroy()
  json(response, { error: { code: status, message } }, { status, headers })
}
