// What this machine has and uses: read in parts that may fail or hang, written for a machine that is known, shown with it.

import t, { type Test } from 'tap'
import { createHardware, type HardwarePart, type HardwarePorts, largestOf } from '../../planner/hardware.ts'
import type { DeviceMetrics } from '../../store/device-metrics.ts'
import { findDevice } from '../../store/fleet.ts'
import type { Pool } from '../../store/pool.ts'
import { createDatabase } from '../support/cluster.ts'
import { until } from '../support/wait.ts'

const gigabyte = 1024 ** 3
const readings: Readonly<Record<HardwarePart, Partial<DeviceMetrics>>> = {
  cpu: { cpuPercent: 12.5 },
  memory: { memoryUsedBytes: 8 * gigabyte, memoryTotalBytes: 64 * gigabyte },
  gpu: { gpuName: 'RTX', vramUsedBytes: 20 * gigabyte, vramTotalBytes: 24 * gigabyte }
}

async function house(t: Test, ports: Partial<HardwarePorts> = {}) {
  const { pool } = await createDatabase(t)
  await pool.query(`insert into devices (id, url, adapter, max_concurrency) values ('box', 'http://127.0.0.1:9', 'ollama', 1)`)
  const logged: string[] = []
  const asked: HardwarePart[] = []
  const hardware = createHardware({
    pool,
    deviceId: 'box',
    log: message => logged.push(message),
    ...ports,
    read: (part, signal) => {
      asked.push(part)
      return ports.read?.(part, signal) ?? Promise.resolve(readings[part])
    }
  })
  t.teardown(() => hardware.close())
  return { pool, hardware, logged, asked }
}

const count = async (pool: Pool): Promise<number> => (await pool.query('select from device_metrics')).rowCount ?? 0
const age = (pool: Pool) => pool.query(`update device_metrics set at = at - interval '1 minute'`)

t.test('the last reading is shown with the machine, null where there is none', async t => {
  const { pool, hardware } = await house(t)
  t.equal((await findDevice(pool, 'box'))?.metrics, null)
  await hardware.look()
  await age(pool)
  await pool.query('update device_metrics set cpu_percent = 99')
  await hardware.look()
  const metrics = (await findDevice(pool, 'box'))?.metrics
  t.match(metrics, { ...readings.cpu, ...readings.memory, ...readings.gpu })
  t.ok(Math.abs(Date.now() - Date.parse(metrics?.at ?? '')) < 60_000)
  t.equal(await count(pool), 2)
})

t.test('two processes of one machine write one row', async t => {
  const { pool, hardware } = await house(t)
  await hardware.look()
  await hardware.look()
  t.equal(await count(pool), 1)
})

t.test('of a machine that is not known nothing is written', async t => {
  const { pool, hardware, logged } = await house(t, { deviceId: 'elsewhere' })
  await hardware.look()
  t.equal(await count(pool), 0)
  t.same(logged, [])
})

t.test('a part that fails is null, told once, and left alone after three times; the others are read on', async t => {
  const { pool, hardware, logged, asked } = await house(t, {
    read: async part => {
      if (part === 'cpu') throw new Error('no such file')
      return readings[part]
    }
  })
  for (let round = 0; round < 5; round += 1) {
    await hardware.look()
    await age(pool)
  }
  t.same(logged, ['the cpu of this machine could not be read'])
  t.equal(asked.filter(part => part === 'cpu').length, 3)
  t.equal(asked.filter(part => part === 'memory').length, 5)
  t.match((await findDevice(pool, 'box'))?.metrics, { cpuPercent: null, ...readings.memory, ...readings.gpu })
})

t.test('a part that hangs is given up in time, and a machine without a GPU is not asked for it again', async t => {
  const { pool, hardware, logged, asked } = await house(t, {
    timeoutMs: 20,
    read: part => (part === 'memory' ? new Promise(() => {}) : Promise.resolve(part === 'gpu' ? null : readings[part]))
  })
  await hardware.look()
  await hardware.look()
  t.same(logged, ['the memory of this machine could not be read'])
  t.equal(asked.filter(part => part === 'gpu').length, 1)
  t.match((await findDevice(pool, 'box'))?.metrics, { ...readings.cpu, memoryUsedBytes: null, gpuName: null, vramTotalBytes: null })
})

t.test('a database that refuses is told once, and is no failure of the process', async t => {
  const { pool, hardware, logged } = await house(t)
  await pool.query('drop table device_metrics')
  await t.resolves(hardware.look())
  await t.resolves(hardware.look())
  t.same(logged, ['what this machine uses could not be written down'])
})

t.test('it reads by itself, and a closing process does not wait for what hangs', async t => {
  const { hardware, asked, logged } = await house(t, { everyMs: 5, read: () => new Promise(() => {}) })
  hardware.start()
  await until('it reads', () => asked.length === 3)
  await hardware.close()
  t.same(logged, [])
})

t.test('the GPU with the most memory counts', t => {
  const gpus = [
    { name: 'onboard', totalMb: null, usedMb: null },
    { name: 'large', totalMb: 24_564, usedMb: 1_024 },
    { name: 'small', totalMb: 8_192, usedMb: 8_000 }
  ]
  t.same(largestOf(gpus), { gpuName: 'large', vramUsedBytes: gigabyte, vramTotalBytes: 24_564 * 1024 ** 2 })
  t.same(largestOf(gpus.slice(0, 1)), { gpuName: 'onboard', vramUsedBytes: null, vramTotalBytes: null })
  t.equal(largestOf([]), null)
  t.end()
})
