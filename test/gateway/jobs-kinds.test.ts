// What each kind of job sends, to whom, and how its answer is shown.

import t from 'tap'
import { toNativeCompletion } from '../../adapters/ollama/completion.ts'
import { toNativeChat } from '../../adapters/ollama/request.ts'
import { jobJson, noOutlook } from '../../gateway/jobs/object.ts'
import type { JobKind, NewJob } from '../../queue/types.ts'
import type { ModelRequest, Target } from '../../routing/types.ts'
import { adminKey, chat, type Json, nowMs, recordOf, type Serving, serving } from './jobs-support.ts'

const messages = [{ role: 'user', content: 'hi' }]
const target = { model: 'qwen3:32b', contextTokens: 8_192, features: null, upstream: { device: null } } as unknown as Target

async function stored({ submit, jobs }: Serving, body: Json): Promise<NewJob & { request: ModelRequest }> {
  const response = await submit(body, { key: adminKey })
  const job = jobs.submitted.at(-1)
  if (response.statusCode !== 202 || job === undefined || job.request === null) throw new Error(response.body)
  return { ...job, request: job.request }
}

function sent({ request }: { request: ModelRequest }): Json {
  return JSON.parse(request.body.bytes.toString()) as Json
}

t.test('the bytes of a payload are what is sent, to the byte', async t => {
  const { submit, jobs } = await serving(t)
  const payload = '{"messages" : [{"role":"user","content":"б\\u00e9"}],\n "seed":12345678901234567890, "model":"qwen3:32b" , "x":1.50}'
  for (const body of [
    `{"kind":"chat","payload":${payload}}`,
    `\ufeff { "metadata" : {"ключ":"1"}, "payload" :${payload} ,"kind":"chat"} `
  ]) {
    t.equal((await submit(body)).statusCode, 202)
    t.equal(jobs.submitted.at(-1)?.request?.body.bytes.toString(), payload)
  }
  const echo = '{ "a": 1.50, "b": 12345678901234567890 }'
  await submit(`{"payload": ${echo}, "kind":"echo", "model":"ignored"}`)
  t.match(jobs.submitted.at(-1), { request: null, model: null })
  t.equal(jobs.submitted.at(-1)?.echo?.toString(), echo)
})

t.test('a model may stand beside the payload, in it, or in both', async t => {
  const server = await serving(t)
  for (const body of [
    { kind: 'chat', model: 'qwen3:32b', payload: { messages } },
    { kind: 'chat', payload: { messages, model: 'qwen3:32b' } },
    { kind: 'chat', model: 'qwen3:32b', payload: { messages, model: 'qwen3:32b' } }
  ]) {
    const job = await stored(server, body)
    t.match(
      { model: job.model, asked: job.request.model, sent: sent(job).model },
      { model: 'qwen3:32b', asked: 'qwen3:32b', sent: 'qwen3:32b' }
    )
  }
})

t.test('a stream is asked for only where the tokens are kept, with its figures', async t => {
  const server = await serving(t)
  const cases: readonly [outside: Json, inside: Json, stream: boolean][] = [
    [{}, {}, false],
    [{ stream: true }, {}, true],
    [{}, { stream: true }, true],
    [{}, { stream: true, stream_options: { include_usage: false, x: 1 } }, true],
    [{ stream: true }, { stream: false }, true],
    [{ stream: false }, { stream: true, stream_options: { include_usage: true } }, false],
    [{}, { stream: false }, false]
  ]
  for (const [outside, inside, stream] of cases) {
    const job = await stored(server, { ...chat, ...outside, payload: { messages, ...inside } })
    const name = JSON.stringify([outside, inside])
    t.match(
      { kept: job.stream, asked: job.request.stream, usage: job.request.includeUsage },
      { kept: stream, asked: stream, usage: stream },
      name
    )
    t.equal(sent(job).stream ?? false, stream, name)
    t.match(sent(job).stream_options, stream ? { include_usage: true } : undefined, name)
  }
})

