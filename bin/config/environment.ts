// What the environment says, each variable by itself: read, checked and turned into values of the right type.

import { isIP } from 'node:net'
import { resolve } from 'node:path'
import { nearest } from '../../routing/nearest.ts'
import type { DiscoverySettings } from './discovery.ts'
import type { Environment } from './expansion.ts'
import { shown } from './problems.ts'
import { maxConcurrencyLimit, maxUsdPerKwh } from './schema.ts'
import { type AlertSettings, switches, telegramOf } from './telegram.ts'
import { isHostName, isLoopback, isRentedHost, parseOllamaHost, parseUrl } from './urls.ts'
import { parseReceiver, parseWebhookSecret } from './webhooks.ts'

/** Which part of the work a process does; several processes with one database share it. */
export const roles = ['all', 'gateway', 'worker', 'planner'] as const
export type Role = (typeof roles)[number]

/** What only the environment can say: in the settings as it is here. */
export interface OwnSettings {
  readonly host: string
  /** 0 = any free port. */
  readonly port: number
  readonly databaseUrl: string | null
  /** Absolute. */
  readonly dataDir: string
  readonly adminKey: string | null
  /** False only on a loopback address. */
  readonly auth: boolean
  /** Lower case, without port; IPv6 in brackets, as in a Host header. Empty = addresses and localhost only. */
  readonly allowedHosts: readonly string[]
  readonly logLevel: string
  /** Origins of web pages that may call us, as browsers write them; `*` = any. */
  readonly corsOrigins: readonly string[]
  /** Where traces go; null = nowhere. */
  readonly otlpEndpoint: string | null
  /** Started by `npm start`, `npm run`. */
  readonly underNpm: boolean
  readonly deviceMaxConcurrency: number | null
  /** Processes on this machine, behind one port. */
  readonly workers: number
  /** `gateway`: HTTP; `worker`: runs jobs, listens on no port; `planner`: what runs by itself; `all`: everything. */
  readonly role: Role
  /** How long jobs are kept after their end. */
  readonly jobRetentionDays: number
  /** How long it is kept why requests went where they went. */
  readonly routeRetentionDays: number
  readonly webhooks: WebhookSettings
  readonly modelSync: ModelSyncSettings
  /** Dearer rented models are measured only on demand: the mean of the prices of a million prompt and a million answer tokens. */
  readonly benchmarkMaxUsdPer1m: number
  readonly alerts: AlertSettings
}

/** Of the providers' lists of models. */
export interface ModelSyncSettings {
  readonly onStartup: boolean
  /** 0 = only on startup, and when it is asked for. */
  readonly everyHours: number
  /** How many of OpenRouter's models are offered. */
  readonly top: number
  /** Dearer ones are not: the mean of the prices of a million prompt and a million answer tokens. */
  readonly maxUsdPer1m: number
}

export interface WebhookSettings {
  /** Null = webhooks are refused. */
  readonly secret: Buffer | null
  /** Receivers in the own network: `host`, `host:port` or `address/bits`. */
  readonly allow: readonly string[]
}

export interface EnvironmentSettings extends OwnSettings {
  /** As written; null = llm-mcp.yaml, if there is one. */
  readonly configFile: string | null
  readonly electricityUsdPerKwh: number | null
  /** Null = Ollama's own default. */
  readonly ollamaUrl: string | null
  readonly openai: RentedSettings
  readonly openrouter: RentedSettings
  readonly discovery: Pick<DiscoverySettings, 'everySeconds' | 'tailscaleBin' | 'ollamaPorts'>
  readonly deviceLimitsJson: string | null
  readonly deviceLimitsFile: string | null
}

export interface RentedSettings {
  readonly key: string | null
  /** Null = the provider's own. */
  readonly url: string | null
}

const logLevels = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent']
const minAdminKeyLength = 24
// Each takes 200 MB and ten connections of the database.
const maxWorkers = 64
// A century: what it is for is to catch a time in other units.
const maxRetentionDays = 36_500

const ollamaPort = 11_434
const ollamaPortsAtMost = 16
const maxSyncHours = 24 * 366
// As many as are read of a list.
const maxSyncTop = 5_000

