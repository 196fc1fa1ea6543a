// Recorded answers of OpenAI's Responses API: what they say, said by a chat in the same pieces, becomes the same events again.

import t from 'tap'
import { createDatabase } from '../support/cluster.ts'
import { startGateway } from '../support/gateway.ts'
import { recorded, skipWithoutRecordings, textOf } from '../support/recordings.ts'
import { type Behaviour, startCompatible } from '../support/upstream.ts'

interface Event {
  readonly type: string
  readonly output_index?: number
  readonly delta?: string
  readonly item?: Item
  readonly response?: Record<string, unknown>
  readonly [key: string]: unknown
}

interface Item {
  readonly type: string
  readonly call_id?: string
  readonly name?: string
  readonly arguments?: string
  readonly content?: readonly { readonly text: string }[]
  readonly [key: string]: unknown
}

type Piece = { readonly text: string } | { readonly start: Item; readonly call: number } | { readonly given: string; readonly call: number }

const streams = [
  'openai-chat-stream',
  'openai-tools-stream',
  'openai-responses-background-stream-continuation',
  'openai-responses-background-stream-full'
]
const wholes = ['openai-ratelimit-headers', 'openai-responses-background-poll', 'openai-responses-background-tool']
/** Of OpenAI's own service, or of answers that are kept. */
const notOurs = ['billing', 'moderation', 'tool_usage', 'obfuscation']

/** By the reference the end of the arguments has the function's name; the service leaves it out. */
const named: Record<string, object> = { 'response.function_call_arguments.done': { name: '' } }

t.test('recordings of the Responses API', { skip: skipWithoutRecordings }, async t => {
  const database = await createDatabase(t)
  const upstream = await startCompatible(t, { models: [{ id: 'recorded', created: 1 }] })
  const gateway = await startGateway(t, {
    databaseUrl: database.url,
    config: { providers: { openai: { base_url: `${upstream.origin}/v1`, api_key: 'sk-recorded-0000000000', models: ['recorded'] } } }
  })

  let lastRequest: Record<string, unknown> = {}
  for (const name of streams) {
    recorded(name, /\/responses(\/.*)?$/).forEach((interaction, index) => {
      if (interaction.request.method === 'POST') lastRequest = interaction.request.body
      const request = lastRequest
      if (!textOf(interaction).startsWith('event:')) return
      t.test(`${name} ${index}: the same events with the same keys`, async t => {
        const theirs = eventsOf(textOf(interaction)).filter(event => !isOnlyTheirs(event))
        // Cut short by whoever recorded it, or begun in the middle.
        const isWhole = theirs.at(-1)?.type === 'response.completed' && theirs[0]?.type === 'response.created'
        upstream.behaviour = say(piecesOf(theirs))
        const answer = await gateway.fetch('/v1/responses', { json: asNow(request, true) })
        t.equal(answer.status, 200)
        const ours = eventsOf(await answer.text())
        const types = ours.map(({ type }) => type)
        if (isWhole) {
          t.same(
            types,
            theirs.map(({ type }) => type)
          )
        }
        for (const event of theirs) {
          const own = ours.find(({ type, item }) => type === event.type && item?.type === event.item?.type)
          if (own === undefined) {
            t.fail(`no event like ${event.type}`)
            continue
          }
          t.same(keysOf(own), keysOf({ ...event, ...named[event.type] }), event.type)
          if (event.item !== undefined) t.same(keysOf(own.item), keysOf(event.item), `${event.type}, ${event.item.type}`)
          if (event.response !== undefined) t.same(keysOf(own.response), keysOf(event.response), `${event.type}, response`)
        }
        if (isWhole) t.same(contentsOf(ours.at(-1)?.response), contentsOf(theirs.at(-1)?.response))
      })
    })
  }

  for (const name of wholes) {
    let request: Record<string, unknown> = {}
    recorded(name, /\/responses(\/.*)?$/).forEach((interaction, index) => {
      if (interaction.request.method === 'POST') request = interaction.request.body
      const body = interaction.response.body as Record<string, unknown>
      const asked = request
      if (body.status !== 'completed') return
      t.test(`${name} ${index}: the same object, as a whole`, async t => {
        upstream.behaviour = say(piecesOfOutput(body.output as Item[]))
        const answer = await gateway.fetch('/v1/responses', { json: asNow(asked, false) })
        t.equal(answer.status, 200)
        const own = (await answer.json()) as Record<string, unknown>
        t.same(keysOf(own), keysOf(body))
        t.same(contentsOf(own), contentsOf(body))
        for (const name of [
          'tools',
          'tool_choice',
          'parallel_tool_calls',
          'text',
          'error',
          'incomplete_details',
          'truncation',
          'top_logprobs'
        ])
          t.same(own[name], body[name], name)
        t.same(keysOf(own.usage), keysOf(body.usage))
      })
    })
  }
})

