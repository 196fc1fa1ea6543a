// One answer out of several calls: `n`, or a list of prompts, on a target that gives one choice at a time.

import { eachEvent, sseData } from '../outbound/sse.ts'
import type { Dispatch } from '../routing/dispatch.ts'
import { GatewayError } from '../routing/errors.ts'
import type { Reply, ReplyFacts, RunSummary } from '../routing/ports.ts'
import type { Run } from '../routing/run-ports.ts'
import { estimateTokens } from '../routing/tokens.ts'
import type { Caller, Feature, ModelRequest, Target, Usage } from '../routing/types.ts'
import { readBody } from './body.ts'
import { isRecord } from './fields.ts'

type Json = Record<string, unknown>

/** What a request asks of one call that gives more than one choice. */
const severalFeatures: readonly Feature[] = ['n', 'prompts']
// Each call reads and writes it anew; more is work for half a minute, out of one request.
const sentBytesAtMost = 256 * 1024 * 1024

/** Where the copies of a request go, if it asks for several choices of a target that gives one at a time; otherwise null. */
function splitOver(dispatch: Dispatch, request: ModelRequest, caller: Caller): readonly Target[] | null {
  const several = request.needs.filter(feature => severalFeatures.includes(feature))
  if (several.length === 0) return null
  const plan = dispatch.plan({ ...request, needs: otherNeeds(request) }, caller, true)
  if (plan.action === 'refuse') {
    // One call may keep a bound that several would not.
    if (dispatch.plan(request, caller, true).action !== 'refuse') return null
    // The first copy is refused then, for what keeps it from running and not for what we would have done ourselves.
    return []
  }
  const targets = plan.action === 'run' ? plan.ranked : plan.feasible
  const first = targets[0]
  if (first === undefined || several.every(feature => dispatch.canCarry(first, feature))) return null
  return targets
}

/** The request as it is decided about: one of its calls, where its choices are made by several. */
export function oneCallOf(dispatch: Dispatch, request: ModelRequest, caller: Caller): ModelRequest {
  return splitOver(dispatch, request, caller) === null ? request : { ...request, needs: otherNeeds(request) }
}

/**
 * Runs the request: as one call where the target can, as one call per choice where it cannot. The first call chooses the target,
 * the others follow it there, as many at once as it has places. Throws GatewayError `payload_too_large` where the same bytes
 * would be sent too many times over.
 */
export function runWhole(dispatch: Dispatch, request: ModelRequest, caller: Caller, reply: Reply): Run {
  const targets = splitOver(dispatch, request, caller)
  if (targets === null) return dispatch.run(request, caller, reply)
  if (request.choices * request.body.bytes.length > sentBytesAtMost) {
    throw new GatewayError(
      'payload_too_large',
      `Here ${request.choices} choices are as many calls, each with the whole body: more than 256 MiB in all. Ask for fewer at once.`,
      { param: request.needs.includes('prompts') ? 'prompt' : 'n' }
    )
  }
  return runCopies({ dispatch, request, caller, reply, targets })
}

function otherNeeds(request: ModelRequest): Feature[] {
  return request.needs.filter(feature => !severalFeatures.includes(feature))
}

interface Copy {
  readonly index: number
  /** Null: the copies differ in nothing. */
  readonly text: string | null
  run: Run | null
  state: 'waiting' | 'running' | 'over'
}

