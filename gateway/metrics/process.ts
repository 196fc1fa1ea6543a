// What this process itself takes. The few numbers anyone looks at; prom-client's own set would be a hundred series.

import { monitorEventLoopDelay } from 'node:perf_hooks'

export interface ProcessNumber {
  readonly name: string
  readonly help: string
  readonly read: () => number
  /** What it is of several processes together; absent = their sum. */
  readonly together?: 'min' | 'max'
}

// A timer of Node's own; at this pace it is not seen in a profile.
const sampleMs = 50

/** Names and units as other programs have them, so that common dashboards fit. */
export function processNumbers(): readonly ProcessNumber[] {
  const delays = monitorEventLoopDelay({ resolution: sampleMs })
  delays.enable()
  return [
    { name: 'process_resident_memory_bytes', help: 'Memory of this process.', read: () => process.memoryUsage.rss() },
    {
      name: 'process_cpu_seconds_total',
      help: 'Processor time of this process since its start.',
      read() {
        const { user, system } = process.cpuUsage()
        return (user + system) / 1e6
      }
    },
    {
      name: 'process_start_time_seconds',
      help: 'When this process began, since the epoch.',
      read: () => performance.timeOrigin / 1_000,
      together: 'min'
    },
    {
      name: 'nodejs_eventloop_lag_max_seconds',
      help: 'The longest time that nothing else could run, since this was last read.',
      read() {
        // Counted from sample to sample, so the pause between two is in it.
        const lagMs = Math.max(0, delays.max / 1e6 - sampleMs)
        delays.reset()
        return lagMs / 1_000
      },
      together: 'max'
    }
  ]
}
