// How machines are looked for: where, how often, and which of them need no approval by hand.

import type { CheckedDocument } from './document.ts'
import type { ConfigFile } from './schema.ts'
import { parseReceiver } from './webhooks.ts'

export interface DiscoverySettings {
  /** 0 = only when it is asked for. */
  readonly everySeconds: number
  /** Null = found on PATH. */
  readonly tailscaleBin: string | null
  /** Of Ollama on each machine, the usual one first. */
  readonly ollamaPorts: readonly number[]
  /** What may be contacted; null = this machine and the tailnet. */
  readonly ranges: readonly string[] | null
  readonly approve: { readonly tags: readonly string[]; readonly names: readonly string[] }
}

/** What the file says of it; what is wrong is said to the document. */
export function fileDiscoveryOf(
  file: { readonly value: ConfigFile; readonly document: CheckedDocument } | null
): Pick<DiscoverySettings, 'ranges' | 'approve'> {
  const discovery = file?.value?.discovery
  const ranges = discovery?.ranges ?? null
  for (const [index, range] of (ranges ?? []).entries()) {
    // A name could lead anywhere tomorrow.
    const parsed = parseReceiver(range)
    if (parsed === null || !/^[\d.]+(\/\d+)?$|:/.test(parsed)) {
      file?.document.complain(
        ['discovery', 'ranges', index],
        `expected address/bits or an address, got ${file.document.shown(['discovery', 'ranges', index])}`
      )
    }
  }
  return { ranges, approve: { tags: discovery?.approve?.tags ?? [], names: discovery?.approve?.names ?? [] } }
}
