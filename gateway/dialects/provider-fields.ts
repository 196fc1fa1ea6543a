// OpenRouter's fields about who shall answer, in any body: `models` and `provider`.

import type { Route } from '../../routing/brain/types.ts'
import { routeOf } from '../../routing/catalog.ts'
import type { ProviderPreference } from '../../routing/preference.ts'
import type { ModelRequest } from '../../routing/types.ts'
import { type ReadBody, readBody } from '../body.ts'
import { type Facts, invalid, isGiven, isRecord, optionalBoolean, optionalRecord, wrong } from '../fields.ts'
import { checkedModel, type Knobs } from './model.ts'

interface ReadChoice {
  /** What the request gets of it. */
  readonly fields: Pick<ModelRequest, 'fallbacks' | 'anyFallback' | 'preference'>
  /** `sort`; null = it says nothing. */
  readonly route: Route | null
}

const modelsAtMost = 16
const namesAtMost = 32
const nameAtMost = 128
const parametersAtMost = 100

const sorts: Readonly<Record<string, Route>> = { price: 'cost', throughput: 'fast', latency: 'fast' }
const quantizations = ['int4', 'int8', 'fp4', 'fp6', 'fp8', 'fp16', 'bf16', 'fp32', 'unknown']
const percentiles = ['p50', 'p75', 'p90', 'p99']
// Ours to keep; all others are for OpenRouter.
const known: ReadonlySet<string> = new Set([
  'allow_fallbacks',
  'data_collection',
  'enforce_distillable_text',
  'ignore',
  'max_price',
  'only',
  'order',
  'preferred_max_latency',
  'preferred_min_throughput',
  'quantizations',
  'require_parameters',
  'sort',
  'zdr'
])

const none: ReadChoice = { fields: {}, route: null }

/** A body that names its models only in a list, with the first of them as its model. */
export function withModel(body: ReadBody): ReadBody {
  const { model, models } = body.facts
  if (isGiven(model) || !Array.isArray(models) || models.length === 0) return body
  return readBody(body.with({ model: readModels(body, true)[0] }))
}

/**
 * What a request says of its way, in whatever place: a header above `provider.sort`, and that above the model's name. Throws GatewayError
 * `invalid_request` naming the field of the body that is wrong.
 */
export function choiceOf(
  body: ReadBody,
  { route, maxUsd, isDeadlineHard }: Knobs,
  { mayFall }: { readonly mayFall: boolean } = { mayFall: true }
): Pick<ModelRequest, 'route' | 'maxUsd' | 'isDeadlineHard' | 'fallbacks' | 'anyFallback' | 'preference'> {
  const { fields, route: sort } = readChoice(body, { mayFall })
  const wished = route ?? sort ?? routeOf(String(body.facts.model))
  return {
    ...fields,
    ...(wished !== null && { route: wished }),
    ...(maxUsd !== undefined && { maxUsd }),
    ...(isDeadlineHard === true && { isDeadlineHard })
  }
}

/** Throws GatewayError `invalid_request` naming the field that is wrong. `mayFall`: other models may answer in the place of the first. */
function readChoice(body: ReadBody, { mayFall }: { readonly mayFall: boolean }): ReadChoice {
  const { facts } = body
  if (!isGiven(facts.models) && !isGiven(facts.provider)) return none
  const models = isGiven(facts.models) ? readModels(body, mayFall) : []
  const provider = optionalRecord(facts, 'provider')
  const fallbacks = [...new Set(models)].filter(name => name !== body.json().model)
  const sort = provider === null ? null : readSort(provider.sort)
  return {
    fields: {
      ...(isGiven(facts.models) && { fallbacks }),
      ...(sort?.isAcrossModels === true && { anyFallback: true as const }),
      ...(provider !== null && { preference: readProvider(provider, facts) })
    },
    route: sort?.route ?? null
  }
}

function readModels(body: ReadBody, mayFall: boolean): readonly string[] {
  const { models } = body.facts
  if (!mayFall) throw invalid('models', 'nothing: vectors of different models cannot be compared')
  if (!Array.isArray(models) || models.length === 0 || models.length > modelsAtMost)
    throw wrong('models', `a list of 1 to ${modelsAtMost} models`, models)
  return models.map((value: unknown, at) => checkedModel(value, `models[${at}]`, () => (body.json().models as unknown[])[at]))
}

