// The vocabulary of the project: upstreams, targets, requests, attempts, usage. Types only.

import type { Chain } from './brain/affinity.ts'
import type { Route } from './brain/types.ts'
import type { GatewayError } from './errors.ts'
import type { ProviderPreference } from './preference.ts'

/** What is asked of a model: a chat answer, a text continued (legacy completions), texts turned into vectors. */
export type Operation = 'chat' | 'complete' | 'embed'

/** What a request may need of a model or of the server in front of it, beyond plain text. */
export type Feature =
  | 'audio'
  | 'best_of'
  | 'echo_prompt'
  | 'file'
  | 'forced_tool_choice'
  | 'functions'
  | 'json_object'
  | 'json_schema'
  | 'logprobs'
  | 'n'
  | 'prompts'
  | 'reasoning'
  | 'suffix'
  | 'tools'
  | 'vision'

export interface Timeouts {
  readonly connectMs: number
  /** From the call to its first real token (for an answer that is not streamed: to its headers). */
  readonly firstTokenMs: number
  /** Between two pieces of a running answer. */
  readonly idleMs: number
  /** The whole attempt, whatever arrives. */
  readonly totalMs: number
}

/** What is known of a machine of ours; every figure may be missing. */
export interface Device {
  readonly id: string
  readonly maxConcurrency: number
  /** Drawn while it answers; the price of an own answer. */
  readonly watts: number
  readonly vramGb: number | null
  readonly ramGb: number | null
  /** Ollama's keep_alive for loaded models; null leaves it to the machine. */
  readonly keepAlive: string | number | null
  /** A context size wished for by the configuration, instead of the one found by memory. */
  readonly numCtx: number | null
  /** Which of its models are used; absent = all. */
  readonly modelLimits?: ModelLimits
}

/** What is missing is not limited. */
export interface ModelLimits {
  /** Billions of parameters. */
  readonly maxParamsB?: number
  /** Of the weights, in GiB. */
  readonly maxSizeGb?: number
  /** Of the context a model is loaded with, in 1,024 tokens. */
  readonly maxContextK?: number
  /** Names, `*` stands for any characters. */
  readonly allowModels?: readonly string[]
  readonly denyModels?: readonly string[]
}

/** One origin that serves models, with the key that belongs to it and to no other. */
export interface Upstream {
  /** Unique: the provider's or machine's name in the configuration. */
  readonly id: string
  /** Which adapter speaks to it: the name of a file in adapters/. */
  readonly adapter: string
  /** True for machines of ours: they have slots, electricity, and may see local-only requests. */
  readonly own: boolean
  /** Without a trailing slash, e.g. `http://10.0.0.5:11434` or `https://api.openai.com/v1`. */
  readonly baseUrl: string
  readonly apiKey: string | null
  readonly headers: Readonly<Record<string, string>>
  readonly device: Device | null
  readonly timeouts: Timeouts
  /** Models named by the configuration; null = ask the server. */
  readonly models: readonly string[] | null
  /** What `auto` means here, best first; names that the server does not list are passed over. */
  readonly auto: readonly string[]
  /** False for a server that refuses `stream_options`. */
  readonly streamUsage: boolean
  /** The price registry's name of this provider ("openai", "groq", …); null = not in the registry. */
  readonly registryId: string | null
}

/** Dollars per million tokens. A missing figure is unknown, never zero. */
export interface TokenPrice {
  readonly inputUsdPer1m: number
  readonly outputUsdPer1m: number
  readonly cachedInputUsdPer1m?: number
  readonly requestUsd?: number
  /** Other prices for prompts longer than `abovePromptTokens`; the last that applies wins. */
  readonly tiers?: readonly {
    readonly abovePromptTokens: number
    readonly inputUsdPer1m?: number
    readonly outputUsdPer1m?: number
    readonly cachedInputUsdPer1m?: number
  }[]
}

