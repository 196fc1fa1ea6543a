// Secrets and words that are nowhere else, and upstreams that tell on all they hear: what of it is found again was let through.

import type { Test } from 'tap'
import {
  type Behaviour,
  chunk,
  completion,
  type FakeUpstream,
  sayNatively,
  startCompatible,
  startOllama,
  type UpstreamCall,
  usage,
  wholeStream
} from './upstream.ts'

/** Texts that are nowhere else. None has the form of a key but the first, which must: what hides keys by their form alone is found out. */
export const keys = {
  admin: 'sk-llm-canaryAdminKey-7Qd2mW9xLr4TzY8v',
  openai: 'canaryOpenaiKey5jR8nB2wXc',
  openrouter: 'sk-or-v1-canaryOpenrouterKey4hG7',
  machine: 'canaryMachineKey6tF3pLq9',
  machineHeader: 'canaryMachineHeader1zK8s',
  machineBearer: 'canaryMachineBearer2xD7p',
  database: 'canaryDatabasePassword3vN6y',
  unknown: 'sk-llm-canaryUnknownKey-2bH5kPqZ',
  cookie: 'canaryCookieSession9eU4a',
  proxy: 'canaryProxyAuthorization7oC1i'
}
/** What people say and send along: for whom it is meant, and for nobody else. */
export const words = {
  prompt: 'canaryPromptText8wJ5u',
  user: 'canaryUserName2yS7m',
  tool: 'canaryToolArgument4dV9g',
  metadata: 'canaryMetadata6kX3b',
  query: 'canaryQueryString1nT8f',
  header: 'canaryOtherHeader5rZ2h',
  file: 'canaryFileName7gQ4w',
  answer: 'canaryAnswerText3cM6j'
}

/** All that a call told the upstream, as one that is in trouble might tell it on. */
function quoteOf({ headers }: UpstreamCall): string {
  const given = [headers.authorization?.replace('Bearer ', ''), headers['x-machine-token']].filter(text => text !== undefined)
  return `Incorrect API key provided: ${given.join(', ')}. You said: ${Object.values(words).join(', ')}`
}

function tellingHeaders(call: UpstreamCall): Record<string, string> {
  const quote = quoteOf(call)
  return {
    'x-debug': quote,
    'set-cookie': `session=${quote}`,
    'www-authenticate': `Bearer ${quote}`,
    'x-request-id': quote,
    'openai-organization': quote,
    'x-ratelimit-limit-requests': quote
  }
}

function faultOf(call: UpstreamCall): object {
  const quote = quoteOf(call)
  return { error: { message: quote, type: quote, code: 'canary_code', param: quote } }
}

/** An answer that tells all it can. */
function tell(status: number, type: string, body: (call: UpstreamCall) => string | object): Behaviour {
  return (call, response) => {
    const said = body(call)
    response.writeHead(status, { 'content-type': type, 'retry-after-ms': '1', ...tellingHeaders(call) })
    response.end(typeof said === 'string' ? said : JSON.stringify(said))
  }
}

const json = 'application/json'
const events = 'text/event-stream'
const vectors = { object: 'list', model: 'm', data: [{ object: 'embedding', index: 0, embedding: [0.5, 1] }], usage }
const begun = chunk({ content: words.answer })

/** Whatever an upstream may do. Those after which it is left alone come last. */
export const behaviours: Readonly<Record<string, Behaviour>> = {
  success: (call, response, request) =>
    call.path.includes('embed')
      ? tell(200, json, () => vectors)(call, response, request)
      : call.path.startsWith('/api/')
        ? sayNatively(words.answer)(call, response, request)
        : call.body.stream === true
          ? tell(200, events, () => wholeStream(words.answer).join(''))(call, response, request)
          : tell(200, json, () => completion(words.answer))(call, response, request),
  'no success in an answer of 200': tell(200, json, faultOf),
  'a text as an error': tell(200, json, call => ({ error: quoteOf(call) })),
  'nothing in the form of an answer': tell(200, json, quoteOf),
  'no JSON at all': tell(200, json, call => `{"${quoteOf(call)}`),
  'a bad request': tell(400, json, faultOf),
  'a prompt that is too long': tell(400, json, call => ({
    error: { message: `context length exceeded: ${quoteOf(call)}`, code: 'context_length_exceeded' }
  })),
  'nothing here': tell(404, json, faultOf),
  'its own fault': tell(500, json, faultOf),
  'a bare text': tell(502, 'text/plain', quoteOf),
  'a page': tell(503, 'text/html', call => `<html><title>${quoteOf(call)}</title><p>${quoteOf(call)}</p></html>`),
  'a page as a success': tell(200, 'text/html', call => `<html>${quoteOf(call)}</html>`),
  'somewhere else': (call, response) => {
    response.writeHead(302, { ...tellingHeaders(call), location: `http://127.0.0.1:9/?${encodeURIComponent(quoteOf(call))}` }).end()
  },
  'an error in the stream': tell(200, events, call => `${begun}data: ${JSON.stringify(faultOf(call))}\n\n`),
  'an error at the beginning of the stream': tell(200, events, call => `event: error\ndata: ${JSON.stringify(faultOf(call))}\n\n`),
  'a stream of no JSON': tell(200, events, call => `${begun}data: {"${quoteOf(call)}\n\n`),
  'an error in a native stream': tell(200, 'application/x-ndjson', call => `${JSON.stringify({ error: quoteOf(call) })}\n`),
  'a broken stream': (call, response) => {
    response.writeHead(200, { 'content-type': events, ...tellingHeaders(call) })
    response.write(`${begun}data: {"choices":[{"delta":{"content":"${words.prompt}`, () => response.destroy())
  },
  'a broken connection': (_call, response) => void response.destroy(),
  'a refused account': tell(403, json, faultOf),
  'a refused key': tell(401, json, faultOf),
  // The last: whoever was refused waits before he asks again.
  'too many requests': tell(429, json, faultOf)
}

