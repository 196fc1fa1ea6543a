import t from 'tap'
import { type Candidates, createCandidates } from '../../queue/candidates.ts'
import { type Candidate, setAside } from '../../store/jobs/candidates.ts'
import { catalogOf, targetAt } from './core-support.ts'
import { createRows } from './rows.ts'

const rows = await createRows(t)
const { pool } = rows
const catalog = catalogOf([targetAt('home', 'm'), targetAt('home', 'n'), targetAt('cloud', 'm', { own: false })])
const create = () => createCandidates({ pool, catalog: () => catalog, now: () => 0 })
const all = () => true

/** All heads of these lanes that wait, in order. */
async function headsIn(candidates: Candidates, lanes: readonly string[]): Promise<Candidate[]> {
  const { pages } = await candidates.heads(lanes)
  const found: Candidate[] = []
  for await (const page of pages) found.push(...page)
  return found
}

t.beforeEach(async () => {
  await pool.query('delete from jobs')
})

t.test('the lanes that have something ready are found, and those that turn out to be empty forgotten', async t => {
  const candidates = create()
  await rows.job({ lane: '2/chat/any/m' })
  await rows.job({ lane: '2/chat/any/m' })
  await rows.job({ lane: '1/chat/any/n', class: 1 })
  await rows.job({ lane: '2/chat/any/later', ready: false })
  await candidates.refresh()
  t.same(candidates.lanes(all).toSorted(), ['1/chat/any/n', '2/chat/any/m'])
  t.same(
    candidates.lanes(({ devices }, jobClass) => jobClass < 2 && devices.has('home')),
    ['1/chat/any/n']
  )
  t.same(
    candidates.lanes(({ unbounded }) => unbounded),
    ['2/chat/any/m']
  )
  await pool.query(`delete from jobs where lane = '1/chat/any/n'`)
  await candidates.heads(candidates.lanes(all))
  t.same(candidates.lanes(all), ['2/chat/any/m'])
})

t.test('a lane that was added while the database was asked is not forgotten by its answer', async t => {
  const candidates = create()
  // How far the classes are is known from here on.
  await candidates.heads(['2/chat/any/m'])
  candidates.add('2/chat/any/m')
  const looking = candidates.heads(['2/chat/any/m'])
  candidates.add('2/chat/any/m')
  await looking
  t.same(candidates.lanes(all), ['2/chat/any/m'])
  const refreshing = candidates.refresh()
  candidates.add('2/chat/any/n')
  await refreshing
  t.same(candidates.lanes(all), ['2/chat/any/n'])
})

t.test('the heads of a lane are its lowest tags, and those of all lanes come in the order they are to be served', async t => {
  const candidates = create()
  const ids: string[] = []
  for (const tag of [50, 10, 40, 20, 30, 60]) ids.push(await rows.job({ lane: '2/chat/any/m', tag }))
  const best = await rows.job({ lane: '1/chat/any/n', class: 1, tag: 1_000 })
  const found = await headsIn(candidates, ['2/chat/any/m', '1/chat/any/n'])
  t.same(
    found.map(({ id }) => id),
    [best, ids[1], ids[3], ids[4], ids[2], ids[0], ids[5]]
  )
  await setAside(pool, [ids[1] as string, ids[3] as string], 60_000)
  const next = await headsIn(candidates, ['2/chat/any/m'])
  t.same(
    next.map(({ id }) => id),
    [ids[4], ids[2], ids[0], ids[5]],
    'those that were set aside make way'
  )
  t.match(await rows.read(ids[1] as string), { status: 'queued', ready: false })
})

t.test('of more lanes than are looked at in one go, each has its turn, and those that somebody waits for come first', async t => {
  const candidates = create()
  const lanes = [
    ...Array.from({ length: 10 }, (_, number) => `1/chat/any/u${number}`),
    ...Array.from({ length: 150 }, (_, number) => `2/chat/any/m${number}`)
  ]
  for (const lane of lanes) await rows.job({ lane, class: Number(lane[0]) })
  const seen = new Set<string>()
  for (let look = 0; look < 10; look++) {
    const found = await headsIn(candidates, lanes)
    t.ok(found.length <= 64)
    t.equal(found.filter(job => job.class === 1).length, 10, 'those that somebody waits for, always')
    for (const { lane } of found) seen.add(lane)
  }
  t.equal(seen.size, 160)
})

t.test('of few lanes many heads are seen, of many lanes a few each, a page at a time', async t => {
  const candidates = create()
  await pool.query(
    `insert into jobs (id, kind, class, lane, tag, charge, weight, source, caller, max_attempts)
     select ('00000000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid, 'echo', 2, '2/chat/any/m' || n % 64, n, 0, 1, 's', '{}', 1
       from generate_series(0, 2559) as n`
  )
  for (const [lanes, each] of [
    [1, 32],
    [2, 32],
    [3, 32],
    [16, 8],
    [64, 2]
  ] as const) {
    const names = Array.from({ length: lanes }, (_, number) => `2/chat/any/m${number}`)
    const heads = await candidates.heads(names)
    t.equal(heads.each, each)
    const sizes: number[] = []
    const seen: string[] = []
    for await (const page of heads.pages) {
      sizes.push(page.length)
      seen.push(...page.map(({ id }) => id))
    }
    t.ok((sizes[0] as number) <= 8 && Math.max(...sizes) <= 32, `pages of ${sizes}`)
    t.equal(seen.length, lanes * each)
    t.same(seen, seen.toSorted(), 'in the order of their tags, each once')
  }
})

t.test('of two lanes, what follows in the one is not put behind what follows in the other', async t => {
  const candidates = create()
  const ids: string[] = []
  for (const [lane, tag] of [
    ...[1, 2, 3, 4, 5, 6].map(tag => ['2/chat/any/m', tag] as const),
    ...[50, 60].map(tag => ['2/chat/any/n', tag] as const)
  ]) {
    ids.push(await rows.job({ lane, tag }))
  }
  t.same(
    (await headsIn(candidates, ['2/chat/any/m', '2/chat/any/n'])).map(({ id }) => id),
    ids
  )
})

t.test('what nobody wants any more is not read', async t => {
  const candidates = create()
  for (let tag = 0; tag < 20; tag++) await rows.job({ lane: '2/chat/any/m', tag })
  let isWanted = true
  const { pages } = await candidates.heads(['2/chat/any/m'], () => isWanted)
  const sizes: number[] = []
  for await (const page of pages) {
    sizes.push(page.length)
    isWanted = false
  }
  t.same(sizes, [8])
})

t.test('what is taken after it was seen is left out of its page', async t => {
  const candidates = create()
  const ids: string[] = []
  for (const tag of [1, 2, 3]) ids.push(await rows.job({ lane: '2/chat/any/m', tag }))
  // Of so many lanes only the order is read at first.
  const { pages } = await candidates.heads(['2/chat/any/m', '2/chat/any/n', '2/chat/any/o'])
  await setAside(pool, [ids[0] as string], 60_000)
  for await (const page of pages)
    t.same(
      page.map(({ id }) => id),
      [ids[1], ids[2]]
    )
})
