// The OpenAPI 3.1 document: the routes there are, each with what is known of it. Pure.

import {
  benchmarkDocs,
  benchmarksSchemas,
  cancelBenchmarkDocs,
  listBenchmarksDocs,
  runBenchmarkDocs,
  submitBenchmarkDocs
} from './benchmarks.ts'
import { chatDocs, chatSchemas, completionsDocs } from './chat.ts'
import { costsDocs, costsSchemas } from './costs.ts'
import { dashboardDocs } from './dashboard.ts'
import { embeddingsDocs, embeddingsSchemas } from './embeddings.ts'
import {
  deviceDocs,
  fleetSchemas,
  lastDiscoveryDocs,
  listDevicesDocs,
  offlineDeviceDocs,
  patchDeviceDocs,
  runDiscoveryDocs
} from './fleet.ts'
import { cancelJobDocs, jobDocs, jobsSchemas, listJobsDocs, redeliverJobDocs, retryJobDocs, streamJobDocs, submitJobDocs } from './jobs.ts'
import { createKeyDocs, deleteKeyDocs, keysSchemas, listKeysDocs } from './keys.ts'
import { modelDocs, modelsDocs, modelsSchemas } from './models.ts'
import { healthDocs, metricsDocs, readyDocs } from './operation.ts'
import { components, type OperationDocs, type Part } from './parts.ts'
import { passthroughDocs } from './passthrough.ts'
import { responsesDocs, responsesSchemas } from './responses.ts'
import { previewDocs, routeDocs, routesSchemas } from './routes.ts'

export interface Route {
  readonly method: string
  readonly url: string
}

export interface DocumentFacts {
  readonly version: string
  readonly routes: readonly Route[]
  /** First parts of paths after /v1 that are passed through. */
  readonly passthrough: readonly string[]
}

export interface OpenApiDocument extends Part {
  readonly openapi: string
  readonly paths: Readonly<Record<string, Readonly<Record<string, OperationDocs>>>>
}

/** By method and the path of the document. */
const described: Readonly<Record<string, OperationDocs>> = {
  'POST /v1/chat/completions': chatDocs,
  'POST /v1/completions': completionsDocs,
  'POST /v1/embeddings': embeddingsDocs,
  'POST /v1/responses': responsesDocs,
  'POST /v1/route': previewDocs,
  'GET /v1/routes/{id}': routeDocs,
  'GET /v1/models': modelsDocs,
  'GET /v1/models/{model}': modelDocs,
  'POST /v1/jobs': submitJobDocs,
  'GET /v1/jobs': listJobsDocs,
  'GET /v1/jobs/{id}': jobDocs,
  'POST /v1/jobs/{id}/cancel': cancelJobDocs,
  'POST /v1/jobs/{id}/retry': retryJobDocs,
  'POST /v1/jobs/{id}/webhook': redeliverJobDocs,
  'GET /v1/jobs/{id}/stream': streamJobDocs,
  'GET /v1/devices': listDevicesDocs,
  'GET /v1/devices/{id}': deviceDocs,
  'PATCH /v1/devices/{id}': patchDeviceDocs,
  'POST /v1/devices/offline': offlineDeviceDocs,
  'POST /v1/discovery/run': runDiscoveryDocs,
  'GET /v1/discovery/last': lastDiscoveryDocs,
  'POST /v1/benchmarks': submitBenchmarkDocs,
  'POST /v1/benchmarks/run': runBenchmarkDocs,
  'GET /v1/benchmarks': listBenchmarksDocs,
  'GET /v1/benchmarks/{id}': benchmarkDocs,
  'POST /v1/benchmarks/{id}/cancel': cancelBenchmarkDocs,
  'POST /v1/keys': createKeyDocs,
  'GET /v1/keys': listKeysDocs,
  'DELETE /v1/keys/{id}': deleteKeyDocs,
  'GET /v1/costs/summary': costsDocs,
  'GET /v1/dashboard': dashboardDocs,
  'GET /health': healthDocs,
  'GET /ready': readyDocs,
  'GET /metrics': metricsDocs
}

/** Every route once: under /v1 where it is there too, without HEAD and OPTIONS, without the documentation itself. */
export function openApiDocument(facts: DocumentFacts): OpenApiDocument {
  const paths: Record<string, Record<string, OperationDocs>> = {}
  for (const route of shownRoutes(facts.routes)) {
    const path = pathOf(route)
    const item = (paths[path] ??= {})
    item[route.method.toLowerCase()] = docsOf(route, facts.passthrough) ?? undescribed(route)
  }
  return {
    openapi: '3.1.0',
    info: {
      title: 'llm-mcp',
      version: facts.version,
      summary: 'One OpenAI-shaped endpoint in front of every model you own and every model you rent.',
      description: "Any OpenAI client works with this gateway's base URL and key. All routes under /v1 for models stand without /v1 too.",
      license: { name: 'MIT', identifier: 'MIT' }
    },
    servers: [{ url: '/' }],
    security: [{ key: [] }],
    tags: ['Models', 'Jobs', 'Passed through', 'Machines', 'Keys', 'Costs', 'Operation'].map(name => ({ name })),
    paths,
    components: {
      ...components,
      schemas: {
        ...components.schemas,
        ...chatSchemas,
        ...embeddingsSchemas,
        ...responsesSchemas,
        ...modelsSchemas,
        ...routesSchemas,
        ...jobsSchemas,
        ...fleetSchemas,
        ...benchmarksSchemas,
        ...keysSchemas,
        ...costsSchemas
      }
    }
  }
}

/** Routes that the document shows but cannot say anything about. A test keeps it empty. */
export function undescribedRoutes({ routes, passthrough }: Omit<DocumentFacts, 'version'>): readonly Route[] {
  return shownRoutes(routes).filter(route => docsOf(route, passthrough) === null)
}

function shownRoutes(routes: readonly Route[]): readonly Route[] {
  const all = new Set(routes.map(({ method, url }) => `${method} ${url}`))
  return routes.filter(({ method, url }) => {
    if (method === 'HEAD' || method === 'OPTIONS') return false
    if (/^\/(docs(\/|$)|openapi\.json$)/.test(url)) return false
    return url.startsWith('/v1/') || !all.has(`${method} /v1${url}`)
  })
}

function docsOf(route: Route, passthrough: readonly string[]): OperationDocs | null {
  const known = described[`${route.method} ${pathOf(route)}`]
  if (known !== undefined) return known
  const [, segment, rest] = /^\/v1\/([^/]+)(\/\*)?$/.exec(route.url) ?? []
  const isPassed = segment !== undefined && passthrough.includes(segment) && route.method === 'POST'
  return isPassed ? passthroughDocs(segment, rest !== undefined) : null
}

/** Fastify's `:id` and `*` in OpenAPI's braces. */
function pathOf({ url }: Route): string {
  return url.replace(/:([a-z_]+)/g, '{$1}').replace(/\*$/, url === '/v1/models/*' ? '{model}' : '{rest}')
}

function undescribed({ method, url }: Route): OperationDocs {
  return {
    operationId: `${method.toLowerCase()}${url.replace(/[^a-z0-9]+/gi, '-')}`,
    tags: ['Operation'],
    summary: 'Not described yet',
    responses: { default: { description: 'Not described yet.' } }
  }
}
