// POST /v1/route: what would be done with a request. GET /v1/routes/{id}: what was done with one, and what came of it.

import type { FastifyInstance, FastifyRequest } from 'fastify'
import { type Explanation, explain } from '../../routing/brain/explain.ts'
import type { Dispatch, Previewing } from '../../routing/dispatch.ts'
import { GatewayError } from '../../routing/errors.ts'
import type { Caller, ModelRequest } from '../../routing/types.ts'
import { bodyOf, knobsOf } from '../answer.ts'
import { callerOf, limitsName } from '../caller.ts'
import { oneCallOf } from '../copies.ts'
import { readChatRequest } from '../dialects/openai-chat.ts'
import type { Limits } from '../limits.ts'
import { uuidOf } from '../query.ts'
import { patienceOf } from '../waiting.ts'

export interface RoutesPorts {
  readonly dispatch: Dispatch
  readonly preview: Previewing['preview']
  readonly limits: Limits
  readonly prefixes: readonly string[]
  /** Of one source, or of any when it is null; null when there is none. */
  readonly find: (id: string, source: string | null) => Promise<unknown>
}

export type PreviewObject = Explanation & {
  /** Where the name leaves it to chance: how often each of its models is the first. What stands here is of the first that is named. */
  readonly chances: readonly { readonly model: string; readonly share: number }[] | null
}

interface OneRoute {
  Params: { id: string }
}

const config = { requires: ['source', 'admin'] as const }
// Larger than any house; of each target one line.
const listed = { ranked: 100, rejected: 100 }

export function registerRoutes(app: FastifyInstance, ports: RoutesPorts): void {
  for (const prefix of ports.prefixes) {
    app.post(`${prefix}/route`, { config }, async request => previewed(ports, request))
  }

  app.get<OneRoute>('/v1/routes/:id', { config }, async request => {
    const caller = request.context.caller as Caller
    // A source sees its own, an admin everybody's.
    const route = await ports.find(uuidOf(request.params.id, 'route'), caller.kind === 'admin' ? null : caller.source)
    if (route === null) throw new GatewayError('not_found', 'There is no route with this id.')
    return route
  })
}

/** Nothing is taken of the key's limits: it asks nobody. How they stand is told all the same. */
function previewed({ dispatch, limits, preview }: RoutesPorts, request: FastifyRequest): PreviewObject {
  const { request: chat } = readChatRequest(bodyOf(request, '"model" and "messages"'), knobsOf(request))
  const { context } = request
  context.model = chat.model
  const patience = patienceOf(request.headers)
  const caller = callerOf(request, () => chat.body.json().user)
  const asked: ModelRequest = patience === null ? chat : { ...chat, patience }
  if (context.key !== null) Object.assign(context.headers, limits.headersOf(limitsName(caller), context.key.limits))
  const { chances, ...found } = preview(oneCallOf(dispatch, asked, caller), caller)
  return { ...explain({ ...found, listed }), id: null, chances }
}
