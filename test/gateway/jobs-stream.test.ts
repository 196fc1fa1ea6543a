// Following a job: the form of its events, their pace, and every way in which it can end.

import { createServer, request as httpRequest, type IncomingMessage } from 'node:http'
import t, { type Test } from 'tap'
import type { RequestContext } from '../../gateway/context.ts'
import { follow } from '../../gateway/jobs/follow.ts'
import type { OpenStream, Streams } from '../../gateway/streams.ts'
import type { JobEvent, JobWatch } from '../../queue/types.ts'
import { GatewayError } from '../../routing/errors.ts'
import { until } from '../support/wait.ts'
import { aliceKey, nowMs, recordOf, serving } from './jobs-support.ts'

const at = new Date(nowMs)
const queued: JobEvent = { type: 'status', status: 'queued', outlook: { position: 3, etaMs: { p50: 1_200, p90: 2_400 } } }
const attempt = (no: number): JobEvent => ({ type: 'attempt', id: { attempt: no, seq: 0 }, at })
const chunk = (seq: number, json: string): JobEvent => ({ type: 'chunk', id: { attempt: 1, seq }, json })

/** A watch that gives what is pushed, in batches; null is the end. */
function pushed(): {
  watch: JobWatch
  push: (events: readonly JobEvent[] | null) => void
  fail: (error: unknown) => void
  closed: () => number
} {
  const waiting: PromiseWithResolvers<readonly JobEvent[] | null>[] = []
  let given = 0
  let taken = 0
  let closed = 0
  const slot = (index: number): PromiseWithResolvers<readonly JobEvent[] | null> => {
    const known = waiting[index] ?? Promise.withResolvers<readonly JobEvent[] | null>()
    waiting[index] = known
    return known
  }
  return {
    watch: {
      next: () => slot(taken++).promise,
      close: () => {
        closed++
      }
    },
    push: events => slot(given++).resolve(events),
    fail(error) {
      const { promise, reject } = slot(given++)
      // Nobody may be waiting for it yet.
      promise.catch(() => {})
      reject(error)
    },
    closed: () => closed
  }
}

/** Opens the stream without reading a byte of it. */
function open(t: Test, url: string, path: string): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    const request = httpRequest(`${url}${path}`, { headers: { authorization: `Bearer ${aliceKey}` } }, resolve)
    request.on('error', reject)
    t.teardown(() => request.destroy())
    request.end()
  })
}

t.test('the events of a job, from its place in the queue to its result', async t => {
  const { ask, jobs } = await serving(t)
  const result = Buffer.from('{"object":\n"chat.completion"}')
  const job = jobs.put(recordOf({ status: 'done', stream: true, startedAt: at, finishedAt: at, result }))
  const { watch, push, closed } = pushed()
  jobs.watchBy(() => watch)
  push([queued])
  push([attempt(1), chunk(1, '{"object":"chat.completion.chunk"}'), chunk(2, '{"b":\n2}')])
  push([attempt(2)])
  push([
    { type: 'result', id: { attempt: 2, seq: 1 }, job },
    { type: 'end', id: { attempt: 2, seq: 2 }, status: 'done', at }
  ])
  push(null)
  const response = await ask('GET', `/v1/jobs/${job.id}/stream`)
  t.equal(response.statusCode, 200)
  t.match(Object.fromEntries(response.headers), {
    'content-type': 'text/event-stream; charset=utf-8',
    'cache-control': 'no-cache, no-transform',
    'x-accel-buffering': 'no',
    'x-request-id': /^[0-9a-f-]{36}$/
  })
  const ts = '"ts":"2026-11-20T09:30:00.000Z"'
  const events = response.body.split('\n\n')
  t.same(events.slice(0, 5), [
    `event: status\ndata: {"type":"status","status":"queued","position":3,"eta_ms":{"p50":1200,"p90":2400},${ts}}`,
    `event: attempt\nid: 1-0\ndata: {"type":"attempt","attempt":1,${ts}}`,
    'id: 1-1\ndata: {"object":"chat.completion.chunk"}',
    'id: 1-2\ndata: {"b": 2}',
    `event: attempt\nid: 2-0\ndata: {"type":"attempt","attempt":2,${ts}}`
  ])
  const [head, data = ''] = (events[5] ?? '').split('\ndata: ')
  t.equal(head, 'event: result\nid: 2-1')
  t.match(JSON.parse(data), { id: job.id, object: 'job', status: 'done', result: { object: 'chat.completion' } })
  t.same(events.slice(6), [`event: end\nid: 2-2\ndata: {"type":"end","status":"done",${ts}}`, ''])
  t.equal(closed(), 1)
})

