// The form of llm-mcp.yaml and of DEVICE_LIMITS: JSON Schema that checks the file, types it, and helps editors complete it.
//
// Written as plain JSON Schema: TypeBox's `typebox/schema` checks and types it as it is. Its builder would add 90 ms to a
// start on a 2-core machine (typebox + typebox/value 190 ms, typebox/schema 60 ms), and be of use to nobody.
// `errorMessage` is what our messages and the editors' say; `writeOnly` marks secrets, whose value no message shows.
// biome-ignore-all lint/suspicious/noTemplateCurlyInString: `${NAME}` is what a configuration file holds

import type { XStatic } from 'typebox/schema'

const dayMs = 86_400_000
export const maxConcurrencyLimit = 64
export const maxUsdPerKwh = 10
export const maxWatts = 100_000

/** Names of providers and machines: they stand in model names, headers and metric labels. */
export const upstreamNamePattern = '^[a-z0-9][a-z0-9._-]{0,62}$'
/** A Go duration, which is what Ollama parses. A bare "-1" is not one; the number -1 is. */
const durationPattern = '^(0|[-+]?([0-9]+(\\.[0-9]*)?|\\.[0-9]+)(ns|us|µs|ms|s|m|h)(([0-9]+(\\.[0-9]*)?|\\.[0-9]+)(ns|us|µs|ms|s|m|h))*)$'

function integer(minimum: number, maximum: number, description: string) {
  return { type: 'integer', minimum, maximum, description, errorMessage: `expected an integer from ${minimum} to ${maximum}` } as const
}

function number(minimum: number, maximum: number, description: string) {
  return { type: 'number', minimum, maximum, description, errorMessage: `expected a number from ${minimum} to ${maximum}` } as const
}

function flag(description: string) {
  return { type: 'boolean', description, errorMessage: 'expected true or false' } as const
}

function text(what: string, description: string) {
  return { type: 'string', minLength: 1, maxLength: 4096, description, errorMessage: `expected ${what}` } as const
}

/** A bound that may be null, which is how a table of the predecessor writes "none". */
function bound(maximum: number, minimum = 0) {
  return { type: ['number', 'null'], minimum, maximum, errorMessage: `expected a number from ${minimum} to ${maximum}, or null` } as const
}

const modelName = {
  type: 'string',
  minLength: 1,
  maxLength: 200,
  pattern: '^\\S(.*\\S)?$',
  errorMessage: 'expected the name of a model'
} as const

function modelList(description: string) {
  return { type: 'array', items: modelName, uniqueItems: true, description, errorMessage: 'expected a list of model names' } as const
}

const url = (description: string) => text('a URL', description)

const apiKey = {
  // Blank passes: it is an error where it is written, and "not here" where it comes from the environment.
  type: 'string',
  maxLength: 4096,
  pattern: '^\\s*[\\x21-\\x7e]*\\s*$',
  writeOnly: true,
  description: 'Sent to this server and to no other. Best written as ${NAME}, so that the file holds no secret.',
  errorMessage: 'expected a key without spaces'
} as const

const headers = {
  type: 'object',
  propertyNames: { pattern: "^[A-Za-z0-9!#$%&'*+.^_`|~-]+$", maxLength: 200, errorMessage: 'expected the name of a header' },
  additionalProperties: {
    type: 'string',
    maxLength: 4096,
    pattern: '^[\\t\\x20-\\x7e\\x80-\\xff]*$',
    writeOnly: true,
    errorMessage: 'expected the text of a header, on one line'
  },
  description: 'Sent with every call.',
  errorMessage: 'expected a map of header names to texts'
} as const

const timeouts = {
  type: 'object',
  additionalProperties: false,
  properties: {
    connect_ms: integer(100, dayMs, 'Until the connection stands.'),
    first_token_ms: integer(100, dayMs, 'From the call to its first token; on an own machine this has room for loading the model.'),
    idle_ms: integer(100, dayMs, 'Between two pieces of a running answer.'),
    total_ms: integer(100, dayMs, 'The whole attempt.')
  },
  description: 'What is not named keeps its default.',
  errorMessage: 'expected a map of timeouts'
} as const

