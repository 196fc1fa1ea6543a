// What comes and goes keeps no trace of what has gone.

import t from 'tap'
import { Passing, Places } from '../../routing/places.ts'

t.test('a place is free again when what stood there is gone, and is not taken from the next by mistake', t => {
  const places = new Places<{ readonly name: string }>()
  const [a, b] = [{ name: 'a' }, { name: 'b' }]
  const [first, second] = [places.add(a), places.add(b)]
  t.equal(places.size, 2)
  t.equal(places.at(first), a)
  places.remove(first)
  t.equal(places.at(first), undefined)
  t.same([...places], [b])
  places.remove(first)
  t.equal(places.size, 1, 'twice is once')
  const c = { name: 'c' }
  t.equal(places.add(c), first, 'no more places than there ever were at once')
  t.same(new Set(places), new Set([b, c]))
  places.remove(second)
  places.remove(first)
  t.equal(places.size, 0)
  t.same([...places], [])
  t.end()
})

t.test('what goes while it is looked at is passed over, and what comes does no harm', t => {
  const places = new Places<{ readonly at: number }>()
  const all = Array.from({ length: 10 }, (_, at) => places.add({ at }))
  const seen: number[] = []
  for (const { at } of places) {
    seen.push(at)
    if (at === 3) places.remove(all[5] as number)
    if (at === 4) places.add({ at: 99 })
  }
  t.same(
    seen.filter(at => at !== 99),
    [0, 1, 2, 3, 4, 6, 7, 8, 9]
  )
  t.end()
})

t.test('by ids it is what a map is', t => {
  const passing = new Passing<{ readonly value: number }>()
  const map = new Map<string, { readonly value: number }>()
  let seed = 7
  const chance = (below: number): number => {
    seed = (seed * 1_103_515_245 + 12_345) % 2_147_483_648
    return seed % below
  }
  for (let step = 0; step < 5_000; step++) {
    const id = `id-${chance(40)}`
    if (chance(2) === 0) {
      const value = { value: step }
      passing.set(id, value)
      map.set(id, value)
    } else t.equal(passing.delete(id), map.delete(id))
    const other = `id-${chance(40)}`
    if (passing.get(other) !== map.get(other)) t.fail(`${other} is another`)
    if (passing.size !== map.size) t.fail(`${passing.size} of ${map.size}`)
  }
  t.same(
    [...passing.values()].map(({ value }) => value).sort((one, other) => one - other),
    [...map.values()].map(({ value }) => value).sort((one, other) => one - other)
  )
  t.end()
})
