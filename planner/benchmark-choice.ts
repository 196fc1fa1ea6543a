// What a benchmark is to measure, and whether it may cost what it costs. Pure.

import { canonical } from '../routing/catalog.ts'
import { GatewayError } from '../routing/errors.ts'
import { meanUsdPer1m } from '../routing/model-choice.ts'
import { providerOf } from '../routing/targets.ts'
import type { Target } from '../routing/types.ts'

export interface Asked {
  readonly deviceId: string | null
  readonly provider: string | null
  /** A name, or `<machine or provider>/<name>`. */
  readonly model: string
  /** Whatever it costs. */
  readonly pay: boolean
}

const namedAtMost = 5

/**
 * The one target that is meant. Throws GatewayError `not_found` for a machine or provider without models, `model_not_found`, and
 * `invalid_request` where several are meant, or where it is rented and its price is unknown or above `maxUsdPer1m`.
 */
export function chooseBenchmark(targets: readonly Target[], asked: Asked, maxUsdPer1m: number): Target {
  const { deviceId, provider, model, pay } = asked
  const there = targets.filter(
    ({ upstream }) =>
      (deviceId === null || upstream.device?.id === deviceId) &&
      (provider === null || upstream.id === provider || providerOf(upstream) === provider)
  )
  const where = [deviceId, provider].filter(name => name !== null).join(' and ')
  if (there.length === 0 && where !== '') throw new GatewayError('not_found', `Nothing is known of models on "${where}".`)
  const meant = there.filter(target => target.id === model || target.model === model || canonical(target.model) === canonical(model))
  // A whole name is that of one, whatever else ends like it.
  const exact = meant.filter(({ id }) => id === model)
  const [target, ...others] = exact.length > 0 ? exact : meant
  if (target === undefined) {
    throw new GatewayError('model_not_found', `There is no model "${model}"${where === '' ? '' : ` on "${where}"`} here.`, {
      param: 'model'
    })
  }
  if (others.length > 0) {
    const names = [target, ...others].slice(0, namedAtMost).map(({ id }) => `"${id}"`)
    throw invalid(`"${model}" is in several places: name one of ${names.join(', ')}${others.length >= namedAtMost ? ', …' : ''}.`)
  }
  if (!target.operations.includes('chat')) throw invalid(`"${target.id}" does not answer chat requests: only such models can be measured.`)
  if (!pay) refuseDear(target, maxUsdPer1m)
  return target
}

/** Throws GatewayError `invalid_request` for what is rented, and whose price is unknown or above `maxUsdPer1m`. */
export function refuseDear({ id, upstream, price }: Target, maxUsdPer1m: number): void {
  if (upstream.own || price.source === 'free') return
  const limit = `benchmarks may use models up to $${maxUsdPer1m} (BENCHMARK_MAX_PRICE_PER_1M)`
  const anyway = 'With "pay": true (llm-mcp bench device --yes-pay) it is measured anyway.'
  if (price.tokens === null) throw tooDear(`The price of "${id}" is unknown; ${limit}. ${anyway}`)
  const mean = meanUsdPer1m(price.tokens)
  if (mean <= maxUsdPer1m) return
  const { inputUsdPer1m, outputUsdPer1m, requestUsd = 0 } = price.tokens
  const perRequest = requestUsd === 0 ? '' : `, with $${rounded(requestUsd)} a request`
  throw tooDear(
    `"${id}" costs $${rounded(mean)} per million tokens, the mean of prompt ($${rounded(inputUsdPer1m)}) and answer ($${rounded(outputUsdPer1m)})${perRequest}; ${limit}. ${anyway}`
  )
}

function rounded(usd: number): number {
  return Number(usd.toFixed(4))
}

function tooDear(message: string): GatewayError {
  return new GatewayError('invalid_request', message, { param: 'model', publicCode: 'price_above_limit' })
}

function invalid(message: string): GatewayError {
  return new GatewayError('invalid_request', message, { param: 'model', publicCode: 'invalid_value' })
}
