// Where messages to people go: what the environment says of Telegram, taken together.

import { shown } from './problems.ts'

export interface AlertSettings {
  /** Null = nobody is told anything. */
  readonly telegram: TelegramSettings | null
  /** How often it is looked whether there is something to tell. */
  readonly everySeconds: number
  /** How many jobs of a source with a model fail in a row before it is told. */
  readonly failThreshold: number
}

/** At least one of the two. With both, `mcp` is tried first. */
export interface TelegramSettings {
  readonly direct: { readonly token: string; readonly chatId: string } | null
  readonly mcp: { readonly baseUrl: string; readonly chatId: string; readonly botId: number | null } | null
}

/** Each as it was written, or null. */
export interface TelegramVariables {
  readonly token: string | null
  readonly chatId: string | null
  readonly useMcp: Switch | null
  readonly mcpUrl: string | null
  readonly mcpBotId: number | null
  readonly mcpChatId: string | null
  readonly fallback: Switch | null
}

/** All that llm-mcp v2 took. */
export const switches = ['0', '1', 'false', 'true', 'no', 'yes', 'off', 'on'] as const
export type Switch = (typeof switches)[number]

const usualMcpUrl = 'http://tgapi:8000'

/** Half a setting is a problem: its owner would wait for messages in vain. */
export function telegramOf(given: TelegramVariables, problems: string[]): TelegramSettings | null {
  const usesMcp = isOn(given.useMcp)
  const token = checkedToken(given.token, problems)
  const chatId = checkedChat('TELEGRAM_CHAT_ID', given.chatId, problems)
  const mcpChatId = checkedChat('TELEGRAM_MCP_CHAT_ID', given.mcpChatId, problems)
  const chat = chatId ?? (usesMcp ? mcpChatId : null)
  const direct = token === null || chat === null ? null : { token, chatId: chat }
  if (!usesMcp) {
    if (given.token !== null && given.chatId === null) problems.push('TELEGRAM_BOT_TOKEN needs TELEGRAM_CHAT_ID')
    if (given.token === null && given.chatId !== null) problems.push('TELEGRAM_CHAT_ID needs TELEGRAM_BOT_TOKEN, or TELEGRAM_USE_MCP=1')
    return direct === null ? null : { direct, mcp: null }
  }
  const through = mcpChatId ?? chatId
  if (given.mcpChatId === null && given.chatId === null) problems.push('TELEGRAM_USE_MCP needs TELEGRAM_MCP_CHAT_ID or TELEGRAM_CHAT_ID')
  if (isOn(given.fallback) && given.token === null) problems.push('TELEGRAM_MCP_FALLBACK_DIRECT needs TELEGRAM_BOT_TOKEN')
  if (through === null) return null
  const mcp = { baseUrl: given.mcpUrl ?? usualMcpUrl, chatId: through, botId: given.mcpBotId }
  return { direct: given.fallback === null || isOn(given.fallback) ? direct : null, mcp }
}

function isOn(written: Switch | null): boolean {
  return written !== null && ['1', 'true', 'yes', 'on'].includes(written)
}

/** It becomes part of a URL. */
function checkedToken(written: string | null, problems: string[]): string | null {
  if (written === null || /^\d{1,20}:[\w-]{20,200}$/.test(written)) return written
  problems.push('TELEGRAM_BOT_TOKEN must be a number, a colon and letters, as @BotFather gives it (its value is not shown)')
  return null
}

function checkedChat(name: string, written: string | null, problems: string[]): string | null {
  if (written === null || /^(-?\d{1,20}|@?[a-z]\w{2,64})$/i.test(written)) return written
  problems.push(`${name} must be a number such as -1001234567890, or @channel, got ${shown(written)}`)
  return null
}
