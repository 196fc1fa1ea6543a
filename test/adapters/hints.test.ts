import t from 'tap'
import { completionFields, toNativeCompletion } from '../../adapters/ollama/completion.ts'
import { chatFields, toNativeChat } from '../../adapters/ollama/request.ts'
import { readChatRequest } from '../../gateway/dialects/openai-chat.ts'
import { readCompletionRequest } from '../../gateway/dialects/openai-completions.ts'
import { readEmbeddingRequest } from '../../gateway/dialects/openai-embeddings.ts'
import type { Adapter, ModelRequest, Target } from '../../routing/types.ts'
import { asBytes, type Json, knobs, loadAdapter, targetOf } from './attempts.ts'

const chat = (body: Json): ModelRequest =>
  readChatRequest(asBytes({ model: 'm', messages: [{ role: 'user', content: 'hi' }], ...body }), knobs).request
const complete = (body: Json): Promise<ModelRequest> => readCompletionRequest(asBytes({ model: 'm', prompt: 'hi', ...body }), knobs)
const embed = (body: Json): Promise<ModelRequest> => readEmbeddingRequest(asBytes({ model: 'm', input: 'hi', ...body }), knobs)

/** Every field that is read from the body while this runs. */
function fieldsRead(body: Json, run: (body: Json) => unknown): string[] {
  const read = new Set<string>()
  run(
    new Proxy(body, {
      get(target, name) {
        read.add(String(name))
        return target[String(name)]
      }
    })
  )
  return [...read].sort()
}

// Hints of OpenAI's and OpenRouter's APIs that Ollama has no place for.
const unknown: Json = {
  logit_bias: { 5: 1 },
  user: 'u',
  metadata: { a: 'b' },
  store: false,
  service_tier: 'auto',
  safety_identifier: 's',
  prompt_cache_key: 'k',
  prompt_cache_retention: '24h',
  prediction: { type: 'content', content: 'x' },
  verbosity: 'low',
  web_search_options: {},
  moderation: { model: 'm' },
  parallel_tool_calls: true
}
const heard: Json = {
  // Seen to by the gateway.
  models: ['a'],
  provider: { order: ['a'] },
  stream: true,
  stream_options: { include_usage: true },
  max_tokens: 5,
  temperature: 0,
  seed: 1,
  stop: ['x'],
  top_k: 4,
  repetition_penalty: 1,
  options: { num_gpu: 1 },
  reasoning_effort: 'low',
  tools: [{ type: 'function', function: { name: 'f' } }],
  tool_choice: 'none',
  response_format: { type: 'text' },
  logprobs: true,
  n: 1
}

/** What an adapter leaves out, for a target of which nothing is known unless it is given. */
function droppedBy(adapter: Adapter): (request: ModelRequest, target?: Target) => readonly string[] {
  return (request, target = targetOf(adapter.name, '')) => adapter.dropped?.(request, target) ?? ['it never says']
}

t.test('Ollama names the hints of a chat that it never hears of', async t => {
  const dropped = droppedBy(await loadAdapter(t, 'ollama'))
  t.same(dropped(chat({ ...heard, ...unknown })), Object.keys(unknown))
  t.same(dropped(chat(heard)), [])
  t.same(dropped(chat({ user: null, logit_bias: null })), [], 'null counts as absent')
})

t.test('the same of completions and embeddings, by their own fields', async t => {
  const dropped = droppedBy(await loadAdapter(t, 'ollama'))
  const text = { suffix: 'x', max_tokens: 1, logprobs: 1, n: 1, best_of: 1, echo: false, temperature: 1, stop: 'x' }
  t.same(dropped(await complete({ ...text, user: 'u', logit_bias: {}, tools: [] })), ['user', 'logit_bias', 'tools'])
  t.same(dropped(await embed({ dimensions: 2, encoding_format: 'float', user: 'u', temperature: 1 })), ['user', 'temperature'])
})

t.test('the lists are exactly what the translations read', async t => {
  const target: Target = targetOf('ollama', 'http://127.0.0.1:9')
  const body = (extra: Json): Json => ({ ...chat({}).body.json(), ...extra })
  t.same(
    [
      ...new Set([
        ...fieldsRead(body({}), read => toNativeChat(read, target)),
        ...fieldsRead(body({ logprobs: true }), read => toNativeChat(read, target))
      ])
    ].sort(),
    [...chatFields].sort()
  )
  const request = await complete({})
  const reading = fieldsRead(request.body.json(), read =>
    toNativeCompletion({ ...request, body: { ...request.body, json: () => read } }, target)
  )
  // The prompt is read by the gateway, which also makes text of tokens.
  t.same([...reading, 'prompt'].sort(), [...completionFields].sort())
})

t.test('a wish to think is dropped where a model is known not to', async t => {
  const adapter = await loadAdapter(t, 'ollama')
  const dropped = droppedBy(adapter)
  const request = chat({ reasoning_effort: 'low', think: true })
  const target = (features: Target['features']) => targetOf('ollama', '', { target: { features } })
  t.same(dropped(request, target(new Set(['tools']))), ['reasoning_effort', 'think'])
  t.same(dropped(request, target(new Set(['reasoning']))), [])
  t.same(dropped(request, target(null)), [])
})

t.test('names that could not stand in a header are left out, and there are at most 32', async t => {
  const dropped = droppedBy(await loadAdapter(t, 'ollama'))
  const odd = { 'a b': 1, 'a,b': 1, größe: 1, '': 1, ['x'.repeat(65)]: 1, 'a\r\nb': 1 }
  t.same(dropped(chat({ ...odd, ['y'.repeat(64)]: 1, 'a.b-c_d': 1 })), ['y'.repeat(64), 'a.b-c_d'])
  const many = Object.fromEntries(Array.from({ length: 100 }, (_, index) => [`h${index}`, 1]))
  t.equal(dropped(chat(many)).length, 32)
})

t.test('a compatible server gets the client’s own bytes, but for options it is known to refuse', async t => {
  for (const name of ['openai', 'openrouter']) {
    const adapter = await loadAdapter(t, name)
    const dropped = droppedBy(adapter)
    const target = (streamUsage: boolean) => targetOf(name, '', { upstream: { streamUsage } })
    const request = chat({ ...heard, ...unknown })
    t.same(dropped(request), [])
    t.same(dropped(request, target(true)), [])
    t.same(dropped(request, target(false)), ['stream_options'])
    t.same(dropped(chat(unknown), target(false)), [])
  }
})
