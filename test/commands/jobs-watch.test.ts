// llm-mcp jobs watch, and submit --wait: the stream to its end over as many connections as it takes, and the exit codes.

import { once } from 'node:events'
import type { ServerResponse } from 'node:http'
import t from 'tap'
import { follow } from '../../bin/commands/jobs/follow.ts'
import { newFolder } from '../support/gateway.ts'
import { until } from '../support/wait.ts'
import { doneJob, type FakeJobs, give, id, type JobsCall, jobObject, key, sse, startJobsGateway, tell } from './jobs-gateway.ts'
import { runCommand, startCommand } from './run.ts'

const gateway = await startJobsGateway(t)
const env = { LLM_MCP_URL: gateway.url, LLM_MCP_KEY: key }
const folder = await newFolder(t)
const run = (...args: string[]) => runCommand(t, { folder, env, args: ['jobs', ...args] })
const streamPath = `/v1/jobs/${id}/stream`

/** Answers the connections to the job's stream one after the other; the calls that came. */
function streams(gateway: FakeJobs, job: object, connections: readonly ((response: ServerResponse) => void)[]): JobsCall[] {
  const calls: JobsCall[] = []
  gateway.answers.set(`GET /v1/jobs/${id}`, give(200, job))
  gateway.answers.set(`GET ${streamPath}`, (response, call) => {
    const answer = connections[calls.length]
    calls.push(call)
    if (answer === undefined) response.destroy()
    else answer(response)
  })
  return calls
}

t.test('tokens go to stdout, progress to stderr, a line for each change', async t => {
  streams(gateway, jobObject({ stream: true }), [
    response =>
      tell(response, [
        sse.status(3),
        sse.status(2),
        sse.status(2, 900),
        ': keep-alive\n\n',
        sse.attempt(1),
        sse.chunk('1-1', 'Hello'),
        sse.chunk('1-2', ' there, \u{1f600}'),
        sse.result('1-3', doneJob('Hello there, \u{1f600}')),
        sse.end('1-4', 'done')
      ])
  ])
  const ran = await run('watch', id)
  t.same([ran.code, ran.stdout], [0, 'Hello there, \u{1f600}\n'])
  t.same(ran.stderr.trimEnd().split('\n'), [
    'queued, position 3, ETA 1.2 s (at most 2.4 s, nine times of ten)',
    'queued, position 2, ETA 1.2 s (at most 2.4 s, nine times of ten)',
    'running, attempt 1',
    'done in 4.0 s, on rtx, 20 tokens, 10.0 tokens/s, $0.000012'
  ])
})

t.test('a cut connection is made again where it stopped, and nothing is shown twice', async t => {
  const calls = streams(gateway, jobObject(), [
    response => {
      tell(response, [sse.attempt(1), sse.chunk('1-1', 'Hello'), 'id: 1-2\ndata: {"half":'], true)
      setImmediate(() => response.destroy())
    },
    response => tell(response, ['event: error\ndata: {"error":{"message":"The gateway is stopping."}}\n\n']),
    response => give(503, { error: { message: 'The gateway is stopping.' } }, { 'retry-after': '0' })(response),
    response => tell(response, [sse.chunk('1-2', ' there'), sse.result('1-3', doneJob('Hello there')), sse.end('1-4', 'done')])
  ])
  const ran = await run('watch', id)
  t.same([ran.code, ran.stdout], [0, 'Hello there\n'])
  t.same(
    calls.map(({ headers }) => headers['last-event-id']),
    [undefined, '1-1', '1-1', '1-1']
  )
  const lines = ran.stderr.trimEnd().split('\n').slice(0, -1)
  t.match(lines, [/^queued/, 'running, attempt 1', /^connection lost, trying again: /, 'running, attempt 1'])
  // Accepted, and then the last words of a gateway: said as the reason.
  t.match(lines.slice(4), ['connection lost, trying again: The gateway is stopping.', 'running, attempt 1'])
})

t.test('an attempt that begins the answer again says so on a line of its own', async t => {
  streams(gateway, jobObject(), [
    response =>
      tell(response, [
        sse.attempt(1),
        sse.attempt(2),
        sse.chunk('2-1', 'Hel'),
        sse.attempt(3),
        sse.chunk('3-1', 'Hello'),
        sse.result('3-2', doneJob('Hello', { attempts: 3 })),
        sse.end('3-3', 'done')
      ])
  ])
  const ran = await run('watch', id)
  t.equal(ran.stdout, 'Hel\n--- attempt 2 did not get to its end; attempt 3 begins the answer again ---\nHello\n')
  t.match(ran.stderr, /3 attempts/)
})

t.test('without tokens the answer comes from the result: words, or JSON where there are none', async t => {
  const vectors = { object: 'list', data: [{ index: 0, embedding: [0.5] }] }
  const calls = { choices: [{ index: 0, message: { content: null, tool_calls: [{ id: 'c' }] } }] }
  const cases: [object, string][] = [
    [{}, 'The answer'],
    [{ kind: 'ollama.generate', result: { response: 'Generated', data: { response: 'Generated' } } }, 'Generated'],
    [{ kind: 'embed', result: vectors }, JSON.stringify(vectors)],
    [{ kind: 'echo', result: { response: 'x' } }, '{"response":"x"}'],
    [{ result: calls }, JSON.stringify(calls)]
  ]
  for (const [more, expected] of cases) {
    streams(gateway, jobObject(), [
      response => tell(response, [sse.attempt(1), sse.result('1-1', doneJob('The answer', more)), sse.end('1-2', 'done')])
    ])
    t.match(await run('watch', id), { code: 0, stdout: `${expected}\n` })
  }
})

