// One look around: this machine, OLLAMA_HOST and the tailnet, each address and port asked once. It proposes; it changes nothing.

import { createHash } from 'node:crypto'
import { hostOf } from '../../outbound/guarded/openings.ts'
import { canonicalAddress } from './guard.ts'
import { habits } from './habits.ts'
import type { TailnetPeer } from './peers.ts'
import { originOf, type Probe, type ProbedServer, type Reason } from './probe.ts'
import type { TailscaleReading, TailscaleState } from './tailscale.ts'

/** How it was found, and so how far it is trusted: only `neighbour` is this very machine. */
export type Origin = 'tailscale' | 'neighbour' | 'ollama_host'

export interface FoundMachine {
  /** `nodeId:port`, or `http://address:port` where Tailscale does not know the address. Stays the same when names and addresses change. */
  readonly key: string
  /** Different from all others and from those given: begins with one of a-z0-9, then a-z0-9._-, at most 63. */
  readonly name: string
  readonly url: string
  readonly kind: 'ollama' | 'openai'
  readonly origin: Origin
  readonly nodeId: string | null
  readonly os: string | null
  readonly tags: readonly string[]
  readonly route: 'direct' | 'relay' | null
  readonly version: string | null
  readonly modelCount: number
  readonly models: readonly string[]
  readonly loaded: readonly string[]
}

export interface UnreachableMachine {
  readonly address: string
  readonly port: number
  readonly name: string
  readonly reason: Reason | 'userspace' | 'not_asked'
  /** One sentence for people. */
  readonly detail: string
}

export interface LookResult {
  readonly found: readonly FoundMachine[]
  /** Not those of this machine that were only guessed at, unless one that is known turned hostile. */
  readonly unreachable: readonly UnreachableMachine[]
  /** Keys of those that nobody asked, because the time was over: nothing is known of them. */
  readonly unasked: ReadonlySet<string>
  readonly tailscale: { readonly state: TailscaleState; readonly message: string }
  readonly tookMs: number
}

export interface LookPorts {
  readonly tailscale: TailscaleReading
  /** To be asked on every machine; the first needs no mention in names. */
  readonly ports: readonly number[]
  /** What the configuration names is asked elsewhere and not again here; the gateway's own address belongs to it. */
  readonly known: readonly { readonly url: string; readonly name?: string }[]
  /** The URL in OLLAMA_HOST, when nobody asks it elsewhere. Contacted only as an address that the guard allows. */
  readonly ollamaHost?: string | null
  /** Names given before, by key: they stay, and nobody else gets them. */
  readonly names?: ReadonlyMap<string, string>
  /** Names that others have. */
  readonly taken?: readonly string[]
  readonly probe: Probe
  readonly now: () => number
  /** From 0 to 1: with whom it begins, of those that have no name yet. Absent = with the first. */
  readonly random?: () => number
  /** Addresses and ports at once. */
  readonly concurrency?: number
  /** Nobody new is asked after so long. */
  readonly withinMs?: number
  readonly signal?: AbortSignal
}

interface Candidate {
  readonly address: string
  readonly port: number
  readonly origin: Origin
  readonly peer: TailnetPeer | null
  /** A habit of this machine's: nobody said that anything is there. */
  readonly isGuess: boolean
  readonly key: string
}

// Sockets are cheap, and each is closed within 2.5 s: 600 machines that are silent for 2 s take 10 s (test/e2e/discovery.test.ts).
const atOnce = 128
// 8 waves of silent machines, so all of a tailnet of 1,000 with one port each. Somebody waits 30 s for the answer.
const askWithinMs = 18_000
const here = '127.0.0.1'
const nameLength = 63