t.test('a large result is read by itself, and arrives as one event', async t => {
  const { ask, jobs, streams } = await serving(t)
  const text = 'x'.repeat(3 * 1024 * 1024)
  const job = jobs.put(recordOf({ status: 'done', finishedAt: at, resultBytes: text.length + 2 }))
  jobs.large.set(job.id, Buffer.from(JSON.stringify(text)))
  const { watch, push } = pushed()
  jobs.watchBy(() => watch)
  push([
    { type: 'result', id: { attempt: 1, seq: 1 }, job },
    { type: 'end', id: { attempt: 1, seq: 2 }, status: 'done', at }
  ])
  push(null)
  const { body } = await ask('GET', `/v1/jobs/${job.id}/stream`)
  const events = body.split('\n\n')
  t.equal(events.length, 3)
  t.match(JSON.parse(events[0]?.split('\ndata: ')[1] ?? ''), { id: job.id, result: text })
  t.equal(jobs.held(), 0)
  await until('it to be over', () => streams.size === 0)
})

t.test('nothing comes into the middle of a large result, and who leaves in it lets go of it', async t => {
  const { url, jobs, streams } = await serving(t)
  const job = jobs.put(recordOf({ status: 'done', finishedAt: at, resultBytes: 1 }))
  jobs.large.set(job.id, Buffer.from(JSON.stringify('x'.repeat(64 * 1024 * 1024))))
  for (const leave of ['the client', 'the gateway']) {
    const { watch, push, closed } = pushed()
    jobs.watchBy(() => watch)
    push([{ type: 'result', id: { attempt: 1, seq: 1 }, job }])
    const response = await open(t, url, `/v1/jobs/${job.id}/stream`)
    t.equal(jobs.held(), 1, leave)
    if (leave === 'the client') response.destroy()
    else streams.endAll(new GatewayError('server_draining', 'The gateway is shutting down.'))
    await until('it to be let go of', () => jobs.held() === 0 && closed() === 1)
    if (leave === 'the client') continue
    let text = ''
    for await (const piece of response) text += piece
    t.match(text, /xxx$/, 'an event without an end is none')
  }
})

t.test('who comes back after the end is told that there is nothing more, and a failure before the first event by its status', async t => {
  const { ask, jobs } = await serving(t)
  const path = `/v1/jobs/${jobs.put(recordOf()).id}/stream`
  t.equal((await ask('GET', path)).statusCode, 204)
  const { watch, fail } = pushed()
  jobs.watchBy(() => watch)
  fail(new GatewayError('no_capacity', 'Too much.', { retryAfterMs: 1_000 }))
  const refused = await ask('GET', path)
  t.equal(refused.statusCode, 503)
  t.equal(refused.headers.get('retry-after'), '1')
  t.match(refused.json(), { error: { code: 'no_capacity' } })
})

t.test('a stream goes on after the last event that was read', async t => {
  const { ask, jobs } = await serving(t)
  const { id } = jobs.put(recordOf())
  const url = `/v1/jobs/${id}/stream`
  await ask('GET', url)
  await ask('GET', url, { headers: { 'last-event-id': '2-17' } })
  await ask('GET', `${url}?last_event_id=0-0`)
  await ask('GET', `${url}?last_event_id=1-1`, { headers: { 'last-event-id': '1-2147483647' } })
  t.same(jobs.watched, [
    { id, after: null },
    { id, after: { attempt: 2, seq: 17 } },
    { id, after: { attempt: 0, seq: 0 } },
    { id, after: { attempt: 1, seq: 2_147_483_647 } }
  ])
})

t.test('an event id that is none is refused', async t => {
  const { ask, jobs } = await serving(t)
  const url = `/v1/jobs/${jobs.put(recordOf()).id}/stream`
  for (const value of ['', '1', '1-', '-1', '1-2-3', 'a-b', '1-2147483648', '99999999999-1', '1.0-1', "1-1' or 1=1", '+1-1', '1-1, 1-2']) {
    for (const [path, headers] of [
      [url, { 'last-event-id': value }],
      [`${url}?last_event_id=${encodeURIComponent(value)}`, {}]
    ] as const) {
      const response = await ask('GET', path, { headers })
      t.equal(response.statusCode, 400, value)
      t.match(response.json(), { error: { param: 'last_event_id', code: 'invalid_value' } })
    }
  }
  t.equal((await ask('GET', `${url}?last_event_id=1-1&last_event_id=1-2`)).statusCode, 400)
  t.same(jobs.watched, [])
})

t.test('a stream is never asked for without being read', async t => {
  const { ask, jobs } = await serving(t)
  const response = await ask('HEAD', `/v1/jobs/${jobs.put(recordOf()).id}/stream`)
  t.ok(response.statusCode >= 404, String(response.statusCode))
  t.same(jobs.watched, [])
})

t.test('nothing is fetched ahead of a reader that does not read', async t => {
  const { url, jobs } = await serving(t)
  let asked = 0
  const json = JSON.stringify('x'.repeat(1024 * 1024))
  // With an end, so that a writer that does not wait fills no memory.
  jobs.watchBy(() => ({ next: async () => (asked < 200 ? [chunk(++asked, json)] : null), close() {} }))
  const response = await open(t, url, `/v1/jobs/${jobs.put(recordOf()).id}/stream`)
  const turns = async (): Promise<void> => {
    for (let turn = 0; turn < 200; turn++) await new Promise(setImmediate)
  }
  const stopped = async (): Promise<boolean> => {
    const before = asked
    await turns()
    return asked > 0 && asked === before
  }
  await until('it to stop', stopped)
  const ahead = asked
  t.ok(ahead < 64, `${ahead} MiB ahead`)
  response.resume()
  await until('it to go on', () => asked > ahead)
  response.destroy()
})

