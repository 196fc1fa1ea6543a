import { deepStrictEqual } from 'node:assert/strict'
import { ChatCompletionStream } from 'openai/lib/ChatCompletionStream'
import t from 'tap'
import { createAssembler } from '../../queue/assemble.ts'
import { fc } from '../support/properties.ts'

type Json = Record<string, unknown>

function assemble(chunks: readonly unknown[]): Json {
  const assembler = createAssembler()
  for (const chunk of chunks) assembler.chunk(chunk)
  return assembler.completion()
}

async function bySdk(chunks: readonly unknown[]): Promise<Json> {
  const lines = new Blob([chunks.map(chunk => `${JSON.stringify(chunk)}\n`).join('')])
  // biome-ignore lint/suspicious/noExplicitAny: the SDK knows the browser's stream only.
  const completion = await ChatCompletionStream.fromReadableStream(lines.stream() as any).finalChatCompletion()
  // What it adds for those who gave it a schema.
  return JSON.parse(JSON.stringify(completion, (name, value) => (/^parsed(_arguments)?$/.test(name) ? undefined : value)))
}

const head = { id: 'chatcmpl-1', object: 'chat.completion.chunk', created: 1_790_000_000, model: 'm' }

function chunkOf(index: number, delta: Json, more: Json = {}): Json {
  return { ...head, choices: [{ index, delta, logprobs: null, finish_reason: null, ...more }], usage: null }
}

interface Said {
  readonly content: readonly string[] | null
  readonly refusal: readonly string[] | null
  readonly calls: readonly { readonly id: string; readonly name: string; readonly pieces: readonly string[] }[]
  readonly logprobs: readonly (readonly object[])[]
  readonly finish: string
  readonly extra: Json | null
}

const text: fc.Arbitrary<string> = fc.string({ unit: fc.constantFrom('a', 'é', '漢', '🙂', '"', '\\', '\n', ' ', '{'), maxLength: 6 })
const logprob: fc.Arbitrary<object> = fc.record({
  token: text,
  logprob: fc.double({ max: 0, min: -20 }),
  bytes: fc.constant(null),
  top_logprobs: fc.constant([])
})
const call = fc.record({
  id: fc.uuid().map(id => `call_${id}`),
  name: fc.constantFrom('weather', 'time'),
  pieces: fc.array(text, { maxLength: 4 })
})
const choice: fc.Arbitrary<Said> = fc.record({
  content: fc.option(fc.array(text, { maxLength: 6 })),
  refusal: fc.option(fc.array(text, { minLength: 1, maxLength: 3 })),
  calls: fc.array(call, { maxLength: 3 }),
  logprobs: fc.array(fc.array(logprob, { maxLength: 2 }), { maxLength: 3 }),
  finish: fc.constantFrom('stop', 'length', 'tool_calls', 'content_filter'),
  extra: fc.option(fc.record({ native_finish_reason: text }))
})

/** What one choice says, in order. */
function partsOf(index: number, said: Said): Json[] {
  return [
    chunkOf(index, { role: 'assistant', content: said.content === null ? null : '', refusal: null }),
    ...(said.content ?? []).map(content => chunkOf(index, { content })),
    ...(said.refusal ?? []).map(refusal => chunkOf(index, { refusal })),
    ...said.logprobs.map(content => chunkOf(index, {}, { logprobs: { content, refusal: null } })),
    ...said.calls.flatMap(({ id, name, pieces }, at) => [
      chunkOf(index, { tool_calls: [{ index: at, id, type: 'function', function: { name, arguments: '' } }] }),
      ...pieces.map(piece => chunkOf(index, { tool_calls: [{ index: at, function: { arguments: piece } }] }))
    ]),
    chunkOf(index, {}, { finish_reason: said.finish, ...said.extra })
  ]
}

/** Several lists as one, each in its own order. */
function merged(lists: readonly (readonly Json[])[], picks: readonly number[]): Json[] {
  const left = lists.map(list => [...list])
  const all: Json[] = []
  for (let at = 0; left.some(list => list.length > 0); at++) {
    const some = left.filter(list => list.length > 0)
    const next = some[(picks[at % picks.length] as number) % some.length]?.shift()
    if (next !== undefined) all.push(next)
  }
  return all
}

