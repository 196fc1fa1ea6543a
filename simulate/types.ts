// What a scenario holds, what the simulated world shows to a policy, and what a policy may do in it. Types only.

/** A scenario file, `llm-mcp/routing-scenario@1`. Seconds, tokens a second, gigabytes, watts, dollars a million tokens. */
export interface Scenario {
  readonly schema: 'llm-mcp/routing-scenario@1'
  readonly id: string
  readonly title: string
  readonly models: Readonly<Record<string, ScenarioModel>>
  readonly nodes: readonly ScenarioNode[]
  readonly sources: readonly ScenarioSource[]
  readonly events?: readonly { readonly t: number; readonly node: string; readonly up: boolean }[]
  readonly duration: number
  /** How long what is left may run after it; 7,200. */
  readonly drain?: number
  readonly blankProfiles?: boolean
  /** The stored benchmark claims that the node is 1/f as slow as it is. */
  readonly benchmarkError?: Readonly<Record<string, number>>
  readonly cancelFraction?: number
  readonly stuckLoad?: { readonly node: string; readonly from: number }
  readonly priceChange?: readonly { readonly t: number; readonly node: string; readonly factor: number }[]
  readonly restart?: readonly { readonly t: number }[]
  /** Seconds by which the clock that a policy is shown jumps, at moments. */
  readonly clockSkew?: readonly { readonly t: number; readonly by: number }[]
  readonly maxCost?: number
  readonly generator?: { readonly nodes: number; readonly models: number; readonly modelsPerNode: number; readonly seed: number }
  /** Physics that no policy knows of. */
  readonly hidden?: HiddenPhysics
}

export interface HiddenPhysics {
  /** While a prompt is read on a node, its answers stand still. */
  readonly prefillHaltsDecode?: boolean
  /** A conversation's earlier messages need no reading where its last turn ran. */
  readonly prefixCache?: boolean
  /** The context slows down this many times as much; 1. */
  readonly contextFactor?: number
  /** This share of answers stands still for `stallSeconds` (10) at a random point. */
  readonly stalls?: number
  readonly stallSeconds?: number
}

export interface ScenarioModel {
  readonly gb: number
  /** Speeds of the reference device, for fair charging only. */
  readonly ref: { readonly dec: number; readonly pre: number }
}

export type ScenarioNode = OwnNode | RentedNode

export interface Drift {
  readonly from: number
  readonly to?: number
  readonly factor: number
}

export interface OwnNode {
  readonly id: string
  readonly kind?: undefined
  readonly vram: number
  readonly watts: number
  readonly slots: number
  readonly maxLoaded: number
  readonly s: number
  readonly loadBase: number
  readonly loadGBs: number
  readonly models: Readonly<Record<string, { readonly dec: number; readonly pre: number }>>
  readonly drift?: readonly Drift[]
}

export interface RentedNode {
  readonly id: string
  readonly kind: 'cloud'
  readonly rpm: number
  readonly fail: number
  readonly models: Readonly<Record<string, { readonly pin: number; readonly pout: number; readonly ttft: number; readonly tps: number }>>
  readonly drift?: readonly Drift[]
  readonly outages?: readonly { readonly from: number; readonly to: number }[]
}

export interface ScenarioSource {
  readonly id: string
  readonly kind: 'poisson' | 'burst' | 'dump'
  readonly len: 'code' | 'conv'
  readonly rate?: number
  readonly from?: number
  readonly to?: number
  readonly every?: number
  readonly size?: number
  readonly inRate?: number
  readonly at?: readonly number[]
  readonly mix?: Readonly<Record<string, number>>
  readonly model?: string
  readonly deadline: number
  /** 0 urgent, 1 interactive, 2 batch. */
  readonly prio: 0 | 1 | 2
  readonly weight?: number
  readonly inScale?: number
  readonly outScale?: number
  readonly maxTokens?: number
  /** Turns of one conversation, one after the other: the prompt of each holds all before it. Each arrival begins one. */
  readonly turns?: number
}

/** One request. What a policy may know is here; what it may not is in `Truth`, for an oracle. */
export interface Job {
  /** Counts from 0 in the order of arrival. */
  readonly id: number
  readonly source: string
  readonly weight: number
  readonly model: string
  readonly promptTokens: number
  readonly maxTokens: number | null
  readonly deadlineS: number
  readonly prio: 0 | 1 | 2
  readonly arrivedS: number
  /** Of a request of a conversation: its hashes, one for each message, each with all before it; otherwise empty. */
  readonly prefix: readonly string[]
}

