// What webhooks need of the environment: the secret they are signed with, and receivers in the own network.

import { isIP } from 'node:net'
import { isHostName } from './urls.ts'

// Standard Webhooks: a secret has 24 to 64 bytes. Longer ones do no harm.
const secretBytesAtLeast = 24
const prefix = 'whsec_'

/** `whsec_` and base64, or any text. `fault` says what is wrong, never the value. */
export function parseWebhookSecret(text: string): { readonly secret: Buffer } | { readonly fault: string } {
  const encoded = text.startsWith(prefix) ? text.slice(prefix.length) : null
  if (encoded !== null && !/^[A-Za-z0-9+/]+={0,2}$/.test(encoded)) return { fault: 'must be base64 after whsec_ (its value is not shown)' }
  const secret = encoded === null ? Buffer.from(text) : Buffer.from(encoded, 'base64')
  if (secret.length < secretBytesAtLeast) return { fault: `must have at least ${secretBytesAtLeast} bytes, got ${secret.length}` }
  return { secret }
}

/**
 * A receiver that may be called though its address is not a public one: `host`, `host:port` or `address/bits`, in lower case,
 * IPv6 in brackets where a port follows and without them elsewhere. Null = none of these.
 */
export function parseReceiver(text: string): string | null {
  const written = text.trim().toLowerCase()
  const [, network = '', bits = ''] = /^\[?([^/\]]*)\]?\/(\d{1,3})$/.exec(written) ?? []
  if (network !== '') {
    const family = isIP(network)
    return family !== 0 && Number(bits) <= (family === 4 ? 32 : 128) ? `${network}/${Number(bits)}` : null
  }
  if (isIP(written) !== 0) return written
  const [, bracketed, plain = '', port] = /^(?:\[([^\]]*)\]|([^:]*))(?::(\d{1,5}))?$/.exec(written) ?? []
  if (port !== undefined && (Number(port) < 1 || Number(port) > 65_535)) return null
  const ending = port === undefined ? '' : `:${Number(port)}`
  if (bracketed !== undefined) return isIP(bracketed) !== 6 ? null : port === undefined ? bracketed : `[${bracketed}]${ending}`
  const host = plain.replace(/\.$/, '')
  // A name that ends in a number is an address to a URL, and may be none.
  return isHostName(host) && URL.canParse(`http://${host}/`) ? host + ending : null
}
