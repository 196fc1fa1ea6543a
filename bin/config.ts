// The configuration: environment and llm-mcp.yaml, read once at the start, checked, and turned into one typed value.
// This file and its folder are the only ones that know the environment.

import { open } from 'node:fs/promises'
import { resolve } from 'node:path'
import { parseEnv } from 'node:util'
import type { Alias } from '../routing/catalog.ts'
import type { TokenPrice, Upstream } from '../routing/types.ts'
import { type DiscoverySettings, fileDiscoveryOf } from './config/discovery.ts'
import type { CheckedDocument } from './config/document.ts'
import { type EnvironmentSettings, type OwnSettings, readEnvironment } from './config/environment.ts'
import type { Environment } from './config/expansion.ts'
import { type DeviceLimits, type LimitsSource, readLimits } from './config/limits.ts'
import { type PassthroughSettings, passthroughOf } from './config/passthrough.ts'
import { ConfigError, shown } from './config/problems.ts'
import { type QueueSettings, queueSettingsOf } from './config/queue.ts'
import { type ConfigFile, configSchema, type FileAlias, type FilePrice } from './config/schema.ts'
import { type FoundUpstreams, findUpstreams, isReservedName, type LocalOllama } from './config/upstreams.ts'
import { vectorSpacesOf } from './config/vector-spaces.ts'

export type { Role, WebhookSettings } from './config/environment.ts'
export type { DeviceLimits } from './config/limits.ts'
export { ConfigError } from './config/problems.ts'
export type { QueueSettings } from './config/queue.ts'
export { configJsonSchema } from './config/schema.ts'
export { foundUpstream, type LocalOllama, localOllamaUpstream, withLimits } from './config/upstreams.ts'

/** What the environment alone decides, and what is made of it and the file together. */
export interface Settings extends OwnSettings {
  /** Absolute; null = none was found. */
  readonly configFile: string | null
  readonly electricityUsdPerKwh: number
  readonly reasoningField: 'reasoning' | 'reasoning_content' | 'both'
  /** No request leaves the house, though `upstreams` still names who is rented. */
  readonly localOnly: boolean
  /** In order of preference. */
  readonly upstreams: readonly Upstream[]
  /** The machine's own Ollama; null when the file lists it as a machine. */
  readonly localOllama: LocalOllama | null
  /** Models, never other aliases: a model of the alias's own name is that model. */
  readonly aliases: ReadonlyMap<string, Alias>
  /** By `provider/model` or by plain model name. */
  readonly prices: ReadonlyMap<string, TokenPrice>
  /** Names of one model, by the operator's word: name -> canonical name; a name that leads to itself is the same as no other. */
  readonly sameModels: ReadonlyMap<string, string>
  /** What `auto` tries first. */
  readonly auto: readonly string[]
  /** Models declared to make the same vectors: the space's name by `upstream/model` or by model. */
  readonly vectorSpaces: ReadonlyMap<string, string>
  /** How long the vectors of a declared space are, by its name. */
  readonly vectorDimensions: ReadonlyMap<string, number>
  readonly passthrough: PassthroughSettings
  readonly queue: QueueSettings
  readonly discovery: DiscoverySettings
  /** By machine, `*` for all; slots and memory are in `upstreams` already, the rest is for who chooses models. */
  readonly deviceLimits: ReadonlyMap<string, DeviceLimits>
  /** True when there is anything to send a request to, as far as the configuration can say. */
  readonly configured: boolean
}

const defaultConfigFile = 'llm-mcp.yaml'
const maxFileBytes = 1024 * 1024
const defaultUsdPerKwh = 0.25

