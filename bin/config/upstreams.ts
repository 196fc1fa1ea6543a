// From machines and providers, as they are written down, to upstreams with every default filled in.

import { adapterNames } from '../../adapters/shared/scan.ts'
import { nearest } from '../../routing/nearest.ts'
import type { Device, ModelLimits, Timeouts, Upstream } from '../../routing/types.ts'
import type { CheckedDocument } from './document.ts'
import type { EnvironmentSettings, RentedSettings } from './environment.ts'
import { type DeviceLimits, limitsOf } from './limits.ts'
import type { ConfigFile, FileMachine, FileProvider, FileTimeouts } from './schema.ts'
import { isRentedHost, isSameServer, parseUrl } from './urls.ts'

/** What holds for every machine, whoever found it. */
export interface DeviceDefaults {
  readonly deviceMaxConcurrency: number | null
  /** By machine name; `*` = all of them. */
  readonly deviceLimits: ReadonlyMap<string, DeviceLimits>
}

export interface LocalOllama {
  /** A name no machine or provider has: `ollama`, where that is free. */
  readonly id: string
  readonly url: string
  /** OLLAMA_HOST is set: it is one of the upstreams, whether it answers or not. */
  readonly explicit: boolean
}

export interface Sources extends DeviceDefaults {
  readonly file: { readonly value: NonNullable<ConfigFile>; readonly document: CheckedDocument } | null
  readonly environment: EnvironmentSettings
}

export interface FoundUpstreams {
  readonly upstreams: readonly Upstream[]
  readonly localOllama: LocalOllama | null
}

export const ollamaDefaultUrl = 'http://127.0.0.1:11434'
const openaiUrl = 'https://api.openai.com/v1'
const openrouterUrl = 'https://openrouter.ai/api/v1'

/** Loading a large model and reading a long prompt come before the first token, hence its 10 minutes. */
const ownTimeouts: Timeouts = { connectMs: 2_000, firstTokenMs: 600_000, idleMs: 120_000, totalMs: 3_600_000 }
const rentedTimeouts: Timeouts = { connectMs: 5_000, firstTokenMs: 300_000, idleMs: 120_000, totalMs: 3_600_000 }
const defaultKeepAlive = '30m'

/** Model names and command lines give these words a meaning of their own. */
const reservedNames = new Set(['auto', 'local', 'cloud', 'echo'])
const reserved = 'a reserved name (auto, local, cloud, echo have a meaning in requests)'

/** Headers that belong to the connection or that we answer for. */
const forbiddenHeaders = new Set([
  'accept-encoding',
  'connection',
  'content-length',
  'content-type',
  'expect',
  'host',
  'keep-alive',
  'proxy-connection',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade'
])

/** All upstreams in order of preference. What is wrong is said to the document, and left out. */
export function findUpstreams(sources: Sources): FoundUpstreams {
  const { file, environment } = sources
  const machines = file === null ? [] : fileMachines(file, sources)
  const providers = file === null ? [] : fileProviders(file)
  const named = new Set(Object.keys({ ...file?.value.machines, ...file?.value.providers }))
  const found = environmentProviders(environment).filter(upstream => !named.has(upstream.id))

  const local: LocalOllama = {
    id: freeName('ollama', named),
    url: environment.ollamaUrl ?? ollamaDefaultUrl,
    explicit: environment.ollamaUrl !== null
  }
  const listed = machines.some(machine => isSameServer(machine.baseUrl, local.url))
  const localOllama = listed ? null : local
  const localUpstream = localOllama?.explicit === true ? [ollamaUpstream(localOllama.id, localOllama.url, sources)] : []

  const upstreams = [...machines, ...localUpstream, ...providers, ...found]
  return { upstreams: file === null ? upstreams : ordered(upstreams, file), localOllama }
}

