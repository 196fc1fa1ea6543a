// llm-mcp models sync: reads the lists of rented models now, into the same database as the gateway, which may be running and hears of it.

import { loadAdapters } from '../../adapters/shared/scan.ts'
import { createOutbound } from '../../outbound/client.ts'
import { isSynced, type ProviderSync, syncModels, syncNote } from '../../planner/model-sync.ts'
import { settleChore } from '../../store/chores.ts'
import { loadSettings } from '../config.ts'
import { openDatabase } from '../database.ts'
import { modelSync, modelSyncPorts } from '../planner.ts'
import { plain, printJson, table } from './print.ts'

const limitMs = 120_000

/** Prints what each provider lists and what changed. Throws when one of them could not be asked, after the others were printed. */
export async function syncModelsCommand({ json, force }: { readonly json?: boolean; readonly force?: boolean }): Promise<void> {
  const settings = await loadSettings()
  if (!settings.upstreams.some(isSynced)) throw new Error('no rented provider is configured whose models could be listed')
  const outbound = createOutbound()
  const database = await openDatabase({ settings, poolSize: 2, log: message => console.error(message) })
  try {
    const adapters = await loadAdapters({ outbound, reasoningField: settings.reasoningField, now: Date.now, randomId: () => '' })
    const ports = { ...modelSyncPorts({ settings, pool: database.pool, adapters }), believesAll: force === true }
    const results = await syncModels(ports, AbortSignal.timeout(limitMs))
    if (json === true) printJson({ object: 'list', data: results })
    else show(results)
    const failed = results.filter(({ error }) => error !== null)
    if (failed.length === 0) await settleChore(database.pool, modelSync, syncNote(results))
    if (failed.length > 0) throw new Error(failed.map(({ provider, error }) => `${provider}: ${plain(error ?? '')}`).join('; '))
  } finally {
    await outbound.close()
    await database.close()
  }
}

function show(results: readonly ProviderSync[]): void {
  console.log(
    table(
      ['provider', 'listed', 'offered', 'new', 'gone', 'new price'],
      results
        .filter(({ error, listed }) => error === null || listed > 0)
        .map(({ provider, listed, offered, added, gone, repriced }) => [
          provider,
          String(listed),
          String(offered),
          String(added.length),
          String(gone.length),
          String(repriced.length)
        ])
    )
  )
  for (const { provider, note } of results) if (note !== null) console.log(`${provider}: ${plain(note)}`)
}