/** Throws ConfigError with every problem it finds, one a line: those of the environment first, then by line of the file. */
export async function loadSettings(
  given: { readonly env: Environment; readonly cwd: string } = { env: process.env, cwd: process.cwd() }
): Promise<Settings> {
  const problems: string[] = []
  const env = await withDotEnv(given, problems)
  const options = { env, cwd: given.cwd }
  const environment = readEnvironment(env, given.cwd, problems)
  const deviceLimits = await readLimits(await limitsSources(environment, options.cwd, problems), problems)
  const file = await readConfigFile(options, environment, problems)
  const value = file?.value ?? null
  const { deviceMaxConcurrency } = environment
  const { upstreams, localOllama }: FoundUpstreams = findUpstreams({
    file: file === null || value === null ? null : { value, document: file.document },
    environment,
    deviceLimits,
    deviceMaxConcurrency
  })
  const aliases = aliasesOf(file, upstreams)
  const spaces = vectorSpacesOf(file)
  const passthrough = passthroughOf(file, upstreams)
  const discovery = fileDiscoveryOf(file)
  problems.push(...(file?.document.problems() ?? []))
  if (problems.length > 0) throw new ConfigError(problems)

  // What is left out here lives on in `upstreams` and `deviceLimits`.
  const { ollamaUrl, openai, openrouter, deviceLimitsFile, deviceLimitsJson, discovery: ownDiscovery, ...settled } = environment
  return {
    ...settled,
    configFile: file?.path ?? null,
    electricityUsdPerKwh: environment.electricityUsdPerKwh ?? value?.policy?.electricity_usd_per_kwh ?? defaultUsdPerKwh,
    reasoningField: value?.policy?.reasoning_field ?? 'reasoning',
    localOnly: value?.policy?.local_only ?? false,
    upstreams,
    localOllama,
    aliases,
    prices: new Map(Object.entries(value?.prices ?? {}).map(([model, price]) => [model, tokenPrice(price)])),
    sameModels: sameModelsOf(value?.same_models ?? {}),
    auto: value?.policy?.auto ?? [],
    ...spaces,
    passthrough,
    queue: queueSettingsOf(value),
    discovery: { ...ownDiscovery, ...discovery },
    deviceLimits,
    configured: upstreams.length > 0
  }
}

/** For the banner: who is rented, with the last four characters of the key, which is how its owner tells it from others. */
export function redactedSummary(
  settings: Pick<Settings, 'upstreams'>
): { readonly id: string; readonly baseUrl: string; readonly key: string | null }[] {
  return settings.upstreams
    .filter(upstream => !upstream.own)
    .map(({ id, baseUrl, apiKey }) => ({ id, baseUrl, key: apiKey === null ? null : lastFour(apiKey) }))
}

/** Of a short key, four characters would be too much of it. */
function lastFour(key: string): string {
  return key.length < 16 ? '…' : `…${key.slice(-4)}`
}

/** With what a `.env` beside us adds; what is set already wins. */
async function withDotEnv({ env, cwd }: { readonly env: Environment; readonly cwd: string }, problems: string[]): Promise<Environment> {
  const text = await readText({ path: resolve(cwd, '.env'), label: '.env', mayBeAbsent: true }, problems)
  return text === null ? env : { ...parseEnv(text), ...env }
}

interface ReadFile {
  readonly path: string
  readonly value: ConfigFile
  readonly document: CheckedDocument
}

async function readConfigFile(
  { env, cwd }: { readonly env: Environment; readonly cwd: string },
  environment: EnvironmentSettings,
  problems: string[]
): Promise<ReadFile | null> {
  const label = environment.configFile ?? defaultConfigFile
  const path = resolve(cwd, label)
  const text = await readText({ path, label, mayBeAbsent: environment.configFile === null }, problems)
  if (text === null) return null
  const { readDocument } = await import('./config/document.ts')
  const document = readDocument({ text, label, schema: configSchema, environment: env })
  // Checked against the schema this type is made from.
  return { path, value: document.value === undefined ? null : (document.value as ConfigFile), document }
}

async function limitsSources(
  { deviceLimitsFile, deviceLimitsJson }: EnvironmentSettings,
  cwd: string,
  problems: string[]
): Promise<LimitsSource[]> {
  const fileText =
    deviceLimitsFile === null
      ? null
      : await readText({ path: resolve(cwd, deviceLimitsFile), label: deviceLimitsFile, mayBeAbsent: false }, problems)
  return [
    ...(deviceLimitsFile === null || fileText === null ? [] : [{ label: deviceLimitsFile, text: fileText }]),
    ...(deviceLimitsJson === null ? [] : [{ label: 'DEVICE_LIMITS_JSON', text: deviceLimitsJson }])
  ]
}

