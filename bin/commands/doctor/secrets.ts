// Keeps every secret that the configuration holds out of what is shown, whoever put it there.

import type { Settings } from '../../config.ts'

// Shorter ones would cut words to pieces; no key is so short.
const charactersAtLeast = 6

/** Texts with `[hidden]` in the place of each secret, as it is or as it stands in a URL. */
export function createRedactor(secrets: readonly string[]): (text: string) => string {
  const known = secrets
    .flatMap(secret => [secret, encodeURIComponent(secret)])
    .filter(secret => secret.length >= charactersAtLeast)
    // A secret that holds another one goes first, or its rest would be left.
    .sort((a, b) => b.length - a.length)
  return text => known.reduce((rest, secret) => rest.replaceAll(secret, '[hidden]'), text)
}

/** Keys, header values, the password of the database, the secret of webhooks in both of its forms, and the token of Telegram's bot. */
export function secretsOf(settings: Settings): string[] {
  return [
    settings.adminKey,
    settings.databaseUrl,
    passwordOf(settings.databaseUrl),
    settings.webhooks.secret?.toString() ?? null,
    settings.webhooks.secret?.toString('base64').replace(/=+$/, '') ?? null,
    settings.alerts.telegram?.direct?.token ?? null,
    ...settings.upstreams.flatMap(({ apiKey, headers }) => [apiKey, ...Object.values(headers)])
  ].filter(secret => secret !== null)
}

function passwordOf(url: string | null): string | null {
  const password = url === null ? undefined : /^[a-z]+:\/\/[^/@]*?:([^@]*)@/i.exec(url)?.[1]
  if (password === undefined) return null
  try {
    return decodeURIComponent(password)
  } catch {
    return password
  }
}
