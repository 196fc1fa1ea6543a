// A rented node: a limit of requests, prices, and times that its own load makes uncertain.

import { driftAt } from './drift.ts'
import type { NodePorts, SimulatedNode } from './ports.ts'
import { createStream } from './random.ts'
import type { Request } from './traffic.ts'
import type { Finished, NodeView, RentedNode, Scenario } from './types.ts'
import { unbegun } from './work.ts'

// README of the scenarios: noise of the first token and of the speed; tokens/s at which a prompt is read; how long an outage keeps one waiting.
const firstTokenNoise = 0.4
const speedNoise = 0.2
const promptTokensPerSecond = 20_000
const outageS = 5
// The bucket holds so much of a minute's requests.
const burstShare = 1 / 6
// How often a provider's new prices are learned of, as the product's catalogue does.
const syncS = 60

export interface SimulatedRentedNode extends SimulatedNode {
  /** What the next attempt of this request would meet. */
  draw(request: Request, atS: number): Draw
  /** Dollars a million tokens, as the last sync knew them. */
  knownPrice(model: string): { readonly in: number; readonly out: number }
}

export interface Draw {
  readonly ttftS: number
  readonly tokensPerSecond: number
  readonly fails: boolean
}

interface Running {
  readonly request: Request
  readonly sentS: number
  readonly startsS: number
  readonly draw: Draw
  readonly price: { readonly in: number; readonly out: number }
  readonly view: NodeView['active'][number]
}

export function createRentedNode(config: RentedNode, run: NodePorts & { readonly scenario: Scenario }): SimulatedRentedNode {
  const { agenda } = run
  const capacity = config.rpm * burstShare
  const models = new Map(Object.entries(config.models))
  const loaded = new Set(models.keys())
  const attempts = new Map<Request, number>()
  const changes = (run.scenario.priceChange ?? []).filter(({ node }) => node === config.id)
  const bucket = { tokens: capacity, atS: 0 }
  const active = new Set<Running>()
  let isUp = true

  const view: NodeView = {
    id: config.id,
    kind: 'rented',
    get isUp() {
      return isUp
    },
    loaded,
    loading: null,
    get active() {
      return Array.from(active, ({ view }) => view)
    },
    waiting: 0
  }

  function send(request: Request): void {
    const sentS = agenda.nowS
    if (!isUp || !models.has(request.job.model)) return end(request, sentS, isUp ? 'failed' : 'lost')
    if (!take()) return end(request, sentS, 'refused')
    const draw = drawOf(request, sentS)
    attempts.set(request, attempt(request) + 1)
    const each = running(request, draw)
    active.add(each)
    const isOut = (config.outages ?? []).some(({ from, to }) => sentS >= from && sentS < to)
    const endsS = isOut ? sentS + outageS : draw.fails ? sentS + draw.ttftS : each.startsS + answerSeconds(each)
    agenda.at(endsS, () => {
      if (!active.delete(each)) return
      const outcome = isOut || draw.fails ? 'failed' : 'done'
      run.ended({ request, usd: outcome === 'done' ? usd(each, request.outputTokens) : 0, finished: finished(each, outcome) })
    })
  }

  /** The bucket is full at the beginning and refills all the time. */
  function take(): boolean {
    bucket.tokens = Math.min(capacity, bucket.tokens + ((agenda.nowS - bucket.atS) * config.rpm) / 60)
    bucket.atS = agenda.nowS
    // A retry at the very moment of the refill is not to miss it by a rounding.
    if (bucket.tokens < 1 - 1e-9) return false
    bucket.tokens--
    return true
  }

  const attempt = (request: Request): number => attempts.get(request) ?? 0

  function drawOf(request: Request, whenS: number): Draw {
    const stream = createStream(run.seed, 'rented', config.id, request.key, attempt(request))
    const offer = models.get(request.job.model) ?? { ttft: 0, tps: 1 }
    const slower = driftAt(config.drift, whenS)
    return {
      ttftS: slower * (offer.ttft * Math.exp(firstTokenNoise * stream.normal()) + request.job.promptTokens / promptTokensPerSecond),
      tokensPerSecond: (offer.tps * Math.exp(speedNoise * stream.normal())) / slower,
      fails: stream.uniform() < config.fail
    }
  }

  function running(request: Request, draw: Draw): Running {
    const sentS = agenda.nowS
    const each: Running = {
      request,
      sentS,
      startsS: sentS + draw.ttftS,
      draw,
      price: truePrice(request.job.model, sentS),
      view: {
        job: request.job,
        startedS: run.shown(sentS),
        get streamed() {
          return streamed(each)
        }
      }
    }
    return each
  }

  const answerSeconds = ({ request, draw }: Running): number => request.outputTokens / draw.tokensPerSecond + (request.stall?.seconds ?? 0)

  /** Tokens until now. */
  function streamed({ request, startsS, draw }: Running): number {
    if (draw.fails) return 0
    const seconds = agenda.nowS - startsS
    const tokens = request.outputTokens
    const untilStall = request.stall === null ? Number.POSITIVE_INFINITY : (request.stall.share * tokens) / draw.tokensPerSecond
    const streaming = Math.min(seconds, untilStall) + Math.max(0, seconds - untilStall - (request.stall?.seconds ?? 0))
    return Math.min(tokens, Math.max(0, Math.floor(streaming * draw.tokensPerSecond)))
  }

  function truePrice(model: string, whenS: number): { in: number; out: number } {
    const factor = changes.reduce((product, change) => (whenS >= change.t ? product * change.factor : product), 1)
    const offer = models.get(model) ?? { pin: 0, pout: 0 }
    return { in: offer.pin * factor, out: offer.pout * factor }
  }

  const usd = ({ request, price }: Running, outputTokens: number): number =>
    (request.job.promptTokens * price.in + outputTokens * price.out) / 1e6

  function end(request: Request, sentS: number, outcome: 'failed' | 'refused' | 'lost'): void {
    const finished = unbegun(request, sentS, { node: config.id, outcome, shown: run.shown })
    agenda.at(sentS, () => run.ended({ request, usd: 0, finished }))
  }

  function finished(each: Running, outcome: Finished['outcome']): Finished {
    const { request, sentS, startsS } = each
    const isDone = outcome === 'done'
    const hasBegun = outcome !== 'failed' && agenda.nowS >= startsS
    return {
      job: request.job,
      node: config.id,
      outcome,
      sentS: run.shown(sentS),
      startedS: run.shown(sentS),
      promptTokens: request.job.promptTokens,
      promptS: Math.min(agenda.nowS, startsS) - sentS,
      outputTokens: isDone ? request.outputTokens : hasBegun ? streamed(each) : 0,
      outputS: hasBegun ? agenda.nowS - startsS : 0,
      firstTokenS: hasBegun ? run.shown(startsS) : null,
      isCut: isDone && request.isCut,
      meanActive: { prompt: 1, output: 1 }
    }
  }

  function cancel(request: Request): void {
    const each = [...active].find(running => running.request === request)
    if (each === undefined) return
    active.delete(each)
    run.ended({ request, usd: usd(each, streamed(each)), finished: finished(each, 'cancelled') })
  }

  function setUp(up: boolean): void {
    isUp = up
    if (up) return
    const lost = [...active]
    active.clear()
    for (const each of lost) run.ended({ request: each.request, usd: 0, finished: finished(each, 'lost') })
  }

  return {
    view,
    send,
    cancel,
    setUp,
    busyS: () => 0,
    draw: drawOf,
    knownPrice: model => truePrice(model, Math.floor(agenda.nowS / syncS) * syncS)
  }
}
