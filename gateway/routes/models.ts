// GET /v1/models and GET /v1/models/*

import type { FastifyInstance } from 'fastify'
import type { Catalog, CatalogModel } from '../../routing/catalog.ts'
import { GatewayError } from '../../routing/errors.ts'
import type { Target } from '../../routing/types.ts'

export function registerModels(app: FastifyInstance, { catalog }: { readonly catalog: () => Catalog }): void {
  const config = { requires: ['source', 'admin'] as const }
  app.get('/v1/models', { config }, () => ({ object: 'list', data: catalog().models.map(model => modelObject(catalog(), model)) }))

  // A wildcard: ids have slashes, and arrive with %2F from the SDKs and bare from people.
  app.get<{ Params: { '*': string } }>('/v1/models/*', { config }, request => {
    const id = request.params['*']
    const resolution = catalog().resolve(id, 0)
    if (!resolution.found || (resolution.targets.length === 0 && !catalog().models.some(model => model.id === id))) {
      const near = resolution.found ? [] : resolution.nearest
      const hint = near.length === 0 ? '' : ` Did you mean ${near.map(name => `"${name}"`).join(', ')}?`
      throw new GatewayError('model_not_found', `The model "${id.slice(0, 256)}" does not exist here.${hint}`, { param: 'model' })
    }
    return modelObject(catalog(), { id, targets: resolution.targets })
  })
}

function modelObject(catalog: Catalog, { id, targets }: CatalogModel): object {
  const serving = targets.length > 0 ? targets : servedBy(catalog, id)
  const contexts = serving.map(target => target.contextTokens).filter(length => length !== null)
  return {
    id,
    object: 'model',
    created: Math.max(0, ...targets.map(target => target.createdAt)),
    owned_by: ownerOf(serving),
    ...(contexts.length === 0 ? {} : { context_length: Math.max(...contexts) }),
    targets: serving.map(target => ({
      provider: target.upstream.id,
      model: target.model,
      own: target.upstream.own,
      context_length: target.contextTokens
    }))
  }
}

/** What an alias or `auto` stands for now. */
function servedBy(catalog: Catalog, id: string): readonly Target[] {
  const resolution = catalog.resolve(id, 0)
  return resolution.found ? resolution.targets : []
}

function ownerOf(targets: readonly Target[]): string {
  const [first] = targets
  if (first === undefined) return 'llm-mcp'
  return first.upstream.own ? 'local' : first.upstream.id
}
