// Where a request may go at the provider: below the configured paths, by names that every reader understands alike.

import { GatewayError } from '../../routing/errors.ts'

const segmentForm = /^[a-z0-9][a-z0-9_-]*$/
// No escapes, no dots at the beginning, nothing between two slashes: then decoding and normalising change nothing.
const pathForm = /^[A-Za-z0-9_-]+(?:\/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*$/
const queryForm = /^[A-Za-z0-9._~!$&'()*+,;=:@/?%[\]-]*$/

/** Throws Error for a configured path that is not one plain name. */
export function checkSegments(paths: readonly string[]): void {
  for (const path of paths) {
    if (!segmentForm.test(path)) throw new Error(`"${path}" cannot be passed through: a path is one name of a-z, 0-9, "-" and "_".`)
  }
}

/**
 * The first name below the provider's address, e.g. `audio`. `destination` is the path that would go out, `target` what the
 * client asked for, with its query. Throws GatewayError `invalid_request` for whatever could mean another place to another reader.
 */
export function checkDestination(
  destination: string,
  { baseUrl, paths, target }: { readonly baseUrl: string; readonly paths: readonly string[]; readonly target: string }
): string {
  const base = new URL(baseUrl)
  const prefix = `${base.pathname.replace(/\/$/, '')}/`
  const rest = destination.slice(prefix.length)
  const [first] = rest.split('/', 1) as [string]
  const query = target.indexOf('?')
  const resolved = URL.parse(destination, base.origin)
  if (
    !destination.startsWith(prefix) ||
    !pathForm.test(rest) ||
    !paths.includes(first) ||
    resolved?.origin !== base.origin ||
    resolved.pathname !== destination ||
    (query !== -1 && !queryForm.test(target.slice(query + 1)))
  ) {
    throw new GatewayError('invalid_request', 'This request URL is not passed on: it may have plain names between single slashes only.')
  }
  return first
}
