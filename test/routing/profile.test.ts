// A machine is known by its answers: as it is, beside others, and soon after it has changed.

import t from 'tap'
import { figuresOf, type Observation, observe, type Profile, readProfile } from '../../routing/profile.ts'

const silent: Observation = {
  atMs: 1_000,
  isFailure: false,
  loadMs: null,
  ttftMs: null,
  prompt: null,
  answer: null,
  isBenchmark: false
}

/** Numbers from 0 to 1, the same ones in every run. */
function chanceOf(seed: number): () => number {
  let state = seed
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return state / 2 ** 32
  }
}

/** A machine with these speeds, and observations of it with noise. */
function machine({
  tauS,
  betaS,
  promptS = 0.001,
  noise,
  seed
}: {
  tauS: number
  betaS: number
  promptS?: number
  noise: number
  seed: number
}) {
  const chance = chanceOf(seed)
  const noisy = (): number => Math.exp(noise * (chance() + chance() + chance() + chance() - 2) * Math.sqrt(3))
  return {
    chance,
    answer({ slower = 1, concurrency = 1 + Math.floor(chance() * 4), tokens = 20 + Math.floor(chance() * 300) } = {}): Observation {
      const promptTokens = 30 + Math.floor(chance() * 2_000)
      const s = (tauS + betaS * (concurrency - 1)) * slower * (1 + (promptTokens + tokens / 2) / 24_000)
      return {
        ...silent,
        prompt: { tokens: promptTokens, ms: promptTokens * promptS * 1_000 * slower * concurrency * noisy(), concurrency },
        answer: { tokens, ms: tokens * s * 1_000 * noisy(), concurrency }
      }
    }
  }
}

function learn(before: Profile | null, observations: Iterable<Observation>): Profile {
  let profile = before
  for (const observation of observations) profile = observe(profile, observation)
  return profile as Profile
}

function* times(count: number, make: () => Observation): Generator<Observation> {
  for (let nth = 0; nth < count; nth++) yield make()
}

const within = (share: number, found: number, truth: number): boolean => Math.abs(found / truth - 1) <= share

t.test('the time of a token, alone and for each further caller, is found within 5 % after 200 noisy answers', async t => {
  for (const [tauS, share] of [
    [1 / 120, 0.45],
    [1 / 35, 0.8],
    [1 / 8, 0.95],
    [1 / 60, 0.1]
  ] as const) {
    for (let seed = 1; seed <= 20; seed++) {
      const betaS = tauS * share
      const one = machine({ tauS, betaS, noise: 0.05, seed })
      const { answer, samples } = learn(
        null,
        times(200, () => one.answer())
      )
      t.equal(samples.answers, 200)
      t.ok(within(0.05, answer?.tauS ?? 0, tauS), `seed ${seed}: ${(answer?.tauS ?? 0) / tauS}`)
      t.ok(Math.abs((answer?.betaS ?? 0) - betaS) <= 0.05 * tauS, `seed ${seed}: beta ${answer?.betaS} of ${betaS}`)
    }
  }
})

t.test('a machine that becomes three times slower, or faster again, is followed within 20 answers', async t => {
  for (const concurrency of [undefined, 1, 3]) {
    for (let seed = 1; seed <= 20; seed++) {
      const one = machine({ tauS: 0.02, betaS: 0.009, noise: 0.08, seed })
      const usual = learn(
        null,
        times(200, () => one.answer())
      )
      const slower = { slower: 3, ...(concurrency !== undefined && { concurrency }) }
      const slow = learn(
        usual,
        times(20, () => one.answer(slower))
      )
      t.ok(within(0.2, slow.answer?.tauS ?? 0, 0.06), `seed ${seed}: slow ${slow.answer?.tauS}`)
      t.ok(within(0.2, (slow.answer?.tauS ?? 0) + 3 * (slow.answer?.betaS ?? 0), 0.141), `seed ${seed}: four at once ${slow.answer?.betaS}`)
      const again = learn(
        slow,
        times(20, () => one.answer({ ...slower, slower: 1 }))
      )
      t.ok(within(0.15, again.answer?.tauS ?? 0, 0.02), `seed ${seed}: fast again ${again.answer?.tauS}`)
    }
  }
})

t.test('one answer that stalled changes little', async t => {
  const one = machine({ tauS: 0.02, betaS: 0.009, noise: 0.05, seed: 7 })
  const usual = learn(
    null,
    times(100, () => one.answer())
  )
  const after = learn(usual, [one.answer({ slower: 1_000 }), ...times(2, () => one.answer())])
  t.ok(within(0.1, after.answer?.tauS ?? 0, 0.02), String(after.answer?.tauS))
})

