import t from 'tap'
import { type WholeAnswer, wholeCall } from '../../adapters/shared/whole.ts'
import { readEmbeddingRequest } from '../../gateway/dialects/openai-embeddings.ts'
import type { ExchangeObserver, Outbound } from '../../outbound/client.ts'
import { GatewayError } from '../../routing/errors.ts'
import type { AttemptEnd, AttemptHandle, Usage } from '../../routing/types.ts'
import { asBytes, knobs, targetOf } from './attempts.ts'

const request = await readEmbeddingRequest(asBytes({ model: 'm', input: 'a' }), knobs)
const usage: Usage = { promptTokens: 1, completionTokens: 0, cachedTokens: 0, reasoningTokens: 0, providerNanoUsd: null, busyMs: null }

/** A call whose whole answer is read like this; `onUsage` hears of the figures before the body. */
function hear(read: () => WholeAnswer, onUsage: (handle: AttemptHandle) => void = () => {}) {
  const heard: { calls: string[]; end: AttemptEnd | null; aborted: number } = { calls: [], end: null, aborted: 0 }
  let upstream: ExchangeObserver | null = null
  const outbound: Outbound = {
    send(_request, observer) {
      upstream = observer
      return { sent: true, resume() {}, abort: () => void heard.aborted++ }
    },
    fetchText: () => Promise.reject(new Error('not here')),
    close: () => Promise.resolve()
  }
  const handle = wholeCall(
    {
      outbound,
      where: 'up',
      request: () => ({ origin: 'http://up', path: '/', method: 'POST', headers: {}, body: null, connectMs: 1 }),
      failure: status => new GatewayError('upstream_refused', String(status)),
      read
    },
    { id: 'a', request, target: targetOf('openai', 'http://up') },
    {
      frames: () => true,
      body: () => void heard.calls.push('body'),
      usage() {
        heard.calls.push('usage')
        onUsage(handle)
      },
      end(end) {
        heard.calls.push('end')
        heard.end = end
      }
    }
  )
  const exchange = upstream as ExchangeObserver | null
  if (exchange === null) throw new Error('nothing was sent')
  exchange.head(200, { 'content-type': 'application/json; charset=utf-8' })
  exchange.data(Buffer.from('{}'))
  exchange.end()
  return heard
}

const good: WholeAnswer = { usage, result: { body: Buffer.from('{}'), dimensions: 3 } }

t.test('a good answer is told as figures, body and end', async t => {
  const heard = hear(() => good)
  t.same(heard.calls, ['usage', 'body', 'end'])
  t.same(heard.end, { ok: true, dimensions: 3 })
})

t.test('a useless answer has its figures told all the same', async t => {
  const heard = hear(() => ({ usage, result: new GatewayError('upstream_unavailable', 'no') }))
  t.same(heard.calls, ['usage', 'end'])
  t.match(heard.end, { ok: false, sent: true, error: { message: 'no' } })
})

t.test('whoever calls it off when hearing the figures hears no body', async t => {
  const heard = hear(
    () => good,
    handle => handle.abort()
  )
  t.same(heard.calls, ['usage', 'end'])
  t.match(heard.end, { ok: false, error: { code: 'client_gone' } })
})

t.test('an answer too deep or too long to be written again is the upstream’s failure; another error is ours', async t => {
  const heard = hear(() => {
    throw new RangeError('Maximum call stack size exceeded')
  })
  t.match(heard.end, { ok: false, sent: true, error: { code: 'upstream_unavailable' } })
  const fault = hear(() => {
    throw new TypeError('a bug')
  })
  t.match(fault.end, { ok: false, sent: true, error: { code: 'internal_error' } })
})