t.test('a chat in the form of Responses is a chat here too', async t => {
  const job = await stored(await serving(t), { kind: 'chat', model: 'qwen3:32b', payload: { input: 'hi' } })
  t.match(sent(job).messages, [{ role: 'user', content: 'hi' }])
})

t.test('a kind that names a provider goes to no other, and by the name it has there', async t => {
  const server = await serving(t)
  const cases: readonly [kind: JobKind, model: string, asked: string, providers: readonly string[] | undefined][] = [
    ['chat', 'gpt-5', 'gpt-5', undefined],
    ['openai.chat', 'gpt-5', 'openai/gpt-5', ['openai']],
    ['openai.chat', 'openai/gpt-5', 'openai/gpt-5', ['openai']],
    ['openai.chat', 'cloud', 'cloud', ['openai']],
    ['openrouter.chat', 'openai/gpt-5', 'openrouter/openai/gpt-5', ['openrouter']],
    ['openrouter.chat', 'openrouter/openai/gpt-5', 'openrouter/openai/gpt-5', ['openrouter']],
    ['openrouter.chat', 'meta/llama', 'openrouter/meta/llama', ['openrouter']],
    ['ollama.generate', 'qwen3:32b', 'qwen3:32b', ['ollama']],
    ['ollama.generate', 'gemma3:4b', 'gemma3:4b', ['ollama']],
    ['ollama.embed', 'nomic-embed-text', 'nomic-embed-text', ['ollama']]
  ]
  for (const [kind, model, asked, providers] of cases) {
    const job = await stored(server, { kind, payload: { model, messages, prompt: 'hi' } })
    t.equal(job.model, model, 'shown as it was written')
    t.match({ asked: job.request.model, sent: sent(job).model }, { asked, sent: asked }, `${kind} ${model}`)
    t.same(job.request.providers, providers)
  }
  const refused = async (kind: string, model: string): Promise<unknown> =>
    ((await server.submit({ kind, payload: { model, messages, prompt: 'hi' } }, { key: adminKey })).json().error as Json).message
  t.equal(await refused('openai.chat', 'qwen3:32b'), 'The model "qwen3:32b" is not offered by openai here.')
  t.equal(await refused('ollama.generate', 'gpt-5'), 'The model "gpt-5" is not offered by ollama here.')
  t.match(await refused('openai.chat', 'gpt-6'), /^The model "gpt-6" does not exist here\. Did you mean "gpt-5"/)
})

t.test('vectors are read as an endpoint would read them', async t => {
  const job = await stored(await serving(t), { kind: 'embed', model: 'nomic-embed-text', payload: { input: ['a', 'b'], dimensions: 256 } })
  t.match(job.request, { operation: 'embed', input: { texts: ['a', 'b'] }, embedding: { dimensions: 256, encoding: 'float' } })
  t.equal(job.stream, false)
})

t.test('what ollama.generate asks reaches Ollama as a chat', async t => {
  const server = await serving(t)
  const payload = {
    model: 'qwen3:32b',
    prompt: 'what is it?',
    system: 'be brief',
    images: ['aGk=', 'data:image/png;base64,aGk='],
    format: { type: 'object' },
    options: { temperature: 0, num_predict: 5 },
    think: 'low',
    keep_alive: '5m',
    stream: true
  }
  const job = await stored(server, { kind: 'ollama.generate', payload })
  t.match(job, { stream: false, request: { operation: 'chat', stream: false, needs: ['vision', 'json_schema'] } })
  t.match(toNativeChat(sent(job), target), {
    messages: [
      { role: 'system', content: 'be brief' },
      { role: 'user', content: 'what is it?', images: ['aGk=', 'aGk='] }
    ],
    format: { type: 'object' },
    options: { temperature: 0, num_predict: 5 },
    think: 'low'
  })
  const plain = await stored(server, {
    kind: 'ollama.generate',
    payload: { model: 'qwen3:32b', prompt: 'hi', format: 'json', suffix: '', images: [] }
  })
  t.match(toNativeChat(sent(plain), target), { messages: [{ role: 'user', content: 'hi' }], format: 'json' })
})