const streamUsage = flag('false for a server that refuses stream_options.')
const auto = modelList('What `auto` means here, best first; names the server does not list are passed over.')
/** Which there are is checked beside the schema: a new provider is a new file in adapters/, and nothing here. */
function adapterName(description: string) {
  return { type: 'string', pattern: '^[a-z][a-z0-9_-]{0,62}$', description, errorMessage: 'expected the name of an adapter' } as const
}

const models = modelList('The models to offer; without it the server is asked.')

const provider = {
  type: 'object',
  additionalProperties: false,
  properties: {
    type: adapterName(
      'How it is spoken to: openai for any OpenAI-compatible server (the default), openrouter, or another file of adapters/.'
    ),
    base_url: url('Up to and with /v1. Known for providers named openai and openrouter.'),
    api_key: apiKey,
    models,
    auto,
    price_registry: text(
      "the price registry's name of this provider",
      'Its name in the price registry (groq, mistral, …), for prices by model.'
    ),
    stream_usage: streamUsage,
    headers,
    timeouts
  },
  description: 'A rented server.',
  errorMessage: 'expected a map with base_url, api_key, …'
} as const

const machine = {
  type: 'object',
  additionalProperties: false,
  required: ['url'],
  properties: {
    type: adapterName(
      'How it is spoken to: ollama (the default), openai for LM Studio, vLLM, llama.cpp and the like, or another file of adapters/.'
    ),
    url: url('Of Ollama: http://host:11434. Of the others up to and with /v1.'),
    max_concurrency: integer(
      1,
      maxConcurrencyLimit,
      'Answers at the same time; more are refused with a time to come back. Default 2, and 1 without a GPU.'
    ),
    watts: number(0, maxWatts, 'Drawn while it answers. Default 300 with a GPU, 65 without, 150 when nothing is known.'),
    vram_gb: number(0, 100_000, 'Memory of its GPUs; 0 = it has none.'),
    ram_gb: number(0, 1_000_000, 'Its main memory.'),
    keep_alive: {
      type: ['string', 'number', 'null'],
      pattern: durationPattern,
      minimum: -1,
      maximum: 1e9,
      description:
        'How long a model stays loaded: a duration ("30m", the default), seconds (-1 = for ever), null = as the machine is set up.',
      errorMessage: 'expected a duration such as "30m", a number of seconds, or null'
    },
    num_ctx: integer(256, 16_777_216, 'Context size, instead of the largest that fits in memory.'),
    api_key: apiKey,
    models,
    auto,
    stream_usage: streamUsage,
    headers,
    timeouts
  },
  description: 'A machine of yours: it may see local-only requests.',
  errorMessage: 'expected a map with url, …'
} as const

const namedUpstreams = {
  pattern: upstreamNamePattern,
  errorMessage: 'expected a name of lower-case letters, digits, "." "_" "-", at most 63'
} as const

const usdPer1m = (description: string) => number(0, 1_000_000, `Dollars per million ${description}.`)

const price = {
  type: 'object',
  additionalProperties: false,
  required: ['input_usd_per_1m', 'output_usd_per_1m'],
  properties: {
    input_usd_per_1m: usdPer1m('prompt tokens'),
    output_usd_per_1m: usdPer1m('answer tokens'),
    cached_input_usd_per_1m: usdPer1m('prompt tokens read from the cache'),
    request_usd: number(0, 1_000, 'Dollars per request.'),
    tiers: {
      type: 'array',
      items: {
        type: 'object',
        additionalProperties: false,
        required: ['above_prompt_tokens'],
        properties: {
          above_prompt_tokens: integer(1, 1_000_000_000, 'Longer prompts have these prices.'),
          input_usd_per_1m: usdPer1m('prompt tokens'),
          output_usd_per_1m: usdPer1m('answer tokens'),
          cached_input_usd_per_1m: usdPer1m('prompt tokens read from the cache')
        },
        errorMessage: 'expected a map with above_prompt_tokens and prices'
      },
      description: 'Other prices for long prompts.',
      errorMessage: 'expected a list of price tiers'
    }
  },
  errorMessage: 'expected a map with input_usd_per_1m and output_usd_per_1m'
} as const

