import t from 'tap'
import { readBody } from '../../gateway/body.ts'
import { runWhole } from '../../gateway/copies.ts'
import type { Dispatch } from '../../routing/dispatch.ts'
import { GatewayError } from '../../routing/errors.ts'
import type { Reply, RunSummary } from '../../routing/ports.ts'
import type { Run } from '../../routing/run-ports.ts'
import type { Caller, Feature, ModelRequest, Target } from '../../routing/types.ts'
import { fc } from '../support/properties.ts'
import { until } from '../support/wait.ts'

type Json = Record<string, unknown>

const caller: Caller = { keyId: 'key', source: 'me', subSource: null, kind: 'source', models: null, providers: null }
const other = { id: 'cloud/m', model: 'm', upstream: { id: 'cloud', adapter: 'openrouter', device: null } } as unknown as Target
const machine = { id: 'home/m', model: 'm', upstream: { id: 'home', adapter: 'ollama', device: { id: 'box' } } } as unknown as Target

function requestFor(body: Json, changes: Partial<ModelRequest> = {}): ModelRequest {
  const count = typeof body.n === 'number' ? body.n : 1
  const prompts = Array.isArray(body.prompt) ? (body.prompt as string[]) : null
  const needs: Feature[] = ['tools']
  if (count > 1) needs.push('n')
  if (prompts !== null && prompts.length > 1) needs.push('prompts')
  return {
    id: 'r',
    operation: prompts === null ? 'chat' : 'complete',
    body: readBody(Buffer.from(JSON.stringify(body))),
    model: 'm',
    stream: true,
    includeUsage: true,
    streamOptions: null,
    maxOutputTokens: null,
    needs,
    choices: count * (prompts?.length ?? 1),
    prompt: { low: 1, expected: 2 },
    longest: { low: 1, expected: 2 },
    input: prompts === null ? null : { texts: prompts, asTokens: false },
    embedding: null,
    localOnly: false,
    ...changes
  }
}

interface Started {
  readonly request: ModelRequest
  readonly reply: Reply
  cancelled: GatewayError | 'silent' | null
  resumed: number
  over(outcome?: RunSummary['outcome'], error?: GatewayError | null): void
}

/** A dispatch whose runs are driven by hand, and a client that writes down what it is told. */
function world({
  native = [],
  places = 99,
  targets = [machine, other]
}: {
  native?: readonly Feature[]
  places?: number
  targets?: readonly Target[]
} = {}) {
  const runs: Started[] = []
  const told: string[] = []
  const summaries: RunSummary[] = []
  let running = 0
  let most = 0
  const dispatch: Dispatch = {
    plan: () => ({ action: 'run', ranked: targets, rejected: [], reason: 'own_first' }),
    canCarry: (_target, feature) => native.includes(feature),
    run(request, _caller, reply): Run {
      if (running >= places) {
        queueMicrotask(() => {
          const error = new GatewayError('no_capacity', 'Every machine is busy.')
          reply.fail(error)
          reply.over(summaryOf('failed', error, 0))
        })
        return { resume() {}, cancel() {} }
      }
      running++
      most = Math.max(most, running)
      let isOver = false
      const started: Started = {
        request,
        reply,
        cancelled: null,
        resumed: 0,
        over(outcome = 'ok', error = null) {
          if (isOver) return
          isOver = true
          running--
          if (error !== null) reply.fail(error)
          reply.over(summaryOf(outcome, error, 1))
        }
      }
      runs.push(started)
      return {
        resume() {
          started.resumed++
        },
        cancel(error) {
          started.cancelled ??= error ?? 'silent'
          queueMicrotask(() => started.over('aborted'))
        }
      }
    }
  }
  const client: Reply = {
    start: facts => told.push(`start ${facts.target.id} ${facts.nanoUsd}`),
    frames(events) {
      told.push(...events.toString().trim().split('\n\n'))
      return true
    },
    body: json => told.push(`body ${json}`),
    finish: () => told.push('finish'),
    fail: error => told.push(`fail ${error.code}`),
    over(summary) {
      summaries.push(summary)
      told.push('over')
    }
  }
  return { runs, told, summaries, dispatch, client, most: () => most }
}

