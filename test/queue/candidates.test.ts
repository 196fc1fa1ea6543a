import t from 'tap'
import { createCandidates, headsEach } from '../../queue/candidates.ts'
import { setAside } from '../../store/jobs/candidates.ts'
import { catalogOf, targetAt } from './core-support.ts'
import { createRows } from './rows.ts'

const rows = await createRows(t)
const { pool } = rows
const catalog = catalogOf([targetAt('home', 'm'), targetAt('home', 'n'), targetAt('cloud', 'm', { own: false })])
const create = () => createCandidates({ pool, catalog: () => catalog, now: () => 0 })
const all = () => true

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
  const found = await candidates.heads(['2/chat/any/m', '1/chat/any/n'])
  t.equal(headsEach, 4)
  t.same(
    found.map(({ id }) => id),
    [best, ids[1], ids[3], ids[4], ids[2]]
  )
  await setAside(pool, [ids[1] as string, ids[3] as string], 60_000)
  const next = await candidates.heads(['2/chat/any/m'])
  t.same(
    next.map(({ tag }) => tag),
    [30, 40, 50, 60],
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
    const found = await candidates.heads(lanes)
    t.ok(found.length <= 64)
    t.equal(found.filter(job => job.class === 1).length, 10, 'those that somebody waits for, always')
    for (const { lane } of found) seen.add(lane)
  }
  t.equal(seen.size, 160)
})