export type PriceSource = 'provider' | 'config' | 'registry' | 'electricity' | 'free' | 'unknown'

export interface Price {
  readonly source: PriceSource
  /** Null when unknown, and for own machines, which are priced by time and watts. */
  readonly tokens: TokenPrice | null
}

/** A model as its server describes it. */
export interface ModelListing {
  /** The name the server wants to hear. */
  readonly model: string
  readonly createdAt: number | null
  /** What the model can take at most; null = unknown. */
  readonly maxContextTokens: number | null
  readonly maxOutputTokens: number | null
  /** Null = the server does not say: everything the adapter can do is tried. */
  readonly features: readonly Feature[] | null
  readonly operations: readonly Operation[]
  readonly loaded: boolean
  /** Prices in the server's own list. */
  readonly price: TokenPrice | null
  /** For own machines: what the choice of a context size needs. Bytes. */
  readonly memory: ModelMemory | null
  readonly digest: string | null
  /** How the weights were made; absent where nobody says. */
  readonly build?: ModelBuild
}

export interface ModelBuild {
  readonly family: string | null
  /** Billions of parameters. */
  readonly paramsB: number | null
  /** As GGUF names it: `Q4_K_M`. */
  readonly quantization: string | null
  /** `publisher/name` of its weights. */
  readonly huggingFaceId?: string
}

export interface ModelMemory {
  readonly weightBytes: number
  /** Of the key/value cache, 16 bits a value; null = unknown. */
  readonly kvBytesPerToken: number | null
  /** As loaded now; null when it is not loaded. */
  readonly loadedContextTokens: number | null
  readonly loadedBytes: number | null
  readonly loadedVramBytes: number | null
}

/** One model on one upstream: what a request is sent to. */
export interface Target {
  /** `<upstream id>/<model>`. */
  readonly id: string
  readonly upstream: Upstream
  readonly model: string
  /** What prompt and answer may fill here together; null = unknown. For Ollama the pinned num_ctx. */
  readonly contextTokens: number | null
  readonly maxOutputTokens: number | null
  readonly features: ReadonlySet<Feature> | null
  readonly operations: readonly Operation[]
  readonly loaded: boolean
  readonly price: Price
  readonly createdAt: number
  /** Gigabytes it takes when it is loaded on a machine of ours; absent or null = unknown. */
  readonly memoryGb?: number | null
  /** Billions of parameters; absent or null = unknown. */
  readonly paramsB?: number | null
}

/** Vectors can be compared within a space only. */
export interface VectorSpace {
  readonly name: string
  has(target: Target): boolean
}

/** The bytes a client sent, and the changes we may make to them. */
export interface RequestBody {
  readonly bytes: Buffer
  /** Parsed once, on demand, for adapters that translate. Never mutate it. */
  json(): Readonly<Record<string, unknown>>
  /**
   * The same bytes with other top-level values; everything else stays as it was, to the byte.
   * A value of `undefined` removes the key.
   */
  with(changes: Readonly<Record<string, unknown>>): Buffer
}

export interface TokenEstimate {
  /** A number that the true count does not fall below. */
  readonly low: number
  readonly expected: number
}

/** What is to be continued or embedded. */
export interface TextInput {
  /** In their order; lists of tokens as the text they stand for. */
  readonly texts: readonly string[]
  /** They came as lists of cl100k_base tokens, which only OpenAI's own models can read. */
  readonly asTokens: boolean
}

export interface Embedding {
  /** Asked for; null = as many as the model gives. */
  readonly dimensions: number | null
  readonly encoding: 'float' | 'base64'
}

