import t from 'tap'
import { learnedPace, priorPace, slower } from '../../../routing/brain/priors.ts'
import { observe, type Profile } from '../../../routing/profile.ts'
import { fc } from '../../support/properties.ts'
import { notFinite } from './stage.ts'

const big = { gpu: 'NVIDIA GeForce RTX 4090', watts: 390, vramGb: 24 }
const llama = { gb: 4.9, paramsB: 8 }
const near = (found: number, wanted: number): boolean => Math.abs(found / wanted - 1) < 1e-9

t.test('a token takes as long as reading all weights once', async t => {
  const pace = priorPace(big, llama)
  t.ok(near(pace.tauS, (4.9 * 1.1) / 1_008 / 0.6))
  t.ok(near(pace.promptS, 16 / (165_000 * 0.35)))
  t.ok(near(pace.loadS, 2 + 7))
  t.ok(near(pace.betaS, 0.45 * pace.tauS))
  t.equal(pace.gb, 4.9)
})

t.test('a larger model is slower in everything, and a smaller machine too', async t => {
  const [small, large] = [priorPace(big, llama), priorPace(big, { gb: 20, paramsB: 32 })]
  t.ok(large.tauS > small.tauS && large.promptS > small.promptS && large.loadS > small.loadS)
  const machines = [big, { ...big, gpu: 'RTX 3060', watts: 170 }, { ...big, gpu: 'Apple M2', watts: 30 }]
  const paces = machines.map(machine => priorPace(machine, llama).tauS)
  t.same(
    paces,
    paces.toSorted((one, other) => one - other)
  )
  const share = (watts: number): number => priorPace({ ...big, watts }, llama).betaS / priorPace({ ...big, watts }, llama).tauS
  t.ok(share(300) < share(80) && share(80) < share(30), 'calls beside each other slow a small one more')
})

t.test('of names that begin alike the whole one counts', async t => {
  const tauS = (gpu: string): number => priorPace({ ...big, gpu }, llama).tauS
  t.ok(
    tauS('Apple M2 Ultra') < tauS('Apple M2 Max') && tauS('Apple M2 Max') < tauS('Apple M2 Pro') && tauS('Apple M2 Pro') < tauS('Apple M2')
  )
  t.ok(tauS('NVIDIA L4') !== tauS('NVIDIA L40'))
})

t.test('a machine without a name is judged by its power, and a model without a size is a usual one', async t => {
  const unnamed = (watts: number): number => priorPace({ gpu: null, watts, vramGb: null }, llama).tauS
  t.ok(unnamed(300) < unnamed(65))
  t.ok(near(unnamed(400), (4.9 * 1.1) / 1_000 / 0.6))
  t.equal(priorPace({ gpu: 'Voodoo 2', watts: 400, vramGb: null }, llama).tauS, unnamed(400))
  t.ok(near(priorPace(big, { gb: null, paramsB: 10 }).loadS, 2 + 6 / 0.7))
  t.same(priorPace(big, { gb: null, paramsB: null }).loadS, priorPace(big, { gb: 5, paramsB: null }).loadS)
})

t.test('a machine whose electricity is free is a usual one, and not the slowest of all', async t => {
  const free = priorPace({ gpu: null, watts: 0, vramGb: null }, llama)
  t.ok(free.tauS < 0.1, `${free.tauS} s a token`)
  t.equal(free.tauS, priorPace({ gpu: null, watts: 150, vramGb: null }, llama).tauS)
})

t.test('a size of nothing says nothing: such models run elsewhere', async t => {
  const usual = priorPace(big, { gb: null, paramsB: null })
  for (const gb of [0, 3.6e-7]) t.equal(priorPace(big, { gb, paramsB: null }).tauS, usual.tauS, `${gb} GB`)
  t.equal(priorPace(big, { gb: 3.6e-7, paramsB: 120 }).tauS, priorPace(big, { gb: null, paramsB: 120 }).tauS)
  t.equal(priorPace(big, { gb: null, paramsB: 0 }).tauS, usual.tauS)
  t.ok(priorPace(big, { gb: 0.04, paramsB: 0.02 }).tauS < usual.tauS / 50, 'a small one is small')
})

