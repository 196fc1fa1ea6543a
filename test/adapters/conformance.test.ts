// What every adapter promises, whatever it speaks to. A new file in adapters/ needs an entry in `fakes` (fakes.ts) and nothing else.

import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import t, { type Test } from 'tap'
import { adapterNames } from '../../adapters/shared/scan.ts'
import { readChatRequest } from '../../gateway/dialects/openai-chat.ts'
import { readCompletionRequest } from '../../gateway/dialects/openai-completions.ts'
import type { Adapter, ModelRequest } from '../../routing/types.ts'
import { until } from '../support/wait.ts'
import { adapterFor, asBytes, type Call, faultsOf, knobs, nobody, start } from './conformance.ts'
import { type Fake, fakes, type Streamed } from './fakes.ts'

/** What the gateway hands out, by operation. */
const forms = {
  chat: {
    object: 'chat.completion',
    chunkObject: 'chat.completion.chunk',
    said: (choice: Json | undefined) => ((choice?.delta ?? choice?.message) as { content?: string | null } | undefined)?.content ?? ''
  },
  complete: {
    object: 'text_completion',
    chunkObject: 'text_completion',
    said: (choice: Json | undefined) => String(choice?.text ?? '')
  }
}

const streamed = { stream: true, stream_options: { include_usage: true } }
const chatBody = { model: 'm', messages: [{ role: 'user', content: 'hi' }] }
const completionBody = { model: 'm', prompt: 'hi', max_tokens: 50 }

/** The requests of these tests, by operation. */
const requests: Readonly<Record<Streamed, { readonly stream: ModelRequest; readonly whole: ModelRequest }>> = {
  chat: {
    stream: readChatRequest(asBytes({ ...chatBody, ...streamed }), knobs).request,
    whole: readChatRequest(asBytes(chatBody), knobs).request
  },
  complete: {
    stream: await readCompletionRequest(asBytes({ ...completionBody, ...streamed }), knobs),
    whole: await readCompletionRequest(asBytes(completionBody), knobs)
  }
}

const words = ['Hello', ' größe', ' 中文', ' 😀']

type Behaviour = 'answer' | 'silent' | 'endless' | 'cut before a word' | 'cut after a word' | 'nonsense' | number

/** A provider that behaves like this. */
async function serve(t: Test, fake: Fake, behaviour: Behaviour): Promise<{ baseUrl: string; open: () => number; calls: () => number }> {
  let open = 0
  let calls = 0
  const server = createServer((request, response) => {
    calls++
    open++
    response.on('close', () => open--)
    let text = ''
    request.on('data', chunk => {
      text += chunk
    })
    request.on('end', () => {
      if (typeof behaviour === 'number') return void response.writeHead(behaviour, { 'content-type': 'application/json' }).end(fake.refusal)
      if (behaviour === 'silent') return
      if (behaviour === 'nonsense') return void response.writeHead(200, { 'content-type': 'text/html' }).end('<html>It works!</html>')
      const isStream = fake.whole === null || JSON.parse(text).stream === true
      const pieces = fake.pieces(words)
      if (behaviour === 'answer' && !isStream) {
        return void response.writeHead(200, { 'content-type': 'application/json' }).end(fake.whole?.(words))
      }
      response.writeHead(200, { 'content-type': isStream ? fake.streamType : 'application/json' })
      if (behaviour === 'answer') {
        for (const piece of pieces) response.write(piece)
        return void response.end()
      }
      const sent = pieces.slice(0, behaviour === 'cut before a word' ? fake.firstWord : fake.firstWord + 1)
      if (!isStream) response.write('{"choices":')
      else for (const piece of sent) response.write(piece)
      if (behaviour === 'endless' && isStream) {
        const again = setInterval(() => response.write(pieces[fake.firstWord]), 1)
        response.on('close', () => clearInterval(again))
      } else if (behaviour !== 'endless') setTimeout(() => response.destroy(), 20)
    })
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    server.closeAllConnections()
    return new Promise(resolve => server.close(resolve))
  })
  const baseUrl = `http://127.0.0.1:${(server.address() as AddressInfo).port}${fake.basePath}`
  return { baseUrl, open: () => open, calls: () => calls }
}

type Json = Record<string, unknown>

/** The chunks of whole events; comments are events too. Throws on anything else. */
function chunksOf(frames: readonly Buffer[]): Json[] {
  return frames.flatMap(block => {
    const text = block.toString('utf8')
    if (text.includes('\ufffd')) throw new Error(`half a character: ${text}`)
    if (!/(\n\n|\r\n\r\n)$/.test(text)) throw new Error(`not whole events: ${JSON.stringify(text)}`)
    return text
      .split(/\r?\n\r?\n/)
      .filter(event => event !== '' && !event.startsWith(':'))
      .map(event => {
        if (!event.startsWith('data:') || event.includes('\n')) throw new Error(`no data: ${event}`)
        return JSON.parse(event.slice(5)) as Json
      })
  })
}

const textOf = (operation: Streamed, chunks: readonly Json[]) =>
  chunks.map(({ choices }) => forms[operation].said((choices as Json[])[0])).join('')

