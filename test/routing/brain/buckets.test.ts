// How many calls providers take: learned from what they refuse, or told by their headers. By a virtual clock.

import t from 'tap'
import { createBuckets } from '../../../routing/brain/buckets.ts'
import { createLoad } from '../../../routing/load.ts'

/** What a provider says to a call at this second: how long to wait, or null when it takes it. */
type Provider = (atS: number) => number | null

/** So many a minute, and so many at once. */
function bucket({ perMinute, burst }: { readonly perMinute: number; readonly burst: number }): Provider {
  let tokens = burst
  let lastS = 0
  return atS => {
    tokens = Math.min(burst, tokens + ((atS - lastS) * perMinute) / 60)
    lastS = atS
    if (tokens < 1) return 1
    tokens--
    return null
  }
}

/** So many in each minute of the clock. */
function minutes(perMinute: number): Provider {
  let minute = -1
  let count = 0
  return atS => {
    if (Math.floor(atS / 60) !== minute) {
      minute = Math.floor(atS / 60)
      count = 0
    }
    return ++count > perMinute ? 1 : null
  }
}

interface Minute {
  taken: number
  refused: number
}

/** Calls that want to go out at these seconds go when bucket and rest allow it, one after the other; what came of each minute. */
function drive(provider: Provider, wishesS: Iterable<number>, fromS = 0) {
  let nowS = fromS
  const buckets = createBuckets()
  const load = createLoad(() => nowS * 1_000)
  const log: Minute[] = []
  for (const wishS of wishesS) {
    nowS = Math.max(nowS, fromS + wishS)
    for (let waitS = 1; waitS > 0; nowS += waitS) waitS = Math.max(buckets.waitS('p', 0, nowS), load.cooling('p/m') / 1_000)
    const minute = Math.floor((nowS - fromS) / 60)
    while (log.length <= minute) log.push({ taken: 0, refused: 0 })
    buckets.sent('p', nowS)
    const waitS = provider(nowS - fromS)
    if (waitS === null) {
      buckets.taken('p')
      ;(log[minute] as Minute).taken++
    } else {
      buckets.refused('p', nowS)
      load.coolDown('p/m', waitS * 1_000)
      ;(log[minute] as Minute).refused++
    }
  }
  const sum = (from: number, of: keyof Minute, to = log.length - 1): number =>
    log.slice(from, to).reduce((all, minute) => all + minute[of], 0)
  return { buckets, log, sum, nowS: () => nowS }
}

function* every(seconds: number, forS: number): Generator<number> {
  for (let atS = 0; atS < forS; atS += seconds) yield atS
}

for (const [name, provider] of [
  ['a bucket of 60 a minute, 10 at once', () => bucket({ perMinute: 60, burst: 10 })],
  ['60 in each minute of its clock', () => minutes(60)]
] as const) {
  t.test(`${name}: after the first refusals hardly any, and most of what is allowed is used`, async t => {
    // Twice as much as it takes, for half an hour of its time.
    const { sum, log } = drive(provider(), every(0.5, 1_200))
    const calls = sum(2, 'taken') + sum(2, 'refused')
    t.comment(
      `first minutes: ${log.slice(0, 2).map(({ taken, refused }) => `${taken}+${refused}`)}; then ${sum(2, 'taken')}+${sum(2, 'refused')}`
    )
    t.ok(sum(0, 'refused', 2) <= 16, 'it is found out quickly')
    t.ok(sum(2, 'refused') < 0.01 * calls, 'under 1 % are refused')
    t.ok(sum(2, 'taken') >= 0.8 * 60 * (log.length - 3), 'over 80 % are used')
  })
}

t.test('a crowd that is refused at once is one refusal', async t => {
  const buckets = createBuckets()
  for (let call = 0; call < 30; call++) buckets.sent('p', 100)
  for (let call = 0; call < 20; call++) buckets.refused('p', 100.5 + call / 1_000, 100)
  t.ok(buckets.waitS('p', 0, 101) > 0)
  t.equal(buckets.waitS('p', 0, 104), 0, 'about one a second, as ten were taken')
  t.ok(buckets.waitS('p', 20, 104) < 60)
})

t.test('with too few calls to speak of a rate it rests, longer each time, and no rate is learned', async t => {
  const buckets = createBuckets()
  const rests: number[] = []
  for (let atS = 0, tries = 0; tries < 8; tries++) {
    buckets.sent('p', atS)
    buckets.refused('p', atS + 0.1, atS)
    rests.push(Math.round(buckets.waitS('p', 0, atS + 0.1)))
    atS += 70
  }
  t.same(rests, [1, 2, 4, 8, 16, 32, 60, 60])
  t.equal(buckets.waitS('p', 0, 7 * 70 + 0.2, false), 0, 'who has nothing else may try')
  t.equal(buckets.waitS('p', 1_000, 10_000), 0, 'and then it may be asked as before')
  buckets.sent('p', 10_000)
  buckets.taken('p')
  buckets.sent('p', 10_100)
  buckets.refused('p', 10_101, 10_100)
  t.equal(Math.round(buckets.waitS('p', 0, 10_101)), 1)
})

