// The routes of the program as it registers them itself, and what a real request to each of them looks like.

import { createGateway } from '../../gateway/app.ts'
import { createKeyCache } from '../../gateway/keys.ts'
import type { Upstream } from '../../routing/types.ts'

export interface Route {
  readonly method: string
  /** As it was registered, e.g. `/v1/keys/:id`. */
  readonly url: string
}

/** For the wildcard of `/v1/models/*` and the like. */
const restOf: Readonly<Record<string, string>> = {
  models: 'gpt-4o-mini',
  audio: 'speech',
  images: 'generations',
  docs: 'json',
  '': 'v1/chat/completions'
}

/** The table of a server that has everything: passing through and, where `corsOrigins` are given, preflights. */
export async function routeTable(corsOrigins: readonly string[]): Promise<readonly Route[]> {
  const unasked = (): never => {
    throw new Error('not asked for here')
  }
  const { app } = await createGateway({
    version: 'test',
    dispatch: { run: unasked, plan: unasked, canCarry: unasked },
    routes: { preview: unasked, find: unasked, submitted: unasked },
    limits: { admit: unasked, headersOf: unasked, close: async () => {} },
    catalog: unasked,
    keyCache: createKeyCache({ find: async () => null, isListening: () => true, now: () => 0 }),
    keys: { create: unasked, list: unasked, revoke: unasked },
    jobs: {
      jobs: {
        submit: unasked,
        earlier: unasked,
        find: unasked,
        result: unasked,
        list: unasked,
        cancel: unasked,
        retry: unasked,
        redeliver: unasked,
        watch: unasked
      },
      webhooks: null,
      weightOf: async () => null
    },
    costs: { summary: unasked },
    snapshot: unasked,
    benchmarks: { submit: unasked, find: unasked, cancel: unasked, list: unasked },
    fleet: {
      list: unasked,
      find: unasked,
      patch: unasked,
      view: unasked,
      discover: unasked,
      lastDiscovery: unasked,
      check: unasked
    },
    passthrough: {
      provider,
      paths: ['audio', 'images', 'moderations'],
      localOnly: false,
      ledger: { begin: unasked, settle: unasked } as never,
      outbound: { send: unasked, fetchText: unasked, close: async () => {} },
      target: unasked
    },
    unavailable: () => new Set(),
    state: { slots: () => [], breakers: () => [] },
    pingDatabase: async () => {},
    auth: true,
    allowedHosts: [],
    corsOrigins,
    newId: () => '01890000-0000-7000-8000-000000000000',
    logRequest: () => {},
    logFault: () => {}
  })
  const routes = app.knownRoutes.map(({ method, url }) => ({ method, url }))
  await app.close()
  return routes
}

/** As a golden table names it. */
export function nameOf({ method, url }: Route): string {
  return `${method} ${url}`
}

/** A path that the route answers; `id` stands where it takes one. */
export function pathOf({ url }: Route, id = '01890000-0000-7000-8000-000000000000'): string {
  const before = url.split('/').at(-2) ?? ''
  return url
    .replace(/:[a-z_]+/g, id)
    .replace(/^\*$/, '/*')
    .replace(/\*$/, restOf[before] ?? 'x')
}

const provider: Upstream = {
  id: 'openai',
  adapter: 'openai',
  own: false,
  baseUrl: 'http://127.0.0.1:9/v1',
  apiKey: null,
  headers: {},
  device: null,
  timeouts: { connectMs: 1_000, firstTokenMs: 1_000, idleMs: 1_000, totalMs: 1_000 },
  models: null,
  auto: [],
  streamUsage: true,
  registryId: null
}
