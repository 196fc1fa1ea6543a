// llm-mcp serve: puts the whole together, in order, and takes it apart again.

import { randomUUID } from 'node:crypto'
import { writeFile } from 'node:fs/promises'
import { hostname } from 'node:os'
import { join } from 'node:path'
import type { Logger } from 'pino'
import { createBreakers } from '../adapters/shared/breakers.ts'
import { loadAdapters } from '../adapters/shared/scan.ts'
import { createGateway } from '../gateway/app.ts'
import { createKeyCache, hashKey } from '../gateway/keys.ts'
import { createKey } from '../gateway/new-key.ts'
import { createJournal } from '../ledger/journal.ts'
import { createLedger } from '../ledger/ledger.ts'
import { thisOwner } from '../ledger/owner.ts'
import { recoverJournals } from '../ledger/recover.ts'
import { registeredPrice } from '../ledger/registry.ts'
import { createOutbound } from '../outbound/client.ts'
import { createInventory } from '../planner/inventory.ts'
import { createDispatch } from '../routing/dispatch.ts'
import { uuidv7 } from '../routing/ids.ts'
import { createLoad } from '../routing/load.ts'
import { createRetryBudget } from '../routing/retries.ts'
import type { Upstream } from '../routing/types.ts'
import { countRequests, insertCosts, summariseCosts } from '../store/costs.ts'
import { knownModels, recordModels, upsertDevice } from '../store/devices.ts'
import { startHeartbeat } from '../store/heartbeat.ts'
import { findKey, hasAdminKey, keysChannel, listKeys, revokeKey } from '../store/keys.ts'
import { listen } from '../store/listen.ts'
import type { Pool } from '../store/pool.ts'
import { removeProcess, seenProcess, silentProcesses, sweepProcesses } from '../store/processes.ts'
import { releaseProcessSlots } from '../store/slots.ts'
import { banner } from './banner.ts'
import { loadSettings, localOllamaUpstream, redactedSummary, type Settings } from './config.ts'
import { type Database, openDatabase } from './database.ts'
import { demoTarget } from './demo.ts'
import { createLog, logRequest } from './log.ts'
import { findNeighbours } from './neighbours.ts'
import { makeDirectory } from './postgres-binaries.ts'
import { onShutdown } from './shutdown.ts'
import { createSlots } from './slots.ts'
import { version } from './version.ts'

// Waiting for machines at the start; whoever is slower joins later.
const firstLookMs = 300
// One that was configured and never seen: its models would be unknown names until then.
const firstLookNewMs = 1_500
// Running answers may finish for so long after SIGTERM (product: running it).
const drainMs = 25_000
// Journals of processes that died while we live are booked by us.
const recoverEveryMs = 30_000

/** Resolves when the server listens. Throws an Error with one line for the operator when it cannot. */
export async function serve(): Promise<void> {
  const settings = await loadSettings()
  const { log, flush } = createLog(settings.logLevel)
  const warn = (message: string, error?: unknown): void => log.warn(error === undefined || error === null ? {} : { err: error }, message)
  const database = await openDatabase({ settings, poolSize: 10, log: warn })
  // What stands when the start fails half-way is taken down again, the last thing first: no server is left running.
  const opened: (() => unknown)[] = [() => database.close()]
  try {
    await start({ settings, log, flush, warn, database, opened })
  } catch (error) {
    for (const close of opened.reverse()) await Promise.resolve(close()).catch(() => {})
    flush()
    throw error
  }
}

interface Ground {
  readonly settings: Settings
  readonly log: Logger
  readonly flush: () => void
  readonly warn: (message: string, error?: unknown) => void
  readonly database: Database
  readonly opened: (() => unknown)[]
}

