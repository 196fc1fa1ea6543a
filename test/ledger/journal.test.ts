import fs, { mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { syncBuiltinESMExports } from 'node:module'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { createJournal, findJournals, type JournalOwner, readRows, removeJournals } from '../../ledger/journal.ts'
import type { CostRow } from '../../store/costs.ts'
import { fc } from '../support/properties.ts'

const owner: JournalOwner = { processId: 'p1', pid: 1, startTicks: '2', realm: 'here' }

const row = (attemptId: string, changes: Partial<CostRow> = {}): CostRow => ({
  attemptId,
  requestId: 'r',
  source: 'me',
  subSource: null,
  keyId: null,
  provider: 'up',
  model: 'größe 😀',
  deviceId: null,
  outcome: 'lost',
  errorCode: 'process_lost',
  promptTokens: 9,
  completionTokens: 0,
  cachedTokens: 0,
  reasoningTokens: 0,
  costNanoUsd: 100,
  priceSource: 'config',
  estimated: true,
  ttftMs: null,
  durationMs: 0,
  startedAt: 1,
  finishedAt: 1,
  ...changes
})
const settled = (attemptId: string, changes: Partial<CostRow> = {}) =>
  row(attemptId, { outcome: 'ok', errorCode: null, costNanoUsd: 5, estimated: false, ...changes })

const files = (folder: string) => readdirSync(folder).sort()
const paths = (folder: string) => files(folder).map(file => join(folder, file))

async function outcomes(folder: string): Promise<Record<string, string>> {
  return Object.fromEntries((await readRows(paths(folder))).map(({ attemptId, outcome }) => [attemptId, outcome]))
}

/** Puts something else in the place of a function of node:fs, for the modules under test too. */
function replace<K extends 'writeSync' | 'openSync'>(t: Test, name: K, made: (real: (typeof fs)[K]) => (typeof fs)[K]): () => void {
  const real = fs[name]
  const restore = (): void => {
    fs[name] = real
    syncBuiltinESMExports()
  }
  fs[name] = made(real)
  syncBuiltinESMExports()
  t.teardown(restore)
  return restore
}

function isOpen(fd: number): boolean {
  try {
    fs.fstatSync(fd)
    return true
  } catch {
    return false
  }
}

const noSpace = () => Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC' })

t.test('what was begun and what came of it is on disk at once, readable by us alone', async t => {
  const folder = join(t.testdir({}), 'journal')
  const journal = createJournal(folder, owner)
  journal.intent(row('a'))
  journal.intent(row('b'))
  journal.settle(settled('a'))
  t.same(await readRows(paths(folder)), [settled('a'), row('b')])
  t.same(files(folder), ['p1-0.ndjson'])
  t.equal(statSync(folder).mode & 0o777, 0o700)
  t.equal(statSync(join(folder, 'p1-0.ndjson')).mode & 0o777, 0o600)
  t.same(await findJournals(folder), [{ path: join(folder, 'p1-0.ndjson'), owner }])
})

t.test('two journals of one folder do not mix', async t => {
  const folder = t.testdir({})
  createJournal(folder, owner).intent(row('a'))
  createJournal(folder, { ...owner, processId: 'p2' }).intent(row('b'))
  t.same(
    (await findJournals(folder)).map(found => found.owner?.processId),
    ['p1', 'p2']
  )
  t.same(await readRows([join(folder, 'p2-0.ndjson')]), [row('b')])
})

t.test('a journal that was cut anywhere says all that was whole', async t => {
  const folder = t.testdir({})
  const journal = createJournal(folder, owner)
  journal.intent(row('a'))
  journal.settle(settled('a'))
  journal.intent(row('b'))
  const path = join(folder, 'p1-0.ndjson')
  const bytes = readFileSync(path)
  const ends = [...bytes.entries()].filter(([, code]) => code === 0x0a).map(([at]) => at)
  const cut = join(folder, 'cut')
  for (let length = 0; length <= bytes.length; length++) {
    writeFileSync(cut, bytes.subarray(0, length))
    // A line is whole with its last byte, even without its end of line.
    const whole = ends.filter(end => length >= end).length
    const expected = [[], [], [row('a')], [settled('a')], [settled('a'), row('b')]][whole]
    const found = await readRows([cut])
    if (JSON.stringify(found) !== JSON.stringify(expected)) t.fail(`cut at ${length}: ${JSON.stringify(found)}`)
  }
  t.pass()
})

t.test('a settlement stands, whichever comes first and however often', async t => {
  const folder = t.testdir({})
  const line = (kind: string, row: CostRow) => `${JSON.stringify({ t: kind, row })}\n`
  writeFileSync(join(folder, '1'), line('settled', settled('a')) + line('intent', row('b')))
  writeFileSync(
    join(folder, '2'),
    line('intent', row('a')) + line('settled', settled('b')) + line('settled', settled('b', { costNanoUsd: 77 }))
  )
  t.same(await readRows([join(folder, '1'), join(folder, '2')]), [settled('a'), settled('b')])
  t.same(await readRows([join(folder, '2'), join(folder, '1')]), [settled('a'), settled('b')])
})

t.test('what is no line of ours is passed over', async t => {
  const path = join(t.testdir({}), 'x')
  writeFileSync(
    path,
    `\n\u0000\u0000\n{"t":"inte\nnull\n5\n"x"\n[]\n{}\n{"t":"later"}\n{"t":"intent"}\n{"t":"settled","row":{}}\n{"t":"owner"}\n${JSON.stringify({ t: 'intent', row: row('a') })}\n`
  )
  t.same(await readRows([path, join(path, 'not-there')].slice(0, 1)), [row('a')])
  t.same(await readRows([`${path}-gone`]), [], 'another process may have removed it')
})

t.test('who wrote a file is known from its first line, if it is whole', async t => {
  const folder = t.testdir({ 'a.ndjson': '', 'b.ndjson': '{"t":"own', 'c.ndjson': '{"t":"intent"}\n', 'd.txt': 'x', 'e.ndjson': 'null\n' })
  t.same(
    (await findJournals(folder)).map(found => found.owner),
    [null, null, null, null]
  )
  t.same(await findJournals(join(folder, 'not-there')), [])
})

t.test('files that are gone are removed as well', async t => {
  const folder = t.testdir({ a: 'x' })
  await removeJournals([join(folder, 'a'), join(folder, 'b')])
  t.same(files(folder), [])
})

// A row of this size makes a segment full in a few lines.
const large = { model: 'x'.repeat(1024 * 1024) }

t.test('a full segment is followed by another, and removed when all in it is stored', async t => {
  const folder = t.testdir({})
  const journal = createJournal(folder, owner)
  for (const id of ['a', 'b', 'c', 'd', 'e']) journal.intent(row(id, large))
  journal.settle(settled('a'))
  t.same(files(folder), ['p1-0.ndjson', 'p1-1.ndjson'])
  for (const id of ['b', 'c', 'd']) journal.settle(settled(id))
  journal.stored(['a', 'b', 'c'].map(id => settled(id)))
  t.same(files(folder), ['p1-0.ndjson', 'p1-1.ndjson'], '`d` of the first is not stored')
  journal.stored([settled('d')])
  t.same(files(folder), ['p1-1.ndjson'])
  t.same(await outcomes(folder), { a: 'ok', b: 'ok', c: 'ok', d: 'ok', e: 'lost' })
  t.same((await findJournals(folder))[0]?.owner, owner, 'every segment says whose it is')
})

t.test('an attempt that began in one segment and ended in another holds both', async t => {
  const folder = t.testdir({})
  const journal = createJournal(folder, owner)
  journal.intent(row('early'))
  for (const id of ['a', 'b', 'c', 'd', 'e']) journal.intent(row(id, large))
  for (const id of ['a', 'b', 'c', 'd', 'e']) journal.settle(settled(id))
  journal.stored(['a', 'b', 'c', 'd', 'e'].map(id => settled(id)))
  t.same(files(folder), ['p1-0.ndjson', 'p1-1.ndjson'])
  journal.settle(settled('early'))
  journal.stored([settled('early')])
  journal.stored([settled('early'), settled('nobody')])
  t.same(files(folder), ['p1-1.ndjson'])
})

t.test('what is stored twice counts once', async t => {
  const folder = t.testdir({})
  const journal = createJournal(folder, owner)
  for (const id of ['a', 'b', 'c', 'd', 'e']) journal.intent(row(id, large))
  for (let times = 0; times < 4; times++) journal.stored([row('a')])
  t.same(await outcomes(folder), { a: 'lost', b: 'lost', c: 'lost', d: 'lost', e: 'lost' })
})

t.test('a full segment of which all is stored goes when the next begins', async t => {
  const folder = t.testdir({})
  const journal = createJournal(folder, owner)
  for (const id of ['a', 'b', 'c', 'd']) journal.intent(row(id, large))
  journal.stored(['a', 'b', 'c', 'd'].map(id => row(id)))
  t.same(files(folder), ['p1-0.ndjson'])
  journal.intent(row('e'))
  t.same(files(folder), ['p1-1.ndjson'])
})

t.test('closing leaves only what the database lacks', async t => {
  const folder = t.testdir({})
  const done = createJournal(folder, owner)
  done.intent(row('a'))
  done.settle(settled('a'))
  done.stored([settled('a')])
  done.close()
  t.same(files(folder), [])
  const open = createJournal(folder, owner)
  open.intent(row('a'))
  open.close()
  t.same(await outcomes(folder), { a: 'lost' })
})

t.test('closing closes every file, takes nothing more, and lets go of what is stored afterwards', async t => {
  const folder = t.testdir({})
  const opened: number[] = []
  const restore = replace(
    t,
    'openSync',
    real =>
      ((...given: Parameters<typeof fs.openSync>) => {
        const fd = real(...given)
        opened.push(fd)
        return fd
      }) as typeof fs.openSync
  )
  const journal = createJournal(folder, owner)
  for (const id of ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j']) journal.intent(row(id, large))
  restore()
  t.same(files(folder), ['p1-0.ndjson', 'p1-1.ndjson', 'p1-2.ndjson'])
  journal.close()
  journal.close()
  t.same(opened.filter(isOpen), [])
  // A file of somebody else's may have such a number now.
  const other = fs.openSync(join(folder, 'other'), 'w')
  t.ok(opened.includes(other))
  t.throws(() => journal.intent(row('x')), /closed/)
  t.throws(() => journal.settle(settled('a')), /closed/)
  journal.stored(['a', 'b', 'c', 'd'].map(id => row(id)))
  t.same(files(folder), ['other', 'p1-1.ndjson', 'p1-2.ndjson'])
  journal.stored(['e', 'f', 'g', 'h', 'i', 'j'].map(id => row(id)))
  t.same(files(folder), ['other'])
  t.ok(isOpen(other))
  t.equal(statSync(join(folder, 'other')).size, 0)
  fs.closeSync(other)
})

t.test('a segment that somebody else has booked and removed is no fault', async t => {
  const folder = t.testdir({})
  const journal = createJournal(folder, owner)
  for (const id of ['a', 'b', 'c', 'd', 'e']) journal.intent(row(id, large))
  rmSync(join(folder, 'p1-0.ndjson'))
  journal.stored(['a', 'b', 'c', 'd', 'e'].map(id => row(id)))
  rmSync(join(folder, 'p1-1.ndjson'), { force: true })
  journal.close()
  t.same(files(folder), [])
})

t.test('what the disk takes only in part is not written: it throws, and nothing else is spoiled', async t => {
  const folder = t.testdir({})
  const journal = createJournal(folder, owner)
  journal.intent(row('a'))
  let room = 40
  const restore = replace(
    t,
    'writeSync',
    real =>
      ((fd: number, given: Buffer | string, from: number = 0) => {
        const bytes = Buffer.from(given as string)
        const most = Math.min(room, bytes.length - from)
        if (most === 0) throw noSpace()
        room -= most
        return real(fd, bytes, from, most)
      }) as typeof fs.writeSync
  )
  t.throws(() => journal.intent(row('b')), { code: 'ENOSPC' })
  t.throws(() => journal.intent(row('c')), { code: 'ENOSPC' })
  room = 10_000
  journal.intent(row('d'))
  restore()
  journal.intent(row('e'))
  t.same(await outcomes(folder), { a: 'lost', d: 'lost', e: 'lost' })
})

t.test('a write in several parts is whole', async t => {
  const folder = t.testdir({})
  replace(
    t,
    'writeSync',
    real =>
      ((fd: number, given: Buffer | string, from: number = 0) => {
        const bytes = Buffer.from(given as string)
        return real(fd, bytes, from, Math.min(7, bytes.length - from))
      }) as typeof fs.writeSync
  )
  const journal = createJournal(folder, owner)
  journal.intent(row('a'))
  journal.settle(settled('a'))
  t.same(await readRows(paths(folder)), [settled('a')])
})

t.test('with the disk full no new segment is left behind, and no file stays open', async t => {
  const folder = t.testdir({})
  const journal = createJournal(folder, owner)
  for (const id of ['a', 'b', 'c', 'd', 'e']) journal.intent(row(id, large))
  for (const id of ['f', 'g', 'h']) journal.intent(row(id, large))
  t.same(files(folder), ['p1-0.ndjson', 'p1-1.ndjson'])
  const opened: number[] = []
  const restoreOpen = replace(
    t,
    'openSync',
    real =>
      ((...given: Parameters<typeof fs.openSync>) => {
        const fd = real(...given)
        opened.push(fd)
        return fd
      }) as typeof fs.openSync
  )
  const restore = replace(
    t,
    'writeSync',
    () =>
      (() => {
        throw noSpace()
      }) as typeof fs.writeSync
  )
  for (let tries = 0; tries < 5; tries++) t.throws(() => journal.intent(row('x')), { code: 'ENOSPC' })
  restore()
  restoreOpen()
  t.same(files(folder), ['p1-0.ndjson', 'p1-1.ndjson'])
  t.equal(opened.length, 5)
  t.same(opened.filter(isOpen), [])
  journal.intent(row('y'))
  t.match(await outcomes(folder), { a: 'lost', y: 'lost' })
})

t.test('a folder nobody can write to is an error at once', async t => {
  const folder = t.testdir({ file: 'x' })
  t.throws(() => createJournal(join(folder, 'file'), owner))
  mkdirSync(join(folder, 'p1-0.ndjson'))
  t.throws(() => createJournal(folder, owner), { code: 'EISDIR' })
})

t.test('any course of attempts: what is not stored is on disk, as the last thing known of it', async t => {
  const step = fc.record({
    id: fc.nat(5),
    do: fc.constantFrom('intent' as const, 'settle' as const, 'stored' as const),
    large: fc.boolean()
  })
  let round = 0
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 40 }), async steps => {
      const folder = join(t.testdirName, String(round++))
      mkdirSync(folder, { recursive: true })
      const journal = createJournal(folder, owner)
      const state = new Map<string, 'lost' | 'ok'>()
      let generation = 0
      for (const { id, do: act, large: isLarge } of steps) {
        const name = `${id}.${generation}`
        const more = isLarge ? { model: 'x'.repeat(1_500_000) } : {}
        if (act === 'intent' && !state.has(name)) {
          journal.intent(row(name, more))
          state.set(name, 'lost')
        } else if (act === 'settle' && state.get(name) === 'lost') {
          journal.settle(settled(name, more))
          state.set(name, 'ok')
        } else if (act === 'stored') {
          const rows = [...state].filter(([, known]) => known === 'ok').map(([attempt]) => settled(attempt))
          journal.stored(rows)
          for (const { attemptId } of rows) state.delete(attemptId)
          // An attempt id is never used again.
          generation++
        }
      }
      const found = await outcomes(folder)
      for (const [attempt, outcome] of state)
        if (found[attempt] !== outcome) throw new Error(`${attempt} is ${found[attempt]}, not ${outcome}`)
      const bytes = files(folder).reduce((sum, file) => sum + statSync(join(folder, file)).size, 0)
      journal.close()
      const left = files(folder).length
      rmSync(folder, { recursive: true })
      if (state.size === 0 && left > 0) throw new Error('all is stored, and files are left')
      return bytes < 60 * 1024 * 1024
    }),
    { numRuns: 150 }
  )
  t.pass()
})
