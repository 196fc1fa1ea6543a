// The places on a machine, one row each: the exact limit of what it is given at once, across all processes.

import type { Pool } from './pool.ts'

// A slot whose process is silent for 3 s is free: liveness belongs to processes.
const claimSql = `
   update device_slots
      set process_id = $2, attempt_id = $3, claimed_at = now()
    where (device_id, slot_no) = (
      select slot.device_id, slot.slot_no
        from device_slots as slot
        join devices on devices.id = slot.device_id
       where slot.device_id = $1
         and slot.slot_no <= devices.max_concurrency
         and (slot.process_id is null or slot.process_id <> all (array(select living_processes(3))))
       order by slot.slot_no
       limit 1
         for update of slot skip locked
    )
      -- Nobody overtakes: whoever waits for this machine came before.
      and not exists (
        select
          from unnest($4::text[]) as waiting (lane)
          join jobs on jobs.lane = waiting.lane and jobs.status = 'queued' and jobs.ready
    )
returning slot_no`

/**
 * Takes one free place for an attempt; null when there is none, or when a job of `lanesAhead` waits for one.
 * One statement, safe from any number of processes.
 */
export async function claimSlot(
  pool: Pool,
  claim: { readonly deviceId: string; readonly processId: string; readonly attemptId: string; readonly lanesAhead: readonly string[] }
): Promise<number | null> {
  const { deviceId, processId, attemptId, lanesAhead } = claim
  const { rows } = await pool.query({ name: 'slots.claim', text: claimSql, values: [deviceId, processId, attemptId, lanesAhead] })
  return rows[0]?.slot_no ?? null
}

const releaseSql = `
update device_slots
   set process_id = null, attempt_id = null, claimed_at = null
 where device_id = $1
   and attempt_id = $2`

/** Gives a place back. Fenced by the attempt: a late call frees nobody else's. Safe twice. */
export async function releaseSlot(pool: Pool, deviceId: string, attemptId: string): Promise<void> {
  await pool.query({ name: 'slots.release', text: releaseSql, values: [deviceId, attemptId] })
}

/** Gives back all that a process holds: its last act. */
export async function releaseProcessSlots(pool: Pool, processId: string): Promise<void> {
  await pool.query({
    name: 'slots.release_process',
    text: 'update device_slots set process_id = null, attempt_id = null, claimed_at = null where process_id = $1',
    values: [processId]
  })
}