function runCopies({
  dispatch,
  request,
  caller,
  reply,
  targets
}: {
  dispatch: Dispatch
  request: ModelRequest
  caller: Caller
  reply: Reply
  targets: readonly Target[]
}): Run {
  const copies = copiesOf(request)
  const write = requestWriter(request)
  // With one target there is nothing to choose, and nothing to wait for.
  let only = targets.length === 1 ? targets[0] : undefined
  const summaries: RunSummary[] = []
  const usages: Json[] = []
  const answers: (Json | undefined)[] = []
  let facts: ReplyFacts | null = null
  let started = false
  let envelope: Json | null = null
  /** The one whose place in the queue the client hears of. */
  let queued: Copy | null = null
  let failed: GatewayError | null = null
  let cancelled: { readonly error: GatewayError | null } | null = null
  let over = false

  launch(copies[0] as Copy)
  launchMore()
  return { resume: () => each(run => run.resume()), cancel }

  function launch(copy: Copy): void {
    copy.state = 'running'
    const own = write(copy.text)
    const run = dispatch.run(only === undefined ? own : { ...own, only: only.id }, caller, replyOf(copy))
    if (copy.state !== 'running') return
    copy.run = run
    if (cancelled !== null) run.cancel(cancelled.error)
    else if (failed !== null) run.cancel(null)
  }

  /** As many as the target has places for; those that it refuses all the same wait here until one of ours is over. */
  function launchMore(): void {
    if (only === undefined || failed !== null || cancelled !== null) return
    const places = placesOf(only, request)
    for (const copy of copies) {
      if (copies.filter(({ state }) => state === 'running').length >= places) return
      if (copy.state === 'waiting') launch(copy)
    }
  }

  function replyOf(copy: Copy): Reply {
    let told: GatewayError | null = null
    let delivered = false
    let hasWaited = false
    return {
      waiting(place) {
        hasWaited = true
        if (facts !== null || failed !== null) return
        queued ??= copy
        if (queued === copy) reply.waiting?.(place)
      },
      start(known) {
        delivered = true
        if (facts !== null) return
        facts = known
        only = known.target
        if (request.stream) begin(known)
        launchMore()
      },
      frames: events => mergeFrames(events, copy.index),
      body(json) {
        answers[copy.index] = JSON.parse(json.toString('utf8')) as Json
      },
      finish() {},
      fail(error) {
        told = error
      },
      over(summary) {
        copy.run = null
        summaries.push(summary)
        // Whoever has waited in the queue has waited long enough.
        if (told?.code === 'no_capacity' && !delivered && !hasWaited && mayWait(copy)) {
          copy.state = 'waiting'
          return
        }
        copy.state = 'over'
        if (summary.outcome !== 'ok') fail(told ?? summary.error)
        launchMore()
        settle()
      }
    }
  }

  /** Where nothing queues, a place comes free when another of ours is over; for the places of others nobody waits. */
  function mayWait(copy: Copy): boolean {
    return failed === null && cancelled === null && copies.some(other => other !== copy && other.state === 'running')
  }

  function begin(known: ReplyFacts): void {
    started = true
    reply.start(known)
  }

  /** Chunks of all calls under one id, each with the index of its own choice; their usage is added up. */
  function mergeFrames(events: Buffer, index: number): boolean {
    const pieces: string[] = []
    eachEvent(events, (start, end) => {
      const data = sseData(events.subarray(start, end))
      if (data === null || failed !== null) return
      const chunk = parseOrNull(data)
      if (chunk === null)
        return fail(new GatewayError('upstream_broke', 'The upstream sent a broken stream: an event is not a JSON object.'))
      envelope ??= { id: chunk.id, created: chunk.created, model: chunk.model }
      const choices = Array.isArray(chunk.choices) ? (chunk.choices as Json[]) : []
      if (choices.length === 0) {
        if (typeof chunk.usage === 'object' && chunk.usage !== null) usages.push(chunk)
        return
      }
      pieces.push(`data: ${JSON.stringify({ ...chunk, ...envelope, choices: choices.map(choice => ({ ...choice, index })) })}\n\n`)
    })
    return pieces.length === 0 || reply.frames(Buffer.from(pieces.join('')))
  }

  function fail(error: GatewayError | null): void {
    if (failed !== null) return
    failed = error ?? new GatewayError('client_gone', 'The client went away.')
    stopOthers(null)
  }

  function stopOthers(error: GatewayError | null): void {
    for (const copy of copies) if (copy.state === 'waiting') copy.state = 'over'
    each(run => run.cancel(error))
  }

  function cancel(error: GatewayError | null): void {
    if (over || cancelled !== null) return
    cancelled = { error }
    stopOthers(error)
    settle()
  }

  function each(act: (run: Run) => void): void {
    for (const { run } of copies) if (run !== null) act(run)
  }

  /** When the last call is over, the whole is. */
  function settle(): void {
    if (over || copies.some(copy => copy.state !== 'over')) return
    over = true
    const summary = merged(summaries, request)
    const told = cancelled === null ? failed : cancelled.error
    if (told !== null) reply.fail(told)
    else if (cancelled === null) deliver(summary)
    reply.over({ ...summary, outcome: cancelled !== null ? 'aborted' : failed !== null ? 'failed' : 'ok', error: failed ?? told })
  }

  function deliver(summary: RunSummary): void {
    if (facts === null) return
    if (!started) reply.start({ ...facts, nanoUsd: summary.nanoUsd })
    if (!request.stream) return reply.body(Buffer.from(JSON.stringify(mergedAnswer(answers))))
    if (request.includeUsage && envelope !== null && usages.length > 0) {
      const event = { ...usages[0], ...envelope, choices: [], usage: addedUp(usages.map(({ usage }) => usage as Json)), ...costOf(usages) }
      reply.frames(Buffer.from(`data: ${JSON.stringify(event)}\n\n`))
    }
    reply.finish(null)
  }
}

// A rented target has room for all of them; together they are one client's.
const rentedPlaces = 16
// Every call holds its body, and a body may have 32 MiB.
const largeBodyBytes = 1024 * 1024
const largeBodiesAtOnce = 4

function placesOf({ upstream }: Target, { body }: ModelRequest): number {
  const places = upstream.device?.maxConcurrency ?? rentedPlaces
  return body.bytes.length > largeBodyBytes ? Math.min(places, largeBodiesAtOnce) : places
}

