// W3C Trace Context: whose span a request belongs to.

export interface RemoteParent {
  readonly traceId: string
  readonly spanId: string
  readonly traceFlags: number
}

const form = /^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?$/

/** Null for everything that is not valid by https://www.w3.org/TR/trace-context-2/#traceparent-header: it is then as if there were none. */
export function readTraceparent(header: string | null): RemoteParent | null {
  if (header === null || header.length > 512) return null
  const match = form.exec(header)
  if (match === null) return null
  const [, version, traceId, spanId, flags, more] = match as unknown as [string, string, string, string, string, string | undefined]
  if (version === 'ff' || (version === '00' && more !== undefined)) return null
  if (/^0+$/.test(traceId) || /^0+$/.test(spanId)) return null
  // Only "sampled" means anything to us; the other bits belong to versions to come.
  return { traceId, spanId, traceFlags: Number.parseInt(flags, 16) & 1 }
}
