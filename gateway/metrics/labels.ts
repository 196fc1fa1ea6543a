// The values that labels of our metrics may have: a short list of each, whatever arrives.

export const other = 'other'

export const modelRoutes = ['/v1/chat/completions', '/v1/completions', '/v1/embeddings', '/v1/responses'] as const
const namedRoutes: ReadonlySet<string> = new Set([
  ...modelRoutes,
  '/v1/jobs',
  '/v1/models',
  '/v1/audio/*',
  '/v1/images/*',
  '/v1/moderations',
  '/health',
  '/ready'
])
const namedStatuses = new Set([200, 400, 401, 403, 404, 429, 499, 500, 502, 503, 504])
const charactersAtMost = 120

/** A route as it was registered: with and without /v1 it is one, and so are a list and its items. */
export function routeLabel(route: string): string {
  if (namedRoutes.has(route)) return route
  const path = route.startsWith('/v1/') ? route : `/v1${route}`
  if (namedRoutes.has(path)) return path
  if (path.startsWith('/v1/jobs/')) return '/v1/jobs'
  return path === '/v1/models/*' ? '/v1/models' : other
}

export function statusLabel(status: number): string {
  if (namedStatuses.has(status)) return String(status)
  return status >= 200 && status < 600 ? `${Math.floor(status / 100)}xx` : other
}

/** For names that others gave: machines, providers, models. */
export function labelOf(name: string): string {
  return name.replace(/[^\x20-\x7e]/g, '?').slice(0, charactersAtMost)
}