/** One per choice: all copies of the first prompt, then of the second, as OpenAI numbers them. */
function copiesOf({ input, choices }: ModelRequest): Copy[] {
  const texts = input?.texts ?? [null]
  const each = choices / texts.length
  return texts.flatMap((text, position) =>
    Array.from({ length: each }, (_, copy): Copy => ({ index: position * each + copy, text, run: null, state: 'waiting' }))
  )
}

/** Writes the request of one copy. Those of one prompt share it, body and all: there may be 128 of them. */
function requestWriter(request: ModelRequest): (text: string | null) => ModelRequest {
  const needs = otherNeeds(request)
  const hasCopies = request.needs.includes('n')
  let last: { readonly text: string | null; readonly request: ModelRequest } | null = null
  return text => {
    if (last?.text === text) return last.request
    // OpenAI's `n` goes; a list of prompts becomes one of them.
    const bytes = request.body.with({ ...(hasCopies ? { n: 1 } : {}), ...(text === null ? {} : { prompt: text }) })
    const prompt = text === null ? request.prompt : estimateTokens({ textBytes: Buffer.byteLength(text), messages: 0, pictures: 0 })
    const input = text === null ? null : { texts: [text], asTokens: false }
    // Each may cost its share.
    const share = request.maxUsd === undefined ? {} : { maxUsd: request.maxUsd / request.choices }
    last = { text, request: { ...request, ...share, body: readBody(bytes).kept, needs, choices: 1, prompt, longest: prompt, input } }
    return last.request
  }
}

function mergedAnswer(answers: readonly (Json | undefined)[]): Json {
  const whole = answers.filter(answer => answer !== undefined)
  const choices = answers.flatMap((answer, index) =>
    Array.isArray(answer?.choices) ? (answer.choices as Json[]).slice(0, 1).map(choice => ({ ...choice, index })) : []
  )
  return { ...whole[0], choices, usage: addedUp(whole.map(({ usage }) => usage as Json)) }
}

function parseOrNull(text: string): Json | null {
  try {
    const value: unknown = JSON.parse(text)
    return isRecord(value) ? value : null
  } catch {
    return null
  }
}

/** Sums of numbers, also within the details: what was really processed, the prompt once for each call. */
function addedUp(usages: readonly (Json | null | undefined)[]): Json {
  const sum: Json = {}
  for (const usage of usages) {
    for (const [name, value] of Object.entries(usage ?? {})) {
      const before = sum[name]
      if (typeof value === 'number') sum[name] = (typeof before === 'number' ? before : 0) + value
      else if (typeof value === 'object' && value !== null) sum[name] = addedUp([before as Json, value as Json])
      else sum[name] ??= value
    }
  }
  return sum
}

/** What we know of the calls, as of one: their dollars and attempts together. */
function costOf(chunks: readonly Json[]): Json {
  const facts = chunks.map(chunk => chunk.x_llm_mcp as Json | undefined).filter(known => known !== undefined)
  if (facts.length === 0) return {}
  const costs = facts.map(known => known.cost_usd)
  const total = costs.every(cost => typeof cost === 'number') ? Number(costs.reduce((sum, cost) => sum + cost, 0).toFixed(9)) : null
  return { x_llm_mcp: { ...facts[0], attempts: facts.reduce((sum, known) => sum + Number(known.attempts), 0), cost_usd: total } }
}

function merged(summaries: readonly RunSummary[], request: ModelRequest): RunSummary {
  const calls = summaries.flatMap(summary => summary.calls)
  const usages = summaries.map(summary => summary.usage).filter(usage => usage !== null)
  return {
    outcome: 'ok',
    error: null,
    target: summaries.find(summary => summary.target !== null)?.target ?? null,
    attempts: calls.length,
    rejected: summaries[0]?.rejected ?? [],
    usage: usages.length === 0 ? null : usages.reduce(plus),
    nanoUsd: calls.reduce<number | null>(
      (sum, { settled }) => (sum === null || settled.nanoUsd === null ? null : sum + settled.nanoUsd),
      0
    ),
    ttftMs: request.stream ? (summaries.find(summary => summary.ttftMs !== null)?.ttftMs ?? null) : (summaries[0]?.ttftMs ?? null),
    calls
  }
}

function plus(a: Usage, b: Usage): Usage {
  const known = (x: number | null, y: number | null): number | null => (x === null || y === null ? null : x + y)
  return {
    promptTokens: a.promptTokens + b.promptTokens,
    completionTokens: a.completionTokens + b.completionTokens,
    cachedTokens: a.cachedTokens + b.cachedTokens,
    reasoningTokens: a.reasoningTokens + b.reasoningTokens,
    providerNanoUsd: known(a.providerNanoUsd, b.providerNanoUsd),
    busyMs: known(a.busyMs, b.busyMs)
  }
}