export interface Truth {
  readonly outputTokens: number
  /** exp(0.12 z): what this job's work takes on any own node, times. */
  readonly noise: number
  /** Seconds of a rented node to its first token, and per token, for this job, drift included. */
  rented(node: string, atS: number): { readonly ttftS: number; readonly tokensPerSecond: number; readonly fails: boolean }
  /** Tokens/s alone, at this moment. */
  own(node: string, model: string, atS: number): { readonly dec: number; readonly pre: number; readonly loadS: number }
}

/** What Ollama tells at the end of an answer; what a rented provider shows. Seconds; moments are of the clock that is shown. */
export interface Finished {
  readonly job: Job
  readonly node: string
  /** `refused`: a provider's 429. `lost`: the node went down. `cancelled`: the client left. */
  readonly outcome: 'done' | 'failed' | 'refused' | 'lost' | 'cancelled'
  /** When it was sent. */
  readonly sentS: number
  /** Own nodes: when it began there; rented: the same as `sentS`. */
  readonly startedS: number
  /** What was read: less than the job's where the node knew some of it. */
  readonly promptTokens: number
  readonly promptS: number
  readonly outputTokens: number
  readonly outputS: number
  readonly firstTokenS: number | null
  /** The answer ended at `maxTokens`. */
  readonly isCut: boolean
  /** Time average of how many ran on the node at once while this one read its prompt, and while it answered. */
  readonly meanActive: { readonly prompt: number; readonly output: number }
}

/** An own node as /api/ps and the gateway's own counting show it. Always as it is now, whenever it was asked for. */
export interface NodeView {
  readonly id: string
  readonly kind: 'own' | 'rented'
  readonly isUp: boolean
  /** In memory, and of no running load. */
  readonly loaded: ReadonlySet<string>
  readonly loading: { readonly model: string; readonly sinceS: number } | null
  /** Jobs that run there now. */
  readonly active: readonly { readonly job: Job; readonly startedS: number; readonly streamed: number }[]
  /** Jobs that wait within the node, which only happens to those who push. */
  readonly waiting: number
}

export interface World {
  readonly scenario: Scenario
  /** The clock, s. */
  readonly nowS: number
  node(id: string): NodeView
  /** In the order of the scenario. */
  readonly nodes: readonly NodeView[]
  /** A uniform number in [0, 1), from the seed of the run. */
  random(): number
  /** To an own node: begins if the model is loaded and a slot is free, otherwise waits in the node's own FIFO. To a rented one: begins or is refused. */
  send(job: Job, node: string): void
  /** Begins to load, after `evict` is thrown out. False when a load runs, there is no room, or a victim is busy. */
  load(node: string, model: string, evict?: readonly string[]): boolean
  /** Calls `woken` at this moment. */
  wakeAt(atS: number): void
  /** Only for an oracle. */
  truth(job: Job): Truth
  /** Prices as the last sync knew them, dollars a million tokens. */
  price(node: string, model: string): { readonly in: number; readonly out: number }
}

export interface Policy {
  readonly name: string
  /** True: it commands loads and evictions; false: the node does as Ollama does, shortest keep-alive first, then by the alphabet. */
  readonly commandsMemory: boolean
  arrived(job: Job, world: World): void
  finished(end: Finished, world: World): void
  /** A load has ended; `ok` false when its node went down. */
  loaded?(load: { readonly node: string; readonly model: string; readonly seconds: number; readonly ok: boolean }, world: World): void
  /** A node went down or came up. */
  changed?(node: string, world: World): void
  woken?(world: World): void
  /** The client of a job left before it was answered. Whoever holds the job forgets it; where it runs, the world ends it. */
  left?(job: Job, world: World): void
  /** All memory is lost but what was stored (`stored` is called each 5 s before). */
  restarted?(world: World): void
  stored?(world: World): void
  /** ETA it gave at admission, seconds from then on; undefined = none. */
  eta?(job: Job): { readonly p50S: number; readonly p90S: number } | undefined
}

export interface Row {
  readonly policy: string
  readonly requests: number
  readonly unfinished: number
  readonly meanS: number
  readonly p95S: number
  readonly missPct: number
  readonly usd: number
  readonly usdCloud: number
  readonly usdEnergy: number
  readonly score: number
  readonly regretPct: number | null
  readonly etaMedianErrorPct: number | null
  readonly etaP90CoveragePct: number | null
  readonly p90p50Median: number | null
  readonly loads: number
  readonly provider429: number
  /** Percent of requests by node. */
  readonly shares: Readonly<Record<string, number>>
  /** The least coverage of p90 in any ten minutes in which fifty or more arrived. */
  readonly worstWindowCoveragePct: number | null
  /** sha256 of all decisions with their moments. */
  readonly hash: string
}