t.test('a job that failed or was cancelled is exit code 1, and why', async t => {
  const error = { message: 'No machine\nhas this model.', type: 'server_error', code: 'no_capacity' }
  streams(gateway, jobObject(), [
    response => tell(response, [sse.attempt(1), sse.result('1-1', jobObject({ status: 'error', error })), sse.end('1-2', 'error')])
  ])
  t.match(await run('watch', id), { code: 1, stdout: '', stderr: /\nThe job failed \(no_capacity\): No machine has this model\.\n$/ })
  streams(gateway, jobObject(), [
    response => tell(response, [sse.result('0-1', jobObject({ status: 'cancelled' })), sse.end('0-2', 'cancelled')])
  ])
  t.match(await run('watch', id), { code: 1, stdout: '', stderr: /\nThe job was cancelled\.\n$/ })
})

t.test('Ctrl-C leaves the job running, says how to come back, and is exit code 130', async t => {
  const calls = streams(gateway, jobObject(), [response => tell(response, [sse.attempt(1), sse.chunk('1-1', 'Hel')], true)])
  const { child, ended } = await startCommand(t, { folder, env, args: ['jobs', 'watch', id] })
  await once(child.stdout as NodeJS.ReadableStream, 'data')
  const before = gateway.calls.length
  child.kill('SIGINT')
  const ran = await ended
  t.match(ran, { code: 130, stdout: 'Hel\n', stderr: new RegExp(`The job goes on\\. Come back with: .* jobs watch ${id}\n$`) })
  t.same([gateway.calls.length, calls.length], [before, 1], 'nothing was cancelled')
})

t.test('--json prints one event a line, as the stream has them', async t => {
  const result = doneJob('Hi')
  streams(gateway, jobObject(), [
    response => tell(response, [sse.status(1), sse.attempt(1), sse.chunk('1-1', 'Hi'), sse.result('1-2', result), sse.end('1-3', 'done')])
  ])
  const ran = await run('watch', id, '--json')
  t.same([ran.code, ran.stderr], [0, ''])
  const lines = ran.stdout
    .trimEnd()
    .split('\n')
    .map(line => JSON.parse(line))
  t.same(
    lines.map(({ event, id }) => [event, id]),
    [
      ['status', null],
      ['attempt', '1-0'],
      ['chunk', '1-1'],
      ['result', '1-2'],
      ['end', '1-3']
    ]
  )
  t.strictSame(lines[3].data, result)
})

t.test('submit --wait prints the answer on stdout and the id on stderr; with --json the job as it ended', async t => {
  const answer = doneJob('The answer')
  gateway.answers.set('POST /v1/jobs', give(202, jobObject()))
  const ends = (response: ServerResponse): void => tell(response, [sse.attempt(1), sse.result('1-1', answer), sse.end('1-2', 'done')])
  streams(gateway, jobObject(), [ends, ends])
  const ran = await run('submit', '--prompt', 'x', '--wait')
  t.match(ran, { code: 0, stdout: 'The answer\n', stderr: new RegExp(`^${id}\n`) })
  const json = await run('submit', '--prompt', 'x', '--wait', '--json')
  t.same([json.code, json.stderr], [0, ''])
  t.strictSame(JSON.parse(json.stdout), answer)
})

t.test('a reader that goes away ends the watch, not with a stack trace', async t => {
  let connection: ServerResponse | null = null
  streams(gateway, jobObject(), [
    response => {
      connection = response
      tell(response, [sse.attempt(1), sse.chunk('1-1', 'Hel')], true)
    }
  ])
  const { child, ended } = await startCommand(t, { folder, env, args: ['jobs', 'watch', id] })
  await once(child.stdout as NodeJS.ReadableStream, 'data')
  child.stdout?.destroy()
  const writing = setInterval(() => connection?.write(sse.chunk('1-2', 'lo')), 5)
  const ran = await ended
  clearInterval(writing)
  t.equal(ran.code, 130)
  t.notMatch(ran.stderr, /EPIPE|\n +at /)
})

t.test('a gateway that stays away is given up on, with the reason; a refusal ends it at once', async t => {
  let tries = 0
  const lost: string[] = []
  const options = {
    id,
    signal: new AbortController().signal,
    onOpen: () => {},
    onEvent: () => {},
    onLost: (reason: string) => lost.push(reason),
    giveUpMs: 400
  }
  const away = {
    async stream() {
      tries++
      return { reason: 'No gateway answers.', retryAfterMs: 0 }
    }
  }
  await t.rejects(follow({ ...options, client: away }), { message: 'The job could not be followed for 0.4 s: No gateway answers.' })
  t.ok(tries >= 2 && tries <= 5, `tries: ${tries}`)
  t.equal(lost.length, tries - 1)
  const refusing = {
    async stream(): Promise<never> {
      throw new Error('There is no job with this id.')
    }
  }
  await t.rejects(follow({ ...options, client: refusing }), { message: 'There is no job with this id.' })
  const leaving = new AbortController()
  const followed = follow({ ...options, signal: leaving.signal, client: away, giveUpMs: 60_000 })
  await until('the first loss', () => tries > 3)
  leaving.abort()
  await followed
})
