// Messages to people, as chores: none where Telegram is not configured.

import { createOutbound } from '../outbound/client.ts'
import { createDirect, createThroughMcp } from '../planner/alerts/telegram.ts'
import { type AlertsPorts, createAlerts } from '../planner/alerts/watch.ts'
import type { Chore } from '../planner/chores.ts'
import type { Settings } from './config.ts'

const minuteMs = 60_000

export function openAlerts({
  settings,
  ...ports
}: Pick<AlertsPorts, 'pool' | 'newId' | 'log'> & { readonly settings: Pick<Settings, 'alerts'> }): {
  readonly chores: readonly Chore[]
  close(): Promise<void>
} {
  const { telegram, everySeconds, failThreshold } = settings.alerts
  if (telegram === null) return { chores: [], close: async () => {} }
  const outbound = createOutbound()
  const channels = [
    ...(telegram.mcp === null ? [] : [createThroughMcp(outbound, telegram.mcp)]),
    ...(telegram.direct === null ? [] : [createDirect(outbound, telegram.direct)])
  ]
  const alerts = createAlerts({ ...ports, channels, failThreshold })
  return {
    chores: [
      { name: 'alerts', everyMs: everySeconds * 1_000, atOnce: true, limitMs: 2 * minuteMs, run: alerts.look },
      // It looks whether its hour has come; the database knows which days were told.
      { name: 'summary', everyMs: minuteMs, atOnce: true, limitMs: 2 * minuteMs, run: alerts.summary }
    ],
    close: outbound.close
  }
}