async function start({ settings, log, flush, warn, database, opened }: Ground): Promise<void> {
  const now = (): number => performance.now()
  const newId = (): string => uuidv7(Date.now())

  // 1. us in the database
  const { pool } = database
  const identity = { id: randomUUID(), host: hostname(), pid: process.pid, version }
  await seenProcess(pool, identity)
  const heartbeat = startHeartbeat(database.connection, identity)
  opened.push(heartbeat.stop)

  // 2. the books, first those of processes that died
  await makeDirectory(settings.dataDir)
  const folder = join(settings.dataDir, 'journal')
  const recovery = {
    folder,
    ownProcessId: identity.id,
    log: warn,
    insert: (rows: Parameters<typeof insertCosts>[1]) => insertCosts(pool, rows),
    silent: (ids: readonly string[], seconds: number) => silentProcesses(pool, ids, seconds)
  }
  const ledger = createLedger({
    journal: createJournal(folder, thisOwner(identity.id)),
    insert: recovery.insert,
    usdPerKwh: settings.electricityUsdPerKwh,
    now: Date.now,
    log: warn
  })
  await recoverJournals(recovery)

  // 3. the upstreams, and what they have
  const outbound = createOutbound()
  const adapters = await loadAdapters({
    outbound,
    reasoningField: settings.reasoningField,
    now: Date.now,
    randomId: () => newId().replaceAll('-', '')
  })
  const load = createLoad(now)
  const { upstreams, candidate } = withOwnDevice(settings)
  const inventory = createInventory({
    upstreams,
    candidate,
    adapters,
    aliases: settings.aliases,
    auto: settings.auto,
    prices: { configured: settings.prices, registered: registeredPrice },
    demo: demoTarget,
    saveDevice: upstream => saveDevice(pool, upstream),
    saveModels: (upstream, models) => recordModels(pool, deviceId(upstream), models, upstream.device?.numCtx !== null),
    knownModels: upstream => knownModels(pool, deviceId(upstream)),
    onListed: id => load.forgetMissing(id),
    onState: (upstream, error) =>
      error === null
        ? log.info({ upstream: upstream.id }, 'an upstream answers again')
        : log.warn({ upstream: upstream.id, error: error.message }, 'an upstream does not answer')
  })
  const [neighbours] = await Promise.all([findNeighbours(outbound, upstreams, firstLookMs), inventory.start(firstLookMs, firstLookNewMs)])

  // 4. the server
  const breakers = createBreakers()
  const slots = createSlots(pool, identity.id, warn)
  const listener = listen(database.connection, [keysChannel], () => keyCache.clear())
  opened.push(listener.close)
  const keyCache = createKeyCache({ find: hash => findKey(pool, hash), isListening: listener.isHealthy, now })
  const dispatch = createDispatch({
    catalog: inventory.catalog,
    adapters,
    breakers,
    load,
    slots,
    ledger,
    now,
    newId,
    retries: createRetryBudget(now),
    localOnly: settings.localOnly,
    random: Math.random,
    onMissing: target => inventory.refresh(target.upstream.id)
  })
  const gateway = await createGateway({
    version,
    dispatch,
    catalog: inventory.catalog,
    keyCache,
    newId,
    auth: settings.auth,
    allowedHosts: settings.allowedHosts,
    keys: {
      create: async request => {
        const made = await createKey(pool, newId(), request)
        if (made === null) throw new Error('a new key collided with an old one')
        return made
      },
      list: page => listKeys(pool, page),
      revoke: id => revokeKey(pool, id)
    },
    costs: {
      summary: async (period, source) => ({
        requests: await countRequests(pool, period, source),
        providers: await summariseCosts(pool, period, source)
      })
    },
    pingDatabase: async () => {
      await pool.query('select 1')
    },
    logRequest: (context, line) => logRequest(log, context, line),
    logFault: (message, error) => log.error({ err: error }, message)
  })

  async function stop(): Promise<void> {
    clearInterval(chores)
    await gateway.drain(drainMs)
    inventory.stop()
    slots.close()
    await ledger.close()
    await heartbeat.stop()
    await listener.close()
    // A database that is away frees both by itself, in three seconds.
    await releaseProcessSlots(pool, identity.id).catch(() => {})
    await removeProcess(pool, identity.id).catch(() => {})
    breakers.close()
    await outbound.close()
    await database.close()
    flush()
  }

  const chores = setInterval(() => {
    recoverJournals(recovery)
      .then(booked => {
        if (booked > 0) log.info({ booked }, 'costs of a process that died were booked')
      })
      .catch((error: unknown) => warn('journals could not be looked through', error))
    sweepProcesses(pool).catch((error: unknown) => warn('old processes could not be forgotten', error))
  }, recoverEveryMs)
  chores.unref()

  let newAdminKey: string | null
  try {
    await gateway.app.listen({ host: settings.host, port: settings.port })
    // Last of all: a key made by a start that then failed would never have been shown to anyone.
    newAdminKey = await ensureAdminKey(pool, settings, newId)
  } catch (error) {
    await stop()
    throw portError(error, settings)
  }
  onShutdown({
    limitMs: drainMs + 8_000,
    endsWithParent: settings.underNpm,
    async stop({ signal, error }) {
      if (error !== undefined) log.fatal({ err: error }, 'the gateway stops: an error nobody handled')
      else log.info({ signal }, 'the gateway stops')
      await stop()
    }
  })
  process.stdout.write(
    banner(
      {
        version,
        url: urlOf(gateway.app.server.address(), settings.host),
        // Since the process began: what the operator waited for.
        readyMs: Math.round(performance.now()),
        database: database.label,
        newAdminKey,
        auth: settings.auth,
        upstreams: inventory.report(),
        rentedKeys: new Map(redactedSummary(settings).map(({ id, key }) => [id, key])),
        neighbours
      },
      process.stdout.isTTY
    )
  )
}