function summaryOf(outcome: RunSummary['outcome'], error: GatewayError | null, calls: number): RunSummary {
  const usage = { promptTokens: 3, completionTokens: 2, cachedTokens: 0, reasoningTokens: 0, providerNanoUsd: null, busyMs: 10 }
  const settled = { nanoUsd: 100, estimated: false, promptTokens: 3, completionTokens: 2 }
  const call = { attemptId: 'a', target: machine, outcome, error, startedAt: 0, durationMs: 1, ttftMs: 1, usage, settled }
  return {
    outcome,
    error,
    target: calls === 0 ? null : machine,
    attempts: calls,
    rejected: [],
    usage: calls === 0 ? null : usage,
    nanoUsd: 100 * calls,
    ttftMs: 1,
    calls: Array.from({ length: calls }, () => call)
  }
}

const facts = { target: machine, reason: 'own_first', nanoUsd: null, dropped: [] }

function chunk(id: string, text: string | null, index = 0): Buffer {
  const choice = text === null ? { index, delta: {}, finish_reason: 'stop' } : { index, delta: { content: text }, finish_reason: null }
  return Buffer.from(`data: ${JSON.stringify({ id, object: 'chat.completion.chunk', created: 7, model: 'm', choices: [choice] })}\n\n`)
}

function usageChunk(id: string): Buffer {
  const usage = { prompt_tokens: 3, completion_tokens: 2, total_tokens: 5, prompt_tokens_details: { cached_tokens: 1 } }
  const x_llm_mcp = { provider: 'ollama', attempts: 1, cost_usd: 0.0000001 }
  return Buffer.from(`data: ${JSON.stringify({ id, created: 7, model: 'm', choices: [], usage, x_llm_mcp })}\n\n`)
}

const parsed = (told: readonly string[]): Json[] =>
  told.filter(line => line.startsWith('data: ')).map(line => JSON.parse(line.slice(6)) as Json)

t.test('what keeps even one choice from running is the answer, and not that there are several', async t => {
  const { runs, told, dispatch, client } = world()
  const error = new GatewayError('context_length_exceeded', 'too long')
  runWhole({ ...dispatch, plan: () => ({ action: 'refuse', error, rejected: [] }) }, requestFor({ model: 'm', n: 3 }), caller, client)
  t.same(runs[0]?.request.needs, ['tools'], 'asked for one')
  runs[0]?.over('failed', error)
  t.equal(runs.length, 1)
  t.same(told, ['fail context_length_exceeded', 'over'])
})

t.test('what one call can keep and several could not is one call', async t => {
  const { runs, dispatch, client } = world()
  const error = new GatewayError('no_target_within_budget', 'too dear')
  const plan: Dispatch['plan'] = request =>
    request.needs.includes('n') ? dispatch.plan(request, caller) : { action: 'refuse', error, rejected: [] }
  runWhole({ ...dispatch, plan }, requestFor({ model: 'm', n: 50 }), caller, client)
  t.equal(runs.length, 1)
  t.same(runs[0]?.request.needs, ['tools', 'n'], 'as it came')
})

t.test('a target that can give several choices is asked once, as is one who is asked for one', async t => {
  const able = world({ native: ['n'] })
  runWhole(able.dispatch, requestFor({ model: 'm', n: 3 }), caller, able.client)
  t.equal(able.runs.length, 1)
  t.same(able.runs[0]?.request.needs, ['tools', 'n'], 'as it came')
  const one = world()
  runWhole(one.dispatch, requestFor({ model: 'm' }), caller, one.client)
  t.equal(one.runs.length, 1)
  t.equal(one.runs[0]?.request.only, undefined)
})