/** One schema for both forms of an alias: with anyOf, a typing error in one form would be reported as the lack of the other. */
const alias = {
  type: ['array', 'object'],
  items: modelName,
  minItems: 1,
  uniqueItems: true,
  additionalProperties: false,
  required: ['weighted'],
  properties: {
    weighted: {
      type: 'object',
      minProperties: 1,
      propertyNames: modelName,
      additionalProperties: {
        type: 'number',
        exclusiveMinimum: 0,
        maximum: 1_000_000,
        errorMessage: 'expected a weight above 0, at most 1000000'
      },
      errorMessage: 'expected a map of model names to weights'
    }
  },
  description: 'A list of models in order of preference, or {weighted: {model: weight}}.',
  errorMessage: 'expected a list of model names, or {weighted: {model: weight}}'
} as const

const vectorSpace = {
  type: 'object',
  additionalProperties: false,
  required: ['models'],
  properties: {
    models: {
      type: 'array',
      items: modelName,
      minItems: 1,
      uniqueItems: true,
      description: 'Models whose vectors can be compared, by upstream/model or by model for every upstream.',
      errorMessage: 'expected a list of model names'
    },
    dimensions: integer(1, 1_000_000, 'How long the vectors are; without it, as long as the first ones.')
  },
  description: 'Embedding models that are one: a request for one of them may go to another.',
  errorMessage: 'expected a map with models and dimensions'
} as const

const passthrough = {
  type: ['object', 'null'],
  additionalProperties: false,
  properties: {
    provider: text('the name of a provider or machine', 'Who gets what we do not interpret. Default: the provider named openai.'),
    paths: {
      type: 'array',
      items: {
        type: 'string',
        pattern: '^[a-z][a-z0-9_-]{0,62}$',
        errorMessage: 'expected the first part of a path after /v1, such as audio'
      },
      maxItems: 50,
      uniqueItems: true,
      description: 'First parts of paths after /v1. Default audio, images, moderations. What a provider keeps is shared by all our keys.',
      errorMessage: 'expected a list of first parts of paths'
    }
  },
  description: 'Audio, images and the rest: passed on as they are, to one upstream.',
  errorMessage: 'expected a map with provider and paths'
} as const

const queue = {
  type: ['object', 'null'],
  additionalProperties: false,
  properties: {
    max_waiting: integer(0, 1_000_000, 'Interactive requests that may wait for a machine. Default 10000.'),
    max_waiting_per_source: integer(0, 1_000_000, 'Of them those of one source. Default 1000.'),
    max_jobs: integer(0, 100_000_000, 'Jobs that may wait. Default 1000000.'),
    max_jobs_per_source: integer(0, 100_000_000, 'Of them those of one source. Default 100000.'),
    worker_concurrency: integer(1, 1_024, 'Jobs that one process runs at the same time. Default 64.')
  },
  description: 'How much may wait; more is refused with a time to come back.',
  errorMessage: 'expected a map with max_waiting, max_jobs, worker_concurrency, …'
} as const

function texts(maximum: number, description: string) {
  return {
    type: 'array',
    items: { type: 'string', minLength: 1, maxLength: 200, errorMessage: 'expected a text' },
    maxItems: maximum,
    uniqueItems: true,
    description,
    errorMessage: 'expected a list of texts'
  } as const
}

const discovery = {
  type: ['object', 'null'],
  additionalProperties: false,
  properties: {
    ranges: texts(100, 'Networks (address/bits) that may be contacted, instead of this machine and the tailnet.'),
    approve: {
      type: ['object', 'null'],
      additionalProperties: false,
      properties: {
        tags: texts(100, 'Tags of Tailscale, such as tag:gpu: machines with one of them are sent prompts at once.'),
        names: texts(100, 'Names of machines, * stands for any characters. Their owners choose them: tags are safer.')
      },
      errorMessage: 'expected a map with tags and names'
    }
  },
  description: 'How machines are found. They are proposed, and get no prompt until somebody approves them.',
  errorMessage: 'expected a map with ranges and approve'
} as const

