import t from 'tap'
import { baselines } from '../../simulate/policies/baselines.ts'
import { simulate } from '../../simulate/run.ts'
import type { Finished, Job, Policy, Scenario, ScenarioSource } from '../../simulate/types.ts'
import { runWorld } from '../../simulate/world.ts'
import { own, rented, scenario } from './stage.ts'

const chat: ScenarioSource = { id: 'chat', kind: 'poisson', len: 'conv', rate: 0.1, model: 'a', deadline: 20, prio: 1 }
const one: ScenarioSource = { id: 'one', kind: 'dump', len: 'conv', at: [10], size: 1, model: 'a', deadline: 20, prio: 1 }
const small: Scenario = { ...scenario, duration: 600, nodes: [own, rented], sources: [chat] }
const least = baselines['least_busy'] as () => Policy

/** Sends all to one node, and what was lost or failed again; notes all that it is told. */
function scripted(node: string, changes: Partial<Policy> = {}) {
  const ends: Finished[] = []
  const told: string[] = []
  const policy: Policy = {
    name: 'scripted',
    commandsMemory: false,
    arrived: (job, world) => world.send(job, node),
    finished(end, world) {
      ends.push(end)
      if (end.outcome === 'lost') world.wakeAt(world.nowS + 1)
    },
    changed: (id, world) => told.push(`${id} ${world.node(id).isUp ? 'up' : 'down'} at ${world.nowS}`),
    woken(world) {
      for (const { job } of ends.filter(({ outcome }) => outcome === 'lost').slice(-1)) world.send(job, node)
    },
    ...changes
  }
  return { policy, ends, told }
}

t.test('the same seed makes the same decisions, another seed others', async t => {
  const hash = (seed: number): string => simulate(small, least, seed).hash
  t.match(hash(1), /^[0-9a-f]{64}$/)
  t.equal(hash(1), hash(1))
  t.not(hash(1), hash(2))
  const sends = (seed: number): string => runWorld(small, scripted('rented').policy, seed).hash
  t.not(sends(1), sends(2), 'where nothing is loaded, too')
})

t.test('what a policy decides shifts neither requests nor what a rented node would do for them', async t => {
  const drawn = (policy: string) => {
    const create = baselines[policy] as () => Policy
    return simulate(small, create, 3).fates.map(({ request }) => [request.arrivedS, request.outputTokens, request.noise])
  }
  t.same(drawn('least_busy'), drawn('cloud_fastest'))
  const first = (policy: Policy): number => runWorld({ ...small, sources: [one] }, policy, 1).fates[0]?.endedS ?? 0
  const kept: Job[] = []
  const delayed = scripted('rented', {
    arrived(job, world) {
      kept.push(job)
      world.wakeAt(world.nowS + 7)
    },
    woken(world) {
      for (const job of kept.splice(0)) world.send(job, 'rented')
    }
  })
  t.ok(Math.abs(first(delayed.policy) - first(scripted('rented').policy) - 7) < 1e-9)
})

t.test('an oracle knows what a rented node will take, and what its own will', async t => {
  let wanted = 0
  const { policy } = scripted('rented', {
    arrived(job, world) {
      const truth = world.truth(job)
      const { ttftS, tokensPerSecond } = truth.rented('rented', world.nowS)
      wanted = world.nowS + ttftS + truth.outputTokens / tokensPerSecond
      t.match(truth.own('own', 'a', world.nowS), { dec: 100, pre: 1000 })
      world.send(job, 'rented')
    }
  })
  const { fates } = runWorld({ ...small, sources: [one] }, policy, 1)
  t.ok(Math.abs((fates[0]?.endedS ?? 0) - wanted) < 1e-9)
})

t.test('what a node that goes down had is lost, and answered when it is sent again', async t => {
  const { policy, ends, told } = scripted('own')
  const events = [
    { t: 12, node: 'own', up: false },
    { t: 12.5, node: 'own', up: true }
  ]
  const outcome = runWorld({ ...small, sources: [one], events }, policy, 1)
  t.same(told, ['own down at 12', 'own up at 12.5'])
  t.same(
    ends.map(({ outcome }) => outcome),
    ['lost', 'done']
  )
  t.match(outcome.fates[0], { outcome: 'answered', node: 'own', sends: 2 })
  t.equal(outcome.loads, 2, 'its memory was empty')
})

t.test('what is never answered is waited for until the drain ends', async t => {
  const { policy } = scripted('own', { arrived: () => undefined })
  const course = runWorld({ ...small, drain: 100, sources: [one] }, policy, 1)
  t.match(course, { endS: 700, fates: [{ outcome: 'unfinished', endedS: null, sends: 0 }] })
})

t.test('to send what runs, what has ended, or to nowhere is an error', async t => {
  const twice = scripted('own', {
    arrived(job, world) {
      world.send(job, 'own')
      world.send(job, 'rented')
    }
  })
  t.throws(() => runWorld(small, twice.policy, 1), /Job 0 was sent to rented at .* but is on own/)
  const again = scripted('own', { finished: ({ job }, world) => world.send(job, 'own') })
  t.throws(() => runWorld(small, again.policy, 1), /has ended/)
  t.throws(() => runWorld(small, scripted('nowhere').policy, 1), /no such node: nowhere/)
})

t.test('of those who leave, the policy hears, their work ends, and they are no answers', async t => {
  const left: number[] = []
  const { policy, ends } = scripted('own', { left: ({ id }) => left.push(id) })
  const { fates } = runWorld({ ...small, cancelFraction: 1 }, policy, 1)
  const gone = fates.filter(({ outcome }) => outcome === 'left')
  t.ok(gone.length > fates.length / 2, `${gone.length} of ${fates.length}`)
  t.same(
    left,
    gone.map(({ request }) => request.job.id).sort((a, b) => left.indexOf(a) - left.indexOf(b))
  )
  t.equal(ends.filter(({ outcome }) => outcome === 'cancelled').length, gone.length)
})

t.test('a policy is shown a clock that jumps; what it waits for takes as long as it said', async t => {
  const seen: number[] = []
  const { policy, ends } = scripted('own', {
    arrived(job, world) {
      seen.push(world.nowS, job.arrivedS)
      world.wakeAt(world.nowS + 1)
      world.send(job, 'own')
    },
    woken: world => seen.push(world.nowS)
  })
  const skew = [
    { t: 5, by: 1000 },
    { t: 10.5, by: -400 }
  ]
  const { fates } = runWorld({ ...small, sources: [one], clockSkew: skew }, policy, 1)
  // 10 s and 11 s of the true clock.
  t.same(seen.slice(0, 3), [1010, 1010, 611])
  t.equal(fates[0]?.request.arrivedS, 10)
  t.equal(ends[0]?.sentS, 1010)
})

t.test('a restart is told, and the state is stored each five seconds before', async t => {
  const told: string[] = []
  const { policy } = scripted('own', {
    restarted: ({ nowS }) => told.push(`restart ${nowS}`),
    stored: ({ nowS }) => told.push(`store ${nowS}`)
  })
  runWorld({ ...small, sources: [one], restart: [{ t: 8 }] }, policy, 1)
  t.same(told.slice(0, 4), ['store 0', 'store 5', 'restart 8', 'store 10'])
})

t.test('a run of an hour takes well under a second', async t => {
  const hour = { ...small, duration: 3_600, sources: [{ ...chat, rate: 0.7 }] }
  const before = performance.now()
  const { fates } = simulate(hour, least, 1)
  t.ok(fates.length > 2_000)
  t.ok(performance.now() - before < 1_000)
})