t.test('with raw or suffix ollama.generate is a text that is continued', async t => {
  const server = await serving(t)
  const between = await stored(server, { kind: 'ollama.generate', payload: { model: 'qwen3:32b', prompt: 'def f(', suffix: 'return 1' } })
  t.match(between.request, { operation: 'complete', needs: ['suffix'], maxOutputTokens: null })
  const native = toNativeCompletion(between.request, target)
  t.match(native, { prompt: 'def f(', suffix: 'return 1', options: { num_predict: 8_192 } }, 'as long as it takes')
  t.notOk('raw' in native)
  const options = { num_predict: 7, stop: ['x'] }
  const raw = await stored(server, { kind: 'ollama.generate', payload: { model: 'qwen3:32b', prompt: '[INST]', raw: true, options } })
  t.equal(raw.request.maxOutputTokens, 7)
  t.match(toNativeCompletion(raw.request, target), { prompt: '[INST]', raw: true, options })
})

t.test('ollama.embed takes a text by either name', async t => {
  const server = await serving(t)
  for (const text of [{ prompt: 'hi' }, { input: 'hi' }, { input: ['hi'], prompt: null }]) {
    const job = await stored(server, { kind: 'ollama.embed', payload: { model: 'nomic-embed-text', options: {}, ...text } })
    t.match(job.request, { operation: 'embed', input: { texts: ['hi'] } })
  }
})

function shown(kind: JobKind, result: Json, finishedAt: Date | null = new Date(nowMs + 1_500)): unknown {
  const job = recordOf({ kind, status: 'done', startedAt: new Date(nowMs), finishedAt, result: Buffer.from(JSON.stringify(result)) })
  return (JSON.parse(jobJson(job, noOutlook).toString()) as Json).result
}

t.test('the answer of ollama.generate is Ollama’s, and once more where llm-mcp v2 had it', async t => {
  const usage = { prompt_tokens: 9, completion_tokens: 2, total_tokens: 11 }
  const head = { created: 1_790_000_000, model: 'qwen3:32b', usage }
  const expected = {
    model: 'qwen3:32b',
    created_at: '2026-09-21T14:13:20.000Z',
    response: 'Hello!',
    thinking: 'hm',
    done: true,
    done_reason: 'length',
    total_duration: 1_500_000_000,
    prompt_eval_count: 9,
    eval_count: 2
  }
  const message = { role: 'assistant', content: 'Hello!', reasoning_content: 'hm' }
  t.same(shown('ollama.generate', { ...head, choices: [{ message, finish_reason: 'length' }] }), { ...expected, data: expected })
  const { thinking: _none, ...plain } = { ...expected, done_reason: 'stop' }
  t.same(shown('ollama.generate', { ...head, choices: [{ text: 'Hello!', finish_reason: 'stop' }] }), { ...plain, data: plain })
})

t.test('the answer of ollama.embed has its vectors under both names', async t => {
  const answer = {
    object: 'list',
    model: 'nomic-embed-text',
    data: [
      { object: 'embedding', index: 0, embedding: [0.5, 1] },
      { object: 'embedding', index: 1, embedding: [2, 3] }
    ],
    usage: { prompt_tokens: 4, total_tokens: 4 }
  }
  const expected = {
    model: 'nomic-embed-text',
    embedding: [0.5, 1],
    embeddings: [
      [0.5, 1],
      [2, 3]
    ],
    total_duration: 1_500_000_000,
    prompt_eval_count: 4
  }
  t.same(shown('ollama.embed', answer), { ...expected, data: expected })
})