/** What we take of a recorded request: it waits for its answer, and nothing is kept. */
function asNow(request: Record<string, unknown>, stream: boolean): Record<string, unknown> {
  return { ...request, background: false, stream, model: 'openai/recorded' }
}

function eventsOf(text: string): Event[] {
  return text
    .split('\n\n')
    .filter(block => block.startsWith('event: '))
    .map(block => JSON.parse(block.slice(block.indexOf('\ndata: ') + 7)) as Event)
}

/** Of background responses, and of thoughts that are shown to nobody. */
function isOnlyTheirs({ type, item }: Event): boolean {
  return type === 'response.queued' || item?.type === 'reasoning'
}

function keysOf(value: unknown): string[] {
  return Object.keys(value ?? {})
    .filter(key => !notOurs.includes(key) && key !== 'x_llm_mcp')
    .sort()
}

/** Texts and calls, without ids. */
function contentsOf(response: Record<string, unknown> | undefined): unknown[] {
  return ((response?.output ?? []) as Item[])
    .filter(({ type }) => type !== 'reasoning')
    .map(({ type, content, name, arguments: given, status }) => ({ type, texts: content?.map(({ text }) => text), name, given, status }))
}

function piecesOf(events: readonly Event[]): Piece[] {
  let call = -1
  return events.flatMap(({ type, delta, item }): Piece[] => {
    if (type === 'response.output_text.delta') return [{ text: String(delta) }]
    if (type === 'response.function_call_arguments.delta') return [{ given: String(delta), call }]
    return type === 'response.output_item.added' && item?.type === 'function_call' ? [{ start: item, call: ++call }] : []
  })
}

function piecesOfOutput(output: readonly Item[]): Piece[] {
  return output.flatMap((item, call): Piece[] => {
    if (item.type === 'function_call')
      return [
        { start: item, call },
        { given: String(item.arguments), call }
      ]
    return item.type === 'message' ? (item.content ?? []).map(({ text }) => ({ text })) : []
  })
}

/** A chat that says these pieces, one chunk each. */
function say(pieces: readonly Piece[]): Behaviour {
  const calls = pieces.flatMap(piece => ('start' in piece ? [piece] : []))
  const finish = calls.length > 0 ? 'tool_calls' : 'stop'
  const usage = { prompt_tokens: 9, completion_tokens: 2, total_tokens: 11 }
  const head = { id: 'chatcmpl-1', created: 1, model: 'recorded' }
  return ({ body }, response) => {
    if (body.stream !== true) {
      const content = pieces.map(piece => ('text' in piece ? piece.text : '')).join('')
      const tool_calls = calls.map(({ start, call }) => ({
        id: start.call_id,
        type: 'function',
        function: {
          name: start.name,
          arguments: pieces.map(piece => ('given' in piece && piece.call === call ? piece.given : '')).join('')
        }
      }))
      const message = { role: 'assistant', content: content === '' ? null : content, ...(calls.length > 0 ? { tool_calls } : {}) }
      response.writeHead(200, { 'content-type': 'application/json' })
      response.end(JSON.stringify({ ...head, object: 'chat.completion', choices: [{ index: 0, message, finish_reason: finish }], usage }))
      return
    }
    const chunk = (delta: object, finish_reason: string | null = null): string =>
      `data: ${JSON.stringify({ ...head, object: 'chat.completion.chunk', choices: [{ index: 0, delta, finish_reason }], usage: null })}\n\n`
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    response.write(chunk({ role: 'assistant', content: null }))
    for (const piece of pieces) response.write(chunk(deltaOf(piece)))
    response.write(chunk({}, finish))
    response.end(`data: ${JSON.stringify({ ...head, object: 'chat.completion.chunk', choices: [], usage })}\n\ndata: [DONE]\n\n`)
  }
}

function deltaOf(piece: Piece): object {
  if ('text' in piece) return { content: piece.text }
  if ('given' in piece) return { tool_calls: [{ index: piece.call, function: { arguments: piece.given } }] }
  const { call_id: id, name } = piece.start
  return { tool_calls: [{ index: piece.call, id, type: 'function', function: { name, arguments: '' } }] }
}
