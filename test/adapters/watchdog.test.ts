// Tests of the watchdog over an attempt: one timer, told once.

import t from 'tap'
import { createWatchdog, type Phase } from '../../adapters/shared/watchdog.ts'

type Json = Record<string, unknown>

t.test('the watchdog keeps one timer and tells once', async t => {
  const watch = (timeouts: Json, act: (watchdog: ReturnType<typeof createWatchdog>) => void = () => {}): Promise<Phase> =>
    new Promise(resolve => {
      act(createWatchdog({ firstTokenMs: 60_000, idleMs: 60_000, totalMs: 60_000, ...timeouts }, resolve))
    })
  t.equal(await watch({ firstTokenMs: 10 }), 'first_token')
  t.equal(await watch({ idleMs: 10 }, watchdog => watchdog.token()), 'idle', 'the first token brings the deadline nearer')
  t.equal(await watch({ totalMs: 10 }), 'total')
  t.equal(await watch({ firstTokenMs: 10, totalMs: 60 }, watchdog => watchdog.pause()), 'total', 'a pause stops all but the whole')
  t.equal(
    await watch({ firstTokenMs: 10 }, watchdog => {
      watchdog.pause()
      watchdog.resume()
    }),
    'first_token'
  )
  t.equal(
    await watch({ idleMs: 10 }, watchdog => {
      watchdog.token()
      watchdog.pause()
      watchdog.activity()
      watchdog.resume()
    }),
    'idle'
  )
  t.equal(await watch({ firstTokenMs: 0 }), 'first_token', 'no time at all')
  t.equal(
    await watch({ firstTokenMs: 10, idleMs: Number.MAX_SAFE_INTEGER, totalMs: Number.POSITIVE_INFINITY }),
    'first_token',
    'times longer than a timer can be'
  )

  let isHeard = false
  const stalled = await watch({ idleMs: 20 }, watchdog => {
    watchdog.token()
    setImmediate(() => {
      setImmediate(() => {
        isHeard = true
        watchdog.activity()
      })
      const startMs = performance.now()
      while (performance.now() - startMs < 60);
    })
  })
  t.equal(stalled, 'idle')
  t.ok(isHeard, "a stall of this process is not the machine's")

  const timers = (): number => process.getActiveResourcesInfo().filter(name => name === 'Timeout').length
  const before = timers()
  let isTold = false
  const watchdog = createWatchdog({ firstTokenMs: 5, idleMs: 5, totalMs: 5 }, () => {
    isTold = true
  })
  watchdog.token()
  t.equal(timers(), before + 1)
  for (let index = 0; index < 1000; index++) watchdog.activity()
  watchdog.pause()
  watchdog.resume()
  t.equal(timers(), before + 1)
  watchdog.stop()
  watchdog.token()
  watchdog.pause()
  watchdog.resume()
  watchdog.stop()
  t.equal(timers(), before, 'nothing is left')
  await watch({ firstTokenMs: 20 })
  t.notOk(isTold)
})