/** The key of LLM_MCP_ADMIN_KEY, or one made now if there is none: only that one is returned, to be shown once. */
async function ensureAdminKey(pool: Pool, settings: Settings, newId: () => string): Promise<string | null> {
  const request = { kind: 'admin' as const, source: 'admin', expiresAt: null }
  if (settings.adminKey !== null) {
    const made = await createKey(pool, newId(), { ...request, name: 'LLM_MCP_ADMIN_KEY' }, settings.adminKey)
    if (made === null && (await findKey(pool, hashKey(settings.adminKey)))?.kind !== 'admin') {
      throw new Error('LLM_MCP_ADMIN_KEY is a key that was revoked, has expired, or is of another kind. Choose a new one.')
    }
    return null
  }
  if (!settings.auth || (await hasAdminKey(pool))) return null
  const made = await createKey(pool, newId(), { ...request, name: 'made at the first start' })
  if (made === null) return null
  const note =
    `llm-mcp ${version} first started here on ${made.record.createdAt.toISOString()}.\n` +
    `The admin key that begins with ${made.record.prefix} was shown once, on its output. To make another:\n\n  npm run llm-mcp -- keys create --kind admin\n`
  await writeFile(join(settings.dataDir, 'first-run.txt'), note, { mode: 0o600 })
  return made.key
}

/**
 * This machine's own Ollama is another machine's on another gateway of the same database, so its device goes by this host's name.
 * `candidate`: nobody asked for it, it is used when it is there.
 */
function withOwnDevice(settings: Settings): { upstreams: readonly Upstream[]; candidate: Upstream | null } {
  const { localOllama, upstreams } = settings
  if (localOllama === null) return { upstreams, candidate: null }
  const { hostname: host } = new URL(localOllama.url)
  const deviceName = /^(127\.|\[::1\]$|localhost$)/.test(host) ? hostname() : host
  const named = (upstream: Upstream): Upstream =>
    upstream.device === null ? upstream : { ...upstream, device: { ...upstream.device, id: deviceName } }
  if (localOllama.explicit) {
    return { upstreams: upstreams.map(upstream => (upstream.id === localOllama.id ? named(upstream) : upstream)), candidate: null }
  }
  const found = localOllamaUpstream(settings)
  return { upstreams, candidate: found === null ? null : named(found) }
}

function saveDevice(pool: Pool, upstream: Upstream): Promise<void> {
  const { device } = upstream
  if (device === null) return Promise.resolve()
  return upsertDevice(pool, { id: device.id, url: upstream.baseUrl, adapter: upstream.adapter, maxConcurrency: device.maxConcurrency })
}

function deviceId(upstream: Upstream): string {
  return upstream.device?.id ?? upstream.id
}

function portError(error: unknown, { host, port }: Settings): Error {
  const code = (error as NodeJS.ErrnoException).code
  if (code === 'EADDRINUSE') return new Error(`Port ${port} on ${host} is taken by another program. Stop it, or set PORT to another one.`)
  if (code === 'EACCES') return new Error(`Port ${port} needs rights that this user does not have. Set PORT to one above 1023.`)
  if (code === 'EADDRNOTAVAIL' || code === 'ENOTFOUND') return new Error(`HOST=${host} is no address of this machine.`)
  return error as Error
}

function urlOf(address: ReturnType<import('node:net').Server['address']>, host: string): string {
  const port = typeof address === 'object' && address !== null ? address.port : 0
  const shown = host === '0.0.0.0' || host === '::' ? '127.0.0.1' : host.includes(':') ? `[${host}]` : host
  return `http://${shown}:${port}`
}
