// Reads a scenario, checks it, and says by its path which field is wrong.

import { readFileSync } from 'node:fs'
import {
  above,
  atLeast,
  count,
  entries,
  type Fields,
  list,
  number,
  oneOf,
  optional,
  record,
  share,
  shown,
  text,
  truth,
  wrong
} from './checks.ts'
import { fleet } from './fleet.ts'
import type { Scenario } from './types.ts'

const schema = 'llm-mcp/routing-scenario@1'

/** What holds where a scenario says nothing. Seconds. */
export const defaults = { drainS: 7_200, stallS: 10 } as const

/** Throws `ScenarioError` when the file cannot be read, is no JSON, or holds no scenario. */
export function readScenario(file: string): Scenario {
  let text: string
  try {
    text = readFileSync(file, 'utf8')
  } catch (cause) {
    throw wrong(file, `cannot be read (${(cause as NodeJS.ErrnoException).code ?? cause})`)
  }
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (cause) {
    throw wrong(file, `is no JSON (${cause instanceof Error ? cause.message : cause})`)
  }
  return parseScenario(value)
}

/** The scenario, with the fleet of its `generator`. Keys it does not know are let through. Throws `ScenarioError`. */
export function parseScenario(value: unknown): Scenario {
  const given = record(value, 'the scenario')
  if (given.schema !== schema) throw wrong('schema', `must be "${schema}", not ${shown(given.schema)}`)
  text(given.id, 'id')
  text(given.title, 'title')
  above(0, given.duration, 'duration')
  optional(given.generator, 'generator', generator)
  const whole = given.generator === undefined ? given : withFleet(given)
  const fields = entries(whole.models, 'models', model)
  const modelNames = new Set(Object.keys(fields))
  const nodes = list(whole.nodes, 'nodes', (each, path) => node(each, path, modelNames))
  const nodeKinds = kinds(nodes)
  const served = new Set(nodes.flatMap(each => Object.keys(record(each.models, 'models'))))
  const sources = list(whole.sources, 'sources', (each, path) => source(each, path, served))
  unique(sources, 'sources')
  rest(whole, nodeKinds)
  // Every field that is used was looked at above.
  return whole as unknown as Scenario
}

/** What the generator makes stands beside what the file holds; a source that names no model asks for all alike. */
function withFleet(given: Fields): Fields {
  const made = fleet(given.generator as NonNullable<Scenario['generator']>)
  const models: Fields = { ...record(given.models ?? {}, 'models'), ...made.models }
  const mix = Object.fromEntries(Object.keys(made.models).map(name => [name, 1]))
  const sources = list(given.sources, 'sources', each => each).map(each => {
    const fields = each as Fields
    return fields.mix === undefined && fields.model === undefined ? { ...fields, mix } : fields
  })
  return { ...given, models, nodes: [...list(given.nodes ?? [], 'nodes', each => each), ...made.nodes], sources }
}

function generator(value: unknown, path: string): void {
  const fields = record(value, path)
  for (const key of ['nodes', 'models', 'modelsPerNode']) count(fields[key], `${path}.${key}`)
  atLeast(0, fields.seed, `${path}.seed`)
}

function model(value: unknown, path: string): void {
  const fields = record(value, path)
  above(0, fields.gb, `${path}.gb`)
  const ref = record(fields.ref, `${path}.ref`)
  above(0, ref.dec, `${path}.ref.dec`)
  above(0, ref.pre, `${path}.ref.pre`)
}

function node(value: unknown, path: string, models: ReadonlySet<string>): Fields {
  const fields = record(value, path)
  text(fields.id, `${path}.id`)
  if (fields.kind !== undefined && fields.kind !== 'cloud')
    throw wrong(`${path}.kind`, `must be "cloud" or absent, not ${shown(fields.kind)}`)
  const isRented = fields.kind === 'cloud'
  const served = entries(fields.models, `${path}.models`, isRented ? rentedModel : ownModel)
  for (const name of Object.keys(served)) if (!models.has(name)) throw wrong(`${path}.models.${name}`, 'is not among the models')
  optional(fields.drift, `${path}.drift`, (each, at) => list(each, at, drift))
  if (isRented) rentedNode(fields, path)
  else ownNode(fields, path)
  return fields
}

function ownNode(fields: Fields, path: string): void {
  above(0, fields.vram, `${path}.vram`)
  atLeast(0, fields.watts, `${path}.watts`)
  count(fields.slots, `${path}.slots`)
  count(fields.maxLoaded, `${path}.maxLoaded`)
  atLeast(0, fields.s, `${path}.s`)
  atLeast(0, fields.loadBase, `${path}.loadBase`)
  above(0, fields.loadGBs, `${path}.loadGBs`)
}

function ownModel(value: unknown, path: string): void {
  const fields = record(value, path)
  above(0, fields.dec, `${path}.dec`)
  above(0, fields.pre, `${path}.pre`)
}

function rentedNode(fields: Fields, path: string): void {
  above(0, fields.rpm, `${path}.rpm`)
  share(fields.fail, `${path}.fail`)
  optional(fields.outages, `${path}.outages`, (each, at) => list(each, at, span))
}

function rentedModel(value: unknown, path: string): void {
  const fields = record(value, path)
  atLeast(0, fields.pin, `${path}.pin`)
  atLeast(0, fields.pout, `${path}.pout`)
  above(0, fields.ttft, `${path}.ttft`)
  above(0, fields.tps, `${path}.tps`)
}

