// Large results: how many are read at once, whose turn it is, and how much of them may be under way.

import t from 'tap'
import { createResults, type HeldResult, type LargeJob, type Results } from '../../queue/results.ts'

const mebibyte = 1024 * 1024

/** Reads that end when they are told to, in any order. */
function slowReads(waitMs?: number): {
  results: Results
  read(source: string, options?: { name?: string; bytes?: number; signal?: AbortSignal }): Promise<HeldResult>
  begun: string[]
  end(name: string): Promise<void>
} {
  const begun: string[] = []
  const ends = new Map<string, () => void>()
  const results = createResults(name => {
    begun.push(name)
    return new Promise(resolve => ends.set(name, () => resolve(Buffer.from(name))))
  }, waitMs)
  const never = new AbortController().signal
  return {
    results,
    begun,
    read(source, { name = source, bytes = 1, signal = never } = {}) {
      const job: LargeJob = { id: name, source, attemptNo: 1, resultBytes: bytes }
      return results.read(job, signal)
    },
    async end(name) {
      await new Promise(resolve => setImmediate(resolve))
      ends.get(name)?.()
      await new Promise(resolve => setImmediate(resolve))
    }
  }
}

t.test('two are read at once, and the sources of the others take turns', async t => {
  const { read, begun, end } = slowReads()
  const all = [1, 2, 3, 4].map(number => read('a', { name: `a${number}` }))
  all.push(read('b', { name: 'b1' }), read('b', { name: 'b2' }), read('c', { name: 'c1' }))
  await end('nothing')
  t.same(begun, ['a1', 'a2'])
  await end('a1')
  t.same(begun.slice(2), ['a3'], 'who came first is first')
  await end('a2')
  await end('a3')
  t.same(begun.slice(3), ['b1', 'c1'], 'then everybody once')
  await end('b1')
  await end('c1')
  t.same(begun.slice(5), ['a4', 'b2'])
  await end('b2')
  await end('a4')
  t.same(
    (await Promise.all(all)).map(({ bytes }) => bytes.toString()),
    ['a1', 'a2', 'a3', 'a4', 'b1', 'b2', 'c1']
  )
})

t.test('a reader that leaves gives up its place in the line', async t => {
  const { read, begun, end } = slowReads()
  const left = new AbortController()
  const first = [read('a', { name: 'a1' }), read('a', { name: 'a2' })]
  const leaving = read('a', { name: 'a3', signal: left.signal })
  const last = read('b')
  left.abort()
  await t.rejects(leaving, { code: 'client_gone' })
  await t.rejects(read('a', { name: 'a4', signal: left.signal }), { code: 'client_gone' })
  await end('a1')
  await end('a2')
  t.same(begun, ['a1', 'a2', 'b'])
  await end('b')
  await Promise.all([...first, last])
})

t.test('of one source 64 MiB are under way at once, of all 128, and one result of any size; the others wait', async t => {
  const { read, begun, end } = slowReads()
  const held = async (source: string, name: string, bytes: number): Promise<HeldResult> => {
    const reading = read(source, { name, bytes })
    await end(name)
    return reading
  }
  const first = await held('a', 'a1', 40 * mebibyte)
  const tooMuch = read('a', { name: 'a2', bytes: 25 * mebibyte })
  const other = await held('b', 'b1', 60 * mebibyte)
  const tooMuchOfAll = read('c', { name: 'c1', bytes: 29 * mebibyte })
  const small = await held('d', 'd1', 20 * mebibyte)
  t.same(begun, ['a1', 'b1', 'd1'], 'who waits for room holds up nobody who needs less')
  first.release()
  first.release()
  await end('a2')
  const second = await tooMuch
  t.same(begun.slice(3), ['a2'])
  other.release()
  await end('c1')
  for (const { release } of [second, small, await tooMuchOfAll]) release()
  const large = await held('a', 'a4', 200 * mebibyte)
  const last = read('b', { name: 'b2', bytes: 1 })
  t.equal(begun.at(-1), 'a4')
  large.release()
  await end('b2')
  await last
})

t.test('who has waited for too long is told when to come again', async t => {
  const { read, end } = slowReads(50)
  const reading = [read('a', { name: 'a1' }), read('a', { name: 'a2' })]
  await t.rejects(read('b'), { code: 'no_capacity', status: 503, retryAfterMs: 1_000 })
  await end('a1')
  await end('a2')
  await Promise.all(reading)
})

t.test('a read that fails holds nothing, and a result that is gone is told', async t => {
  let answer: () => Promise<Buffer | null> = () => Promise.reject(new Error('away'))
  const { read } = createResults(() => answer())
  const job = { id: 'id', source: 'a', attemptNo: 1, resultBytes: 64 * mebibyte }
  const { signal } = new AbortController()
  for (let tries = 0; tries < 4; tries++) await t.rejects(read(job, signal), { message: 'away' })
  answer = async () => null
  for (let tries = 0; tries < 4; tries++) await t.rejects(read(job, signal), { code: 'job_not_finished' })
  answer = async () => Buffer.from('x')
  t.match(await read(job, signal), { bytes: Buffer.from('x') })
})
