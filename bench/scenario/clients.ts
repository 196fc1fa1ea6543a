// The clients of a scenario: each request when it is due, by HTTP, and how long its answer took.

import type { Request } from '../../simulate/traffic.ts'
import type { BenchGateway } from '../support/gateway.ts'
import type { LiveAgenda } from './agenda.ts'
import { messagesOf } from './prompts.ts'

export interface Told {
  /** By the scenario's clock; null = it was not answered. */
  readonly endedS: number | null
  /** What went wrong, as the client was told. */
  readonly error: string | null
  readonly reason: string | null
  /** Milliseconds, as the headers told. */
  readonly etaMs: number | null
}

export interface Clients {
  readonly gateway: BenchGateway
  readonly agenda: LiveAgenda
  readonly speed: number
  /** By source. */
  readonly keys: ReadonlyMap<string, string>
}

/** Resolves when all have their answers, or `untilS` has passed. */
export async function sendAll(requests: readonly Request[], clients: Clients, untilS: number): Promise<ReadonlyMap<Request, Told>> {
  const told = new Map<Request, Told>()
  const patience = new AbortController()
  const due = (atS: number): number => Math.max(0, ((atS - clients.agenda.clockS()) * 1_000) / clients.speed)
  const over = setTimeout(() => patience.abort(), due(untilS))
  await Promise.all(
    requests.map(async request => {
      await new Promise(resolve => setTimeout(resolve, due(request.arrivedS)))
      const leaver = new AbortController()
      const leaves = request.leavesS === null ? null : setTimeout(() => leaver.abort(), due(request.leavesS))
      const signal = AbortSignal.any([patience.signal, leaver.signal])
      const send = request.job.prio === 2 ? sendJob : sendChat
      told.set(request, await send(request, requests, { ...clients, signal }).catch(failed))
      if (leaves !== null) clearTimeout(leaves)
    })
  )
  clearTimeout(over)
  return told
}

type Sending = Clients & { readonly signal: AbortSignal }

async function sendChat(request: Request, all: readonly Request[], { gateway, agenda, keys, signal }: Sending): Promise<Told> {
  const { job } = request
  const response = await fetch(`${gateway.url}/v1/chat/completions`, {
    method: 'POST',
    headers: {
      authorization: `Bearer ${keys.get(job.source)}`,
      'content-type': 'application/json',
      'x-llm-mcp-route': 'balanced',
      'x-llm-mcp-deadline-ms': String(Math.round(job.deadlineS * 1_000))
    },
    body: JSON.stringify(bodyOf(request, all, true)),
    signal
  })
  const text = await response.text()
  const endedS = agenda.clockS()
  const etaMs = response.headers.get('x-llm-mcp-eta-ms')
  const facts = { reason: response.headers.get('x-llm-mcp-reason'), etaMs: etaMs === null ? null : Number(etaMs) }
  if (response.status === 200 && text.trimEnd().endsWith('data: [DONE]') && !text.includes('"error":{'))
    return { endedS, error: null, ...facts }
  return { endedS: null, error: `${response.status} ${text.slice(text.indexOf('{'))}`, ...facts }
}

/** A batch: nobody waits at the line. */
async function sendJob(request: Request, all: readonly Request[], { gateway, agenda, keys, speed, signal }: Sending): Promise<Told> {
  const headers = { authorization: `Bearer ${keys.get(request.job.source)}`, 'content-type': 'application/json' }
  const { job } = request
  const submitted = await fetch(`${gateway.url}/v1/jobs`, {
    method: 'POST',
    headers,
    body: JSON.stringify({
      kind: 'chat',
      priority: 'batch',
      route: 'balanced',
      deadline_ms: Math.round(job.deadlineS * 1_000),
      payload: bodyOf(request, all, false)
    }),
    signal
  })
  const answer = await submitted.text()
  const { id } = JSON.parse(answer) as { id?: string }
  if (id === undefined) return { ...nothing, error: `${submitted.status} ${answer}` }
  for (;;) {
    await new Promise(resolve => setTimeout(resolve, jobLookMs / speed))
    signal.throwIfAborted()
    const found = await fetch(`${gateway.url}/v1/jobs/${id}`, { headers, signal })
    const { status, error } = (await found.json()) as { status: string; error: unknown }
    if (status === 'done') return { ...nothing, endedS: agenda.clockS() }
    if (status === 'error' || status === 'cancelled') return { ...nothing, error: JSON.stringify(error) }
  }
}

const jobLookMs = 10_000
const nothing: Told = { endedS: null, error: null, reason: null, etaMs: null }

function bodyOf(request: Request, all: readonly Request[], stream: boolean): object {
  const { model, maxTokens } = request.job
  return { model, messages: messagesOf(request, all), ...(stream && { stream }), ...(maxTokens !== null && { max_tokens: maxTokens }) }
}

function failed(error: unknown): Told {
  return { ...nothing, error: String(error) }
}