t.test('whatever a stream says, the completion is the one the SDK makes of it', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(choice, { minLength: 1, maxLength: 3 }),
      fc.array(fc.nat(5), { minLength: 1, maxLength: 9 }),
      fc.option(fc.record({ prompt_tokens: fc.nat(), completion_tokens: fc.nat(), total_tokens: fc.nat() })),
      fc.option(text),
      async (choices, picks, usage, fingerprint) => {
        const chunks: Json[] = merged(
          choices.map((said, index) => partsOf(index, said)),
          picks
        ).map(chunk => ({ ...chunk, system_fingerprint: fingerprint }))
        if (usage !== null) chunks.push({ ...head, choices: [], usage, x_llm_mcp: { cost_usd: 0.1 } })
        deepStrictEqual(JSON.parse(JSON.stringify(assemble(chunks))), await bySdk(chunks))
      }
    ),
    { numRuns: 40, interruptAfterTimeLimit: 20_000, markInterruptAsFailure: false, endOnFailure: true }
  )
})

t.test('an old function call is put together as the SDK does it', async t => {
  const chunks = [
    chunkOf(0, { role: 'assistant', content: null }),
    chunkOf(0, { function_call: { name: 'weather', arguments: '' } }),
    chunkOf(0, { function_call: { arguments: '{"city":' } }),
    chunkOf(0, { function_call: { arguments: '"Łódź"}' } }),
    chunkOf(0, {}, { finish_reason: 'function_call' })
  ]
  t.same(JSON.parse(JSON.stringify(assemble(chunks))), await bySdk(chunks))
})

t.test('thoughts are kept whole, whatever their field is called', async t => {
  for (const field of ['reasoning', 'reasoning_content']) {
    const chunks = ['Let', ' me', ' think'].map(piece => chunkOf(0, { [field]: piece }))
    t.match(assemble(chunks), { choices: [{ message: { [field]: 'Let me think', content: null } }] })
  }
  const details = ['a', 'b'].map(piece => chunkOf(0, { reasoning_details: [{ type: 'reasoning.text', text: piece }] }))
  t.match(assemble(details), { choices: [{ message: { reasoning_details: [{ text: 'a' }, { text: 'b' }] } }] })
})

t.test('usage comes once, whatever follows it', async t => {
  t.match(assemble([chunkOf(0, { content: 'a' }), { ...head, choices: [], usage: { total_tokens: 3 } }, chunkOf(0, {})]), {
    usage: { total_tokens: 3 }
  })
})

t.test("what is no chunk is the upstream's fault, and leaves nothing behind that is not the answer", async t => {
  for (const chunk of [
    null,
    'text',
    [],
    { choices: 'x' },
    chunkOf(1e9, {}),
    chunkOf(-1, {}),
    chunkOf(0, { tool_calls: [{ index: 4_000 }] })
  ])
    t.throws(() => assemble([chunk]), { code: 'upstream_broke' }, JSON.stringify(chunk))
  t.throws(() => assemble([]), { code: 'upstream_broke' })
  const polluting = JSON.parse('{"choices":[{"index":0,"delta":{"__proto__":{"polluted":true}}}],"__proto__":{"polluted":true}}')
  assemble([polluting, { ...polluting, id: 'x' }])
  t.equal(({} as Json).polluted, undefined)
})

t.test('an answer of more than 64 MiB is given up, wherever it grows', async t => {
  const piece = 'x'.repeat(1024 * 1024)
  const forms = [
    chunkOf(0, { content: piece }),
    chunkOf(0, { reasoning: piece }),
    chunkOf(0, { tool_calls: [{ index: 0, function: { arguments: piece } }] }),
    chunkOf(0, {}, { logprobs: { content: [{ token: piece }] } })
  ]
  for (const form of forms) {
    const assembler = createAssembler()
    for (let count = 0; count < 62; count++) assembler.chunk(form)
    t.throws(
      () => {
        for (let count = 0; count < 3; count++) assembler.chunk(form)
      },
      { code: 'upstream_broke' }
    )
  }
})
