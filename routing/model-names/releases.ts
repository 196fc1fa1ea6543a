// What is known of open-weights families: how they are spelled, who publishes them, and what a name means that leaves its variant out.

/** Leaves the variant out and is the tuned model all the same: what publishers of `gpt-oss-20b` or `Qwen3-8B` do. */
export const main: readonly string[] = ['main']
const instruct: readonly string[] = ['instruct']
const chat: readonly string[] = ['chat']
const base: readonly string[] = ['base']

export interface Family {
  readonly family: string
  /** How a name may begin, in words. */
  readonly spellings: readonly (readonly string[])[]
  /** Namespaces of its publisher, on Hugging Face and on OpenRouter. */
  readonly publishers: readonly string[]
  /** What the server's `family` begins with; empty = it says nothing. */
  readonly architectures: readonly string[]
  /** Letters that a version may begin with, besides v: `deepseek-r1`. */
  readonly letter?: string
  /** The version of a family that had one only; '' = its names have none. */
  readonly onlyVersion?: string
  /** Dates that stand for a version: `mistral-small-2506` is 3.2. */
  readonly dates?: Readonly<Record<string, string>>
  /** Versions that Ollama's library leaves out, by size. */
  readonly libraryVersions?: Readonly<Record<string, string>>
}

export interface Release {
  readonly sizes: readonly string[]
  /** What an Ollama library tag means that says no variant; null = it has meant several things. */
  readonly library: readonly string[] | null
  /** The same for its publisher's own names; null = they always say it, or mean several things. */
  readonly hub: readonly string[] | null
  /** Sizes for which `library` is another: null = the tag was moved from one model to another. */
  readonly libraryAt?: Readonly<Record<string, readonly string[] | null>>
  /** The same, where the server's `family` tells which it is. */
  readonly libraryByArchitecture?: Readonly<Record<string, ReadonlyMap<string, readonly string[]>>>
  /** Words that name a size: `llama-4-scout`. */
  readonly sizeWords?: Readonly<Record<string, string>>
  /** The size of a release that has one only; its publisher's names leave it out. */
  readonly onlySize?: string
  /** Dates and the like that a name without a variant may have. */
  readonly editions?: readonly string[]
  /** Words that add nothing, because every model of the release has them. */
  readonly implied?: readonly string[]
}

export const families: readonly Family[] = [
  family('llama', ['meta-llama', 'meta'], ['llama', 'mllama'], { also: ['meta llama'] }),
  family('llama-guard', ['meta-llama', 'meta'], ['llama', 'mllama'], { also: ['meta llama guard'] }),
  family('codellama', ['meta-llama', 'codellama'], ['llama'], { also: ['code llama'] }),
  family('qwen', ['qwen'], ['qwen']),
  family('qwq', ['qwen'], ['qwen'], { onlyVersion: '' }),
  family('gemma', ['google'], ['gemma']),
  family('phi', ['microsoft'], ['phi']),
  family('wizardlm', ['microsoft'], []),
  family('gpt-oss', ['openai'], ['gptoss', 'gpt-oss'], { onlyVersion: '' }),
  family('mistral', ['mistralai'], ['llama', 'mistral']),
  family('mistral-small', ['mistralai'], ['llama', 'mistral'], {
    dates: { '2409': '2409', '2501': '3', '2503': '3.1', '2506': '3.2' },
    libraryVersions: { '22b': '2409', '24b': '3' }
  }),
  family('mistral-large', ['mistralai'], [], { dates: { '2407': '2407', '2411': '2411', '2512': '3' } }),
  family('mistral-nemo', ['mistralai'], ['llama', 'mistral'], { onlyVersion: '', dates: { '2407': '' } }),
  family('mixtral', ['mistralai'], [], { onlyVersion: '0.1' }),
  family('codestral', ['mistralai'], []),
  family('ministral', ['mistralai'], [], { dates: { '2410': '2410', '2512': '3' } }),
  family('devstral', ['mistralai'], [], { dates: { '2512': '2' } }),
  family('devstral-small', ['mistralai'], [], { dates: { '2505': '2505', '2507': '1.1', '2512': '2' } }),
  family('magistral', ['mistralai'], []),
  family('deepseek', ['deepseek', 'deepseek-ai'], [], { letter: 'r' }),
  family('granite', ['ibm-granite', 'ibm'], []),
  family('olmo', ['allenai'], ['olmo']),
  family('hermes', ['nousresearch'], []),
  family('nemotron', ['nvidia'], [], { also: ['nvidia nemotron'] }),
  family('smollm', ['huggingfacetb'], []),
  family('glm', ['z-ai', 'zai-org', 'thudm'], []),
  family('kimi', ['moonshotai'], [], { letter: 'k' }),
  family('minimax', ['minimax', 'minimaxai'], [], { letter: 'm' }),
  family('ernie', ['baidu'], []),
  family('lfm', ['liquid', 'liquidai'], []),
  family('command-r', ['cohere', 'cohereforai', 'coherelabs'], [], { onlyVersion: '', also: ['c4ai command r'] }),
  family('command-r-plus', ['cohere', 'cohereforai', 'coherelabs'], [], { onlyVersion: '', also: ['c4ai command r plus'] }),
  family('command-a', ['cohere', 'cohereforai', 'coherelabs'], [], { onlyVersion: '', also: ['c4ai command a'] }),
  family('seed-oss', ['bytedance-seed'], [], { onlyVersion: '' })
]