/** A machine as it is used: `overrides` are limits that were set by hand, and stronger than the configuration's. */
export function withLimits(upstream: Upstream, overrides: DeviceLimits & { readonly watts?: number }): Upstream {
  const { device } = upstream
  if (device === null) return upstream
  const { modelLimits } = modelLimitsOf({ ...device.modelLimits, ...overrides })
  return {
    ...upstream,
    device: {
      ...device,
      maxConcurrency: overrides.maxConcurrency ?? device.maxConcurrency,
      watts: overrides.watts ?? device.watts,
      vramGb: overrides.vramGb ?? device.vramGb,
      ramGb: overrides.ramGb ?? device.ramGb,
      ...(modelLimits !== undefined && { modelLimits })
    }
  }
}

/** A machine that was found and approved: with the limits that the configuration has for its name, and for all. */
export function foundUpstream(
  machine: { readonly id: string; readonly url: string; readonly type: string },
  defaults: DeviceDefaults
): Upstream {
  return machineUpstream(machine.id, { url: machine.url, type: machine.type }, defaults)
}

/** The machine's own Ollama, as an upstream with the limits of any other machine; null when there is none to add. */
export function localOllamaUpstream(
  settings: DeviceDefaults & { readonly localOllama: LocalOllama | null },
  deviceId?: string
): Upstream | null {
  const local = settings.localOllama
  return local === null ? null : ollamaUpstream(deviceId ?? local.id, local.url, settings)
}

export function isReservedName(name: string): boolean {
  return reservedNames.has(name) || name.startsWith('auto:')
}

function ollamaUpstream(id: string, url: string, defaults: DeviceDefaults): Upstream {
  return machineUpstream(id, { url }, defaults)
}

function speaksOllama(machine: Pick<FileMachine, 'type'>): boolean {
  return (machine.type ?? 'ollama') === 'ollama'
}

function fileMachines({ value, document }: NonNullable<Sources['file']>, defaults: DeviceDefaults): Upstream[] {
  const byUrl = new Map<string, string>()
  return document.keys(['machines']).flatMap(name => {
    const path = ['machines', name]
    const machine = value.machines?.[name]
    if (machine === undefined) return []
    checkName(document, path)
    checkCommon(document, path, machine)
    const url = checkUrl(document, [...path, 'url'], machine.url)
    if (url === null) return []

    const owner = byUrl.get(url)
    if (owner !== undefined) document.complain([...path, 'url'], `the same server as machines.${owner}`)
    byUrl.set(url, name)
    if (isRentedHost(url)) document.complain([...path, 'url'], 'a rented service, expected a machine of yours: it belongs under providers')
    if (!speaksOllama(machine)) {
      for (const key of ['keep_alive', 'num_ctx'] as const) {
        if (machine[key] !== undefined) document.complain([...path, key], 'only a machine of type ollama has this', 'key')
      }
    } else if (/\/(v1|api)$/.test(url)) {
      document.complain([...path, 'url'], 'expected the address of Ollama without /v1 or /api, or type: openai')
    }
    return [machineUpstream(name, { ...machine, url }, defaults)]
  })
}

function machineUpstream(id: string, machine: FileMachine, defaults: DeviceDefaults): Upstream {
  return {
    id,
    adapter: machine.type ?? 'ollama',
    own: true,
    baseUrl: machine.url,
    apiKey: machine.api_key?.trim() || null,
    headers: lowerCase(machine.headers),
    device: deviceOf(id, machine, defaults),
    timeouts: timeoutsOf(machine.timeouts, ownTimeouts),
    models: machine.models ?? null,
    auto: machine.auto ?? [],
    streamUsage: machine.stream_usage ?? true,
    registryId: null
  }
}