t.test('the first call chooses the target, the others follow it there at once', async t => {
  const { runs, told, summaries, dispatch, client } = world()
  runWhole(dispatch, requestFor({ model: 'm', n: 3, stop: 'x' }), caller, client)
  t.equal(runs.length, 1, 'nobody else before the target is known')
  runs[0]?.reply.start(facts)
  t.equal(runs.length, 3)
  for (const { request } of runs.slice(1)) t.match(request, { only: 'home/m', needs: ['tools'], choices: 1, id: 'r' })
  for (const { request } of runs) t.same(request.body.json(), { model: 'm', n: 1, stop: 'x' })

  runs[0]?.reply.frames(chunk('a', 'one'))
  runs[2]?.reply.start(facts)
  runs[2]?.reply.frames(Buffer.concat([chunk('c', 'three'), chunk('c', null)]))
  runs[1]?.reply.start(facts)
  runs[1]?.reply.frames(chunk('b', 'two'))
  for (const [index, run] of runs.entries()) {
    if (index !== 2) run.reply.frames(chunk('x', null))
    run.reply.frames(usageChunk('x'))
    run.reply.finish(null)
    run.over()
  }
  const chunks = parsed(told)
  t.ok(
    chunks.every(({ id }) => id === 'a'),
    'one answer has one id'
  )
  const texts = ['', '', '']
  const finished: unknown[] = []
  for (const { choices } of chunks) {
    for (const choice of choices as { index: number; delta: { content?: string }; finish_reason: string | null }[]) {
      texts[choice.index] += choice.delta.content ?? ''
      if (choice.finish_reason !== null) finished.push(choice.index)
    }
  }
  t.same(texts, ['one', 'two', 'three'])
  t.same(finished.sort(), [0, 1, 2])
  t.same(chunks.at(-1), {
    id: 'a',
    created: 7,
    model: 'm',
    choices: [],
    usage: { prompt_tokens: 9, completion_tokens: 6, total_tokens: 15, prompt_tokens_details: { cached_tokens: 3 } },
    x_llm_mcp: { provider: 'ollama', attempts: 3, cost_usd: 0.0000003 }
  })
  t.equal(chunks.filter(({ usage }) => usage !== undefined).length, 1)
  t.same(told.slice(-2), ['finish', 'over'])
  t.match(summaries, [
    { outcome: 'ok', error: null, attempts: 3, nanoUsd: 300, usage: { promptTokens: 9, completionTokens: 6, busyMs: 30 } }
  ])
  t.equal(summaries[0]?.calls.length, 3)
})

t.test('an answer of one piece has all choices in order, and the cost of all of them', async t => {
  const { runs, told, dispatch, client } = world()
  runWhole(dispatch, requestFor({ model: 'm', n: 2 }, { stream: false, includeUsage: false }), caller, client)
  const whole = (id: string, text: string): Buffer =>
    Buffer.from(JSON.stringify({ id, choices: [{ index: 0, message: { content: text } }], usage: { total_tokens: 5 } }))
  runs[0]?.reply.start(facts)
  runs[0]?.reply.body(whole('a', 'one'))
  runs[0]?.over()
  runs[1]?.reply.start(facts)
  runs[1]?.reply.body(whole('b', 'two'))
  runs[1]?.over()
  t.equal(told[0], 'start home/m 200')
  t.same(JSON.parse((told[1] as string).slice(5)), {
    id: 'a',
    choices: [
      { index: 0, message: { content: 'one' } },
      { index: 1, message: { content: 'two' } }
    ],
    usage: { total_tokens: 10 }
  })
  t.same(told.slice(2), ['over'])
})

t.test('prompts are numbered as OpenAI does: all copies of the first, then of the second', async t => {
  const { runs, dispatch, client } = world()
  runWhole(dispatch, requestFor({ model: 'm', n: 2, prompt: ['first', 'второй'] }), caller, client)
  runs[0]?.reply.start(facts)
  t.same(
    runs.map(({ request }) => request.body.json()),
    ['first', 'first', 'второй', 'второй'].map(prompt => ({ model: 'm', n: 1, prompt }))
  )
  t.same(
    runs.map(({ request }) => request.input?.texts),
    [['first'], ['first'], ['второй'], ['второй']]
  )
})