export interface ModelRequest {
  /** UUIDv7. */
  readonly id: string
  /** Of a request that waited or was submitted as a job. */
  readonly jobId?: string
  readonly operation: Operation
  readonly body: RequestBody
  /** As the client wrote it. */
  readonly model: string
  readonly stream: boolean
  /** The client asked for the usage chunk of a stream. */
  readonly includeUsage: boolean
  /** As the client gave them; ASCII only is meant to be in there. */
  readonly streamOptions: Readonly<Record<string, unknown>> | null
  readonly maxOutputTokens: number | null
  readonly needs: readonly Feature[]
  /** How many choices the answer has: `n`, for each prompt. 1 for embeddings. */
  readonly choices: number
  /** Of everything that is sent: what it costs. */
  readonly prompt: TokenEstimate
  /** Of the longest text that must fit into the context at once; for chat the same as `prompt`. */
  readonly longest: TokenEstimate
  /** Null for chat. */
  readonly input: TextInput | null
  /** Null unless the operation is `embed`. */
  readonly embedding: Embedding | null
  readonly localOnly: boolean
  /** Of the second and further calls for one answer: the target that the first one went to, by id. Of a benchmark: what is measured. */
  readonly only?: string
  /** Made to be measured: its job keeps how long each part of it took. */
  readonly isBenchmark?: true
  /** Providers that alone may answer, as `providerOf` names them; absent = any. */
  readonly providers?: readonly string[]
  /** Absent = no deadline, and what was begun ends with its client. */
  readonly patience?: Patience
  /** What counts more, money or time; absent = balanced. */
  readonly route?: Route
  /** Dollars that it may cost at most, even with a long answer; absent = no bound. */
  readonly maxUsd?: number
  /** After its deadline no answer is wanted: what would probably be late is refused at once. */
  readonly isDeadlineHard?: true
  /** Models that may answer in the place of `model`, in this order; absent = none. */
  readonly fallbacks?: readonly string[]
  /** The fallbacks are as good as the model itself: whichever is best answers. */
  readonly anyFallback?: true
  /** Who shall answer, in OpenRouter's words; absent = anybody. */
  readonly preference?: ProviderPreference
  /** Its messages, by hash, so that a conversation stays where it was read before; absent for short ones. */
  readonly prefix?: Chain
  /** Of one that waits because whoever was free has failed. */
  readonly before?: Before
}

/** What became of a request before it waited. */
export interface Before {
  /** Whoever was asked, by the ids of targets. */
  readonly failed: readonly string[]
  /** Calls that were made. */
  readonly attempts: number
  /** Of all of them; null = one of them has no known price. */
  readonly nanoUsd: number | null
}

/** How long a client waits, and what becomes of its request when it goes away. */
export interface Patience {
  /** From the request's arrival to the first token of a stream, or to a whole answer; null = none was given. */
  readonly deadlineMs: number | null
  readonly onDisconnect: 'cancel' | 'finish'
}

export interface Caller {
  /** Null with authentication off. */
  readonly keyId: string | null
  readonly source: string
  /** A person behind a key that many share; null = the source itself. */
  readonly subSource: string | null
  readonly kind: KeyKind
  /** Names or patterns with `*` of the models and providers it may use; null = all. */
  readonly models: readonly string[] | null
  readonly providers: readonly string[] | null
  /** Its share among sources that wait; absent = 1. */
  readonly weight?: number
}

export type KeyKind = 'admin' | 'source' | 'worker' | 'metrics'

export interface Usage {
  readonly promptTokens: number
  readonly completionTokens: number
  readonly cachedTokens: number
  readonly reasoningTokens: number
  /** What the provider says it charged; null = it does not say. */
  readonly providerNanoUsd: number | null
  /** How long an own machine worked on it; null for rented ones. */
  readonly busyMs: number | null
  /** Where the server says how long each part took. */
  readonly timings?: UsageTimings
}

/** How many requests a provider takes, as it tells. */
export interface RequestLimit {
  /** At most so many, when none was made for long. */
  readonly requests: number
  /** Of these, so many are left. */
  readonly remaining: number
  /** Until all of them are there again. */
  readonly resetS: number
  /** They come back all at once, and not one after the other. */
  readonly isWindow?: true
}