/** By family, version and the words that make a line of its own, in order: `qwen 2.5 coder`. */
export const releases: ReadonlyMap<string, Release> = new Map<string, Release>([
  ['llama 2', { sizes: ['7b', '13b', '70b'], library: chat, hub: base }],
  ['llama 3', { sizes: ['8b', '70b'], library: instruct, hub: base }],
  ['llama 3.1', { sizes: ['8b', '70b', '405b'], library: instruct, hub: base }],
  ['llama 3.2', { sizes: ['1b', '3b'], library: instruct, hub: base }],
  ['llama 3.2 vision', { sizes: ['11b', '90b'], library: instruct, hub: base }],
  ['llama 3.3', { sizes: ['70b'], library: instruct, hub: null }],
  ['llama 4', { sizes: ['16x17b', '128x17b'], library: instruct, hub: base, sizeWords: { scout: '16x17b', maverick: '128x17b' } }],
  ['llama-guard 3', { sizes: ['1b', '8b'], library: main, hub: main }],
  ['llama-guard 4', { sizes: ['12b'], library: main, hub: main }],
  ['qwen 2', { sizes: ['0.5b', '1.5b', '7b', '72b'], library: instruct, hub: base }],
  ['qwen 2 math', { sizes: ['1.5b', '7b', '72b'], library: instruct, hub: base }],
  ['qwen 2.5', { sizes: ['0.5b', '1.5b', '3b', '7b', '14b', '32b', '72b'], library: instruct, hub: base }],
  ['qwen 2.5 coder', { sizes: ['0.5b', '1.5b', '3b', '7b', '14b', '32b'], library: instruct, hub: base }],
  ['qwen 2.5 vision', { sizes: ['3b', '7b', '32b', '72b'], library: instruct, hub: null }],
  [
    'qwen 3',
    {
      sizes: ['0.6b', '1.7b', '4b', '8b', '14b', '30b-a3b', '32b', '235b-a22b'],
      library: main,
      hub: main,
      // These tags meant the first Qwen3, and mean thinking-2507 since August 2025.
      libraryAt: { '4b': null, '30b-a3b': null, '235b-a22b': null }
    }
  ],
  ['qwen 3 coder', { sizes: ['30b-a3b', '480b-a35b'], library: instruct, hub: null }],
  ['qwen 3 vision', { sizes: ['2b', '4b', '8b', '30b-a3b', '32b', '235b-a22b'], library: null, hub: null }],
  ['qwen 3 next', { sizes: ['80b-a3b'], library: null, hub: null }],
  ['qwen 3.5', { sizes: ['0.8b', '2b', '4b', '9b', '27b', '35b-a3b', '122b-a10b', '397b-a17b'], library: main, hub: main }],
  ['qwen 3.6', { sizes: ['27b', '35b-a3b'], library: main, hub: main }],
  ['qwq -', { sizes: ['32b'], library: null, hub: main, editions: ['preview'] }],
  ['gemma 2', { sizes: ['2b', '9b', '27b'], library: instruct, hub: base }],
  ['gemma 3', { sizes: ['270m', '1b', '4b', '12b', '27b'], library: instruct, hub: null }],
  ['gemma 3n', { sizes: ['e2b', 'e4b'], library: instruct, hub: base }],
  ['gemma 4', { sizes: ['e2b', 'e4b', '12b', '26b-a4b', '31b'], library: instruct, hub: null }],
  ['phi 4', { sizes: ['14b'], library: main, hub: main, onlySize: '14b' }],
  ['phi 4 mini', { sizes: ['3.8b'], library: instruct, hub: null, onlySize: '3.8b' }],
  ['phi 4 reasoning', { sizes: ['14b'], library: main, hub: main, onlySize: '14b' }],
  ['phi 4 plus reasoning', { sizes: ['14b'], library: main, hub: main, onlySize: '14b' }],
  ['phi 4 mini reasoning', { sizes: ['3.8b'], library: main, hub: main, onlySize: '3.8b' }],
  ['wizardlm 2', { sizes: ['7b', '8x22b'], library: main, hub: main }],
  ['gpt-oss -', { sizes: ['20b', '120b'], library: main, hub: main }],
  ['gpt-oss - safeguard', { sizes: ['20b', '120b'], library: main, hub: main }],
  ['mistral-small 2409', { sizes: ['22b'], library: instruct, hub: null, onlySize: '22b' }],
  ['mistral-small 3', { sizes: ['24b'], library: instruct, hub: null }],
  ['mistral-small 3.1', { sizes: ['24b'], library: instruct, hub: null }],
  ['mistral-small 3.2', { sizes: ['24b'], library: instruct, hub: null }],
  ['mistral-large 2407', { sizes: ['123b'], library: null, hub: null, onlySize: '123b' }],
  ['mistral-large 2411', { sizes: ['123b'], library: null, hub: null, onlySize: '123b' }],
  ['mistral-nemo -', { sizes: ['12b'], library: instruct, hub: null, onlySize: '12b' }],
  ['mixtral 0.1', { sizes: ['8x7b', '8x22b'], library: instruct, hub: base }],
  [
    'deepseek r1',
    {
      sizes: ['1.5b', '7b', '8b', '14b', '32b', '70b', '671b'],
      library: null,
      hub: main,
      onlySize: '671b',
      editions: ['0528'],
      libraryAt: {
        '1.5b': ['distill', 'on-qwen'],
        '7b': ['distill', 'on-qwen'],
        '14b': ['distill', 'on-qwen'],
        '32b': ['distill', 'on-qwen'],
        '70b': ['distill', 'on-llama']
      },
      // This tag was moved from the first to the second.
      libraryByArchitecture: {
        '8b': new Map([
          ['llama', ['distill', 'on-llama']],
          ['qwen3', ['0528', 'on-qwen-3']]
        ])
      }
    }
  ],
  ['deepseek 3', { sizes: ['671b'], library: null, hub: main, onlySize: '671b', editions: ['0324'] }],
  ['deepseek 3.1', { sizes: ['671b'], library: null, hub: main, onlySize: '671b', editions: ['terminus'] }],
  ['granite 3.2', { sizes: ['2b', '8b'], library: instruct, hub: null }],
  ['granite 3.3', { sizes: ['2b', '8b'], library: instruct, hub: null }],
  ['hermes 3', { sizes: ['3b', '8b', '70b', '405b'], library: main, hub: main, implied: ['on-llama-3.1', 'on-llama-3.2'] }],
  ['hermes 4', { sizes: ['14b', '70b', '405b'], library: null, hub: main }],
  ['smollm 2', { sizes: ['135m', '360m', '1.7b'], library: instruct, hub: base }]
])

/** Those who publish others' models under their own names, quantised; what they tune themselves has another name. */
export const repackers: ReadonlySet<string> = new Set(['bartowski', 'unsloth', 'lmstudio-community', 'ggml-org', 'mlx-community'])

/** Total and active parameters of experts that share layers: less than the product. Billions. */
export const expertTotals: Readonly<Record<string, readonly [number, number]>> = {
  '8x7b': [46.7, 12.9],
  '8x22b': [140.6, 39.1],
  '16x17b': [109, 17],
  '128x17b': [400, 17]
}

function family(
  name: string,
  publishers: readonly string[],
  architectures: readonly string[],
  more: Partial<Omit<Family, 'family' | 'spellings'>> & { readonly also?: readonly string[] } = {}
): Family {
  const { also = [], ...rest } = more
  const spellings = [name.split('-'), ...also.map(words => words.split(' '))]
  return { family: name, spellings, publishers, architectures, ...rest }
}
