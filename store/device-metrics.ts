// What machines have and use, a row a minute.

import type { Pool } from './pool.ts'

/** Null = not known, or there is none. */
export interface DeviceMetrics {
  readonly cpuPercent: number | null
  readonly memoryUsedBytes: number | null
  readonly memoryTotalBytes: number | null
  /** Of the GPU with the most memory. */
  readonly gpuName: string | null
  readonly vramUsedBytes: number | null
  readonly vramTotalBytes: number | null
}

// Several processes of one machine read the same.
const saveSql = `
insert into device_metrics (device_id, cpu_percent, memory_used_bytes, memory_total_bytes, gpu_name, vram_used_bytes, vram_total_bytes)
select id, $2, $3, $4, left($5, 200), $6, $7
  from devices
 where id = $1
   and not exists (
     select 1
       from device_metrics
      where device_id = $1
        and at > now() - interval '30 seconds'
   )`

/** Written only if there is such a machine, and nobody wrote in the last 30 s. */
export async function saveMetrics(pool: Pool, deviceId: string, metrics: DeviceMetrics): Promise<void> {
  const { cpuPercent, memoryUsedBytes, memoryTotalBytes, gpuName, vramUsedBytes, vramTotalBytes } = metrics
  await pool.query({
    name: 'device_metrics.save',
    text: saveSql,
    values: [deviceId, cpuPercent, memoryUsedBytes, memoryTotalBytes, gpuName, vramUsedBytes, vramTotalBytes]
  })
}

export async function forgetMetrics(pool: Pool, days: number): Promise<number> {
  const { rowCount } = await pool.query({
    name: 'device_metrics.forget',
    text: 'delete from device_metrics where at < now() - make_interval(days => $1)',
    values: [days]
  })
  return rowCount ?? 0
}
