// Slow first tokens and long silences: headers go out after ten seconds, and a comment at least every fifteen.

import type { ServerResponse } from 'node:http'
import t from 'tap'
import { createDatabase } from '../support/cluster.ts'
import { startGateway } from '../support/gateway.ts'
import { startCompatible, wholeStream } from '../support/upstream.ts'
import { until } from '../support/wait.ts'

t.test('a silent stream is kept alive, and its failure is still told', async t => {
  const database = await createDatabase(t)
  const upstream = await startCompatible(t)
  const gateway = await startGateway(t, {
    databaseUrl: database.url,
    config: { providers: { openai: { base_url: `${upstream.origin}/v1`, api_key: 'sk-openai-0000000000' } } }
  })
  const held = new Map<string, ServerResponse>()
  upstream.behaviour = (call, response) => {
    held.set((call.body.messages as { content: string }[])[0]?.content ?? '', response)
  }

  /** Reads the stream of a request, whose upstream says nothing until two comments have come. */
  async function read(content: string, answer: (response: ServerResponse) => void) {
    const beganAt = performance.now()
    const json = { model: 'openai/gpt-4o-mini', stream: true, messages: [{ role: 'user', content }] }
    const response = await gateway.fetch('/v1/chat/completions', { json })
    const headersAfterMs = performance.now() - beganAt
    const decoder = new TextDecoder()
    let text = ''
    let heardAt = performance.now()
    let longestSilenceMs = 0
    for await (const piece of response.body ?? []) {
      longestSilenceMs = Math.max(longestSilenceMs, performance.now() - heardAt)
      heardAt = performance.now()
      text += decoder.decode(piece as Uint8Array, { stream: true })
      const waiting = held.get(content)
      if (waiting === undefined || (text.match(/^: /gm) ?? []).length < 2) continue
      held.delete(content)
      answer(waiting)
    }
    return { status: response.status, text, headersAfterMs, longestSilenceMs }
  }

  await until('the list', async () => (await (await gateway.fetch('/v1/models')).text()).includes('gpt-4o-mini'))
  const [well, badly] = await Promise.all([
    read('well', response => {
      response.writeHead(200, { 'content-type': 'text/event-stream' })
      response.end(wholeStream('late').join(''))
    }),
    read('badly', response => {
      response.writeHead(500)
      response.end('{}')
    })
  ])
  for (const { status, headersAfterMs, longestSilenceMs } of [well, badly]) {
    t.equal(status, 200)
    t.ok(headersAfterMs < 13_000, `headers after ${Math.round(headersAfterMs)} ms`)
    t.ok(longestSilenceMs < 15_000, `${Math.round(longestSilenceMs)} ms of silence`)
  }
  t.match(well.text, /^: keep-alive\n\n: keep-alive\n\ndata: \{/)
  t.match(well.text, /"late"[\s\S]*data: \[DONE\]\n\n$/)
  t.match(badly.text, /data: \{"error":\{[^\n]*"code":"upstream_unavailable"\}\}\n\n$/)
})