t.test('a reader that leaves is watched for no longer', async t => {
  const { url, jobs, streams } = await serving(t)
  const { watch, push, closed } = pushed()
  jobs.watchBy(() => watch)
  push([queued])
  const response = await open(t, url, `/v1/jobs/${jobs.put(recordOf()).id}/stream`)
  await until('it to be open', () => streams.size === 1)
  response.destroy()
  await until('it to be closed', () => closed() === 1)
  t.equal(streams.size, 0)
  push([attempt(1)])
})

t.test('a failure on the way is the last event, and no clean end', async t => {
  const { ask, jobs } = await serving(t)
  const { watch, push, fail, closed } = pushed()
  jobs.watchBy(() => watch)
  push([attempt(1)])
  fail(new GatewayError('database_unavailable', 'The database is away.'))
  const response = await ask('GET', `/v1/jobs/${jobs.put(recordOf()).id}/stream`)
  t.equal(response.statusCode, 200)
  t.match(response.body, /^event: attempt\nid: 1-0\ndata: [^\n]*\n\nevent: error\ndata: [^\n]*\n\n$/)
  t.match(JSON.parse(response.body.split('event: error\ndata: ')[1] ?? ''), {
    error: { code: 'database_unavailable', message: 'The database is away.' }
  })
  t.equal(closed(), 1)
})

t.test('what nobody foresaw is told without its text', async t => {
  const { ask, jobs } = await serving(t)
  const { watch, fail } = pushed()
  jobs.watchBy(() => watch)
  fail(new Error('secret'))
  const { body } = await ask('GET', `/v1/jobs/${jobs.put(recordOf()).id}/stream`)
  t.match(body, /"code":"internal_error"/)
  t.notMatch(body, /secret/)
})

t.test('when the gateway goes down, the stream says so', async t => {
  const { ask, jobs, streams } = await serving(t)
  const { watch, push, closed } = pushed()
  jobs.watchBy(() => watch)
  push([attempt(1)])
  const answer = ask('GET', `/v1/jobs/${jobs.put(recordOf()).id}/stream`)
  await until('it to be open', () => streams.size === 1)
  streams.endAll(new GatewayError('server_draining', 'The gateway is shutting down.'))
  t.match((await answer).body, /event: error\ndata: {"error":{"message":"The gateway is shutting down\.",[^\n]*\n\n$/)
  t.equal(closed(), 1)
  await until('it to be gone', () => streams.size === 0)
})

/** One stream on a server of its own, whose clock is in the test's hands. */
async function ticking(t: Test, watch: JobWatch): Promise<{ clock: OpenStream; response: IncomingMessage }> {
  const open: OpenStream[] = []
  const streams = { add: (stream: OpenStream) => open.push(stream), remove() {} } as unknown as Streams
  const server = createServer((_request, response) => {
    const context = { id: 'the-id', startedAt: performance.now(), headers: {}, error: null } as unknown as RequestContext
    follow({ response, context, streams, watch, result: async () => ({ bytes: Buffer.alloc(0), release() {} }), now: () => nowMs })
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  const { port } = server.address() as { port: number }
  const answered = new Promise<IncomingMessage>((resolve, reject) =>
    httpRequest({ port, host: '127.0.0.1' }, resolve).on('error', reject).end()
  )
  const clock = await until('it to be opened', () => open[0])
  // Nothing happens to the job: its headers come all the same.
  clock.tick(performance.now() + 1_500)
  const response = await answered
  response.on('error', () => {})
  return { clock, response }
}

t.test('a silent stream is kept alive by comments', async t => {
  const { watch } = pushed()
  const { clock, response } = await ticking(t, watch)
  let text = ''
  response.setEncoding('utf8').on('data', piece => (text += piece))
  const openedAt = performance.now()
  clock.tick(openedAt + 11_000)
  clock.tick(openedAt + 13_000)
  await until('a comment', () => text !== '')
  t.equal(text, ': keep-alive\n\n')
})

t.test('a reader that takes nothing for 30 s is cut', async t => {
  const { watch, push, closed } = pushed()
  const { clock } = await ticking(t, watch)
  push(Array.from({ length: 64 }, (_, at) => chunk(at + 1, JSON.stringify('x'.repeat(1024 * 1024)))))
  push(null)
  const began = performance.now()
  let ms = 0
  await until('it to be cut', () => {
    clock.tick(began + (ms += 10_000))
    return closed() === 1
  })
  t.ok(ms >= 30_000, `after ${ms} ms`)
})