async function readText(
  { path, label, mayBeAbsent }: { readonly path: string; readonly label: string; readonly mayBeAbsent: boolean },
  problems: string[]
): Promise<string | null> {
  let bytes: Buffer
  try {
    bytes = await readBytes(path, maxFileBytes + 1)
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : null
    if (code === 'ENOENT' && mayBeAbsent) return null
    problems.push(`${label}: cannot be read (${code === 'ENOENT' ? 'no such file' : code})`)
    return null
  }
  if (bytes.length > maxFileBytes) {
    problems.push(`${label}: larger than 1 MiB`)
    return null
  }
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  } catch {
    problems.push(`${label}: not UTF-8`)
    return null
  }
}

/** At most `most` bytes, so that a device or a pipe without an end does no harm. */
async function readBytes(path: string, most: number): Promise<Buffer> {
  const file = await open(path, 'r')
  try {
    const bytes = Buffer.alloc(most)
    let length = 0
    for (;;) {
      const { bytesRead } = await file.read(bytes, length, most - length, null)
      if (bytesRead === 0) return bytes.subarray(0, length)
      length += bytesRead
    }
  } finally {
    await file.close()
  }
}

function aliasesOf(file: ReadFile | null, upstreams: readonly Upstream[]): Map<string, Alias> {
  const aliases = new Map<string, Alias>()
  if (file === null) return aliases
  for (const [name, alias] of Object.entries(file.value?.aliases ?? {})) {
    if (isReservedName(name)) file.document.complain(['aliases', name], 'auto, local, cloud and echo have a meaning of their own', 'key')
    aliases.set(name, aliasOf(alias))
  }
  for (const [name, { models }] of aliases) checkAlias({ name, models, aliases, upstreams }, file.document)
  return aliases
}

/** A request for an alias of nothing would end in a 503 that says nothing of the cause. */
function checkAlias(
  {
    name,
    models,
    aliases,
    upstreams
  }: { name: string; models: Alias['models']; aliases: ReadonlyMap<string, Alias>; upstreams: readonly Upstream[] },
  document: CheckedDocument
): void {
  models.forEach((entry, index) => {
    const [model, path, at] =
      typeof entry === 'string'
        ? [entry, ['aliases', name, index], 'value' as const]
        : [entry.model, ['aliases', name, 'weighted', entry.model], 'key' as const]
    if (model !== name && aliases.has(model)) {
      document.complain(path, `an alias names models, not other aliases; ${shown(model)} is an alias`, at)
    }
    // The model of the alias's own name: whether there is one can be known here only of lists in the file.
    if (model === name && models.length === 1 && !upstreams.some(upstream => upstream.models?.includes(name))) {
      document.complain(path, 'an alias that names only itself stands for nothing: name its models', at)
    }
  })
}

function aliasOf(alias: FileAlias): Alias {
  if (Array.isArray(alias)) return { kind: 'ordered', models: alias }
  return { kind: 'weighted', models: Object.entries(alias.weighted).map(([model, weight]) => ({ model, weight })) }
}

function tokenPrice(price: FilePrice): TokenPrice {
  return {
    inputUsdPer1m: price.input_usd_per_1m,
    outputUsdPer1m: price.output_usd_per_1m,
    ...(price.cached_input_usd_per_1m !== undefined && { cachedInputUsdPer1m: price.cached_input_usd_per_1m }),
    ...(price.request_usd !== undefined && { requestUsd: price.request_usd }),
    // The last that applies wins, so they go from short prompts to long ones.
    ...(price.tiers !== undefined && {
      tiers: price.tiers
        .toSorted((a, b) => a.above_prompt_tokens - b.above_prompt_tokens)
        .map(tier => ({
          abovePromptTokens: tier.above_prompt_tokens,
          ...(tier.input_usd_per_1m !== undefined && { inputUsdPer1m: tier.input_usd_per_1m }),
          ...(tier.output_usd_per_1m !== undefined && { outputUsdPer1m: tier.output_usd_per_1m }),
          ...(tier.cached_input_usd_per_1m !== undefined && { cachedInputUsdPer1m: tier.cached_input_usd_per_1m })
        }))
    })
  }
}

function sameModelsOf(written: Readonly<Record<string, readonly string[]>>): ReadonlyMap<string, string> {
  return new Map(
    Object.entries(written).flatMap(([name, others]) => [[name, name] as const, ...others.map(other => [other, name] as const)])
  )
}
