// The end of a long-running command: one signal ends it in order, a second one at once.

import closeWithGrace from 'close-with-grace'

const signals = ['SIGINT', 'SIGTERM'] as const
// Ctrl-C under "npm start" comes twice, from the terminal and from npm, which passes it on.
const sameSignalMs = 1_000
const parentLookMs = 200

export interface ShutdownOptions {
  readonly limitMs: number
  /**
   * npm runs its scripts in a shell, and passes a SIGTERM on to that shell only. With this, the shell's end is ours too.
   * Otherwise we outlive whoever started us, as a program in the background should.
   */
  readonly endsWithParent: boolean
  readonly stop: (why: { readonly signal?: string; readonly error?: Error }) => Promise<void>
}

/** Runs `stop` once, whatever ends the process, and exits: 0 after a signal, 1 after an error or when `limitMs` have passed. */
export function onShutdown({ limitMs, endsWithParent, stop }: ShutdownOptions): void {
  let firstAt: number | null = null
  let signal: string | undefined
  const closer = closeWithGrace({ delay: limitMs, logger: false, skip: [...signals] }, async ({ err, signal: other }) => {
    await stop(err === undefined ? { signal: signal ?? other ?? 'exit' } : { error: err })
  })

  function end(by: string): void {
    if (firstAt === null) {
      firstAt = performance.now()
      signal = by
      void closer.close()
    } else if (performance.now() - firstAt > sameSignalMs) {
      process.exit(1)
    }
  }

  for (const name of signals) process.on(name, () => end(name))
  if (!endsWithParent) return
  const parent = process.ppid
  const timer = setInterval(() => {
    if (process.ppid === parent) return
    clearInterval(timer)
    if (firstAt === null) end('the end of npm')
  }, parentLookMs)
  timer.unref()
}