/** Rejects only when it is called off, with the reason of the signal. */
export async function look(ports: LookPorts): Promise<LookResult> {
  const { tailscale, probe, now, concurrency = atOnce, withinMs = askWithinMs, signal } = ports
  const startedAt = now()
  const candidates = candidatesOf(ports)
  const names = namesOf(candidates, ports)
  const found: FoundMachine[] = []
  const unreachable: UnreachableMachine[] = []

  const answers = new Map<Candidate, Awaited<ReturnType<Probe>> | typeof userspace | typeof unasked>()
  await inLanes(turnsOf(candidates, ports), concurrency, async candidate => {
    signal?.throwIfAborted()
    const { address, port, peer } = candidate
    if (tailscale.userspace && peer !== null && !peer.isSelf) answers.set(candidate, userspace)
    else answers.set(candidate, now() - startedAt > withinMs ? unasked : await probe(address, port, signal))
  })
  for (const candidate of candidates) {
    const answer = answers.get(candidate)
    if (answer === undefined) continue
    const name = names.get(candidate.key) as string
    if (answer.kind !== 'nothing') found.push(toFound(candidate, name, answer))
    else if (!candidate.isGuess || (answer.reason === 'hostile' && ports.names?.has(candidate.key))) {
      unreachable.push({ address: candidate.address, port: candidate.port, name, reason: answer.reason, detail: answer.detail })
    }
  }
  return {
    found,
    unreachable,
    unasked: new Set(candidates.filter(candidate => answers.get(candidate) === unasked).map(({ key }) => key)),
    tailscale: { state: tailscale.state, message: tailscale.message },
    tookMs: now() - startedAt
  }
}

/** Who is known comes first; of the others, another one each time, so that nobody is always the one for whom there is no time. */
function turnsOf(candidates: readonly Candidate[], { names = new Map(), random = () => 0 }: LookPorts): readonly Candidate[] {
  const isFirst = ({ key, origin }: Candidate): boolean => names.has(key) || origin !== 'tailscale'
  const known = candidates.filter(isFirst)
  const others = candidates.filter(candidate => !isFirst(candidate))
  const first = Math.floor(random() * others.length)
  return [...known, ...others.slice(first), ...others.slice(0, first)]
}

const userspace = {
  kind: 'nothing',
  reason: 'userspace',
  detail: 'Tailscale runs without a network interface here (userspace networking), so the machine was not asked.'
} as const

const unasked = {
  kind: 'nothing',
  reason: 'not_asked',
  detail: 'There was no time left to ask it: others did not answer.'
} as const

/** 1. OLLAMA_HOST, so that it speaks for its machine; 2. the ports on this machine; 3. habits; 4. the tailnet, in the order of its reading. */
function candidatesOf({ tailscale, ports, known, ollamaHost = null }: LookPorts): Candidate[] {
  const { peers } = tailscale
  const self = peers.find(peer => peer.isSelf) ?? null
  const ownAddresses = new Set([here, '::1', ...(self?.addresses ?? [])])
  // Its names too: configurations have them. Of two that claim one, the first.
  const byAddress = new Map(
    peers.toReversed().flatMap(peer => {
      const names = [peer.dnsName.split('.')[0] ?? '', peer.dnsName].filter(name => name !== '' && canonicalAddress(name) === null)
      return [...names, ...peer.addresses, peer.address].map((word): [string, TailnetPeer] => [word, peer])
    })
  )
  for (const address of ownAddresses) {
    if (self === null) byAddress.delete(address)
    else byAddress.set(address, self)
  }

  /** The same for all addresses of one machine. */
  const placeOf = (address: string, port: number): string => {
    const peer = byAddress.get(address)
    return `${ownAddresses.has(address) || peer?.isSelf === true ? here : (peer?.nodeId ?? address)} ${port}`
  }
  const places = known.flatMap(({ url }) => placeIn(url) ?? []).map(({ address, port }) => placeOf(address, port))
  const seen = new Set(places)
  const candidates: Candidate[] = []
  function add(address: string, port: number, { origin, isGuess = false }: { origin: Origin; isGuess?: boolean }): void {
    const place = placeOf(address, port)
    if (seen.has(place)) return
    seen.add(place)
    const peer = byAddress.get(address) ?? null
    const key = peer === null ? originOf(address, port) : `${peer.nodeId}:${port}`
    candidates.push({ address, port, origin, peer, isGuess, key })
  }

  // 1.
  const named = ollamaHost === null ? null : placeIn(ollamaHost)
  if (named !== null) {
    const { address, port } = named
    add(canonicalAddress(address) ?? byAddress.get(address)?.address ?? address, port, { origin: 'ollama_host' })
  }
  // 2.
  for (const port of ports) add(here, port, { origin: 'neighbour' })
  // 3.
  for (const { port } of habits) add(here, port, { origin: 'neighbour', isGuess: true })
  // 4.
  for (const peer of peers) {
    if (!peer.isSelf) for (const port of ports) add(peer.address, port, { origin: 'tailscale' })
  }
  return candidates
}