function deviceOf(id: string, machine: FileMachine, { deviceLimits, deviceMaxConcurrency }: DeviceDefaults): Device {
  const limits = limitsOf(deviceLimits, id)
  const vramGb = limits.vramGb ?? machine.vram_gb ?? null
  const ramGb = limits.ramGb ?? machine.ram_gb ?? null
  // A machine of which only the main memory is known is taken for one without a GPU.
  const slots = vramGb === 0 || (vramGb === null && ramGb !== null) ? 1 : 2
  const watts = vramGb === null ? 150 : vramGb > 0 ? 300 : 65
  return {
    id,
    maxConcurrency: limits.maxConcurrency ?? machine.max_concurrency ?? deviceMaxConcurrency ?? slots,
    watts: machine.watts ?? watts,
    vramGb,
    ramGb,
    keepAlive: !speaksOllama(machine) ? null : machine.keep_alive === undefined ? defaultKeepAlive : machine.keep_alive,
    numCtx: machine.num_ctx ?? null,
    ...modelLimitsOf(limits)
  }
}

function modelLimitsOf({ maxParamsB, maxSizeGb, maxContextK, allowModels, denyModels }: DeviceLimits): Pick<Device, 'modelLimits'> {
  const modelLimits: ModelLimits = {
    ...(maxParamsB !== undefined && { maxParamsB }),
    ...(maxSizeGb !== undefined && { maxSizeGb }),
    ...(maxContextK !== undefined && { maxContextK }),
    ...(allowModels !== undefined && { allowModels }),
    ...(denyModels !== undefined && { denyModels })
  }
  return Object.keys(modelLimits).length === 0 ? {} : { modelLimits }
}

function fileProviders({ value, document }: NonNullable<Sources['file']>): Upstream[] {
  return document.keys(['providers']).flatMap(name => {
    const path = ['providers', name]
    const provider = value.providers?.[name]
    if (provider === undefined) return []
    checkName(document, path)
    if (value.machines?.[name] !== undefined) document.complain(path, 'a machine has this name too', 'key')
    checkCommon(document, path, provider)

    const openrouter = provider.type === 'openrouter' || (provider.type === undefined && name === 'openrouter')
    const known = openrouter ? openrouterUrl : name === 'openai' ? openaiUrl : null
    if (provider.base_url === undefined && known === null) {
      document.complain(path, 'base_url is missing, expected a URL', 'key')
      return []
    }
    const url = provider.base_url === undefined ? known : checkUrl(document, [...path, 'base_url'], provider.base_url)
    if (url === null) return []

    // `${GROQ_API_KEY:-}`: the provider is there for those who have a key, as with an empty OPENAI_API_KEY.
    if (provider.api_key?.trim() === '') return []
    if (provider.api_key === undefined && needsKey(url))
      document.complain(path, `api_key is missing, and ${url} answers nobody without one`, 'key')
    return [rentedUpstream(name, { ...provider, type: provider.type ?? (openrouter ? 'openrouter' : 'openai') }, url)]
  })
}

function environmentProviders({ openai, openrouter }: EnvironmentSettings): Upstream[] {
  const upstream = (name: 'openai' | 'openrouter', { key, url }: RentedSettings, known: string): Upstream[] => {
    const baseUrl = url ?? known
    if (key === null && (url === null || needsKey(baseUrl))) return []
    return [rentedUpstream(name, { type: name, ...(key !== null && { api_key: key }) }, baseUrl)]
  }
  return [...upstream('openai', openai, openaiUrl), ...upstream('openrouter', openrouter, openrouterUrl)]
}

function rentedUpstream(id: string, provider: FileProvider, baseUrl: string): Upstream {
  const openrouter = provider.type === 'openrouter'
  const { hostname } = new URL(baseUrl)
  // A mirror or proxy of OpenAI's charges OpenAI's prices, unless the file says otherwise.
  const registryId =
    provider.price_registry ?? (openrouter ? 'openrouter' : id === 'openai' || hostname === new URL(openaiUrl).hostname ? 'openai' : null)
  return {
    id,
    adapter: provider.type ?? 'openai',
    own: false,
    baseUrl,
    apiKey: provider.api_key?.trim() || null,
    headers: lowerCase(provider.headers),
    device: null,
    timeouts: timeoutsOf(provider.timeouts, rentedTimeouts),
    models: provider.models ?? null,
    auto: provider.auto ?? defaultAuto(id, registryId),
    streamUsage: provider.stream_usage ?? true,
    registryId
  }
}

