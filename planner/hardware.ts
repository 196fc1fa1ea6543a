// What this process's own machine has and uses, read once a minute and written down for GET /v1/devices.

import { execFile } from 'node:child_process'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { type DeviceMetrics, saveMetrics } from '../store/device-metrics.ts'
import type { Pool } from '../store/pool.ts'

export type HardwarePart = 'cpu' | 'memory' | 'gpu'

/** What is known of one part; null = this machine has none, and need not be asked again. */
export type ReadHardware = (part: HardwarePart, signal: AbortSignal) => Promise<Partial<DeviceMetrics> | null>

export interface HardwarePorts {
  readonly pool: Pool
  /** The machine that this process runs on; nothing is written where the database does not know it. */
  readonly deviceId: string
  readonly log: (message: string, error?: unknown) => void
  /** For tests: systeminformation, every 60 s, and 10 s for each part if not given. */
  readonly read?: ReadHardware
  readonly everyMs?: number
  readonly timeoutMs?: number
}

export interface Hardware {
  start(): void
  /** Reads and writes once; at most one at a time. Never rejects. */
  look(): Promise<void>
  close(): Promise<void>
}

// A driver that hangs leaves a process behind each time that it is asked.
const failuresAtMost = 3
const parts: readonly HardwarePart[] = ['cpu', 'memory', 'gpu']
const nothing: DeviceMetrics = {
  cpuPercent: null,
  memoryUsedBytes: null,
  memoryTotalBytes: null,
  gpuName: null,
  vramUsedBytes: null,
  vramTotalBytes: null
}

/** A part that fails is null and logged once; after three failures in a row it is left alone until the next start. */
export function createHardware(ports: HardwarePorts): Hardware {
  const { pool, deviceId, log, read = createReader(), everyMs = 60_000, timeoutMs = 10_000 } = ports
  const failures = new Map<HardwarePart, number>()
  const told = new Set<string>()
  const closing = new AbortController()
  let timer: NodeJS.Timeout | null = null
  let running: Promise<void> | null = null

  function look(): Promise<void> {
    running ??= lookOnce().finally(() => {
      running = null
    })
    return running
  }

  async function lookOnce(): Promise<void> {
    const known = await Promise.all(parts.map(readPart))
    if (closing.signal.aborted || known.every(part => part === null)) return
    await saveMetrics(pool, deviceId, Object.assign({}, nothing, ...known)).catch((error: unknown) =>
      tell('what this machine uses could not be written down', error)
    )
  }

  async function readPart(part: HardwarePart): Promise<Partial<DeviceMetrics> | null> {
    const failed = failures.get(part) ?? 0
    if (failed >= failuresAtMost) return null
    const ending = new AbortController()
    const late = setTimeout(() => ending.abort(new Error(`no answer within ${timeoutMs / 1_000} s`)), timeoutMs)
    const signal = AbortSignal.any([ending.signal, closing.signal])
    try {
      const metrics = await Promise.race([read(part, signal), aborted(signal)])
      failures.set(part, metrics === null ? failuresAtMost : 0)
      return metrics
    } catch (error) {
      if (closing.signal.aborted) return null
      failures.set(part, failed + 1)
      tell(`the ${part} of this machine could not be read`, error)
      return null
    } finally {
      clearTimeout(late)
    }
  }

  function tell(message: string, error: unknown): void {
    if (told.has(message)) return
    told.add(message)
    log(message, error)
  }

  return {
    start() {
      timer ??= setInterval(() => void look(), everyMs).unref()
    },
    look,
    async close() {
      if (timer !== null) clearInterval(timer)
      closing.abort(new Error('the process leaves'))
      await running
    }
  }
}

function aborted(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    signal.addEventListener('abort', () => reject(signal.reason), { once: true })
    if (signal.aborted) reject(signal.reason)
  })
}

/** With systeminformation, which the first reading loads. It holds the main loop for 14 ms at most, to start `cat`. */
function createReader(): ReadHardware {
  let isPrimed = false
  return async (part, signal) => {
    if (part === 'gpu') return largestOf(await graphics(signal))
    const { currentLoad, mem } = await import('systeminformation')
    if (part === 'memory') {
      const { active, total } = await mem()
      return { memoryUsedBytes: bytesOf(active), memoryTotalBytes: bytesOf(total) }
    }
    // It measures since it was last asked, and the first time since the machine was started.
    if (!isPrimed) {
      await currentLoad()
      isPrimed = true
      await sleep(1_000, undefined, { signal })
    }
    const { currentLoad: percent } = await currentLoad()
    return { cpuPercent: Number.isFinite(percent) ? Math.round(percent * 10) / 10 : null }
  }
}

export interface Graphics {
  readonly name: string
  /** Of 1,048,576 bytes. */
  readonly totalMb: number | null
  readonly usedMb: number | null
}

/** In a process of its own: the driver's tool may take seconds, and systeminformation stands still meanwhile. */
function graphics(signal: AbortSignal): Promise<readonly Graphics[]> {
  const file = fileURLToPath(new URL('./hardware-gpu.ts', import.meta.url))
  return new Promise((resolve, reject) => {
    const settings = { signal, killSignal: 'SIGKILL', maxBuffer: 1024 * 1024, windowsHide: true } as const
    execFile(process.execPath, [file], settings, (error, text) => {
      if (error !== null) return reject(error)
      try {
        resolve(JSON.parse(text))
      } catch {
        reject(new Error('what it printed is no list of GPUs'))
      }
    })
  })
}

/** That with the most memory. */
export function largestOf(gpus: readonly Graphics[]): Partial<DeviceMetrics> | null {
  const [largest] = gpus.toSorted((a, b) => (b.totalMb ?? 0) - (a.totalMb ?? 0))
  if (largest === undefined) return null
  return { gpuName: largest.name, vramUsedBytes: ofMb(largest.usedMb), vramTotalBytes: ofMb(largest.totalMb) }
}

function ofMb(figure: number | null): number | null {
  return bytesOf(figure === null ? null : figure * 1_048_576)
}

function bytesOf(figure: number | null): number | null {
  return figure === null || !Number.isFinite(figure) || figure < 0 ? null : Math.round(figure)
}
