// llm-mcp serve: puts the whole together, in order, and takes it apart again.

import { randomUUID } from 'node:crypto'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { createBreakers } from '../adapters/shared/breakers.ts'
import { loadAdapters } from '../adapters/shared/scan.ts'
import { createGateway } from '../gateway/app.ts'
import { createKeyCache } from '../gateway/keys.ts'
import { createKey } from '../gateway/new-key.ts'
import { createJournal } from '../ledger/journal.ts'
import { createLedger } from '../ledger/ledger.ts'
import { thisOwner } from '../ledger/owner.ts'
import { recoverJournals } from '../ledger/recover.ts'
import { registeredPrice } from '../ledger/registry.ts'
import { createOutbound } from '../outbound/client.ts'
import { createBrainKeeper } from '../planner/brain-state.ts'
import { createInventory } from '../planner/inventory.ts'
import { createMachineMemory } from '../planner/memory.ts'
import { createProfiles } from '../planner/profiles.ts'
import { createRoutes } from '../planner/routes.ts'
import { createBrain } from '../routing/brain/brain.ts'
import { createDispatch } from '../routing/dispatch.ts'
import { uuidv7 } from '../routing/ids.ts'
import { createLoad } from '../routing/load.ts'
import { createRetryBudget } from '../routing/retries.ts'
import { unlistedTarget } from '../routing/targets.ts'
import type { Upstream } from '../routing/types.ts'
import { fleetChannel, healthChannel } from '../store/channels.ts'
import { insertCosts, readCosts } from '../store/costs.ts'
import { readSnapshot } from '../store/dashboard.ts'
import { knownModels, recordModels } from '../store/devices.ts'
import { startHeartbeat } from '../store/heartbeat.ts'
import { findKey, keysChannel, listKeys, revokeKey, sourceWeight } from '../store/keys.ts'
import { listen } from '../store/listen.ts'
import { offeredModels } from '../store/models.ts'
import { removeProcess, seenProcess, silentProcesses, sweepProcesses } from '../store/processes.ts'
import { releaseProcessSlots } from '../store/slots.ts'
import { banner } from './banner.ts'
import { createBenchmarks } from './benchmarks.ts'
import { redactedSummary, type Settings } from './config.ts'
import { type Database, openDatabase } from './database.ts'
import { demoTarget } from './demo.ts'
import { createDimensions } from './dimensions.ts'
import { ensureAdminKey } from './first-key.ts'
import { createFleet } from './fleet.ts'
import { createClusterLimits } from './limits.ts'
import { portError, urlOf } from './listening.ts'
import { createLog, type Log } from './log.ts'
import { findNeighbours } from './neighbours.ts'
import { deviceId, isContextSet, saveDevice, withOwnDevice } from './own-device.ts'
import { openPlanner } from './planner.ts'
import { makeDirectory } from './postgres-binaries.ts'
import { openQueue } from './queue.ts'
import { onShutdown } from './shutdown.ts'
import { joinSiblings, type Siblings } from './siblings.ts'
import { createSlots } from './slots.ts'
import type { Telemetry } from './telemetry.ts'
import { version } from './version.ts'

// Waiting for machines at the start; whoever is slower joins later.
const firstLookMs = 300
// One that was configured and never seen: its models would be unknown names until then.
const firstLookNewMs = 1_500
// Running answers may finish for so long after SIGTERM.
const drainMs = 25_000
// Journals of processes that died while we live are booked by us.
const recoverEveryMs = 30_000

/** Resolves when the server listens. Throws an Error with one line for the operator when it cannot. */
export async function serve(settings: Settings): Promise<void> {
  const siblings = joinSiblings()
  const lines = createLog(settings.logLevel, { isShared: siblings !== null })
  const { log, flush } = lines
  const warn = (message: string, error?: unknown): void => log.warn(error === undefined || error === null ? {} : { err: error }, message)
  const database = await openDatabase({ settings, poolSize: 10, log: warn })
  // What stands when the start fails half-way is taken down again, the last thing first: no server is left running.
  const opened: (() => unknown)[] = [() => database.close()]
  try {
    await start({ settings, lines, warn, database, opened, siblings })
  } catch (error) {
    for (const close of opened.reverse()) await Promise.resolve(close()).catch(() => {})
    flush()
    throw error
  }
}

interface Ground {
  readonly settings: Settings
  readonly lines: Log
  readonly warn: (message: string, error?: unknown) => void
  readonly database: Database
  readonly opened: (() => unknown)[]
  /** Other gateways of this machine; null = there are none. */
  readonly siblings: Siblings | null
}

