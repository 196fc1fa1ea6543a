// Reading a server's list of models without trusting it.

import type { Outbound } from '../../outbound/client.ts'
import { withoutSecrets } from '../../outbound/said.ts'
import { GatewayError } from '../../routing/errors.ts'
import type { ModelListing, Unread, Upstream } from '../../routing/types.ts'
import { originOf } from './dialect.ts'
import { elementsAtMost, hasTooManyElements } from './elements.ts'
import { errorFromStatus, isRecord, parseOrNull } from './http-errors.ts'

const limits = { maxBytes: 8 * 1024 * 1024, timeoutMs: 15_000 }
const modelsAtMost = 5_000

/** The `data` of an OpenAI-shaped list, at most 5,000 entries, each still unknown; `onUnread` hears of more. Throws GatewayError. */
export async function fetchModels(
  outbound: Outbound,
  upstream: Upstream,
  {
    signal,
    path = '/models',
    onUnread
  }: { readonly signal: AbortSignal; readonly path?: string; readonly onUnread: (what: Unread) => void }
): Promise<unknown[]> {
  const { origin, prefix } = originOf(upstream.baseUrl)
  const answer = await outbound
    .fetchText(
      {
        origin,
        path: `${prefix}${path}`,
        method: 'GET',
        headers: { ...upstream.headers, ...(upstream.apiKey === null ? {} : { authorization: `Bearer ${upstream.apiKey}` }) },
        body: null,
        connectMs: upstream.timeouts.connectMs
      },
      { ...limits, signal }
    )
    .catch((error: unknown) => {
      throw new GatewayError(
        'upstream_unavailable',
        `${upstream.id} could not be asked for its models: ${(error as NodeJS.ErrnoException).code ?? String(error)}`,
        { cause: error }
      )
    })
  if (answer.status !== 200) throw errorFromStatus(upstream.id, answer.status, withoutSecrets(answer.text, upstream), answer.headers)
  if (hasTooManyElements(answer.text))
    throw new GatewayError('upstream_unavailable', `${upstream.id} answered ${path} with more than ${elementsAtMost} elements.`)
  const json = parseOrNull(answer.text)
  if (!isRecord(json) || !Array.isArray(json.data))
    throw new GatewayError('upstream_unavailable', `${upstream.id} answered ${path} with something that is no list.`)
  const { length } = json.data
  if (length > modelsAtMost)
    onUnread({ operation: null, isFailure: false, reason: `of its ${length} models, only the first ${modelsAtMost} are read` })
  return json.data.slice(0, modelsAtMost)
}

/** Some servers name a model twice: the first counts. */
export function withoutDoubles(listings: readonly ModelListing[]): ModelListing[] {
  const found = new Map<string, ModelListing>()
  for (const listing of listings) if (!found.has(listing.model)) found.set(listing.model, listing)
  return [...found.values()]
}

/** A text that can be kept and shown as a name: Postgres takes no NUL and no half characters, and a header no control characters. */
export function isModelName(value: unknown): value is string {
  return typeof value === 'string' && value !== '' && value.length <= 256 && value.isWellFormed() && !/[\x00-\x1f\x7f]/.test(value)
}

/** A positive finite number, or null. */
export function numberOrNull(value: unknown): number | null {
  return typeof value === 'number' && Number.isFinite(value) && value > 0 ? value : null
}