/** All of ours; another name with our prefix is a typing error, and would be obeyed by nobody. */
const prefix = 'LLM_MCP_'
const ownNames = ['ADMIN_KEY', 'ALLOWED_HOSTS', 'AUTH', 'CONFIG', 'CORS_ORIGINS', 'DATA_DIR', 'ROLE', 'WEBHOOK_ALLOW', 'WEBHOOK_SECRET']
/** Of whoever calls us (config/client.ts, the banner's curl line): set in the same shell by many, and nothing to a gateway. */
const clientNames = ['KEY', 'URL']

/** Never throws: what is wrong is added to `problems`, and its default stands in. */
export function readEnvironment(environment: Environment, cwd: string, problems: string[]): EnvironmentSettings {
  refuseUnknown()
  const host = readHost()
  const ollama = parseOllamaHost(environment.OLLAMA_HOST ?? '')
  return {
    host,
    port: number('PORT', { least: 0, most: 65_535, integer: true }) ?? 4000,
    databaseUrl: readDatabaseUrl(),
    dataDir: resolve(cwd, text('LLM_MCP_DATA_DIR') ?? '.data'),
    configFile: text('LLM_MCP_CONFIG'),
    adminKey: readAdminKey(),
    auth: readAuth(host),
    allowedHosts: readAllowedHosts(),
    logLevel: choice('LOG_LEVEL', logLevels) ?? 'info',
    corsOrigins: readOrigins(),
    otlpEndpoint: url('OTEL_EXPORTER_OTLP_ENDPOINT'),
    underNpm: environment.npm_lifecycle_event !== undefined,
    electricityUsdPerKwh: number('ELECTRICITY_USD_PER_KWH', { least: 0, most: maxUsdPerKwh, integer: false }),
    ollamaUrl: ollama === null ? null : checkedUrl('OLLAMA_HOST', ollama),
    openai: openaiSettings(),
    openrouter: { key: secret('OPENROUTER_API_KEY'), url: url('OPENROUTER_UPSTREAM_URL') },
    workers: number('WORKERS', { least: 1, most: maxWorkers, integer: true }) ?? 1,
    deviceMaxConcurrency: number('DEVICE_MAX_CONCURRENCY', { least: 1, most: maxConcurrencyLimit, integer: true }),
    discovery: {
      everySeconds: number('DISCOVERY_INTERVAL', { least: 0, most: 86_400, integer: true }) ?? 0,
      tailscaleBin: readTailscaleBin(),
      ollamaPorts: readOllamaPorts()
    },
    deviceLimitsJson: text('DEVICE_LIMITS_JSON'),
    deviceLimitsFile: text('DEVICE_LIMITS_FILE'),
    role: choice('LLM_MCP_ROLE', roles) ?? 'all',
    jobRetentionDays: number('JOB_RETENTION_DAYS', { least: 1, most: maxRetentionDays, integer: true }) ?? 30,
    routeRetentionDays: number('ROUTE_RETENTION_DAYS', { least: 1, most: maxRetentionDays, integer: true }) ?? 7,
    webhooks: { secret: readWebhookSecret(), allow: readReceivers() },
    benchmarkMaxUsdPer1m: number('BENCHMARK_MAX_PRICE_PER_1M', { least: 0, most: 1_000_000, integer: false }) ?? 10,
    modelSync: {
      onStartup: (number('OPENROUTER_SYNC_ON_STARTUP', { least: 0, most: 1, integer: true }) ?? 1) === 1,
      everyHours: number('OPENROUTER_SYNC_INTERVAL', { least: 0, most: maxSyncHours, integer: false }) ?? 24,
      top: number('OPENROUTER_SYNC_TOP', { least: 1, most: maxSyncTop, integer: true }) ?? 100,
      maxUsdPer1m: number('OPENROUTER_MAX_PRICE_PER_1M', { least: 0, most: 1_000_000, integer: false }) ?? 10
    },
    alerts: {
      telegram: readTelegram(),
      everySeconds: number('TELEMETRY_CHECK_INTERVAL', { least: 5, most: 3_600, integer: true }) ?? 30,
      failThreshold: number('ALERT_FAIL_THRESHOLD', { least: 1, most: 1_000, integer: true }) ?? 3
    }
  }

  /**
   * Clients of ours export OPENAI_API_KEY too, with one of our keys: that is no key of OpenAI's, and must not be sent there.
   * With an address of its own it may well be another gateway's.
   */
  function openaiSettings(): RentedSettings {
    const key = secret('OPENAI_API_KEY')
    const address = url('OPENAI_UPSTREAM_URL')
    return { key: address === null && key?.startsWith('sk-llm-') === true ? null : key, url: address }
  }

  /** Blank is not set: that is what `NAME=` in a compose file means. */
  function text(name: string): string | null {
    return environment[name]?.trim() || null
  }

  function number(name: string, range: { readonly least: number; readonly most: number; readonly integer: boolean }): number | null {
    const written = text(name)
    if (written === null) return null
    const value = Number(written)
    const wellFormed = range.integer ? /^\d+$/.test(written) : /^(\d+\.?\d*|\.\d+)$/.test(written)
    if (wellFormed && value >= range.least && value <= range.most) return value
    problems.push(
      `${name} must be ${range.integer ? 'an integer' : 'a number'} from ${range.least} to ${range.most}, got ${shown(written)}`
    )
    return null
  }

  function choice<const T extends string>(name: string, allowed: readonly T[]): T | null {
    const written = text(name)
    if (written === null) return null
    const found = allowed.find(value => value === written.toLowerCase())
    if (found !== undefined) return found
    problems.push(`${name} must be ${allowed.slice(0, -1).join(', ')} or ${allowed.at(-1)}, got ${shown(written)}`)
    return null
  }

  function url(name: string): string | null {
    const written = text(name)
    return written === null ? null : checkedUrl(name, parseUrl(written))
  }

  function checkedUrl(name: string, parsed: NonNullable<ReturnType<typeof parseOllamaHost>>): string | null {
    if ('fault' in parsed) {
      problems.push(`${name} must be ${parsed.fault}${parsed.secret ? '' : `, got ${shown(text(name) ?? '')}`}`)
      return null
    }
    if (name === 'OLLAMA_HOST' && isRentedHost(parsed.url)) {
      problems.push(`OLLAMA_HOST must be a machine of yours, got ${shown(text(name) ?? '')}: its prompts would leave the house`)
      return null
    }
    return parsed.url
  }

  /** For keys that are sent in a header; the value is never shown. */
  function secret(name: string): string | null {
    const written = text(name)
    if (written === null || isPrintable(written)) return written
    problems.push(`${name} holds a space or a character that no key has (its value is not shown)`)
    return null
  }

  function readHost(): string {
    const written = text('HOST')?.replace(/^\[(.*)\]$/, '$1') ?? '127.0.0.1'
    if (isIP(written) !== 0 || isHostName(written)) return written
    problems.push(`HOST must be an address or a name without a port, got ${shown(written)}`)
    return '127.0.0.1'
  }

  function readDatabaseUrl(): string | null {
    const written = text('DATABASE_URL')
    if (written === null || /^(postgres|postgresql|socket):|^\//i.test(written)) return written
    problems.push('DATABASE_URL must begin with postgres:// or postgresql:// (its value is not shown)')
    return null
  }

  function readAdminKey(): string | null {
    const given = environment.LLM_MCP_ADMIN_KEY
    if (given === undefined) return null
    const key = given.trim()
    if (key.length >= minAdminKeyLength && isPrintable(key)) return key
    problems.push(
      `LLM_MCP_ADMIN_KEY must have at least ${minAdminKeyLength} characters and no spaces, got ${key.length === 0 ? 'none' : key.length} (leave it out to have one made)`
    )
    return null
  }

  function readAuth(host: string): boolean {
    if (choice('LLM_MCP_AUTH', ['on', 'off']) !== 'off') return true
    if (isLoopback(host)) return false
    problems.push(`LLM_MCP_AUTH=off needs a HOST that only this machine can reach (127.0.0.1, ::1, localhost), got ${shown(host)}`)
    return true
  }

  function readAllowedHosts(): string[] {
    const hosts: string[] = []
    for (const written of (text('LLM_MCP_ALLOWED_HOSTS') ?? '').split(',')) {
      const host = written.trim().toLowerCase().replace(/\.$/, '')
      const address = host.replace(/^\[(.*)\]$/, '$1')
      if (host === '') continue
      if (isIP(address) === 6) hosts.push(`[${address}]`)
      else if (isIP(host) === 4 || isHostName(host)) hosts.push(host)
      else
        problems.push(
          `LLM_MCP_ALLOWED_HOSTS must be names or addresses without scheme and port, separated by commas, got ${shown(written.trim())}`
        )
    }
    return [...new Set(hosts)]
  }

  /** As a browser's Origin header has them: scheme, host, port unless it is the usual one, no path. */
  function readOrigins(): string[] {
    const origins = (text('LLM_MCP_CORS_ORIGINS') ?? '')
      .split(',')
      .map(origin => origin.trim().replace(/\/$/, ''))
      .filter(origin => origin !== '')
    for (const origin of origins) {
      if (origin === '*' || (URL.canParse(origin) && new URL(origin).origin === origin.toLowerCase())) continue
      problems.push(
        `LLM_MCP_CORS_ORIGINS must be origins such as https://chat.example.com, separated by commas, or *, got ${shown(origin)}`
      )
    }
    return [...new Set(origins.map(origin => origin.toLowerCase()))]
  }

  function readWebhookSecret(): Buffer | null {
    const written = text('LLM_MCP_WEBHOOK_SECRET')
    if (written === null) return null
    const parsed = parseWebhookSecret(written)
    if ('secret' in parsed) return parsed.secret
    problems.push(`LLM_MCP_WEBHOOK_SECRET ${parsed.fault}`)
    return null
  }

  function readTelegram(): AlertSettings['telegram'] {
    return telegramOf(
      {
        token: text('TELEGRAM_BOT_TOKEN'),
        chatId: text('TELEGRAM_CHAT_ID'),
        useMcp: choice('TELEGRAM_USE_MCP', switches),
        mcpUrl: url('TELEGRAM_MCP_BASE_URL'),
        mcpBotId: number('TELEGRAM_MCP_BOT_ID', { least: 1, most: Number.MAX_SAFE_INTEGER, integer: true }),
        mcpChatId: text('TELEGRAM_MCP_CHAT_ID'),
        fallback: choice('TELEGRAM_MCP_FALLBACK_DIRECT', switches)
      },
      problems
    )
  }

  /** A path stays one wherever the gateway is started; a bare name is looked for on PATH. */
  function readTailscaleBin(): string | null {
    const written = text('TAILSCALE_BIN')
    return written === null || !/[/\\]/.test(written) ? written : resolve(cwd, written)
  }

  function readOllamaPorts(): number[] {
    const written = (text('OLLAMA_PORTS') ?? String(ollamaPort)).split(',').map(port => port.trim())
    const ports = [...new Set(written.filter(port => port !== ''))]
    if (ports.length <= ollamaPortsAtMost && ports.every(port => /^\d{1,5}$/.test(port) && Number(port) >= 1 && Number(port) <= 65_535)) {
      return ports.map(Number)
    }
    problems.push(`OLLAMA_PORTS must be up to ${ollamaPortsAtMost} ports, separated by commas, got ${shown(text('OLLAMA_PORTS') ?? '')}`)
    return [ollamaPort]
  }

  function readReceivers(): string[] {
    const receivers: string[] = []
    for (const written of (text('LLM_MCP_WEBHOOK_ALLOW') ?? '').split(',')) {
      if (written.trim() === '') continue
      const receiver = parseReceiver(written)
      if (receiver !== null) receivers.push(receiver)
      else
        problems.push(
          `LLM_MCP_WEBHOOK_ALLOW must be host, host:port or address/bits without a scheme, separated by commas, got ${shown(written.trim())}`
        )
    }
    return [...new Set(receivers)]
  }

  function refuseUnknown(): void {
    for (const name of Object.keys(environment)) {
      if (!name.startsWith(prefix) || [...ownNames, ...clientNames].includes(name.slice(prefix.length))) continue
      const [near] = nearest(name.slice(prefix.length), ownNames, 1)
      problems.push(
        `${name} is not a setting, ${near === undefined ? `known are ${ownNames.map(own => prefix + own).join(', ')}` : `did you mean ${prefix}${near}?`}`
      )
    }
  }
}

function isPrintable(text: string): boolean {
  return /^[\x21-\x7e]+$/.test(text)
}