function defaultAuto(id: string, registryId: string | null): readonly string[] {
  if (registryId === 'openrouter') return ['openrouter/auto']
  return id === 'openai' || registryId === 'openai' ? ['gpt-5-mini', 'gpt-4.1-mini', 'gpt-4o-mini'] : []
}

/** Those named by policy.order first, the rest as they are. */
function ordered(upstreams: readonly Upstream[], { value, document }: NonNullable<Sources['file']>): readonly Upstream[] {
  const order = value.policy?.order ?? []
  // Known without being there: a provider whose key is not set, or the local Ollama before it is found.
  const known = new Set([
    ...upstreams.map(upstream => upstream.id),
    ...Object.keys({ ...value.machines, ...value.providers }),
    'openai',
    'openrouter',
    'ollama'
  ])
  for (const [index, name] of order.entries()) {
    if (known.has(name)) continue
    const [near] = nearest(name, known, 1)
    document.complain(
      ['policy', 'order', index],
      `no machine or provider is called ${document.shown(['policy', 'order', index])}${near === undefined ? '' : `, did you mean "${near}"?`}`
    )
  }
  const rank = (upstream: Upstream) => {
    const place = order.indexOf(upstream.id)
    return place === -1 ? order.length : place
  }
  return upstreams.toSorted((a, b) => rank(a) - rank(b))
}

function checkName(document: CheckedDocument, path: readonly string[]): void {
  if (isReservedName(path.at(-1) ?? '')) document.complain(path, reserved, 'key')
}

/** What machines and providers have alike. */
function checkCommon(document: CheckedDocument, path: readonly string[], upstream: FileMachine | FileProvider): void {
  if (upstream.type !== undefined && !adapterNames().includes(upstream.type)) {
    document.complain([...path, 'type'], `expected one of ${adapterNames().join(', ')}, got ${document.shown([...path, 'type'])}`)
  }
  const keyPath = [...path, 'api_key']
  if (upstream.api_key?.trim() === '' && !document.isExpanded(keyPath)) {
    document.complain(keyPath, 'expected a key, got an empty text (leave it out for a server that needs none)')
  }
  const seen = new Set<string>()
  for (const header of Object.keys(upstream.headers ?? {})) {
    const name = header.toLowerCase()
    if (forbiddenHeaders.has(name)) document.complain([...path, 'headers', header], 'a header of the connection, it cannot be set', 'key')
    if (seen.has(name)) document.complain([...path, 'headers', header], 'this header stands twice', 'key')
    seen.add(name)
  }
}

function checkUrl(document: CheckedDocument, path: readonly string[], text: string): string | null {
  const parsed = parseUrl(text)
  if ('url' in parsed) return parsed.url
  document.complain(path, `expected ${parsed.fault}${parsed.secret ? '' : `, got ${document.shown(path)}`}`)
  return null
}

/** The two that are known to refuse every call without a key; other servers may have none. */
function needsKey(url: string): boolean {
  return [openaiUrl, openrouterUrl].some(known => new URL(known).hostname === new URL(url).hostname)
}

function timeoutsOf(written: FileTimeouts | undefined, defaults: Timeouts): Timeouts {
  return {
    connectMs: written?.connect_ms ?? defaults.connectMs,
    firstTokenMs: written?.first_token_ms ?? defaults.firstTokenMs,
    idleMs: written?.idle_ms ?? defaults.idleMs,
    totalMs: written?.total_ms ?? defaults.totalMs
  }
}

function lowerCase(headers: Readonly<Record<string, string>> | undefined): Record<string, string> {
  return Object.fromEntries(Object.entries(headers ?? {}).map(([name, text]) => [name.toLowerCase(), text]))
}

function freeName(wanted: string, taken: ReadonlySet<string>): string {
  let name = wanted
  for (let number = 2; taken.has(name); number++) name = `${wanted}-${number}`
  return name
}
