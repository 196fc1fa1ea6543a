// The ways to people: Telegram's Bot API by grammy, and a telegram-mcp service. None of them ever throws, or tells a token.

import type { GrammyError } from 'grammy'
import type { Outbound, TextAnswer } from '../../outbound/client.ts'
import { retryAfterMs } from '../../outbound/said.ts'
import { withoutSecrets } from './secrets.ts'

/** One way to send messages, all to one chat. */
export interface Channel {
  readonly name: string
  /** `html`: at most 4,096 characters. */
  send(html: string, signal: AbortSignal): Promise<Delivery>
  /** Changes a message that this channel has sent. */
  edit(messageId: string, html: string, signal: AbortSignal): Promise<Delivery>
}

export type Delivery =
  | {
      readonly arrived: true
      /** Null = it cannot be changed. */
      readonly messageId: string | null
    }
  | {
      readonly arrived: false
      /** For people; no secrets. */
      readonly reason: string
      /** Nothing arrived. Otherwise nobody knows. */
      readonly isCertain: boolean
      /** It is this one message that is refused; others may pass. */
      readonly isOfMessage: boolean
      /** It asks to be left alone for so long; 0 = it does not. */
      readonly restMs: number
    }

export interface DirectSettings {
  readonly token: string
  readonly chatId: string
}

export interface TelegramMcpSettings {
  readonly baseUrl: string
  readonly chatId: string
  /** Null = the service's own choice. */
  readonly botId: number | null
}

type Ask = (path: string, body: string, signal: AbortSignal) => Promise<TextAnswer>

const usualTimeoutMs = 10_000
const answerBytesAtMost = 256 * 1024
const restMsAtMost = 3_600_000
const telegramRoot = 'https://api.telegram.org'
// They end a call before anything of it is sent.
const unsentCodes = new Set(['ECONNREFUSED', 'ENOTFOUND', 'EAI_AGAIN', 'EHOSTUNREACH', 'ENETUNREACH', 'UND_ERR_CONNECT_TIMEOUT'])

/** Straight to the Bot API. grammy is loaded with the first message: it takes 60 ms, and most gateways send none. */
export function createDirect(
  outbound: Pick<Outbound, 'fetchText'>,
  {
    token,
    chatId,
    apiRoot = telegramRoot,
    timeoutMs = usualTimeoutMs
  }: DirectSettings & { readonly apiRoot?: string; readonly timeoutMs?: number }
): Channel {
  const ask = asker(outbound, timeoutMs)
  const bare = (text: string): string => withoutSecrets(text, token)

  async function call(
    act: (api: import('grammy').Api) => Promise<{ readonly message_id?: unknown } | true>,
    signal: AbortSignal
  ): Promise<Delivery> {
    const { Api, GrammyError } = await import('grammy')
    // Its own fetch would follow redirects, read without an end, and quote the URL with the token in its errors.
    let failure: unknown = null
    const fetch = async (url: string, { body }: { readonly body: string }): Promise<{ json(): unknown }> => {
      try {
        const { status, text } = await ask(url, body, signal)
        const json = parsed(text)
        if (typeof json?.['ok'] !== 'boolean') throw new Answered(`answered with status ${status}, and not as the Bot API does`)
        return { json: () => json }
      } catch (error) {
        failure = error
        throw error
      }
    }
    // Written for other types of fetch; it calls it with a URL and a body of JSON, and reads `json()`.
    const client = { apiRoot, timeoutSeconds: timeoutMs / 1_000 + 1, fetch: fetch as never }
    try {
      const message = await act(new Api(token, client))
      const id = message === true ? null : message.message_id
      return { arrived: true, messageId: Number.isSafeInteger(id) ? String(id) : null }
    } catch (error) {
      return error instanceof GrammyError ? refusal(error) : broken('Telegram', failure ?? error, bare)
    }
  }

  function refusal({ error_code: code, description, parameters }: GrammyError): Delivery {
    // The text stands there already.
    if (/message is not modified/i.test(description)) return { arrived: true, messageId: null }
    const restMs = Number.isFinite(parameters.retry_after) ? Math.min(restMsAtMost, Math.max(0, Number(parameters.retry_after) * 1_000)) : 0
    return {
      arrived: false,
      reason: bare(`Telegram refuses it: ${code} ${description}`),
      isCertain: true,
      isOfMessage: code === 400,
      restMs
    }
  }

  const more = { parse_mode: 'HTML', link_preview_options: { is_disabled: true } } as const
  return {
    name: 'telegram',
    send: (html, signal) => call(api => api.sendMessage(chatOf(chatId), html, more), signal),
    edit: (messageId, html, signal) => call(api => api.editMessageText(chatOf(chatId), Number(messageId), html, more), signal)
  }
}