t.test('every adapter has a fake here, and every fake an adapter', async t => {
  t.same(adapterNames(), Object.keys(fakes).sort())
})

for (const [name, operation] of Object.keys(fakes).flatMap(name => [[name, 'chat'] as const, [name, 'complete'] as const])) {
  const fake = fakes[name]?.[operation] ?? null
  const form = forms[operation]
  t.test(`${name}: ${operation}`, async t => {
    const adapter = await adapterFor(t, name)
    const begin = (adapter: Adapter, { stream, ...call }: { readonly stream: boolean } & Omit<Call, 'operation' | 'request'>) =>
      start(adapter, { ...call, operation, request: requests[operation][stream ? 'stream' : 'whole'] })
    /** A provider that behaves like this, or none where there is none. */
    const up = async (t: Test, behaviour: Behaviour) =>
      fake === null ? { baseUrl: '', open: () => 0, calls: () => 0 } : await serve(t, fake, behaviour)

    t.test('is called what its file is', async t => {
      t.equal(adapter.name, name)
    })

    t.test('says the same streamed and whole, in whole events that parse', async t => {
      const { baseUrl } = await up(t, 'answer')
      const stream = begin(adapter, { baseUrl, stream: true })
      await stream.ended
      const whole = begin(adapter, { baseUrl, stream: false })
      await whole.ended
      t.same([...faultsOf(stream, true), ...faultsOf(whole, false)], [])
      t.match([stream.end, whole.end], [{ ok: true }, { ok: true }])
      const chunks = chunksOf(stream.frames)
      const answer = JSON.parse(String(whole.body)) as {
        choices: Json[]
        usage: Json
      }
      const said = form.said(answer.choices[0])
      t.match(answer, { object: form.object, choices: [{ index: 0, finish_reason: 'stop' }] })
      if (operation === 'chat') t.match(answer.choices, [{ message: { role: 'assistant' } }])
      t.ok(said.length > 10)
      if (fake !== null) t.equal(said, words.join(''))
      t.equal(textOf(operation, chunks), said)
      for (const chunk of chunks) t.match(chunk, { object: form.chunkObject, choices: [{ index: 0 }] })
      for (const chunk of chunks) t.hasProp((chunk.choices as [object])[0], operation === 'chat' ? 'delta' : 'text')
      t.match(chunks.at(-1), { choices: [{ finish_reason: 'stop' }] })
      t.ok(stream.tokens >= (fake === null ? 2 : words.length), `${stream.tokens} tokens`)
      t.notMatch(Buffer.concat(stream.frames).toString(), /\[DONE\]/)
    })

    t.test('gives its figures once, before its end, and for a stream as an event in OpenAI’s form', async t => {
      const { baseUrl } = await up(t, 'answer')
      const stream = begin(adapter, { baseUrl, stream: true })
      const whole = begin(adapter, { baseUrl, stream: false })
      await Promise.all([stream.ended, whole.ended])
      t.same(stream.calls.slice(-2), ['usage', 'end'])
      t.equal(whole.usageEvent, null)
      const [event, ...more] = chunksOf(stream.usageEvent === null ? [] : [stream.usageEvent])
      t.equal(more.length, 0)
      t.match(event, { object: form.chunkObject, choices: [], usage: { prompt_tokens: stream.usage?.promptTokens } })
      t.strictSame(event?.choices, [])
      t.ok((stream.usage?.promptTokens ?? 0) > 0)
      t.equal(stream.usage?.promptTokens, whole.usage?.promptTokens)
    })

    t.test('never ends before its call has returned', async t => {
      for (const stream of [true, false]) {
        const heard = begin(adapter, { baseUrl: 'http://127.0.0.1:9', stream })
        t.same(
          heard.calls.filter(call => call !== 'end'),
          [],
          'nothing is told within the call'
        )
        heard.handle.abort()
        await heard.ended
        t.same(faultsOf(heard, stream), [])
      }
    })

    t.test('an abort ends it at once and once, closes the upstream, and is safe twice', async t => {
      for (const stream of [true, false]) {
        const { baseUrl, open, calls } = await up(t, stream ? 'endless' : 'silent')
        const early = begin(adapter, { baseUrl, stream })
        early.handle.abort()
        early.handle.abort()
        await early.ended
        // The demo would be through before anybody could leave.
        const running = begin(adapter, { baseUrl, stream, told: ({ tokens }) => fake !== null || tokens === 0 })
        if (fake !== null) await until('the call to arrive', () => calls() > 0)
        if (stream) await until('the first words', () => running.tokens > 0)
        running.handle.abort()
        const told = running.calls.length
        running.handle.abort()
        running.handle.resume()
        await running.ended
        await until('the upstream to be closed', () => open() === 0)
        await new Promise(resolve => setImmediate(resolve))
        t.equal(running.calls.length, told)
        for (const heard of [early, running]) {
          t.same(faultsOf(heard, stream), [])
          t.match(heard.end, { ok: false, error: { code: 'client_gone' } })
        }
        if (fake !== null) t.equal(running.end?.ok === false && running.end.sent, true)
      }
    })

    t.test('an abort from within what it tells is heard at once', async t => {
      const { baseUrl, open } = await up(t, fake === null ? 'answer' : 'endless')
      const heard = begin(adapter, {
        baseUrl,
        stream: true,
        told(heard, what) {
          if (what === 'frames' && heard.tokens > 0) heard.handle.abort()
          return true
        }
      })
      await heard.ended
      await until('the upstream to be closed', () => open() === 0)
      t.same(faultsOf(heard, true), [])
      t.match(heard.end, { ok: false, error: { code: 'client_gone' } })
    })

    t.test('an abort after its end changes nothing', async t => {
      const { baseUrl } = await up(t, 'answer')
      for (const stream of [true, false]) {
        const heard = begin(adapter, { baseUrl, stream })
        await heard.ended
        heard.handle.abort()
        heard.handle.resume()
        await new Promise(resolve => setImmediate(resolve))
        t.same(faultsOf(heard, stream), [])
        t.match(heard.end, { ok: true })
      }
    })

    t.test('a reader that is full is waited for, and then hears the rest', async t => {
      const { baseUrl } = await up(t, 'answer')
      const heard = begin(adapter, { baseUrl, stream: true, told: () => false })
      await until('the answer to be whole', () => {
        heard.handle.resume()
        return heard.end
      })
      const free = begin(adapter, { baseUrl, stream: true })
      await free.ended
      t.same(faultsOf(heard, true), [])
      t.equal(textOf(operation, chunksOf(heard.frames)), textOf(operation, chunksOf(free.frames)))
    })

    if (fake === null) return

    t.test('where nobody listens nothing was sent', async t => {
      for (const stream of [true, false]) {
        const heard = begin(adapter, { baseUrl: await nobody(fake), stream })
        await heard.ended
        t.same(faultsOf(heard, stream), [])
        t.match(heard.end, { ok: false, sent: false, error: { code: 'upstream_unavailable', cause: { code: 'ECONNREFUSED' } } })
      }
    })

    t.test('a status becomes an error of ours, and something was sent', async t => {
      const cases: readonly [status: number, code: string][] = [
        [400, 'upstream_refused'],
        [401, 'upstream_denied'],
        [403, 'upstream_denied'],
        [404, 'upstream_lacks_model'],
        [429, 'upstream_rate_limited'],
        [500, 'upstream_unavailable']
      ]
      for (const [status, code] of cases) {
        for (const stream of [true, false]) {
          const { baseUrl } = await up(t, status)
          const heard = begin(adapter, { baseUrl, stream })
          await heard.ended
          t.same(faultsOf(heard, stream), [], String(status))
          t.match(heard.end, { ok: false, sent: true, error: { code } }, String(status))
        }
      }
    })

    t.test('what is no answer, though its status says so, is a failure', async t => {
      for (const stream of [true, false]) {
        const { baseUrl } = await up(t, 'nonsense')
        const heard = begin(adapter, { baseUrl, stream })
        await heard.ended
        t.same(faultsOf(heard, stream), [])
        t.match(heard.end, { ok: false, sent: true, error: { code: 'upstream_unavailable' } })
      }
    })

    t.test('an answer that breaks off is another target’s before its first word, and broken after it', async t => {
      const cases: readonly [behaviour: Behaviour, stream: boolean, code: string][] = [
        ['cut before a word', true, 'upstream_unavailable'],
        ['cut after a word', true, 'upstream_broke'],
        ['cut before a word', false, 'upstream_unavailable'],
        ['cut after a word', false, 'upstream_unavailable']
      ]
      for (const [behaviour, stream, code] of cases) {
        const { baseUrl } = await up(t, behaviour)
        const heard = begin(adapter, { baseUrl, stream })
        await heard.ended
        t.same(faultsOf(heard, stream), [], String(behaviour))
        t.match(heard.end, { ok: false, sent: true, error: { code } }, `${behaviour}, ${stream ? 'streamed' : 'whole'}`)
        if (behaviour === 'cut after a word' && stream) t.equal(textOf(operation, chunksOf(heard.frames)), words[0])
      }
    })

    t.test('silence has an end, and so has an answer without one', async t => {
      for (const stream of [true, false]) {
        const silent = await up(t, 'silent')
        const heard = begin(adapter, { baseUrl: silent.baseUrl, stream, timeouts: { firstTokenMs: 50 } })
        await heard.ended
        t.same(faultsOf(heard, stream), [])
        t.match(heard.end, { ok: false, sent: true, error: { code: 'upstream_unavailable', status: 504 } })
        await until('the upstream to be closed', () => silent.open() === 0)
      }
      const endless = await up(t, 'endless')
      const heard = begin(adapter, { baseUrl: endless.baseUrl, stream: true, timeouts: { totalMs: 200 } })
      await heard.ended
      t.same(faultsOf(heard, true), [])
      t.match(heard.end, { ok: false, error: { code: 'upstream_broke' } })
      await until('the upstream to be closed', () => endless.open() === 0)
    })
  })
}