/** Null for what is no URL. A name stays one, which no guard allows; `localhost` is known without looking it up, and names in the tailnet are. */
function placeIn(text: string): { address: string; port: number } | null {
  const url = URL.parse(text)
  const host = url === null ? '' : hostOf(url)
  if (url === null || host === '') return null
  const address = host === 'localhost' ? here : (canonicalAddress(host) ?? host)
  return { address, port: url.port === '' ? (url.protocol === 'https:' ? 443 : 80) : Number(url.port) }
}

/** By key. Every candidate has one, found or not: a stranger's machine does not take the name of one that is silent today. */
function namesOf(
  candidates: readonly Candidate[],
  { known, names = new Map(), taken: others = [], ports }: LookPorts
): ReadonlyMap<string, string> {
  const taken = new Set([...others, ...names.values(), ...known.flatMap(({ name }) => name ?? [])])
  const given = new Map<string, string>()
  for (const candidate of candidates) {
    const name = names.get(candidate.key) ?? freeName(wishOf(candidate, ports[0]), candidate.key, taken)
    taken.add(name)
    given.set(candidate.key, name)
  }
  return given
}

function wishOf({ address, port, peer, isGuess }: Candidate, firstPort: number | undefined): string {
  const habit = habits.find(habit => habit.port === port)
  if (habit !== undefined && (isGuess || (peer === null && address === here))) return nameFrom(habit.name)
  const name = peer === null ? (address === here ? 'ollama' : nameFrom(address)) : nameFrom(peer.name)
  return port === firstPort ? name : withEnd(name, `${port}`)
}

/** Two machines of one name are told apart by what stays with them. */
function freeName(wish: string, key: string, taken: ReadonlySet<string>): string {
  if (!taken.has(wish)) return wish
  const mark = createHash('sha256').update(key).digest('hex')
  for (let length = 6; length <= 32; length++) {
    const name = withEnd(wish, mark.slice(0, length))
    if (!taken.has(name)) return name
  }
  return mark.slice(0, nameLength)
}

function withEnd(name: string, end: string): string {
  return `${name.slice(0, nameLength - end.length - 1)}-${end}`
}

function nameFrom(text: string): string {
  const name = text
    .normalize('NFKD')
    .toLowerCase()
    .replace(/\p{M}/gu, '')
    .replace(/[^a-z0-9._-]+/g, '-')
    .replace(/^[._-]+|[._-]+$/g, '')
  return name.slice(0, nameLength) || 'machine'
}

function toFound({ key, origin, peer }: Candidate, name: string, answer: ProbedServer): FoundMachine {
  const { nodeId = null, os = null, tags = [], route = null } = peer ?? {}
  return { key, name, origin, nodeId, os, tags, route, ...answer }
}

/** Visits them in their order, so many at a time. */
async function inLanes<Item>(items: readonly Item[], lanes: number, visit: (item: Item) => Promise<void>): Promise<void> {
  const rest = items.values()
  async function lane(): Promise<void> {
    for (const item of rest) await visit(item)
  }
  await Promise.all(Array.from({ length: Math.min(lanes, items.length) }, lane))
}
