// What is known of how fast models are on machines.

import { inTransaction, type Pool } from './pool.ts'

export interface ProfileRow {
  readonly deviceId: string
  readonly model: string
  /** As it was kept: see routing/profile.ts. */
  readonly profile: unknown
  readonly profiledAt: Date
}

/** Those that changed since then, at most 10,000, the oldest change first; null = all. */
export async function changedProfiles(pool: Pool, since: Date | null): Promise<ProfileRow[]> {
  const { rows } = await pool.query({
    name: 'profiles.changed',
    text: `
select device_id as "deviceId", model, profile, profiled_at as "profiledAt"
  from device_models
 where profiled_at > coalesce($1::timestamptz, '-infinity')
 order by profiled_at
 limit 10000`,
    values: [since]
  })
  return rows
}

/** What `change` makes of what is kept, and nobody else changes it meanwhile. Null when the machine has no such model any more. */
export async function changeProfile<T extends { readonly samples: { readonly answers: number } }>(
  pool: Pool,
  { deviceId, model }: { readonly deviceId: string; readonly model: string },
  change: (kept: unknown) => T
): Promise<T | null> {
  return inTransaction(pool, async tx => {
    const { rows } = await tx.query({
      name: 'profiles.lock',
      text: 'select profile from device_models where device_id = $1 and model = $2 for update',
      values: [deviceId, model]
    })
    if (rows.length === 0) return null
    const profile = change(rows[0].profile)
    await tx.query({
      name: 'profiles.save',
      text: `
update device_models
   set profile = $3, profile_samples = $4, profiled_at = clock_timestamp()
 where device_id = $1
   and model = $2`,
      values: [deviceId, model, JSON.stringify(profile), profile.samples.answers]
    })
    return profile
  })
}