/** Sections may be empty: `machines:` with all its lines commented out. */
export const configSchema = {
  $schema: 'http://json-schema.org/draft-07/schema#',
  title: 'llm-mcp.yaml',
  type: ['object', 'null'],
  additionalProperties: false,
  properties: {
    providers: {
      type: ['object', 'null'],
      propertyNames: namedUpstreams,
      additionalProperties: provider,
      description: 'Rented servers by name.',
      errorMessage: 'expected a map of providers by name'
    },
    machines: {
      type: ['object', 'null'],
      propertyNames: namedUpstreams,
      additionalProperties: machine,
      description: 'Machines of yours by name.',
      errorMessage: 'expected a map of machines by name'
    },
    aliases: {
      type: ['object', 'null'],
      propertyNames: modelName,
      additionalProperties: alias,
      description: 'Names of your own for equal models.',
      errorMessage: 'expected a map of aliases by name'
    },
    prices: {
      type: ['object', 'null'],
      propertyNames: modelName,
      additionalProperties: price,
      description: 'By provider/model, or by model for every provider.',
      errorMessage: 'expected a map of prices by model'
    },
    same_models: {
      type: ['object', 'null'],
      propertyNames: modelName,
      additionalProperties: modelList('Its other names. An empty list: it is the same as no other.'),
      description: 'Open-weights models that are one model under several names. What the names say for certain needs no entry.',
      errorMessage: 'expected a map of lists of model names'
    },
    vector_spaces: {
      type: ['object', 'null'],
      propertyNames: modelName,
      additionalProperties: vectorSpace,
      description: 'Embedding models under several names, by a name of your own.',
      errorMessage: 'expected a map of vector spaces by name'
    },
    passthrough,
    queue,
    discovery,
    policy: {
      type: ['object', 'null'],
      additionalProperties: false,
      properties: {
        order: {
          type: 'array',
          items: { type: 'string', minLength: 1, errorMessage: 'expected the name of a machine or provider' },
          uniqueItems: true,
          description: 'Machines and providers, the preferred first; those not named come after.',
          errorMessage: 'expected a list of machines and providers'
        },
        reasoning_field: {
          enum: ['reasoning', 'reasoning_content', 'both'],
          description: 'Where clients look for thoughts. Default reasoning.',
          errorMessage: 'expected reasoning, reasoning_content or both'
        },
        local_only: flag('true: no request leaves the house.'),
        electricity_usd_per_kwh: number(0, maxUsdPerKwh, 'Default 0.25.'),
        auto: modelList('What `auto` tries first, named as in requests.')
      },
      errorMessage: 'expected a map of policies'
    }
  },
  errorMessage:
    'expected a map with providers, machines, aliases, prices, same_models, vector_spaces, passthrough, queue, discovery, policy'
} as const

export const deviceLimitsSchema = {
  type: 'object',
  additionalProperties: {
    type: 'object',
    additionalProperties: false,
    properties: {
      ram_gb: bound(1_000_000),
      vram_gb: bound(100_000),
      max_params_b: bound(1_000_000),
      max_size_gb: bound(1_000_000),
      // With none, it would have no model.
      max_context_k: bound(1_000_000, 1),
      max_concurrency: {
        type: ['integer', 'null'],
        minimum: 1,
        maximum: maxConcurrencyLimit,
        errorMessage: `expected an integer from 1 to ${maxConcurrencyLimit}, or null`
      },
      allow_models: { type: ['array', 'null'], items: modelName, errorMessage: 'expected a list of model names, or null' },
      deny_models: { type: ['array', 'null'], items: modelName, errorMessage: 'expected a list of model names, or null' }
    },
    errorMessage: 'expected a map of limits'
  },
  errorMessage: 'expected a map of limits by machine'
} as const

type Present<T, K extends keyof T> = NonNullable<T[K]>
type File = NonNullable<XStatic<typeof configSchema>>
export type FileMachine = XStatic<typeof machine>
export type FileProvider = XStatic<typeof provider>
export type FileTimeouts = XStatic<typeof timeouts>
export type FilePrice = XStatic<typeof price>
export type FileAlias = string[] | { weighted: Record<string, number> }
export type FileLimits = XStatic<typeof deviceLimitsSchema>

/** llm-mcp.yaml after its check; null = an empty file. */
export type ConfigFile = null | (Omit<File, 'aliases'> & { aliases?: Record<string, FileAlias> | null })
export type FilePolicy = Present<File, 'policy'>

/** The JSON Schema of llm-mcp.yaml, for editors. A fresh copy. */
export function configJsonSchema(): unknown {
  return structuredClone(configSchema)
}
