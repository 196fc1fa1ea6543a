// The log and its reader: a pipe on real file descriptors whose other end goes away.

import { execFileSync } from 'node:child_process'
import fs from 'node:fs'
import { join } from 'node:path'
import { mock } from 'node:test'
import t, { type Test } from 'tap'
import { createLog } from '../bin/log.ts'
import { until } from './support/wait.ts'

mock.timers.enable({ apis: ['setInterval'] })
t.teardown(() => mock.timers.reset())

t.test('a reader that closed its end is written to no more, and nothing is kept for it', async t => {
  const { path, reading, writing } = pipe(t)
  const { log, flush } = createLog('info', { fd: writing })
  log.info({ requestId: 'r1' }, 'first')
  flush()
  const line = Buffer.alloc(1_000)
  t.match(line.toString('utf8', 0, fs.readSync(reading, line)), /"requestId":"r1"/)

  const ends: (string | undefined)[] = []
  const real = fs.write
  t.teardown(() => {
    fs.write = real
  })
  fs.write = ((...given: unknown[]) => {
    const done = given.pop() as (error: NodeJS.ErrnoException | null, bytes: number) => void
    const noted = (error: NodeJS.ErrnoException | null, bytes: number) => {
      ends.push(error?.code)
      done(error, bytes)
    }
    return Reflect.apply(real, fs, [...given, noted])
  }) as typeof fs.write
  fs.closeSync(reading)
  log.info('into the void')
  mock.timers.tick(200)
  await until('it is noticed', () => ends.length > 0)
  for (let number = 0; number < 1_000; number++) log.info({ number, text: 'x'.repeat(1_000) }, 'unread')
  log.fatal('unread too')
  for (let round = 0; round < 10; round++) {
    mock.timers.tick(200)
    await new Promise(resolve => setImmediate(resolve))
  }
  flush()
  // A write that began now would end before this one.
  await new Promise(resolve => fs.stat(path, resolve))
  t.same(ends, ['EPIPE'], 'tried once')
  fs.closeSync(writing)
})

t.test('what nobody reads yet is kept up to a bound', async t => {
  const { reading, writing } = pipe(t)
  const { log } = createLog('info', { fd: writing })
  const held = () => process.memoryUsage().heapUsed + process.memoryUsage().external
  const before = held()
  for (let number = 0; number < 100_000; number++) log.info({ text: 'x'.repeat(1_000) }, 'unread')
  const kept = held() - before
  fs.closeSync(reading)
  t.ok(kept < 80_000_000, `${kept} bytes of 100,000,000 are kept`)
})

/** Two ends of a pipe. */
function pipe(t: Test): { readonly path: string; readonly reading: number; readonly writing: number } {
  const path = join(t.testdir({}), 'pipe')
  execFileSync('mkfifo', [path])
  const reading = fs.openSync(path, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK)
  return { path, reading, writing: fs.openSync(path, fs.constants.O_WRONLY) }
}
