// One thing that the doctor looks at, and what came of it. Every look has an end.

export type Status = 'ok' | 'warn' | 'fail' | 'skipped'

export interface Check {
  readonly name: string
  readonly status: Status
  readonly detail: string
  /** What to do about it, on one line. */
  readonly remedy: string | null
}

/** What a look comes back with; the name is added by who asked. */
export type Finding = Omit<Check, 'name'>

export function ok(detail: string): Finding {
  return { status: 'ok', detail, remedy: null }
}

export function skipped(detail: string): Finding {
  return { status: 'skipped', detail, remedy: null }
}

export function warn(detail: string, remedy: string): Finding {
  return { status: 'warn', detail, remedy }
}

export function fail(detail: string, remedy: string): Finding {
  return { status: 'fail', detail, remedy }
}

export interface Bounds {
  readonly ms: number
  /** Ends every look at once. */
  readonly signal: AbortSignal
  /** For a look that throws or takes too long. */
  readonly remedy: string
  /** A look that was told to stop is waited for so long: it has things to take away. */
  readonly graceMs?: number
}

/** The check, whatever `look` does: when `ms` have passed it is told to stop, and waited for no longer than `graceMs`. Never rejects. */
export async function bounded(name: string, bounds: Bounds, look: (signal: AbortSignal) => Promise<Finding>): Promise<Check> {
  const own = new AbortController()
  const timer = setTimeout(() => own.abort(new Error(`no answer within ${bounds.ms / 1_000} s`)), bounds.ms)
  const signal = AbortSignal.any([own.signal, bounds.signal])
  const { promise: ended, reject } = Promise.withResolvers<never>()
  const stop = (): void => reject(signal.reason)
  signal.addEventListener('abort', stop, { once: true })
  let looking: Promise<Finding> | undefined
  try {
    signal.throwIfAborted()
    looking = look(signal)
    return { name, ...(await Promise.race([looking, ended])) }
  } catch (error) {
    if (signal.aborted) await within(bounds.graceMs ?? 0, looking)
    return { name, ...fail(reasonOf(signal.aborted ? signal.reason : error), bounds.remedy) }
  } finally {
    clearTimeout(timer)
    signal.removeEventListener('abort', stop)
  }
}

/** Resolves when the work is over, however it ends, or when `ms` have passed. */
export async function within(ms: number, work: Promise<unknown> | undefined): Promise<void> {
  const { promise: late, resolve } = Promise.withResolvers<void>()
  const timer = setTimeout(resolve, ms)
  const over = Promise.resolve(work).catch(() => {})
  await Promise.race([over, late])
  clearTimeout(timer)
}

/** The first line of what went wrong; where the message is empty, its code. */
export function reasonOf(error: unknown): string {
  const { message, code } = error as { message?: unknown; code?: unknown }
  const text = typeof message === 'string' && message !== '' ? message : typeof code === 'string' ? code : String(error)
  return text.split('\n')[0] as string
}