function readProvider(provider: Facts, facts: Facts): ProviderPreference {
  const zdr = flag(provider, 'zdr')
  const collection = provider.data_collection
  if (isGiven(collection) && collection !== 'allow' && collection !== 'deny')
    throw wrong('provider.data_collection', '"allow" or "deny"', collection)
  const requireParameters = flag(provider, 'require_parameters') === true
  return {
    order: names(provider, 'order'),
    only: names(provider, 'only'),
    ignore: names(provider, 'ignore'),
    allowFallbacks: flag(provider, 'allow_fallbacks') !== false,
    maxPrice: readMaxPrice(provider.max_price),
    keepsNothing: zdr === true || collection === 'deny',
    requireParameters,
    ...(requireParameters && {
      parameters: Object.keys(facts)
        .filter(name => isGiven(facts[name]))
        .slice(0, parametersAtMost)
    }),
    brokered: [
      ...(readQuantizations(provider.quantizations) ? ['provider.quantizations'] : []),
      ...(flag(provider, 'enforce_distillable_text') === true ? ['provider.enforce_distillable_text'] : [])
    ],
    hints: hintsOf(provider),
    given: provider
  }
}

/** Names as they are compared: in lower case. */
function names(provider: Facts, name: 'order' | 'only' | 'ignore'): readonly string[] {
  const list = provider[name]
  if (!isGiven(list)) return []
  const isList = Array.isArray(list) && list.length <= namesAtMost
  if (!isList || !list.every(entry => typeof entry === 'string' && entry !== '' && entry.length <= nameAtMost))
    throw wrong(`provider.${name}`, `a list of up to ${namesAtMost} names of providers`, list)
  return list.map(entry => String(entry).toLowerCase())
}

function flag(provider: Facts, name: string): boolean | null {
  const value = provider[name]
  if (isGiven(value) && typeof value !== 'boolean') throw wrong(`provider.${name}`, 'a boolean', value)
  return optionalBoolean(provider, name)
}

/** Dollars per million tokens, and for a call. OpenRouter takes them as text, too. */
function readMaxPrice(given: unknown): ProviderPreference['maxPrice'] {
  if (!isGiven(given)) return {}
  if (!isRecord(given)) throw wrong('provider.max_price', 'an object', given)
  const price = (name: string): number | undefined => {
    const value = given[name]
    if (!isGiven(value)) return undefined
    const usd = typeof value === 'string' && value.trim() !== '' ? Number(value) : value
    if (typeof usd !== 'number' || !Number.isFinite(usd) || usd < 0) throw wrong(`provider.max_price.${name}`, 'dollars from 0 on', value)
    return usd
  }
  const [prompt, completion, request] = ['prompt', 'completion', 'request'].map(price)
  return {
    ...(prompt !== undefined && { prompt }),
    ...(completion !== undefined && { completion }),
    ...(request !== undefined && { request })
  }
}

/** True when there is something to hold to. */
function readQuantizations(list: unknown): boolean {
  if (!isGiven(list)) return false
  if (!Array.isArray(list) || !list.every(entry => quantizations.includes(String(entry))))
    throw wrong('provider.quantizations', `a list of ${quantizations.join(', ')}`, list)
  return list.length > 0
}

function readSort(sort: unknown): { readonly route: Route; readonly isAcrossModels: boolean } | null {
  if (!isGiven(sort)) return null
  const by = isRecord(sort) ? sort.by : sort
  const route = typeof by === 'string' && Object.hasOwn(sorts, by) ? sorts[by] : undefined
  if (route === undefined) throw wrong(isRecord(sort) ? 'provider.sort.by' : 'provider.sort', `one of ${Object.keys(sorts).join(', ')}`, by)
  const partition = isRecord(sort) ? (sort.partition ?? 'model') : 'model'
  if (partition !== 'model' && partition !== 'none') throw wrong('provider.sort.partition', '"model" or "none"', partition)
  return { route, isAcrossModels: partition === 'none' }
}

/** What only OpenRouter looks at, by its field; whoever else answers leaves it out. */
function hintsOf(provider: Facts): readonly string[] {
  const soft = ['preferred_min_throughput', 'preferred_max_latency'].filter(name => isGiven(provider[name]))
  for (const name of soft) checkPercentiles(`provider.${name}`, provider[name])
  const price = isRecord(provider.max_price)
    ? Object.keys(provider.max_price).filter(name => !/^(prompt|completion|request)$/.test(name))
    : []
  const unknown = Object.keys(provider).filter(name => !known.has(name) && isGiven(provider[name]))
  return [...soft, ...unknown, ...price.map(name => `max_price.${name}`)]
    .filter(name => /^[\w.-]{1,64}$/.test(name))
    .map(name => `provider.${name}`)
}

function checkPercentiles(param: string, value: unknown): void {
  const isFigure = (figure: unknown): boolean => typeof figure === 'number' && Number.isFinite(figure) && figure >= 0
  const isGood =
    isFigure(value) || (isRecord(value) && Object.entries(value).every(([name, own]) => percentiles.includes(name) && isFigure(own)))
  if (!isGood) throw wrong(param, `a number from 0 on, or an object of ${percentiles.join(', ')}`, value)
}