/** Null = it does not say. */
export interface UsageTimings {
  readonly loadMs: number | null
  readonly promptMs: number | null
  readonly answerMs: number | null
}

/** One try of one request on one target. */
export interface Attempt {
  /** UUIDv7; the key of its cost row, and sent along as `x-client-request-id`. */
  readonly id: string
  readonly request: ModelRequest
  readonly target: Target
}

export type AttemptEnd =
  /**
   * `done`: the upstream's own terminator (`data: [DONE]` and what came with it), to be sent on as it was.
   * `dimensions`: of embeddings, the length of every vector.
   */
  | { readonly ok: true; readonly done?: Buffer; readonly dimensions?: number }
  /** `sent` false: nothing can have reached the upstream, so nothing can be charged. */
  | { readonly ok: false; readonly error: GatewayError; readonly sent: boolean }

/**
 * What an adapter tells about a running attempt. Order: any number of `frames`, or one `body`;
 * `usage` at most once; `end` exactly once, and nothing after it.
 */
export interface AttemptObserver {
  /** The first piece of the answer has come, also of one that is not streamed: its model is in memory. At most once; not all adapters can tell. */
  begun?(): void
  /**
   * Whole SSE events in the form of OpenAI's chunks (chat, or legacy completions), without `[DONE]`. `tokens`: how many of them carry output;
   * 0 = lifecycle only, which is held back until a token comes.
   * False = the reader is full: stop reading until `resume`.
   */
  frames(events: Buffer, tokens: number): boolean
  /** A whole answer in OpenAI's form, for a request that is not streamed. Valid JSON. */
  body(json: Buffer): void
  /**
   * The figures, null where nobody can have counted, and for streams the usage event in canonical form (`choices: []`), to be sent on
   * only if the client asked. `event` is null when the upstream gave none and when not streaming.
   */
  usage(usage: Usage | null, event: Buffer | null): void
  /** What a provider's headers tell of its limit, with its answer or its refusal; at most once, before anything else. */
  limits?(told: RequestLimit): void
  end(end: AttemptEnd): void
}

export interface AttemptHandle {
  /** The reader has room again. */
  resume(): void
  /** Closes the upstream at once; `end` is called with client_gone, if it was not called before. Safe twice. */
  abort(): void
}

/** A part of a list that could not be read: a model that is not in the list may still be there. */
export interface Unread {
  /** Models that can do this may be missing; null = any. */
  readonly operation: Operation | null
  /** For people; null = nobody needs to hear of it. */
  readonly reason: string | null
  /** It should be tried again. */
  readonly isFailure: boolean
}

/** One file in adapters/ = one way to speak to an upstream. */
export interface Adapter {
  readonly name: string
  /** What the adapter can carry at all; a target's own list narrows it. */
  readonly features: ReadonlySet<Feature>
  chat(attempt: Attempt, observer: AttemptObserver): AttemptHandle
  /** Absent where the provider cannot continue a text. */
  complete?(attempt: Attempt, observer: AttemptObserver): AttemptHandle
  /** Absent where the provider has no embeddings. Never streamed: one `body`. */
  embed?(attempt: Attempt, observer: AttemptObserver): AttemptHandle
  /** The hints of a request that the provider does not know, and that are left out: names of top-level fields. */
  dropped?(request: ModelRequest, target: Target): readonly string[]
  /** Every model the upstream offers, each once; `onUnread` hears what may be missing. Throws GatewayError when it cannot be asked. */
  listModels(upstream: Upstream, signal: AbortSignal, onUnread?: (what: Unread) => void): Promise<ModelListing[]>
  /**
   * Takes a model into the machine's memory without a word, and resolves when it is there; `keepAlive` 0 takes it out. In bounded time.
   * Throws GatewayError. Absent where nobody can be told what to load.
   */
  hold?(target: Target, keepAlive: string | number, signal: AbortSignal): Promise<void>
}
