// GET /v1/models and GET /v1/models/*: what a key may use, own machines first.

import type { FastifyInstance } from 'fastify'
import type { Catalog, CatalogModel } from '../../routing/catalog.ts'
import { GatewayError } from '../../routing/errors.ts'
import { isAllowed } from '../../routing/rules.ts'
import type { Caller, Feature, Target } from '../../routing/types.ts'
import { listedModels, type ModelObject, type ModelView, modelObject, targetsOf } from '../model-list.ts'

export interface ModelsPorts {
  readonly catalog: () => Catalog
  /** Each route stands under each of them: `/v1`, and nothing at all. */
  readonly prefixes: readonly string[]
  /** Whether a target honours a feature that its server's list is silent about; absent = nobody knows. */
  readonly canCarry?: (target: Target, feature: Feature) => boolean
  /** Ids of upstreams that did not answer when they were last asked; absent = all of them did. */
  readonly unavailable?: () => ReadonlySet<string>
}

type Rights = Pick<Caller, 'models' | 'providers'>

/** What was made of one snapshot of the catalog; gone with it. */
interface Listing {
  /** Of the upstreams that were away. */
  readonly away: string
  readonly entries: readonly { readonly model: CatalogModel; readonly json: string }[]
  /** Whole answers, by what a key may use. */
  readonly answers: Map<string, string>
}

// 350 models on three upstreams each make 600 kB, in 6 ms; the keys of one house fall into a few groups.
const answersAtMost = 16

export function registerModels(app: FastifyInstance, ports: ModelsPorts): void {
  const config = { requires: ['source', 'admin'] as const }
  const listings = new WeakMap<Catalog, Listing>()

  for (const prefix of ports.prefixes) {
    app.get(`${prefix}/models`, { config }, (request, reply) => {
      reply.type('application/json; charset=utf-8')
      return reply.send(answerFor(ports.catalog(), request.context.caller as Caller))
    })

    // A wildcard: ids have slashes, and arrive with %2F from the SDKs and bare from people.
    app.get<{ Params: { '*': string } }>(`${prefix}/models/*`, { config }, request =>
      retrieve(ports.catalog(), request.params['*'], request.context.caller as Caller)
    )
  }

  function answerFor(catalog: Catalog, caller: Caller): string {
    const listing = listingOf(catalog)
    const rights = JSON.stringify([caller.models, caller.providers])
    let answer = listing.answers.get(rights)
    if (answer === undefined) {
      const view = viewNow()
      const data = listing.entries.flatMap(({ model, json }) => {
        const targets = allowed(model, caller)
        if (targets.length === model.targets.length) return targets.length > 0 || isUnlimited(caller) ? [json] : []
        return targets.length === 0 ? [] : [JSON.stringify(modelObject({ id: model.id, targets }, view))]
      })
      answer = `{"object":"list","data":[${data.join(',')}]}`
      if (listing.answers.size >= answersAtMost) listing.answers.delete(listing.answers.keys().next().value as string)
      listing.answers.set(rights, answer)
    }
    return answer
  }

  function listingOf(catalog: Catalog): Listing {
    const away = [...(ports.unavailable?.() ?? [])].sort().join(' ')
    const known = listings.get(catalog)
    if (known?.away === away) return known
    const view = viewNow()
    const entries = listedModels(catalog).map(model => ({ model, json: JSON.stringify(modelObject(model, view)) }))
    const listing = { away, entries, answers: new Map<string, string>() }
    listings.set(catalog, listing)
    return listing
  }

  function retrieve(catalog: Catalog, id: string, caller: Caller): ModelObject {
    const resolution = catalog.resolve(id, 0)
    const targets = allowed({ id, targets: targetsOf(catalog, id) }, caller)
    // An alias whose machines are off has no targets, and is a model all the same.
    const isListed = targets.length > 0 || (isUnlimited(caller) && resolution.found && listingOf(catalog).entries.some(isNamed))
    if (isListed) return modelObject({ id, targets }, viewNow())
    const near = resolution.found ? [] : resolution.nearest.filter(name => isUnlimited(caller) || mayUse(catalog, name, caller))
    const hint = near.length === 0 ? '' : ` Did you mean ${near.map(name => `"${name}"`).join(', ')}?`
    throw new GatewayError('model_not_found', `The model "${id.slice(0, 256)}" does not exist here.${hint}`, { param: 'model' })

    function isNamed({ model: listed }: Listing['entries'][number]): boolean {
      return listed.id === id
    }
  }

  function viewNow(): ModelView {
    const away = ports.unavailable?.()
    return {
      canCarry: ports.canCarry ?? (() => false),
      isAvailable: id => away?.has(id) !== true,
      spaceOf: id => ports.catalog().spaceOf(id)
    }
  }
}

function isUnlimited({ models, providers }: Rights): boolean {
  return models === null && providers === null
}

function allowed({ id, targets }: CatalogModel, caller: Rights): readonly Target[] {
  return isUnlimited(caller) ? targets : targets.filter(target => isAllowed(target, id, caller))
}

function mayUse(catalog: Catalog, id: string, caller: Rights): boolean {
  return allowed({ id, targets: targetsOf(catalog, id) }, caller).length > 0
}