t.test('a machine with one place gives them one after the other', async t => {
  const { runs, told, dispatch, client, most } = world({ places: 1 })
  runWhole(dispatch, requestFor({ model: 'm', n: 3 }), caller, client)
  runs[0]?.reply.start(facts)
  for (let index = 0; index < 3; index++) {
    const run = await until('its turn', () => runs[index])
    if (index > 0) run.reply.start(facts)
    run.reply.frames(chunk('a', `${index}`))
    run.over()
  }
  t.equal(most(), 1)
  t.same(
    parsed(told).map(({ choices }) =>
      (choices as { index: number; delta: { content: string } }[]).map(one => [one.index, one.delta.content])
    ),
    [[[0, '0']], [[1, '1']], [[2, '2']]]
  )
  t.same(told.slice(-2), ['finish', 'over'])
})

t.test('with one target there is nothing to wait for: as many start as it has places, and the next when one is over', async t => {
  const box = { ...machine, upstream: { ...machine.upstream, device: { id: 'box', maxConcurrency: 2 } } } as Target
  const { runs, dispatch, client, most } = world({ targets: [box] })
  runWhole(dispatch, requestFor({ model: 'm', n: 5 }, { stream: false, includeUsage: false }), caller, client)
  t.equal(runs.length, 2, 'before anything was answered')
  for (let index = 0; index < 5; index++) {
    const run = runs[index] as Started
    run.reply.start({ ...facts, target: box })
    run.reply.body(Buffer.from(JSON.stringify({ id: 'a', choices: [{ index: 0 }] })))
    run.over()
    t.equal(runs.length, Math.min(5, index + 3), 'the next one at once')
  }
  t.equal(most(), 2)
})

t.test('while all is full, a target that can give several choices waits with one call', async t => {
  const able = world({ native: ['n'] })
  const full: Dispatch = { ...able.dispatch, plan: () => ({ action: 'enqueue', feasible: [machine], rejected: [] }) }
  runWhole(full, requestFor({ model: 'm', n: 3 }), caller, able.client)
  t.same(
    able.runs.map(({ request }) => request.needs),
    [['tools', 'n']]
  )
})

t.test('the client hears of the queue from the first copy that waits, until something has begun', async t => {
  const box = { ...machine, upstream: { ...machine.upstream, device: { id: 'box', maxConcurrency: 3 } } } as Target
  const { runs, told, dispatch, client } = world({ targets: [box] })
  const places: string[] = []
  const listening: Reply = { ...client, waiting: ({ jobId, position }) => places.push(`${jobId} ${position}`) }
  const wait = (index: number, position: number): void => runs[index]?.reply.waiting?.({ jobId: `job ${index}`, position, etaMs: null })
  runWhole(dispatch, requestFor({ model: 'm', n: 3 }), caller, listening)
  wait(1, 2)
  wait(2, 3)
  wait(1, 1)
  t.same(places, ['job 1 2', 'job 1 1'])
  runs[0]?.reply.start({ ...facts, target: box })
  wait(1, 1)
  wait(2, 2)
  t.equal(places.length, 2, 'what has begun does not wait')
  t.same(told, ['start home/m null'])
})

t.test('a copy that has waited in the queue in vain does not wait again', async t => {
  const box = { ...machine, upstream: { ...machine.upstream, device: { id: 'box', maxConcurrency: 2 } } } as Target
  const { runs, told, summaries, dispatch, client } = world({ targets: [box] })
  runWhole(dispatch, requestFor({ model: 'm', n: 2 }, { stream: false, includeUsage: false }), caller, client)
  runs[1]?.reply.waiting?.({ jobId: 'job', position: 1, etaMs: null })
  runs[1]?.over('failed', new GatewayError('no_capacity', 'Nobody had a place for it.'))
  await until('the end', () => summaries.length === 1)
  t.equal(runs.length, 2)
  t.equal(runs[0]?.cancelled, 'silent')
  t.same(told, ['fail no_capacity', 'over'])
})

t.test('where nothing queues, nobody waits for the places of others', async t => {
  const { runs, told, dispatch, client } = world({ places: 0 })
  runWhole(dispatch, requestFor({ model: 'm', n: 2 }), caller, client)
  await until('the end', () => told.includes('over'))
  t.equal(runs.length, 0)
  t.same(told, ['fail no_capacity', 'over'])
})

