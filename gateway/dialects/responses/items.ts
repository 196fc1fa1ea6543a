// What the output items of a response have in common, whatever they hold.

import type { Json } from './fields.ts'

/** Told of every event as it happens, e.g. `response.output_text.delta` and its fields. */
export type Emit = (type: string, fields: Json) => void

export type ItemStatus = 'in_progress' | 'completed' | 'incomplete'

/** One place in the list of output items. `close` may be called again: only the first time does anything. */
export interface Item {
  close(status: ItemStatus): void
  /** As it stands now; what is not closed is incomplete. */
  value(): Json
}
