// Keeps keys and tokens out of what people and logs are told.

import { cleaned } from '../../outbound/said.ts'

/** On one line, short, without this token of Telegram's, whole or its secret half, and without whatever else looks like one or like a key. */
export function withoutSecrets(text: string, token: string | null): string {
  const forms = token === null ? [] : [token, encodeURIComponent(token), token.slice(token.indexOf(':') + 1)]
  const known = forms.reduce((rest, form) => rest.replaceAll(form, '[hidden]'), text)
  // Separators, and what turns the direction of writing or cannot be seen.
  return cleaned(
    known
      .replace(/\d{5,}(:|%3A)[\w-]{20,}/gi, '[hidden]')
      .replace(/[\p{C}\p{Z}]+/gu, ' ')
      .trim()
  )
}