t.test('what is refused after a pause is how many come at once, not how many a minute', async t => {
  const provider = bucket({ perMinute: 60, burst: 3 })
  const { buckets, nowS } = drive(provider, every(0.5, 300))
  const [[, before] = ['', { perS: 0, burst: 0 }]] = buckets.snapshot()
  const atS = nowS() + 200
  for (let call = 0; call < 8; call++) {
    if (buckets.waitS('p', 0, atS) > 0) break
    buckets.sent('p', atS)
    if (provider(atS) !== null) buckets.refused('p', atS, atS)
  }
  const [[, after] = ['', { perS: 0, burst: 0 }]] = buckets.snapshot()
  t.ok(after.perS >= before.perS, 'the rate is what it was')
  t.ok(after.burst < before.burst)
})

t.test('headers of a bucket: what is left, and how fast it fills', async t => {
  const buckets = createBuckets()
  buckets.sent('p', 10)
  buckets.told('p', { requests: 600, remaining: 599, resetS: 0.1 }, { nowS: 10.2, sentS: 10 })
  t.equal(buckets.waitS('p', 598, 10.2), 0)
  t.ok(buckets.waitS('p', 600, 10.2) > 0)
  t.equal(buckets.waitS('p', 599, 10.4), 0, 'ten a second')
  // Somebody else has used it up.
  buckets.told('p', { requests: 600, remaining: 0, resetS: 60 }, { nowS: 20, sentS: 19 })
  t.match(buckets.waitS('p', 0, 20), 0.1)
  t.ok(Math.abs(buckets.waitS('p', 9, 20) - 1) < 1e-6)
})

t.test('headers of a window: nothing until it ends, and then all of it', async t => {
  const buckets = createBuckets()
  buckets.told('p', { requests: 20, remaining: 2, resetS: 40 }, { nowS: 20, sentS: 20 })
  buckets.told('p', { requests: 20, remaining: 0, resetS: 30 }, { nowS: 30, sentS: 30 })
  t.equal(buckets.waitS('p', 0, 30), 30)
  t.equal(buckets.waitS('p', 0, 59), 1)
  t.equal(buckets.waitS('p', 19, 60), 0)
  t.test('also where the end is told as a moment', async t => {
    const said = createBuckets()
    said.sent('p', 5)
    said.told('p', { requests: 20, remaining: 0, resetS: 12, isWindow: true }, { nowS: 6, sentS: 5 })
    said.refused('p', 6, 5)
    t.equal(said.waitS('p', 0, 6), 12)
    t.equal(said.waitS('p', 0, 18), 0)
  })
})

t.test('calls that were sent after the one whose headers tell are not among those left', async t => {
  const buckets = createBuckets()
  buckets.sent('p', 10)
  for (let call = 0; call < 5; call++) buckets.sent('p', 12)
  buckets.told('p', { requests: 60, remaining: 6, resetS: 54 }, { nowS: 13, sentS: 10 })
  t.equal(buckets.waitS('p', 0, 13), 0)
  t.ok(buckets.waitS('p', 1, 13) > 0)
})

t.test('what refuses all the same is believed more than its headers', async t => {
  const { buckets, nowS } = drive(bucket({ perMinute: 60, burst: 10 }), every(0.5, 300))
  buckets.told('p', { requests: 6_000, remaining: 5_999, resetS: 0.01 }, { nowS: nowS(), sentS: nowS() - 1 })
  t.ok(buckets.waitS('p', 20, nowS()) > 5)
})

t.test('what was learned is there after a restart, and begins carefully; nonsense is not', async t => {
  const { buckets } = drive(bucket({ perMinute: 60, burst: 10 }), every(0.5, 300))
  const kept: unknown = JSON.parse(JSON.stringify(buckets.snapshot()))
  const next = createBuckets()
  next.restore([...(kept as unknown[]), ['bad', { perS: -1, burst: 3 }], ['worse', null], [3, { perS: 1, burst: 1 }]])
  t.equal(next.waitS('p', 0, 0.1), 0)
  t.ok(next.waitS('p', 1, 0.1) > 0.5)
  t.equal(next.waitS('bad', 5, 0.1), 0)
  const many = createBuckets()
  for (let key = 0; key < 2_000; key++) many.limit(`p${key}`, { perS: 1, burst: 1 })
  t.equal(many.snapshot().length, 500)
  t.equal(many.snapshot()[0]?.[0], 'p1999', 'those used last')
})

t.test('a limit that is known for sure is never gone beyond, and comes back after a refusal', async t => {
  const buckets = createBuckets()
  buckets.limit('p', { perS: 1, burst: 10 })
  t.equal(buckets.waitS('p', 9, 0), 0)
  for (let call = 0; call < 10; call++) buckets.sent('p', 0)
  t.equal(buckets.waitS('p', 0, 0), 1)
  t.equal(buckets.waitS('p', 9, 100), 0)
  t.ok(buckets.waitS('p', 10, 100_000) >= 1)
})