t.test('a first pair of callers does not undo what is known of one', async t => {
  const one = machine({ tauS: 0.02, betaS: 0.012, noise: 0.02, seed: 3 })
  const alone = learn(
    null,
    times(500, () => one.answer({ concurrency: 1 }))
  )
  t.ok(within(0.02, alone.answer?.tauS ?? 0, 0.02))
  const paired = learn(
    alone,
    times(10, () => one.answer({ concurrency: 2 }))
  )
  t.ok(within(0.03, paired.answer?.tauS ?? 0, 0.02))
  t.ok(within(0.1, paired.answer?.betaS ?? 0, 0.012), String(paired.answer?.betaS))
})

t.test('whatever comes, figures stay numbers above nothing', async t => {
  for (let seed = 1; seed <= 30; seed++) {
    const chance = chanceOf(seed)
    const wild = (): number => {
      const kind = Math.floor(chance() * 8)
      return [0, -1, Number.NaN, Number.POSITIVE_INFINITY, 1e-9, 1e12][kind] ?? 10 ** (chance() * 8 - 2)
    }
    const stretch = () => (chance() < 0.3 ? null : { tokens: Math.floor(wild()) || 0, ms: wild(), concurrency: chance() * 10 })
    const profile = learn(
      null,
      times(300, () => ({
        atMs: 1_000,
        isFailure: chance() < 0.1,
        loadMs: chance() < 0.5 ? null : wild(),
        ttftMs: chance() < 0.5 ? null : wild(),
        prompt: stretch(),
        answer: stretch(),
        isBenchmark: chance() < 0.2
      }))
    )
    t.ok(readProfile(JSON.parse(JSON.stringify(profile))) !== null, JSON.stringify(profile))
    const { answer } = profile
    if (answer !== null) {
      const [tau, both, beta] = answer.covariance
      t.ok(answer.tauS > 0 && answer.betaS >= 0 && tau > 0 && beta > 0 && both * both <= tau * beta * 1.000_001, JSON.stringify(answer))
    }
  }
})

t.test('prompts are learned alone, and not from the cache', async t => {
  const read = (ms: number, more: Partial<Observation> = {}, concurrency = 1) => ({
    ...silent,
    prompt: { tokens: 1_000, ms, concurrency },
    ...more
  })
  const known = learn(
    null,
    times(10, () => read(2_000))
  )
  t.ok(within(0.001, figuresOf(known).promptTokensPerSecond ?? 0, 500))
  t.equal(known.samples.prompts, 10)
  t.equal(learn(known, [read(10)]).promptSPerToken, known.promptSPerToken, 'it was in the cache')
  t.equal(learn(known, [read(9_000, {}, 3)]).promptSPerToken, known.promptSPerToken, 'it shared the machine')
  t.equal(learn(known, [{ ...silent, prompt: { tokens: 19, ms: 900, concurrency: 1 } }]).promptSPerToken, known.promptSPerToken)
  const benched = learn(
    known,
    times(4, () => read(100, { isBenchmark: true }))
  )
  t.ok(within(0.15, figuresOf(benched).promptTokensPerSecond ?? 0, 10_000), String(figuresOf(benched).promptTokensPerSecond))
  const slower = learn(
    known,
    times(20, () => read(6_000))
  )
  t.ok(within(0.1, figuresOf(slower).promptTokensPerSecond ?? 0, 500 / 3))
})

t.test('loading, the first token and failures are counted for themselves', async t => {
  const loaded = learn(null, [
    { ...silent, loadMs: 4_000, ttftMs: 4_500 },
    { ...silent, loadMs: 40, ttftMs: 300 },
    { ...silent, loadMs: 6_000 },
    { ...silent, isFailure: true, loadMs: 9_000 }
  ])
  t.match(figuresOf(loaded), {
    loadMs: 5_000,
    tokensPerSecond: null,
    promptTokensPerSecond: null,
    variation: null,
    samples: { answers: 0, prompts: 0, loads: 2, failures: 1 }
  })
  t.equal(Math.round(figuresOf(loaded).ttftMs ?? 0), 300, 'without the load')
})

t.test('short answers say nothing of a token', async t => {
  const short = learn(null, [{ ...silent, answer: { tokens: 3, ms: 5, concurrency: 1 } }])
  t.equal(short.answer, null)
})

t.test('what was kept is read again, and nonsense is not', async t => {
  const one = machine({ tauS: 0.02, betaS: 0.009, noise: 0.05, seed: 7 })
  const profile = learn(
    null,
    times(3, () => one.answer())
  )
  t.same(readProfile(JSON.parse(JSON.stringify(profile))), profile)
  const half = { ...profile, answer: { ...profile.answer, tauS: null } }
  for (const nonsense of [null, 1, 'profile', [], {}, { ...profile, version: 2 }, half, { version: 1 }, { ...profile, samples: null }]) {
    t.equal(readProfile(nonsense), null, JSON.stringify(nonsense))
  }
})