t.test('whatever the machine and the model, every figure is a number above nothing', async t => {
  const figure = fc.oneof(fc.constantFrom(null, 0, 1e-9), fc.double({ min: 1e-9, max: 1e6, noNaN: true }))
  const gpu = fc.oneof(fc.constant(null), fc.constantFrom('', '4090', 'Apple M4 Max', 'Intel UHD'), fc.string())
  fc.assert(
    fc.property(gpu, fc.double({ min: 0, max: 1e5, noNaN: true }), figure, figure, (name, watts, gb, paramsB) => {
      const pace = priorPace({ gpu: name, watts, vramGb: null }, { gb, paramsB })
      const wrong = notFinite(pace)
      if (wrong !== null) throw new Error(wrong)
      return pace.tauS > 0 && pace.betaS > 0 && pace.promptS > 0 && pace.loadS >= 2
    })
  )
  t.pass()
})

const prior = priorPace(big, llama)
const seen = { isFailure: false, loadMs: null, ttftMs: null, prompt: null, answer: null, isBenchmark: false }

function profileOf(count: number, tokensPerS: number, before: Profile | null = null, atMs = 0): Profile {
  let profile = before
  for (let nth = 0; nth < count; nth++) {
    profile = observe(profile, { ...seen, atMs, answer: { tokens: 100, ms: 100_000 / tokensPerS, concurrency: 1 } })
  }
  return profile as Profile
}

t.test('what was learned takes the place of what is only expected, each figure for itself', async t => {
  t.same(learnedPace(prior, null, 0), prior)
  const loaded = observe(null, { ...seen, atMs: 0, loadMs: 30_000 })
  const onlyLoad = learnedPace(prior, loaded, 0)
  t.same([onlyLoad.loadS, onlyLoad.tauS, onlyLoad.betaS, onlyLoad.promptS], [30, prior.tauS, prior.betaS, prior.promptS])
  const read = observe(null, { ...seen, atMs: 0, prompt: { tokens: 1_000, ms: 5_000, concurrency: 1 } })
  t.same([learnedPace(prior, read, 0).promptS, learnedPace(prior, read, 0).tauS], [0.005, prior.tauS])
  const answered = learnedPace(prior, profileOf(20, 10), 0)
  t.ok(Math.abs(answered.tauS / 0.1 - 1) < 0.02 && answered.loadS === prior.loadS && answered.gb === 4.9, String(answered.tauS))
})

t.test('a slow figure that nobody confirms is believed less and less, and a fast one stays', async t => {
  const usual = profileOf(300, 100)
  const slow = profileOf(20, 10, usual)
  const tauS = (profile: Profile, afterS: number): number => learnedPace(prior, profile, afterS * 1_000).tauS
  t.ok(tauS(slow, 0) > 0.08)
  t.equal(tauS(slow, 30), tauS(slow, 0))
  t.ok(tauS(slow, 120) < tauS(slow, 0) && tauS(slow, 300) < tauS(slow, 120))
  t.ok(tauS(slow, 86_400) < 0.02, 'what is usual is believed again')
  t.ok(near(tauS(usual, 86_400), tauS(usual, 0)))
  t.equal(tauS(slow, -100), tauS(slow, 0), 'a clock that went back changes nothing')
  const fast = profileOf(20, 1_000, usual)
  t.ok(near(tauS(fast, 86_400), tauS(fast, 0)))
})

t.test('how many answers it is known from fades with time', async t => {
  const profile = profileOf(40, 100)
  const samples = [0, 600, 6_000].map(afterS => learnedPace(prior, profile, afterS * 1_000).samples ?? Number.NaN)
  t.ok(near(samples[0] as number, 40) && near(samples[1] as number, 20) && (samples[2] as number) < 0.1, samples.join())
})

t.test('a machine that is slow for now is so in its tokens and its prompts, and loads as ever', async t => {
  t.equal(slower(prior, 1), prior)
  const { tauS, betaS, promptS, loadS } = slower(prior, 3)
  t.same([tauS, betaS, promptS, loadS], [prior.tauS * 3, prior.betaS * 3, prior.promptS * 3, prior.loadS])
})
