// A machine that answers when it is told to, and clients of the jobs API: what the tests of the queue have in common.

import type { ServerResponse } from 'node:http'
import type { Test } from 'tap'
import type { RunningGateway } from '../support/gateway.ts'
import { type FakeUpstream, nativeLines, startOllama, type UpstreamCall } from '../support/upstream.ts'
import { until } from '../support/wait.ts'

export const model = 'llama3.2:3b'
export type Json = Record<string, unknown>

export interface HeldCall {
  /** What the user said. */
  readonly content: string
  readonly call: UpstreamCall
  readonly response: ServerResponse
}

export interface Machine extends FakeUpstream {
  /** Calls that wait for their answer, in the order they came. */
  readonly held: readonly HeldCall[]
  /** What the users of all calls said, in the order they came. */
  readonly said: readonly string[]
  /** Answers the one that waits longest, once there is one. */
  next(...words: string[]): Promise<HeldCall>
  /** Answers this one. */
  answer(call: HeldCall, ...words: string[]): void
  /** From now on answers at once, and all that wait. */
  release(): void
  /** From now on holds its calls again. */
  hold(): void
}

/** An Ollama that holds every chat call until it is told to answer. */
export async function startMachine(t: Test, models: readonly string[] = [model]): Promise<Machine> {
  const fake = await startOllama(t, { models })
  let held: HeldCall[] = []
  let isHolding = true
  const said: string[] = []
  const behaviour = (call: UpstreamCall, response: ServerResponse): void => {
    const content = (call.body.messages as { content: string }[] | undefined)?.at(-1)?.content ?? String(call.body.prompt)
    const mine = { content, call, response }
    said.push(content)
    if (!isHolding) return answer(mine)
    held.push(mine)
    response.on('close', () => {
      held = held.filter(other => other !== mine)
    })
  }

  function answer({ call, response }: HeldCall, ...words: string[]): void {
    response.writeHead(200, { 'content-type': 'application/x-ndjson' })
    response.end(nativeLines(String(call.body.model), ...(words.length === 0 ? ['Hello'] : words)).join(''))
  }

  async function next(...words: string[]): Promise<HeldCall> {
    const first = await until('a call', () => held[0])
    held = held.slice(1)
    answer(first, ...words)
    return first
  }

  fake.behaviour = behaviour
  // A getter would be read once by Object.assign.
  Object.defineProperty(fake, 'held', { get: () => held })
  return Object.assign(fake as FakeUpstream & Pick<Machine, 'held'>, {
    said,
    next,
    answer(call: HeldCall, ...words: string[]) {
      held = held.filter(other => other !== call)
      answer(call, ...words)
    },
    release() {
      isHolding = false
      for (const call of held.splice(0)) answer(call)
    },
    hold() {
      isHolding = true
    }
  })
}

export interface JobClient {
  submit(body: Json, headers?: Readonly<Record<string, string>>): Promise<{ status: number; job: Json; headers: Headers }>
  /** A chat with this content. */
  chat(content: string, more?: Json): Promise<string>
  find(id: string): Promise<Json>
  post(id: string, what: 'cancel' | 'retry'): Promise<{ status: number; job: Json }>
  /** The job, once it has this status. */
  until(id: string, status: string): Promise<Json>
}

export function jobsOf(gateway: RunningGateway, key: string = gateway.key): JobClient {
  const authorization = `Bearer ${key}`

  async function submit(body: Json, headers: Readonly<Record<string, string>> = {}): ReturnType<JobClient['submit']> {
    const response = await gateway.fetch('/v1/jobs', { json: body, headers: { authorization, ...headers } })
    return { status: response.status, headers: response.headers, job: (await response.json()) as Json }
  }

  async function find(id: string): Promise<Json> {
    const response = await gateway.fetch(`/v1/jobs/${id}`, { headers: { authorization } })
    return { httpStatus: response.status, ...((await response.json()) as Json) }
  }

  return {
    submit,
    find,
    async chat(content, more = {}) {
      const { status, job } = await submit({ kind: 'chat', payload: { model, messages: [{ role: 'user', content }] }, ...more })
      if (status !== 202) throw new Error(`not stored: ${status} ${JSON.stringify(job)}`)
      return job.id as string
    },
    async post(id, what) {
      const response = await gateway.fetch(`/v1/jobs/${id}/${what}`, { method: 'POST', headers: { authorization } })
      return { status: response.status, job: (await response.json()) as Json }
    },
    until: (id, status) =>
      until(`job ${id} to be ${status}`, async () => {
        const job = await find(id)
        if (job.status !== status && ['done', 'error', 'cancelled'].includes(String(job.status)))
          throw new Error(`it is ${job.status}: ${JSON.stringify(job.error)}`)
        return job.status === status ? job : undefined
      })
  }
}

export async function keyFor(gateway: RunningGateway, source: string, more: Json = {}): Promise<string> {
  const made = await gateway.fetch('/v1/keys', { json: { kind: 'source', source, ...more } })
  if (made.status !== 201) throw new Error(`no key: ${made.status}`)
  return ((await made.json()) as { key: string }).key
}

/** What the gateway knows of its model. */
export async function untilListed(gateway: RunningGateway, name: string = model): Promise<void> {
  await until(`${name} to be listed`, async () => (await (await gateway.fetch('/v1/models')).text()).includes(name))
}

/** Whoever comes while a machine loads the model for another waits for that: its first answer shows that it is loaded. */
export async function warm(gateway: RunningGateway, machine: Machine): Promise<void> {
  machine.release()
  const answer = await gateway.fetch('/v1/chat/completions', { json: { model, messages: [{ role: 'user', content: 'warm' }] } })
  if (answer.status !== 200) throw new Error(`not warm: ${answer.status} ${await answer.text()}`)
  await answer.text()
  machine.hold()
}