async function start({ settings, lines, warn, database, opened, siblings }: Ground): Promise<void> {
  const { log, flush } = lines
  const now = (): number => performance.now()
  const newId = (): string => uuidv7(Date.now())

  // 1. us in the database
  const { pool } = database
  const { role } = settings
  const identity = { id: randomUUID(), host: hostname(), pid: process.pid, version, role }
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
    sameModels: settings.sameModels,
    vectorSpaces: settings.vectorSpaces,
    demo: demoTarget,
    saveDevice: upstream => saveDevice(pool, upstream),
    saveModels: (upstream, models) => recordModels(pool, deviceId(upstream), models, isContextSet(upstream)),
    knownModels: upstream => knownModels(pool, deviceId(upstream)),
    offeredModels: upstream => offeredModels(pool, upstream.id),
    policy: settings.modelSync,
    onListed(id, askedAtMs) {
      load.forgetMissing(id)
      brain.listed(id, askedAtMs)
    },
    onState: (upstream, error) =>
      error === null
        ? log.info({ upstream: upstream.id }, 'an upstream answers again')
        : log.warn({ upstream: upstream.id, error: error.logMessage }, 'an upstream does not answer')
  })

  const profiles = createProfiles({ pool, now: Date.now, log: warn })
  opened.push(profiles.close)
  const brain = createBrain({
    catalog: inventory.catalog,
    profile: profiles.of,
    usdPerKwh: settings.electricityUsdPerKwh,
    random: Math.random,
    now,
    epoch: Date.now
  })
  const learned = createBrainKeeper({ pool, processId: identity.id, brain, log: warn })
  opened.push(learned.close)
  const [neighbours] = await Promise.all([findNeighbours(upstreams, firstLookMs), inventory.start(firstLookMs, firstLookNewMs)])

  const fleet = createFleet({
    settings,
    pool,
    processId: identity.id,
    outbound,
    upstreams,
    declared: [...upstreams, ...(candidate === null ? [] : [candidate])].filter(({ device }) => device !== null).map(deviceId),
    inFlight: id => load.inFlight(id),
    profileOf: profiles.of,
    onDown(id) {
      log.warn({ device: id }, 'a machine is away')
      dispatch.lose(id)
      memory.lost(id)
    },
    onUp(id) {
      log.info({ device: id }, 'a machine is here')
      queue.freed(id)
    },
    log: warn
  })
  opened.push(fleet.close)

  // 4. what decides and runs, and what waits
  const breakers = createBreakers()
  // Another gateway's new key may be announced as soon as we listen.
  const keyCache = createKeyCache({ find: hash => findKey(pool, hash), isListening: () => listener.isHealthy(), now })
  const listener = listen(database.connection, [keysChannel, fleetChannel, healthChannel], (channel, payload) => {
    if (channel === keysChannel) keyCache.clear()
    else if (channel === fleetChannel || channel === healthChannel) fleet.notified(channel, payload)
    else waiting.queue.notified(channel, payload)
  })
  opened.push(listener.close)
  const waiting = await openQueue({
    settings,
    database,
    processId: identity.id,
    listener,
    catalog: inventory.catalog,
    dispatch: () => dispatch,
    load,
    isAway: fleet.isAway,
    isDown: fleet.health.isDown,
    release: (deviceId, attemptId) => slots.release(deviceId, attemptId, 0),
    unstored: ledger.unstored,
    newId,
    now,
    log: warn
  })
  opened.push(waiting.close)
  const { queue } = waiting
  const slots = createSlots({ pool, processId: identity.id, queue: () => queue, log: warn })
  const limits = createClusterLimits({ pool, processId: identity.id, now, log: warn })
  opened.push(limits.close)
  const benchmarks = createBenchmarks({
    pool,
    jobs: queue.jobs,
    catalog: inventory.catalog,
    memory: { unload: (target, signal) => memory.unload(target, signal) },
    profiles,
    maxUsdPer1m: settings.benchmarkMaxUsdPer1m,
    newId
  })
  const planner = openPlanner({
    settings,
    pool,
    processId: identity.id,
    adapters,
    inventory,
    known: knownServers(settings, upstreams, candidate),
    more: [benchmarks.chore],
    newId,
    log: warn
  })
  opened.push(planner.close)
  const memory = createMachineMemory({
    pool,
    processId: identity.id,
    adapters,
    catalog: inventory.catalog,
    brain,
    health: fleet.health,
    profiles,
    refresh: inventory.refresh,
    onFree: id => queue.freed(id),
    onStuck: target => dispatch.leave(target),
    now,
    log: warn
  })
  opened.push(memory.close)
  const routes = createRoutes({ pool, log: warn })
  opened.push(routes.close)
  const dispatch = createDispatch({
    catalog: inventory.catalog,
    adapters,
    breakers,
    load,
    slots,
    health: fleet.health,
    ledger,
    now,
    newId,
    retries: createRetryBudget(now),
    dimensions: await createDimensions(pool, settings.vectorDimensions, warn),
    profiles,
    brain,
    memory,
    routes,
    localOnly: settings.localOnly,
    random: Math.random,
    onMissing: target => planner.missing(target),
    overflow: queue.overflow
  })

  // 5. the server
  const telemetry = await telemetryOf(settings, warn)
  const gateway = await createGateway({
    version,
    dispatch,
    routes: { preview: dispatch.preview, find: routes.find, submitted: routes.submitted },
    limits,
    catalog: inventory.catalog,
    unavailable: inventory.unavailable,
    keyCache,
    newId,
    auth: settings.auth,
    allowedHosts: settings.allowedHosts,
    corsOrigins: settings.corsOrigins,
    keys: {
      create: async request => {
        const made = await createKey(pool, newId(), request)
        if (made === null) throw new Error('a new key collided with an old one')
        return made
      },
      list: page => listKeys(pool, page),
      revoke: id => revokeKey(pool, id)
    },
    jobs: { jobs: queue.jobs, webhooks: queue.webhooks, weightOf: source => sourceWeight(pool, source) },
    fleet: fleet.routes,
    benchmarks: benchmarks.routes,
    snapshot: () => readSnapshot(pool),
    costs: {
      summary: (period, source) => readCosts(pool, period, source)
    },
    passthrough: {
      ...settings.passthrough,
      localOnly: settings.localOnly,
      ledger,
      outbound,
      target: (upstream, model) => unlistedTarget(inventory.catalog().source.prices, upstream, model)
    },
    state: {
      slots: () =>
        inventory
          .catalog()
          .source.upstreams.flatMap(({ id, device }) =>
            device === null ? [] : [{ device: device.id, max: device.maxConcurrency, inUse: load.inFlight(id) }]
          ),
      jobs: waiting.counts,
      ...(siblings !== null && { others: siblings.metrics }),
      breakers: () => inventory.catalog().source.targets.map(({ id }) => ({ target: id, open: breakers.isOpen(id) }))
    },
    pingDatabase: async () => {
      await pool.query('select 1')
    },
    logRequest(context, line) {
      lines.request(context, line)
      telemetry?.request(context, line)
    },
    logFault: (message, error) => log.error({ err: error }, message)
  })
  waiting.countIn(gateway.jobMetrics)
  siblings?.answer(gateway.counted)

  async function stop(): Promise<void> {
    clearInterval(chores)
    const until = now() + drainMs
    queue.retire()
    await Promise.all([gateway.drain(drainMs), planner.close()])
    await queue.close(Math.max(0, until - now()))
    inventory.stop()
    fleet.close()
    slots.close()
    await limits.close()
    await memory.close()
    await Promise.all([profiles.close(), learned.close(), routes.close()])
    await ledger.close()
    await heartbeat.stop()
    await listener.close()
    await waiting.close()
    // A database that is away frees both by itself, in three seconds.
    await releaseProcessSlots(pool, identity.id).catch(() => {})
    await removeProcess(pool, identity.id).catch(() => {})
    breakers.close()
    await telemetry?.close()
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
  planner.start()
  queue.start()
  memory.start()
  await Promise.all([fleet.start(inventory), profiles.start(), learned.start()])

  const hasServer = role === 'all' || role === 'gateway'
  let newAdminKey: string | null = null
  try {
    if (hasServer) await gateway.app.listen({ host: settings.host, port: settings.port })
    // Last of all: a key made by a start that then failed would never have been shown to anyone.
    if (hasServer) newAdminKey = await ensureAdminKey(pool, settings, newId)
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
  siblings?.ready()
  // Of several the first speaks for all.
  if (siblings?.isFirst === false) return void log.info({ pid: process.pid }, 'another worker is ready')
  process.stdout.write(
    banner(
      {
        version,
        role,
        url: hasServer ? urlOf(gateway.app.server.address(), settings.host) : null,
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

/** What discovery need not look for: those of the configuration, this machine's own Ollama, and this gateway. */
function knownServers(settings: Settings, upstreams: readonly Upstream[], candidate: Upstream | null): { url: string; name: string }[] {
  const all = candidate === null ? upstreams : [...upstreams, candidate]
  const self = { url: `http://127.0.0.1:${settings.port}`, name: 'gateway' }
  return [
    ...all.map(upstream => ({ url: upstream.baseUrl, name: upstream.id })),
    ...all.map(upstream => ({ url: upstream.baseUrl, name: deviceId(upstream) })),
    self
  ]
}

/** Traces, where somebody wants them: otherwise nothing of it is even loaded. */
async function telemetryOf({ otlpEndpoint }: Settings, log: Ground['warn']): Promise<Telemetry | null> {
  if (otlpEndpoint === null) return null
  const { startTelemetry } = await import('./telemetry.ts')
  return startTelemetry({ endpoint: otlpEndpoint, version, serviceName: 'llm-mcp', log })
}
