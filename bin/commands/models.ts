// llm-mcp models list: what this configuration reaches right now, asked directly; no gateway and no database needed.

import { loadAdapters } from '../../adapters/shared/scan.ts'
import { listedModels, type ModelObject, modelObject, type TargetObject } from '../../gateway/model-list.ts'
import { registeredPrice } from '../../ledger/registry.ts'
import { createOutbound } from '../../outbound/client.ts'
import { createInventory, type Inventory } from '../../planner/inventory.ts'
import type { Feature, Target, Upstream } from '../../routing/types.ts'
import { loadSettings, localOllamaUpstream, type Settings } from '../config.ts'
import { demoTarget } from '../demo.ts'
import { plain, printJson, table } from './print.ts'

// As long as a person waits without wondering; whoever is slower is named.
const waitMs = 3_000

/** Prints the models; who could not be asked is named on stderr. */
export async function listModelsCommand({ json }: { readonly json?: boolean }): Promise<void> {
  const { models, unreachable } = await reachableModels(await loadSettings())
  for (const { id, reason } of unreachable) console.error(`${id} could not be asked: ${plain(reason)}`)
  if (json === true) return printJson({ object: 'list', data: models })
  console.log(
    table(
      ['model', 'where', 'context', 'price per 1M tokens'],
      models.map(model => [model.id, whereOf(model), contextOf(model), priceOf(model.targets[0])])
    )
  )
}

/** Prints which names were taken for one model, and which look alike and were not, each with the reason. */
export async function listJoinsCommand({ json }: { readonly json?: boolean }): Promise<void> {
  const { joins, unreachable } = await reachableModels(await loadSettings())
  for (const { id, reason } of unreachable) console.error(`${id} could not be asked: ${plain(reason)}`)
  const joined = joins.joined.map(({ members, reason }) => ({ names: members.map(({ name }) => name), reason }))
  if (json === true) return printJson({ joined, guesses: joins.guesses, more_guesses: joins.moreGuesses })
  if (joined.length > 0)
    console.log(
      table(
        ['one model', 'because'],
        joined.map(({ names, reason }) => [names.join(', '), reason])
      )
    )
  else console.log('No model has several names.')
  if (joins.guesses.length === 0) return
  console.log(
    `\n${table(
      ['alike, but not joined', 'because'],
      joins.guesses.map(({ names, reason }) => [names.join(', '), reason])
    )}`
  )
  console.error('Say in llm-mcp.yaml what is one model: same_models: {name: [other names]}')
}

export interface Reached {
  /** The objects of GET /v1/models. */
  readonly models: readonly ModelObject[]
  readonly unreachable: readonly { readonly id: string; readonly reason: string }[]
  /** Which names were taken for one model, and which only look alike. */
  readonly joins: ReturnType<Inventory['joins']>
}

/**
 * Asks every upstream once, for at most 3 s. Nothing is written down, so context sizes that a gateway has pinned
 * are not known here: those that it would choose now stand in.
 */
export async function reachableModels(settings: Settings): Promise<Reached> {
  const outbound = createOutbound()
  const adapters = await loadAdapters({ outbound, reasoningField: settings.reasoningField, now: Date.now, randomId: () => '' })
  const candidate = settings.localOllama?.explicit === false ? localOllamaUpstream(settings) : null
  const answered = new Set<string>()
  let tell: () => void = () => {}
  const everyone = new Promise<void>(resolve => {
    tell = resolve
  })
  const heard = (id: string): void => {
    answered.add(id)
    if (settings.upstreams.every(upstream => answered.has(upstream.id))) tell()
  }
  if (settings.upstreams.length === 0) tell()
  const inventory = createInventory({
    upstreams: settings.upstreams,
    candidate,
    adapters,
    aliases: settings.aliases,
    auto: settings.auto,
    prices: { configured: settings.prices, registered: registeredPrice },
    sameModels: settings.sameModels,
    // Embeddings are not asked for here.
    vectorSpaces: new Map(),
    demo: demoTarget,
    saveDevice: async () => {},
    saveModels: async (_upstream, models) => [...models],
    knownModels: async () => [],
    offeredModels: async () => null,
    policy: settings.modelSync,
    onListed: heard,
    onState: (upstream: Upstream) => heard(upstream.id)
  })
  try {
    await within(waitMs, Promise.all([inventory.start(waitMs, waitMs), everyone]))
    const unreachable = unreachableOf(settings, inventory, answered)
    const away = new Set(unreachable.map(({ id }) => id))
    const view = {
      canCarry: (target: Target, feature: Feature) => adapters.get(target.upstream.adapter)?.features.has(feature) === true,
      isAvailable: (id: string) => !away.has(id),
      spaceOf: (id: string) => inventory.catalog().spaceOf(id)
    }
    return { models: listedModels(inventory.catalog()).map(model => modelObject(model, view)), unreachable, joins: inventory.joins() }
  } finally {
    inventory.stop()
    await outbound.close()
  }
}

function unreachableOf(settings: Settings, inventory: Inventory, answered: ReadonlySet<string>): Reached['unreachable'] {
  const failed = new Map(inventory.report().map(({ upstream, error }) => [upstream.id, error]))
  return settings.upstreams.flatMap(({ id }) => {
    const reason = answered.has(id) ? (failed.get(id) ?? null) : `no answer within ${waitMs / 1_000} s`
    return reason === null ? [] : [{ id, reason }]
  })
}

async function within(ms: number, work: Promise<unknown>): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise(resolve => {
    timer = setTimeout(resolve, ms)
  })
  await Promise.race([work, late]).finally(() => clearTimeout(timer))
}

function whereOf({ targets }: ModelObject): string {
  const names = [...new Set(targets.map(({ provider }) => provider))]
  return names.length > 4 ? `${names.slice(0, 3).join(', ')} and ${names.length - 3} more` : names.join(', ')
}

function contextOf({ context_length: tokens }: ModelObject): string {
  if (tokens === null) return ''
  return tokens >= 1_000 ? `${Math.round(tokens / 1_000)}k` : String(tokens)
}

function priceOf(target: TargetObject | undefined): string {
  if (target === undefined) return ''
  const { pricing } = target
  if (pricing === null || target.price_source === 'free') return target.price_source
  return `$${perMillion(pricing.prompt)} in, $${perMillion(pricing.completion)} out`
}

function perMillion(perToken: string): string {
  return String(Number((Number(perToken) * 1e6).toPrecision(12)))
}