const tools = [
  {
    type: 'function',
    function: { name: 'look', parameters: { type: 'object', properties: { at: { type: 'string', default: words.tool } } } }
  }
]
const spoken = [
  { role: 'system', content: words.prompt },
  { role: 'user', name: words.user, content: [{ type: 'text', text: words.prompt }] },
  {
    role: 'assistant',
    content: null,
    tool_calls: [{ id: 'call_1', type: 'function', function: { name: 'look', arguments: `{"at":"${words.tool}"}` } }]
  },
  { role: 'tool', tool_call_id: 'call_1', content: words.tool }
]
const about = { user: words.user, metadata: { note: words.metadata }, prompt_cache_key: words.metadata, safety_identifier: words.user }

/** A good body for a route, by the end of its path. */
export function bodyFor(path: string, model: string): Record<string, unknown> {
  if (path.endsWith('/chat/completions')) return { model, messages: spoken, tools, ...about }
  if (path.endsWith('/completions')) return { model, prompt: words.prompt, user: words.user }
  if (path.endsWith('/embeddings')) return { model, input: [words.prompt], user: words.user }
  if (path.endsWith('/responses')) return { model, input: words.prompt, instructions: words.prompt, ...about }
  return { model, input: words.prompt, prompt: words.prompt, ...about }
}

const fields = ['chat', 'completions', 'embeddings', 'responses'] as const

/** A model of its own for each behaviour and use, so that no circuit breaker hides one behind another. */
export function modelFor(behaviour: string, field: (typeof fields)[number]): string {
  return `case-${Object.keys(behaviours).indexOf(behaviour)}-${field}`
}

const behaveByModel: Behaviour = (call, response, request) => {
  const at = /case-(\d+)-/.exec(call.text)?.[1]
  const behaviour = Object.values(behaviours)[Number(at ?? 0)] ?? (behaviours.success as Behaviour)
  return behaviour(call, response, request)
}

export type Upstreams = Readonly<Record<'openai' | 'openrouter' | 'box' | 'rtx', FakeUpstream>>

/** Upstreams of every kind whose answers depend on the model. `query`: the end of every path that is passed through. */
export async function startUpstreams(t: Test, query: string): Promise<Upstreams> {
  const names = Object.keys(behaviours).flatMap(behaviour => fields.map(field => modelFor(behaviour, field)))
  const models = names.map(id => ({ id, object: 'model', created: 1, owned_by: 'test' }))
  const prices = { context_length: 8_192, pricing: { prompt: '0.000001', completion: '0.000002' }, supported_parameters: ['tools'] }
  const upstreams = {
    openai: await startCompatible(t, { models }),
    openrouter: await startCompatible(t, { models: names.map(name => ({ id: `vendor/${name}`, name, ...prices })) }),
    box: await startCompatible(t, { models }),
    rtx: await startOllama(t, {
      models: names,
      capabilities: model => (model.endsWith('-embeddings') ? ['embedding'] : ['completion', 'tools', 'thinking'])
    })
  }
  for (const upstream of Object.values(upstreams)) {
    upstream.behaviour = behaveByModel
    for (const end of ['/completions', '/embeddings', '/api/generate', '/api/embed', '/audio/transcriptions', query]) {
      upstream.others.set(end, behaveByModel)
    }
  }
  return upstreams
}

/** A form with a file, as for a transcription. */
export function recording(model: string): FormData {
  const form = new FormData()
  form.set('model', model)
  form.set('prompt', words.prompt)
  form.set('file', new Blob([words.prompt]), `${words.file}.wav`)
  return form
}
