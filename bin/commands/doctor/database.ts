// Can the database be used, is it new enough, and how far away is it?

import type { Pool } from '../../../store/pool.ts'
import { readServer, type ServerFacts } from '../../../store/server.ts'
import type { Settings } from '../../config.ts'
import { type Database, openDatabase } from '../../database.ts'
import { type Finding, fail, ok, reasonOf } from './check.ts'
import type { ClockReading } from './clock.ts'

const oldestVersionNumber = 150_000

export interface DatabaseState {
  /** To be closed by who asked; null when there is none to use. */
  readonly database: Database | null
  readonly finding: Finding
  readonly clock: ClockReading | null
}

/** Opens it as every command does, which brings it up to date. A database that opens after `signal` is closed again. */
export async function databaseState(settings: Settings, signal: AbortSignal, log: (message: string) => void): Promise<DatabaseState> {
  let database: Database
  try {
    database = await openDatabase({ settings, poolSize: 2, log })
  } catch (error) {
    return { database: null, finding: refused(error, settings), clock: null }
  }
  if (signal.aborted) {
    await database.close()
    throw signal.reason
  }
  try {
    const { facts, roundTripMs, clock } = await measured(database.pool)
    // The embedded one has this machine's clock.
    return { database, finding: judged(database.label, facts, roundTripMs), clock: settings.databaseUrl === null ? null : clock }
  } catch (error) {
    return { database, finding: fail(`${database.label}: ${reasonOf(error)}`, 'See the log of the database.'), clock: null }
  }
}

export function judged(label: string, facts: ServerFacts, roundTripMs: number): Finding {
  const detail = `${label}: PostgreSQL ${facts.version}, migrations applied: ${facts.migrations}, ${roundTripMs.toFixed(1)} ms`
  if (facts.versionNumber < oldestVersionNumber)
    return fail(detail, 'Use PostgreSQL 15 or newer, or unset DATABASE_URL to use the embedded one.')
  return ok(detail)
}

/** The best of three: the first pays for the connection and the plan. */
async function measured(pool: Pool): Promise<{ facts: ServerFacts; roundTripMs: number; clock: ClockReading }> {
  let best: { facts: ServerFacts; roundTripMs: number; clock: ClockReading } | null = null
  for (let round = 0; round < 3; round++) {
    const askedAtMs = Date.now()
    const startedAt = performance.now()
    const facts = await readServer(pool)
    const roundTripMs = performance.now() - startedAt
    const clock = { whose: "the database's", aheadMs: askedAtMs + roundTripMs / 2 - facts.nowMs, uncertainMs: roundTripMs / 2 }
    if (best === null || roundTripMs < best.roundTripMs) best = { facts, roundTripMs, clock }
  }
  return best as NonNullable<typeof best>
}

function refused(error: unknown, { databaseUrl, dataDir }: Settings): Finding {
  // The message of `openDatabase` says what to do too; here that has a line of its own.
  const detail = reasonOf(error).replace(/ Check DATABASE_URL.*$/, '')
  return databaseUrl === null
    ? fail(detail, `Correct what the message says about ${dataDir}, or set DATABASE_URL to a PostgreSQL of yours.`)
    : fail(detail, 'Start it, correct DATABASE_URL, or unset that to use the embedded one.')
}
