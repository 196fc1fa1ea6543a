// Makes the clock of a process run faster: `BENCH_CLOCK_SPEED=10 node --import ./bench/scenario/fast-clock.ts …`. The program is not
// changed: it lives in a world in which everything happens so many times as fast, as with libfaketime. Its timers end sooner, and what it
// measures is longer. The database's clock, threads and AbortSignal.timeout keep the true time, and so does the patience with the database,
// which is no faster than ever.

import { syncBuiltinESMExports } from 'node:module'
import timers from 'node:timers'
import { isMainThread } from 'node:worker_threads'
import pg from 'pg'

const speed = Number(process.env['BENCH_CLOCK_SPEED'] ?? 1)
if (isMainThread && speed !== 1) hurry()

function hurry(): void {
  const trueNow = performance.now.bind(performance)
  const TrueDate = Date
  const beganAt = trueNow()
  const epoch = TrueDate.now()
  const since = (): number => (trueNow() - beganAt) * speed
  const dateNow = (): number => Math.floor(epoch + since())

  // What happened before counts as it was.
  performance.now = () => beganAt + since()
  globalThis.Date = new Proxy(TrueDate, {
    construct: (target, given, made) => Reflect.construct(target, given.length === 0 ? [dateNow()] : given, made),
    apply: () => new TrueDate(dateNow()).toString(),
    get: (target, name) => (name === 'now' ? dateNow : Reflect.get(target, name))
  })

  const { setTimeout: trueTimeout, setInterval: trueInterval } = globalThis
  const { promises } = timers
  const trueDelay = promises.setTimeout
  type Act = (...given: unknown[]) => void
  const sooner = (ms: number | undefined): number => (ms ?? 1) / speed
  const timeout = Object.assign((act: Act, ms?: number, ...given: unknown[]) => trueTimeout(act, sooner(ms), ...given), trueTimeout)
  const interval = (act: Act, ms?: number, ...given: unknown[]): NodeJS.Timeout => trueInterval(act, sooner(ms), ...given)
  const delay = (ms?: number, value?: unknown, options?: object): Promise<unknown> => trueDelay(sooner(ms), value, options)
  Object.assign(globalThis, { setTimeout: timeout, setInterval: interval })
  Object.assign(timers, { setTimeout: timeout, setInterval: interval })
  Object.assign(promises, { setTimeout: delay })
  syncBuiltinESMExports()

  const TruePool = pg.Pool
  Object.assign(pg, {
    Pool: class extends TruePool {
      constructor(given: pg.PoolConfig = {}) {
        const { connectionTimeoutMillis = 0, query_timeout = 0, idleTimeoutMillis } = given
        super({
          ...given,
          connectionTimeoutMillis: connectionTimeoutMillis * speed,
          query_timeout: query_timeout * speed,
          idleTimeoutMillis: (idleTimeoutMillis ?? 10_000) * speed
        })
      }
    }
  })
}
