// A synthetic fleet of any size, for timing: from small boxes to large cards, and one node in five rented.

import { createStream, type Stream } from './random.ts'
import type { OwnNode, RentedNode, Scenario, ScenarioModel, ScenarioNode } from './types.ts'

type Models = Record<string, ScenarioModel>

/** The same numbers give the same fleet. Every model is on one node at least, as far as `nodes * modelsPerNode` goes. */
export function fleet(wish: NonNullable<Scenario['generator']>): { readonly models: Models; readonly nodes: ScenarioNode[] } {
  const stream = createStream('fleet', wish.seed)
  const models: Models = {}
  for (let index = 0; index < wish.models; index++) models[`m${index}`] = model(stream)
  const names = Object.keys(models)
  const perNode = Math.min(wish.modelsPerNode, names.length)
  const nodes = Array.from({ length: wish.nodes }, (_, index) => {
    const has = Array.from({ length: perNode }, (_, slot) => names[(index * perNode + slot) % names.length] ?? '')
    const known = Object.fromEntries(has.map(name => [name, models[name] ?? { gb: 1, ref: { dec: 1, pre: 1 } }]))
    return index % 5 === 4 ? rented(`cloud${index}`, known, stream) : own(`node${index}`, known, stream)
  })
  return { models, nodes }
}

/** From 2 to 20 GB; the bytes of a model are what bounds its speed. */
function model(stream: Stream): ScenarioModel {
  const gb = rounded(2 * 10 ** stream.uniform())
  return { gb, ref: { dec: rounded(800 / gb), pre: rounded(30_000 / gb) } }
}

function own(id: string, models: Models, stream: Stream): OwnNode {
  // From a tenth of the reference device to all of it.
  const speed = 10 ** -stream.uniform()
  const largest = Math.max(...Object.values(models).map(({ gb }) => gb))
  return {
    id,
    vram: rounded(Math.max(largest, 8 + 40 * stream.uniform())),
    watts: Math.round(30 + 400 * speed),
    slots: speed > 0.5 ? 4 : speed > 0.2 ? 2 : 1,
    maxLoaded: 3,
    s: rounded(0.4 + 0.5 * stream.uniform()),
    loadBase: 2,
    loadGBs: rounded(0.3 + speed),
    models: each(models, ({ ref }) => ({ dec: rounded(ref.dec * speed), pre: rounded(ref.pre * speed) }))
  }
}

function rented(id: string, models: Models, stream: Stream): RentedNode {
  const price = 10 ** (stream.uniform() - 0.5)
  return {
    id,
    kind: 'cloud',
    rpm: Math.round(60 + 300 * stream.uniform()),
    fail: 0.005,
    // A model of 7 GB costs about what the cheap cloud of the public scenarios takes for its own.
    models: each(models, ({ gb }) => ({
      pin: rounded(0.008 * gb * price),
      pout: rounded(0.02 * gb * price),
      ttft: rounded(0.4 + 0.6 * stream.uniform()),
      tps: rounded(40 + 100 * stream.uniform())
    }))
  }
}

function each<T>(models: Models, make: (model: ScenarioModel) => T): Record<string, T> {
  return Object.fromEntries(Object.entries(models).map(([name, model]) => [name, make(model)]))
}

const rounded = (value: number): number => Number(value.toPrecision(4))
