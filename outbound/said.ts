// What another server says, made fit to be passed on: its wish to wait, its texts without secrets.

import type { IncomingHttpHeaders } from 'node:http'

const textAtMost = 500

/** `retry-after-ms`, or `retry-after` as seconds or a date; null when absent or nonsense. At most an hour. */
export function retryAfterMs(headers: IncomingHttpHeaders): number | null {
  const exact = Number(headers['retry-after-ms'])
  if (headers['retry-after-ms'] !== undefined && Number.isFinite(exact) && exact >= 0) return Math.min(exact, 3_600_000)
  const header = headers['retry-after']
  if (typeof header !== 'string' || header.trim() === '') return null
  const seconds = Number(header)
  const ms = Number.isFinite(seconds) ? seconds * 1_000 : Date.parse(header) - Date.now()
  return Number.isFinite(ms) && ms >= 0 ? Math.min(ms, 3_600_000) : null
}

/** A text of somebody else's, safe to show: short, without anything that looks like a key. */
export function cleaned(text: string): string {
  const bare = text.replace(/\b(sk|pk|key|gsk|xai)[-_][A-Za-z0-9*_.-]{6,}/g, '$1-[hidden]').replace(/Bearer\s+\S+/gi, 'Bearer [hidden]')
  return bare.length > textAtMost ? `${bare.slice(0, textAtMost)}…` : bare
}

/** A text of the upstream's without our own secrets, however they look: some servers quote the key they refuse. */
export function withoutSecrets(
  text: string,
  upstream: { readonly apiKey: string | null; readonly headers: Readonly<Record<string, string>> }
): string {
  let bare = text
  for (const secret of [upstream.apiKey, ...Object.values(upstream.headers)]) {
    if (secret === null || secret.length < 6) continue
    // A header may name a scheme before its key, and a quote leave it out.
    for (const form of [secret, secret.replace(/^[A-Za-z]+\s+/, '')]) if (form.length >= 6) bare = bare.replaceAll(form, '[hidden]')
  }
  return bare
}
