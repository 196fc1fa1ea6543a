// What chance would bring about too seldom: three scenes, each for one guard. They only act; the checker judges what came of it.

import { setTimeout as delay } from 'node:timers/promises'
import { until } from '../support/wait.ts'
import { type Client, createClient } from './client.ts'
import { type Fleet, fleetNames } from './fleet.ts'
import type { History } from './history.ts'
import { boxSlots, type Machines } from './machines.ts'

export interface Stage {
  readonly fleet: Fleet
  readonly machines: Machines
  readonly history: History
  /** So long after the begin of a scene all its jobs are over. */
  readonly patienceMs: number
}

/** Returns what did not end in time. */
export type Scene = (stage: Stage) => Promise<readonly string[]>

export const scenes: readonly Scene[] = [sendTwice, writeLate, rush]

const pollMs = 50

/** Jobs that are sent four times at once, and once more when they are over: each is one job. */
async function sendTwice(stage: Stage): Promise<string[]> {
  stage.machines.setPace({ lowMs: 20, highMs: 50, slowOneIn: 0 })
  const client = clientOf(stage)
  const stuck = await Promise.all(
    Array.from({ length: 6 }, async (_, index) => {
      const work = { kind: 'chat', mark: `twice-${index}`, stream: false } as const
      const ids = await client.submit(work, [0, 1, 0, 1])
      const late = await unfinished(client, ids.slice(0, 1), stage)
      return late.length > 0 ? late : unfinished(client, await client.submit(work, [index]), stage)
    })
  )
  return stuck.flat()
}

// Over long before anybody is silent for 3 s.
const heldMs = 1_500
// By then the worker has heard of all that was submitted. The next that comes to it is its calls' answers, and only after them that
// its jobs are others' now: it reads in this order when it goes on, and the fence alone stands between it and their results.
const quietMs = 300
// What waits in its sockets is read at once when a process goes on; its writes take some milliseconds.
const writingMs = 1_000

/**
 * A worker is frozen while its calls run. Their answers come into its sockets, others take its jobs over and end them before the eyes
 * of their clients: then it goes on, and writes what it has.
 */
async function writeLate(stage: Stage): Promise<string[]> {
  const { fleet, machines } = stage
  machines.setPace({ lowMs: heldMs, highMs: heldMs, slowOneIn: 0 })
  const client = clientOf(stage)
  // More than there is room for: however late the first of them begin, at some time all places are taken.
  const submits = Array.from({ length: 2 * boxSlots }, (_, index) =>
    client.submit({ kind: 'chat', mark: `late-${index}`, stream: false }, [index])
  )
  const ids = (await Promise.all(submits)).flat()
  // Of four places one of three workers has two.
  const holder = (): string | undefined => fleetNames.find(name => machines.running(name).length >= 2)
  const name = await until('a worker to run two jobs', holder, stage.patienceMs)
  await delay(quietMs)
  fleet.freeze(name)
  machines.setPace({ lowMs: 20, highMs: 50, slowOneIn: 0 })
  const stuck = await unfinished(client, ids, stage)
  fleet.thaw(name)
  await delay(writingMs)
  return stuck
}

const waves = 4
const callsEach = 6
const jobsEach = 3

/** All gateways and workers reach for the same free places at the same moment, again and again. */
async function rush(stage: Stage): Promise<string[]> {
  const { fleet, machines } = stage
  machines.setPace({ lowMs: 60, highMs: 90, slowOneIn: 0 })
  const client = clientOf(stage)
  const stuck: string[] = []
  for (let wave = 0; wave < waves; wave++) {
    const calls = fleet
      .gateways()
      .flatMap((gateway, first) =>
        Array.from({ length: callsEach }, (_, index) => client.call(gateway, `rush-call-${wave}-${first}-${index}`, index % 2 === 0))
      )
    const jobs = Array.from({ length: 2 * jobsEach }, async (_, index) => {
      const ids = await client.submit({ kind: 'chat', mark: `rush-job-${wave}-${index}`, stream: false }, [index])
      stuck.push(...(await unfinished(client, ids, stage)))
    })
    await Promise.all([...calls, ...jobs])
  }
  return stuck
}

function clientOf({ fleet, history, patienceMs }: Stage): Client {
  return createClient({ fleet, history, signal: AbortSignal.timeout(patienceMs) })
}

async function unfinished(client: Client, ids: readonly string[], { patienceMs }: Stage): Promise<string[]> {
  const stuck = await Promise.all(
    ids.map(async id => ((await client.finished(id, 'chat', pollMs)) ? [] : [`stuck: job ${id} had not ended after ${patienceMs} ms`]))
  )
  return stuck.flat()
}
