// The first admin key: the operator's own, or one made at the first start and shown once.

import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { hashKey } from '../gateway/keys.ts'
import { createKey } from '../gateway/new-key.ts'
import { findKey, hasAdminKey } from '../store/keys.ts'
import type { Pool } from '../store/pool.ts'
import type { Settings } from './config.ts'
import { version } from './version.ts'

/** The key of LLM_MCP_ADMIN_KEY, or one made now if there is none: only that one is returned, to be shown once. */
export async function ensureAdminKey(pool: Pool, settings: Settings, newId: () => string): Promise<string | null> {
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
