// LangChain's OpenAI package: chat models with tools and structured output, embeddings as it sends them, legacy completions.

import { HumanMessage, type ToolMessage } from '@langchain/core/messages'
import { tool } from '@langchain/core/tools'
import { ChatOpenAI, OpenAI, OpenAIEmbeddings } from '@langchain/openai'
import { encode } from 'gpt-tokenizer/encoding/cl100k_base'
import t from 'tap'
import { z } from 'zod'
import { plainText, promptTokens } from '../../support/mind.ts'
import { callsTo, chatModels, completionModels, dimensions, embeddingModels, kinds, setStage } from '../../support/stage.ts'
import { isSame, vectorOf } from '../../support/vectors.ts'

const stage = await setStage(t)
const { gateway } = stage
t.afterEach(() => stage.reset())
const configuration = { baseURL: `${gateway.url}/v1` }
const fields = { apiKey: gateway.key, configuration, maxRetries: 0 }
const words = plainText.join('')
const texts = ['Plain text', 'Привет, мир', '東京の天気は？', 'family 👩‍👩‍👧‍👦, thumbs 👍🏽', 'mixed: naïve Łódź — ½']
const fakes = { openai: stage.openai, compatible: stage.compatible, ollama: stage.ollama }
const weather = tool(({ city }: { city: string; unit: string }) => `${city} 21`, {
  name: 'weather',
  description: 'The weather of a city',
  schema: z.object({ city: z.string(), unit: z.string() })
})

for (const kind of kinds) {
  for (const useResponsesApi of [false, true]) {
    const way = `${kind}, ${useResponsesApi ? 'responses' : 'chat'}`
    const model = new ChatOpenAI({ ...fields, model: chatModels[kind], useResponsesApi })

    t.test(`${way}: invoke`, async t => {
      const answer = await model.invoke('Hello')
      t.equal(answer.text, words)
      t.match(answer.usage_metadata, { input_tokens: promptTokens, output_tokens: 3, total_tokens: promptTokens + 3 })
    })

    t.test(`${way}: stream`, async t => {
      const pieces: string[] = []
      let figures: unknown
      for await (const piece of await model.stream('Hello')) {
        if (piece.text !== '') pieces.push(piece.text)
        figures = piece.usage_metadata ?? figures
      }
      t.same(pieces, plainText)
      t.match(figures, { input_tokens: promptTokens, output_tokens: 3 })
    })

    t.test(`${way}: two tool calls, what they answered, and the answer`, async t => {
      const bound = model.bindTools([weather])
      const question = new HumanMessage('Lisbon and Łódź?')
      const first = await bound.invoke([question])
      t.same(
        first.tool_calls?.map(({ name, args }) => [name, args]),
        [
          ['weather', { city: 'Lisbon', unit: '°C' }],
          ['weather', { city: 'Łódź', unit: '°C' }]
        ]
      )
      const results: ToolMessage[] = []
      for (const call of first.tool_calls ?? []) results.push(await weather.invoke({ ...call, type: 'tool_call' }))
      t.equal(results.length, 2)
      t.equal((await bound.invoke([question, first, ...results])).text, 'The tools said: Lisbon 21 and Łódź 21')
      // The same of a stream: pieces of calls are put together by their index.
      let whole = null
      for await (const piece of await bound.stream([question])) whole = whole === null ? piece : whole.concat(piece)
      t.same(
        whole?.tool_calls?.map(({ args }) => args),
        first.tool_calls?.map(({ args }) => args)
      )
    })

    t.test(`${way}: structured output`, async t => {
      const schema = z.object({ city: z.string(), celsius: z.number() })
      const structured = model.withStructuredOutput(schema, { name: 'weather', method: 'jsonSchema' })
      t.same(await structured.invoke('Lisbon?'), { city: 'Lisbon', celsius: 21 })
    })
  }

  t.test(`${kind}: embeddings with the class's defaults`, async t => {
    const embeddings = new OpenAIEmbeddings({ ...fields, model: embeddingModels[kind] })
    const seed = kinds.indexOf(kind) + 1
    const vectors = await embeddings.embedDocuments(texts)
    t.ok(vectors.every((vector, index) => isSame(vector, vectorOf(texts[index], dimensions, seed))))
    t.ok(isSame(await embeddings.embedQuery('Hello'), vectorOf('Hello', dimensions, seed)))
  })

  t.test(`${kind}: the legacy completions class`, async t => {
    const model = new OpenAI({ ...fields, model: completionModels[kind], maxTokens: 20 })
    t.equal(await model.invoke('Once'), ' so it goes: Once')
    let text = ''
    for await (const piece of await model.stream('Once')) text += piece
    t.equal(text, ' so it goes: Once')
    const { generations } = await model.generate(['One', 'Two'])
    t.same(
      generations.map(([first]) => first?.text),
      [' so it goes: One', ' so it goes: Two']
    )
  })

  // langchain_openai for Python splits texts into tokens by default, and sends those instead.
  t.test(`${kind}: lists of tokens, as the Python package sends them`, async t => {
    const input = texts.map(text => encode(text))
    const answer = await gateway.fetch('/v1/embeddings', {
      json: { model: embeddingModels[kind], input, encoding_format: 'base64' },
      headers: { 'user-agent': 'OpenAI/Python 1.99.0' }
    })
    t.equal(answer.status, 200)
    t.equal(((await answer.json()) as { data: unknown[] }).data.length, texts.length)
    const sent = callsTo(fakes[kind], kind === 'ollama' ? '/api/embed' : '/embeddings').at(-1)?.body.input
    t.same(sent, kind === 'openai' ? input : texts, kind === 'openai' ? 'tokens are what OpenAI reads' : 'the text they stand for')
    const one = await gateway.fetch('/v1/embeddings', { json: { model: embeddingModels[kind], input: input[1] } })
    t.equal(((await one.json()) as { data: unknown[] }).data.length, 1, 'one list of tokens is one text')
  })
}

// Long texts are cut after so many tokens, wherever in a character that is.
t.test('half a character stays with the text it belongs to, in this request and in the next one', async t => {
  const tokens = encode('京都👩‍👩‍👧‍👦')
  const cut = tokens.length - 2
  const sent = async (input: readonly (readonly number[])[]): Promise<unknown> => {
    const answer = await gateway.fetch('/v1/embeddings', { json: { model: embeddingModels.ollama, input } })
    await answer.text()
    return callsTo(stage.ollama, '/api/embed').at(-1)?.body.input
  }
  const bytes = Buffer.from('京都👩‍👩‍👧‍👦')
  const [first, second] = (await sent([tokens.slice(0, cut), encode('東京')])) as string[]
  t.equal(first, bytes.subarray(0, bytes.length - 2).toString('utf8'))
  t.equal(second, '東京')
  await sent([tokens.slice(0, cut)])
  t.same(await sent([encode('Привет')]), ['Привет'], "nobody gets another's bytes")
})

t.test('a token that the encoding does not have is the request’s own fault', async t => {
  for (const input of [[[100_277]], [[100_261]], [[1, -1]], [[1.5]], [[1], 'text']]) {
    const answer = await gateway.fetch('/v1/embeddings', { json: { model: embeddingModels.ollama, input } })
    t.equal(answer.status, 400, JSON.stringify(input))
    t.match(await answer.json(), { error: { type: 'invalid_request_error', param: /^input/ } })
  }
})