t.test('large bodies are held by few calls at once, and those of one prompt hold the same', async t => {
  const { runs, dispatch, client } = world()
  runWhole(dispatch, requestFor({ model: 'm', n: 128, metadata: { x: 'x'.repeat(2_000_000) } }), caller, client)
  const tooLarge = requestFor({ model: 'm', n: 128, metadata: { x: 'x'.repeat(2_100_000) } })
  t.throws(() => runWhole(dispatch, tooLarge, caller, client), { code: 'payload_too_large', param: 'n' })
  runs[0]?.reply.start({ ...facts, target: other })
  t.equal(runs.length, 4)
  t.equal(new Set(runs.map(({ request }) => request.body)).size, 1)
})

t.test('when one fails the others are closed, and the client is told once', async t => {
  const { runs, told, summaries, dispatch, client } = world()
  runWhole(dispatch, requestFor({ model: 'm', n: 3 }), caller, client)
  runs[0]?.reply.start(facts)
  runs[0]?.reply.frames(chunk('a', 'x'))
  runs[1]?.over('failed', new GatewayError('upstream_broke', 'gone'))
  await until('all to be over', () => summaries.length === 1)
  t.same(
    runs.map(({ cancelled }) => cancelled),
    ['silent', null, 'silent']
  )
  t.same(told.slice(-2), ['fail upstream_broke', 'over'])
  t.match(summaries[0], { outcome: 'failed', error: { code: 'upstream_broke' }, attempts: 3 })
})

t.test('the first one’s failure before any token is the answer', async t => {
  const { runs, told, dispatch, client } = world()
  runWhole(dispatch, requestFor({ model: 'm', n: 2 }), caller, client)
  runs[0]?.over('failed', new GatewayError('model_not_found', 'no'))
  t.equal(runs.length, 1)
  t.same(told, ['fail model_not_found', 'over'])
})

t.test('a client that leaves closes all of them, also those that wait', async t => {
  const { runs, told, summaries, dispatch, client } = world({ places: 2 })
  const run = runWhole(dispatch, requestFor({ model: 'm', n: 3 }), caller, client)
  runs[0]?.reply.start(facts)
  t.equal(runs.length, 2)
  await Promise.resolve()
  run.resume()
  t.same(
    runs.map(({ resumed }) => resumed),
    [1, 1]
  )
  run.cancel(null)
  run.cancel(null)
  await until('the end', () => summaries.length === 1)
  t.same(
    runs.map(({ cancelled }) => cancelled),
    ['silent', 'silent']
  )
  t.same(
    told.filter(line => !line.startsWith('start')),
    ['over'],
    'nobody is there to be told'
  )
  t.match(summaries[0], { outcome: 'aborted' })
})

t.test('what is no chunk breaks the answer, not the gateway', async t => {
  const { runs, told, summaries, dispatch, client } = world()
  runWhole(dispatch, requestFor({ model: 'm', n: 2 }), caller, client)
  runs[0]?.reply.start(facts)
  runs[0]?.reply.frames(Buffer.from('data: {"oops\n\n'))
  await until('the end', () => summaries.length === 1)
  t.same(told.slice(-2), ['fail upstream_broke', 'over'])
})

t.test('whatever ends when, every choice is there once and the end comes once', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.integer({ min: 2, max: 6 }),
      fc.integer({ min: 2, max: 6 }),
      fc.array(fc.nat(5), { maxLength: 30 }),
      async (n, places, order) => {
        const { runs, told, summaries, dispatch, client } = world({ places: Math.max(n, places) })
        runWhole(dispatch, requestFor({ model: 'm', n }), caller, client)
        runs[0]?.reply.start(facts)
        const over = new Set<Started>()
        for (const pick of [...order, ...Array.from({ length: n }, (_, index) => index)]) {
          const run = runs[pick % runs.length] as Started
          if (over.has(run)) continue
          over.add(run)
          run.reply.frames(chunk('a', 'x'))
          run.over()
        }
        if (summaries.length !== 1 || told.filter(line => line === 'finish').length !== 1) throw new Error('not one end')
        const indexes = parsed(told).flatMap(({ choices }) => (choices as { index: number }[]).map(({ index }) => index))
        if (indexes.sort().join() !== Array.from({ length: n }, (_, index) => index).join()) throw new Error(`choices ${indexes}`)
      }
    )
  )
})