function drift(value: unknown, path: string): void {
  const fields = record(value, path)
  atLeast(0, fields.from, `${path}.from`)
  optional(fields.to, `${path}.to`, (to, at) => above(Number(fields.from), to, at))
  above(0, fields.factor, `${path}.factor`)
}

function span(value: unknown, path: string): void {
  const fields = record(value, path)
  atLeast(0, fields.from, `${path}.from`)
  above(Number(fields.from), fields.to, `${path}.to`)
}

function source(value: unknown, path: string, served: ReadonlySet<string>): Fields {
  const fields = record(value, path)
  text(fields.id, `${path}.id`)
  oneOf(['code', 'conv'], fields.len, `${path}.len`)
  arrivals(fields, path)
  asked(fields, path, served)
  above(0, fields.deadline, `${path}.deadline`)
  oneOf([0, 1, 2], fields.prio, `${path}.prio`)
  for (const key of ['weight', 'inScale', 'outScale']) optional(fields[key], `${path}.${key}`, (each, at) => above(0, each, at))
  for (const key of ['maxTokens', 'turns']) optional(fields[key], `${path}.${key}`, count)
  return fields
}

function arrivals(fields: Fields, path: string): void {
  optional(fields.from, `${path}.from`, (each, at) => atLeast(0, each, at))
  optional(fields.to, `${path}.to`, (each, at) => above(Number(fields.from ?? 0), each, at))
  switch (oneOf(['poisson', 'burst', 'dump'], fields.kind, `${path}.kind`)) {
    case 'poisson':
      above(0, fields.rate, `${path}.rate`)
      break
    case 'burst':
      for (const key of ['every', 'size', 'inRate']) above(0, fields[key], `${path}.${key}`)
      break
    default:
      count(fields.size, `${path}.size`)
      list(fields.at, `${path}.at`, (each, at) => atLeast(0, each, at))
  }
}

function asked(fields: Fields, path: string, served: ReadonlySet<string>): void {
  if ((fields.model === undefined) === (fields.mix === undefined)) throw wrong(path, 'must have either a model or a mix of models')
  const isServed = (name: string, at: string): void => {
    if (!served.has(name)) throw wrong(at, `no node has the model ${shown(name)}`)
  }
  if (fields.model !== undefined) return isServed(text(fields.model, `${path}.model`), `${path}.model`)
  const mix = entries(fields.mix, `${path}.mix`, (each, at) => above(0, each, at))
  for (const name of Object.keys(mix)) isServed(name, `${path}.mix.${name}`)
}

function rest(whole: Fields, kinds: ReadonlyMap<string, 'own' | 'cloud'>): void {
  const named = (value: unknown, path: string, kind?: 'own' | 'cloud'): void => {
    const found = kinds.get(text(value, path))
    if (found === undefined || (kind ?? found) !== found)
      throw wrong(path, `there is no ${kind ?? ''} node ${shown(value)}`.replace('  ', ' '))
  }
  optional(whole.drain, 'drain', (each, at) => atLeast(0, each, at))
  optional(whole.blankProfiles, 'blankProfiles', truth)
  optional(whole.cancelFraction, 'cancelFraction', share)
  optional(whole.maxCost, 'maxCost', (each, at) => above(0, each, at))
  optional(whole.events, 'events', (each, at) => list(each, at, event))
  optional(whole.priceChange, 'priceChange', (each, at) => list(each, at, priceChange))
  optional(whole.restart, 'restart', (each, at) => list(each, at, moment))
  optional(whole.clockSkew, 'clockSkew', (each, at) => list(each, at, (skew, path) => number(moment(skew, path).by, `${path}.by`)))
  optional(whole.stuckLoad, 'stuckLoad', (each, at) => {
    named(record(each, at).node, `${at}.node`, 'own')
    atLeast(0, record(each, at).from, `${at}.from`)
  })
  optional(whole.benchmarkError, 'benchmarkError', (each, at) => {
    for (const name of Object.keys(entries(each, at, (factor, path) => above(0, factor, path)))) named(name, `${at}.${name}`)
  })
  optional(whole.hidden, 'hidden', hidden)

  function event(value: unknown, path: string): void {
    const fields = moment(value, path)
    named(fields.node, `${path}.node`)
    truth(fields.up, `${path}.up`)
  }

  function priceChange(value: unknown, path: string): void {
    const fields = moment(value, path)
    named(fields.node, `${path}.node`, 'cloud')
    atLeast(0, fields.factor, `${path}.factor`)
  }
}

function hidden(value: unknown, path: string): void {
  const fields = record(value, path)
  for (const key of ['prefillHaltsDecode', 'prefixCache']) optional(fields[key], `${path}.${key}`, truth)
  optional(fields.contextFactor, `${path}.contextFactor`, (each, at) => atLeast(0, each, at))
  optional(fields.stalls, `${path}.stalls`, share)
  optional(fields.stallSeconds, `${path}.stallSeconds`, (each, at) => above(0, each, at))
}

function moment(value: unknown, path: string): Fields {
  const fields = record(value, path)
  atLeast(0, fields.t, `${path}.t`)
  return fields
}

function kinds(nodes: readonly Fields[]): ReadonlyMap<string, 'own' | 'cloud'> {
  unique(nodes, 'nodes')
  return new Map(nodes.map(({ id, kind }) => [String(id), kind === 'cloud' ? 'cloud' : 'own']))
}

function unique(all: readonly Fields[], path: string): void {
  const seen = new Set<unknown>()
  for (const [index, { id }] of all.entries()) {
    if (seen.has(id)) throw wrong(`${path}[${index}].id`, `there is another ${shown(id)}`)
    seen.add(id)
  }
}