/** Through a telegram-mcp service, which has the bot. */
export function createThroughMcp(
  outbound: Pick<Outbound, 'fetchText'>,
  { baseUrl, chatId, botId, timeoutMs = usualTimeoutMs }: TelegramMcpSettings & { readonly timeoutMs?: number }
): Channel {
  const ask = asker(outbound, timeoutMs)
  const bot = botId === null ? {} : { bot_id: botId }

  async function call(path: string, body: object, signal: AbortSignal): Promise<Delivery> {
    try {
      const { status, headers, text } = await ask(
        `${baseUrl}/v1/messages/${path}`,
        JSON.stringify({ ...body, ...bot, parse_mode: 'HTML' }),
        signal
      )
      const json = parsed(text)
      if (status >= 200 && status < 300) {
        const message = json?.['message']
        if (typeof message !== 'object' || message === null)
          throw new Answered(`answered with status ${status}, and not as telegram-mcp does`)
        const id = String(Reflect.get(message, 'id'))
        return { arrived: true, messageId: /^[\w-]{1,64}$/.test(id) && id !== 'undefined' && id !== 'null' ? id : null }
      }
      const detail = typeof json?.['detail'] === 'string' ? ` ${json['detail']}` : ''
      if (/message is not modified/i.test(detail)) return { arrived: true, messageId: null }
      return {
        arrived: false,
        reason: withoutSecrets(`telegram-mcp refuses it: ${status}${detail}`, null),
        isCertain: true,
        isOfMessage: status >= 400 && status < 500 && ![401, 403, 429].includes(status),
        restMs: status === 429 || status === 503 ? (retryAfterMs(headers) ?? 0) : 0
      }
    } catch (error) {
      return broken('telegram-mcp', error, text => withoutSecrets(text, null))
    }
  }

  return {
    name: 'telegram-mcp',
    send: (html, signal) => call('send', { chat_id: chatOf(chatId), text: html, disable_web_page_preview: true }, signal),
    edit: (messageId, html, signal) => call(`${encodeURIComponent(messageId)}/edit`, { text: html }, signal)
  }
}

/** An answer that is none: whoever it is, it has sent nothing to anybody. */
class Answered extends Error {}

function asker(outbound: Pick<Outbound, 'fetchText'>, timeoutMs: number): Ask {
  return (url, body, signal) => {
    const { origin, pathname } = new URL(url)
    return outbound.fetchText(
      {
        origin,
        path: pathname,
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body,
        connectMs: Math.min(5_000, timeoutMs)
      },
      { maxBytes: answerBytesAtMost, timeoutMs, signal }
    )
  }
}

function broken(who: string, error: unknown, bare: (text: string) => string): Delivery {
  const { message, code } = error instanceof Error ? (error as NodeJS.ErrnoException) : { message: String(error), code: undefined }
  const isCertain = error instanceof Answered || unsentCodes.has(code ?? '')
  const what = message === '' ? (code ?? 'it cannot be reached') : message
  return { arrived: false, reason: bare(`${who} does not take it: ${what}`), isCertain, isOfMessage: false, restMs: 0 }
}

function parsed(text: string): Record<string, unknown> | null {
  try {
    const json: unknown = JSON.parse(text)
    return typeof json === 'object' && json !== null ? (json as Record<string, unknown>) : null
  } catch {
    return null
  }
}

/** Numbers as numbers, which all of them take; names as they are. */
function chatOf(chatId: string): string | number {
  return /^-?\d{1,15}$/.test(chatId) ? Number(chatId) : chatId
}
