import { readFileSync } from 'node:fs'
import t from 'tap'
import { joinKeyOf, joinModels, type ModelFacts, type NamedModel, parseModelName } from '../../routing/model-names.ts'
import { fc } from '../support/properties.ts'

const none = new Map<string, string>()

/** `openrouter`'s, `ollama`'s and any other server's (`openai`) names; a fact or two may follow. */
const openrouter = (name: string, huggingFaceId?: string): NamedModel => ({ name, upstreamKind: 'openrouter', facts: { huggingFaceId } })
const ollama = (name: string, parameterSize?: string, family?: string): NamedModel => ({
  name,
  upstreamKind: 'ollama',
  facts: { parameterSize, family }
})
const server = (name: string): NamedModel => ({ name, upstreamKind: 'openai' })

function keyOf({ name, upstreamKind, facts }: NamedModel): string | null {
  const parsed = parseModelName(name, { ...facts, upstreamKind })
  return parsed === null ? null : joinKeyOf(parsed)
}

function areJoined(a: NamedModel, b: NamedModel, overrides: ReadonlyMap<string, string> = none): boolean {
  return joinModels([a, b], overrides).joined.some(({ members }) => members.length === 2)
}

t.test('names as servers write them are read into their parts', async t => {
  // name | family | version | size | variant ('?' = not known) | quantisation
  const table = `
    llama3.2:3b                                        | llama | 3.2 | 3b | instruct |
    llama3.2:3b-instruct-q4_K_M                        | llama | 3.2 | 3b | instruct | Q4_K_M
    llama3.2:3b-text-q8_0                              | llama | 3.2 | 3b | base | Q8_0
    llama3.2:1b-instruct-fp16                          | llama | 3.2 | 1b | instruct | F16
    llama3.1                                           | llama | 3.1 | ? | instruct |
    llama3.1:latest                                    | llama | 3.1 | ? | instruct |
    library/llama3.1:8b                                | llama | 3.1 | 8b | instruct |
    registry.ollama.ai/library/llama3.1:70b            | llama | 3.1 | 70b | instruct |
    llama3:8b-text                                     | llama | 3 | 8b | base |
    llama2:7b                                          | llama | 2 | 7b | chat |
    llama2:13b-text-q4_0                               | llama | 2 | 13b | base | Q4_0
    llama3.2-vision:11b                                | llama | 3.2 | 11b | instruct vision |
    llama4:scout                                       | llama | 4 | 16x17b | instruct |
    llama4:17b-maverick-128e-instruct-q4_K_M           | llama | 4 | 128x17b | instruct | Q4_K_M
    llama-guard3:8b                                    | llama-guard | 3 | 8b | main |
    qwen2.5:0.5b                                       | qwen | 2.5 | 0.5b | instruct |
    qwen2.5-coder:7b                                   | qwen | 2.5 | 7b | coder instruct |
    qwen2.5-coder:1.5b-base-q5_K_S                     | qwen | 2.5 | 1.5b | base coder | Q5_K_S
    qwen2.5vl:7b                                       | qwen | 2.5 | 7b | instruct vision |
    qwen2-math:7b                                      | qwen | 2 | 7b | instruct math |
    qwen3:8b                                           | qwen | 3 | 8b | main |
    qwen3:30b                                          | qwen | 3 | 30b-a3b | ? |
    qwen3:30b-a3b-instruct-2507-q8_0                   | qwen | 3 | 30b-a3b | 2507 instruct | Q8_0
    qwen3:4b-thinking-2507-q4_K_M                      | qwen | 3 | 4b | 2507 thinking | Q4_K_M
    qwen3-coder:30b                                    | qwen | 3 | 30b-a3b | coder instruct |
    qwen3-vl:8b-instruct                               | qwen | 3 | 8b | instruct vision |
    qwen3-vl:8b                                        | qwen | 3 | 8b | ? |
    qwen3.5:35b                                        | qwen | 3.5 | 35b-a3b | main |
    qwq:32b-preview-q4_K_M                             | qwq |  | 32b | main preview | Q4_K_M
    gemma2:9b-instruct-q6_K                            | gemma | 2 | 9b | instruct | Q6_K
    gemma3:27b-it-qat                                  | gemma | 3 | 27b | instruct qat |
    gemma3:270m                                        | gemma | 3 | 270m | instruct |
    gemma3n:e4b                                        | gemma | 3n | e4b | instruct |
    gemma4:31b-mlx                                     | gemma | 4 | 31b | instruct |
    phi4:14b                                           | phi | 4 | 14b | main |
    phi4-mini                                          | phi | 4 | ? | instruct mini |
    phi4-mini:3.8b-q8_0                                | phi | 4 | 3.8b | instruct mini | Q8_0
    phi4-reasoning:14b-plus-fp16                       | phi | 4 | 14b | main plus reasoning | F16
    gpt-oss:20b                                        | gpt-oss |  | 20b | main |
    gpt-oss-safeguard:120b                             | gpt-oss |  | 120b | main safeguard |
    mistral:7b                                         | mistral | ? | 7b | ? |
    mistral:7b-instruct-v0.3-q4_0                      | mistral | 0.3 | 7b | instruct | Q4_0
    mistral-nemo:12b-instruct-2407-q4_K_M              | mistral-nemo |  | 12b | instruct | Q4_K_M
    mistral-small:24b                                  | mistral-small | 3 | 24b | instruct |
    mistral-small:22b                                  | mistral-small | 2409 | 22b | instruct |
    mistral-small3.2:24b-instruct-2506-q8_0            | mistral-small | 3.2 | 24b | instruct | Q8_0
    mixtral:8x7b                                       | mixtral | 0.1 | 8x7b | instruct |
    mixtral:8x22b-text-v0.1-q4_0                       | mixtral | 0.1 | 8x22b | base | Q4_0
    deepseek-r1:32b                                    | deepseek | r1 | 32b | distill on-qwen |
    deepseek-r1:70b-llama-distill-q4_K_M               | deepseek | r1 | 70b | distill on-llama | Q4_K_M
    deepseek-r1:8b                                     | deepseek | r1 | 8b | ? |
    deepseek-r1:8b-0528-qwen3-q4_K_M                   | deepseek | r1 | 8b | 0528 on-qwen-3 | Q4_K_M
    deepseek-r1:671b                                   | deepseek | r1 | 671b | ? |
    deepseek-coder-v2:16b-lite-instruct-q4_0           | deepseek | 2 | 16b | coder instruct lite | Q4_0
    hermes3:8b-llama3.1-q4_K_M                         | hermes | 3 | 8b | main | Q4_K_M
    granite3.3:8b                                      | granite | 3.3 | 8b | instruct |
    smollm2:135m-base-q8_0                             | smollm | 2 | 135m | base | Q8_0
    hf.co/bartowski/Llama-3.2-3B-Instruct-GGUF:Q4_K_M  | llama | 3.2 | 3b | instruct | Q4_K_M
    hf.co/bartowski/google_gemma-3-27b-it-GGUF:IQ4_XS  | gemma | 3 | 27b | instruct | IQ4_XS
    hf.co/unsloth/Qwen3-30B-A3B-Instruct-2507-GGUF:UD-Q4_K_XL | qwen | 3 | 30b-a3b | 2507 instruct | UD-Q4_K_XL
    huggingface.co/Qwen/Qwen2.5-7B                     | qwen | 2.5 | 7b | base |
    hf.co/meta-llama/Meta-Llama-3.1-8B                 | llama | 3.1 | 8b | base |
    hf.co/google/gemma-3-27b-it-qat-q4_0-gguf          | gemma | 3 | 27b | instruct qat | Q4_0
    meta-llama/llama-3.2-3b-instruct                   | llama | 3.2 | 3b | instruct |
    meta-llama/llama-3.2-3b-instruct:free              | llama | 3.2 | 3b | instruct |
    meta-llama/Meta-Llama-3.1-8B-Instruct              | llama | 3.1 | 8b | instruct |
    meta-llama/llama-3.2-11b-vision-instruct           | llama | 3.2 | 11b | instruct vision |
    qwen/qwen-2.5-coder-32b-instruct                   | qwen | 2.5 | 32b | coder instruct |
    qwen/qwen3-30b-a3b-instruct-2507                   | qwen | 3 | 30b-a3b | 2507 instruct |
    qwen/qwen3-235b-a22b                               | qwen | 3 | 235b-a22b | main |
    qwen/qwen3-235b-a22b-2507                          | qwen | 3 | 235b-a22b | ? |
    Qwen/Qwen3-8B-FP8                                  | qwen | 3 | 8b | main | FP8
    google/gemma-3-27b-it                              | gemma | 3 | 27b | instruct |
    google/gemma-3n-e4b-it                             | gemma | 3n | e4b | instruct |
    mistralai/mistral-small-3.2-24b-instruct           | mistral-small | 3.2 | 24b | instruct |
    mistralai/mistral-small-24b-instruct-2501          | mistral-small | 3 | 24b | instruct |
    mistralai/mixtral-8x22b-instruct                   | mixtral | 0.1 | 8x22b | instruct |
    microsoft/phi-4                                    | phi | 4 | 14b | main |
    microsoft/phi-4-mini-instruct                      | phi | 4 | 3.8b | instruct mini |
    openai/gpt-oss-120b                                | gpt-oss |  | 120b | main |
    deepseek/deepseek-r1                               | deepseek | r1 | 671b | main |
    deepseek/deepseek-r1-32b                           | deepseek | r1 | 32b | ? |
    deepseek-r1:8b-0528                                | deepseek | r1 | 8b | ? |
    qwen/qwen2.5-coder-7b                              | qwen | 2.5 | 7b | ? |
    deepseek/deepseek-r1-distill-qwen-32b              | deepseek | r1 | 32b | distill on-qwen |
    deepseek/deepseek-r1-0528-qwen3-8b                 | deepseek | r1 | 8b | 0528 on-qwen-3 |
    nousresearch/hermes-3-llama-3.1-70b                | hermes | 3 | 70b | main |
    allenai/olmo-3-32b-think                           | olmo | 3 | 32b | thinking |
    liquid/lfm-2.5-1.2b-instruct:free                  | lfm | 2.5 | 1.2b | instruct |
    ibm-granite/granite-4.0-h-micro                    | granite | 4 | ? | ? |`
  const rows = table.trim().split('\n')
  t.ok(rows.length >= 60)
  for (const row of rows) {
    const [name = '', ...expected] = row.split('|').map(cell => cell.trim())
    const parsed = parseModelName(name)
    const { family, version, size, variant, quantization } = parsed ?? {}
    t.same([family, version ?? '?', size ?? '?', variant?.join(' ') ?? '?', quantization ?? ''], expected, name)
  }
})

t.test('sizes are told in billions, with what is active of a mixture of experts', async t => {
  const sizes = (name: string) => {
    const parsed = parseModelName(name)
    return [parsed?.sizeB, parsed?.activeB]
  }
  t.same(sizes('qwen3:30b-a3b'), [30, 3])
  t.same(sizes('qwen3-coder:480b'), [480, 35])
  t.same(sizes('mixtral:8x7b'), [46.7, 12.9])
  t.same(sizes('meta-llama/llama-4-scout-17b-16e-instruct'), [109, 17])
  t.same(sizes('gemma3:270m'), [0.27, null])
  t.same(sizes('llama3.1:8b'), [8, null])
  t.same(sizes('gemma3n:e4b'), [null, null], 'effective parameters are not all of them')
  t.same(sizes('hf.co/moonshotai/Kimi-K9-1T-A32B-Instruct'), [1_000, 32])
  t.same(sizes('tencent/hunyuan-a13b-instruct'), [null, 13], 'only what is active is said')
})

t.test('what is no name is null', async t => {
  const no = ['', ' ', ':', '/', ':latest', '7b/', '/llama3', 'a//llama3:8b', 'llama 3', 'ламa', `llama${'3'.repeat(300)}`, '3:8b']
  for (const name of no) t.equal(parseModelName(name), null, name)
})

const nearMisses: readonly (readonly [NamedModel, NamedModel])[] = [
  // base and instruct
  [ollama('llama3.2:3b-text'), openrouter('meta-llama/llama-3.2-3b-instruct')],
  [ollama('llama3.1:8b-text-q8_0'), openrouter('meta-llama/llama-3.1-8b-instruct')],
  [ollama('llama3.1:405b'), openrouter('meta-llama/llama-3.1-405b')],
  [ollama('qwen2.5:7b-base'), openrouter('qwen/qwen-2.5-7b-instruct')],
  [ollama('qwen2.5-coder:7b'), server('Qwen/Qwen2.5-Coder-7B')],
  [ollama('hf.co/Qwen/Qwen2.5-7B:Q4_K_M'), openrouter('qwen/qwen-2.5-7b-instruct')],
  [ollama('hf.co/meta-llama/Meta-Llama-3-8B'), openrouter('meta-llama/llama-3-8b-instruct')],
  [ollama('mixtral:8x22b-text-v0.1-q4_0'), openrouter('mistralai/mixtral-8x22b-instruct')],
  [ollama('hf.co/google/gemma-3-27b-pt'), openrouter('google/gemma-3-27b-it')],
  [ollama('smollm2:1.7b'), server('HuggingFaceTB/SmolLM2-1.7B')],
  [ollama('hf.co/Qwen/Qwen3-8B-Base'), openrouter('qwen/qwen3-8b')],
  [ollama('llama2:7b-text'), server('meta-llama/Llama-2-7b-chat-hf')],
  [ollama('qwen2.5-coder:7b-base'), server('qwen/qwen2.5-coder-7b')],
  [ollama('hf.co/meta-llama/Meta-Llama-3.1-8B'), openrouter('meta-llama/llama-3.1-8b')],
  // coder, math, vision
  [ollama('qwen2.5-coder:7b'), openrouter('qwen/qwen-2.5-7b-instruct')],
  [ollama('qwen2.5:32b'), openrouter('qwen/qwen-2.5-coder-32b-instruct')],
  [ollama('qwen2.5:72b'), openrouter('qwen/qwen2.5-vl-72b-instruct')],
  [ollama('qwen2-math:72b'), openrouter('qwen/qwen-2-72b-instruct')],
  [ollama('qwen3-coder:30b'), openrouter('qwen/qwen3-30b-a3b')],
  [ollama('qwen3-coder:30b'), openrouter('qwen/qwen3-30b-a3b-instruct-2507')],
  [ollama('qwen3-vl:30b-a3b-instruct'), openrouter('qwen/qwen3-30b-a3b-instruct-2507')],
  [ollama('qwen3-vl:8b'), openrouter('qwen/qwen3-vl-8b-instruct')],
  [ollama('qwen3-vl:8b'), openrouter('qwen/qwen3-vl-8b-thinking')],
  [ollama('llama3.2-vision:11b'), openrouter('meta-llama/llama-3.2-11b-instruct')],
  [ollama('gpt-oss-safeguard:20b'), openrouter('openai/gpt-oss-20b')],
  [ollama('llama-guard3:8b'), openrouter('meta-llama/llama-3.1-8b-instruct')],
  [ollama('qwen3-embedding:8b'), openrouter('qwen/qwen3-8b')],
  [ollama('qwen3-embedding:8b'), openrouter('qwen/qwen3-embedding-8b')],
  // distilled, and what is called after the model it was distilled from
  [ollama('deepseek-r1:8b'), openrouter('deepseek/deepseek-r1')],
  [ollama('deepseek-r1:32b'), openrouter('deepseek/deepseek-r1')],
  [ollama('deepseek-r1:70b'), openrouter('deepseek/deepseek-r1', 'deepseek-ai/DeepSeek-R1')],
  [ollama('deepseek-r1:671b'), openrouter('deepseek/deepseek-r1', 'deepseek-ai/DeepSeek-R1')],
  [ollama('deepseek-r1:671b-0528-q4_K_M'), openrouter('deepseek/deepseek-r1', 'deepseek-ai/DeepSeek-R1')],
  [ollama('deepseek-r1:8b'), openrouter('deepseek/deepseek-r1-distill-llama-8b')],
  [ollama('deepseek-r1:8b'), openrouter('deepseek/deepseek-r1-0528-qwen3-8b')],
  [ollama('deepseek-r1:8b', '8.2B', 'qwen3'), openrouter('deepseek/deepseek-r1-distill-llama-8b')],
  [ollama('deepseek-r1:8b', '8.0B', 'llama'), openrouter('deepseek/deepseek-r1-0528-qwen3-8b')],
  [ollama('deepseek-r1:32b'), openrouter('qwen/qwen-2.5-32b-instruct')],
  [ollama('deepseek-r1:70b'), openrouter('meta-llama/llama-3.3-70b-instruct')],
  [ollama('deepseek-r1:7b'), server('deepseek-ai/DeepSeek-R1-Distill-Llama-7B')],
  [ollama('deepseek-r1:32b'), openrouter('deepseek/deepseek-r1-32b')],
  [ollama('hermes3:70b'), openrouter('meta-llama/llama-3.1-70b-instruct')],
  [ollama('hermes3:8b'), openrouter('nousresearch/hermes-2-pro-llama-3-8b')],
  // tags that were moved from one model to another
  [ollama('qwen3:30b'), openrouter('qwen/qwen3-30b-a3b')],
  [ollama('qwen3:30b-a3b'), openrouter('qwen/qwen3-30b-a3b', 'Qwen/Qwen3-30B-A3B')],
  [ollama('qwen3:30b-a3b-q4_K_M'), openrouter('qwen/qwen3-30b-a3b-thinking-2507')],
  [ollama('qwen3:235b'), openrouter('qwen/qwen3-235b-a22b')],
  [ollama('qwen3:4b'), openrouter('qwen/qwen3-4b:free')],
  [ollama('mistral:7b'), openrouter('mistralai/mistral-7b-instruct-v0.1')],
  [ollama('mistral:7b'), openrouter('mistralai/mistral-7b-instruct')],
  [ollama('qwq:32b'), openrouter('qwen/qwq-32b')],
  [ollama('deepseek-v3.1:671b'), openrouter('deepseek/deepseek-chat-v3.1', 'deepseek-ai/DeepSeek-V3.1')],
  [ollama('command-r:35b'), openrouter('cohere/command-r-08-2024')],
  // thinking, dates, previews
  [ollama('qwen3:30b-a3b-thinking-2507-q4_K_M'), openrouter('qwen/qwen3-30b-a3b-instruct-2507')],
  [ollama('qwen3:235b-a22b-instruct-2507-q4_K_M'), openrouter('qwen/qwen3-235b-a22b-2507')],
  [ollama('qwen3:235b-a22b-thinking-2507-q4_K_M'), openrouter('qwen/qwen3-235b-a22b-2507', 'Qwen/Qwen3-235B-A22B-Instruct-2507')],
  [ollama('qwen3-next:80b'), openrouter('qwen/qwen3-next-80b-a3b-instruct')],
  [ollama('qwen3:8b'), openrouter('qwen/qwen3-8b:thinking')],
  [ollama('qwq:32b-preview-q4_K_M'), openrouter('qwen/qwq-32b')],
  [ollama('phi4:14b'), openrouter('microsoft/phi-4-reasoning')],
  [ollama('phi4-reasoning:14b'), openrouter('microsoft/phi-4-reasoning-plus')],
  [ollama('phi4-mini:3.8b'), openrouter('microsoft/phi-4-mini-reasoning')],
  [ollama('phi4-mini:3.8b'), openrouter('microsoft/phi-4')],
  [ollama('deepseek-v3.1:671b-terminus-q4_K_M'), openrouter('deepseek/deepseek-chat-v3.1', 'deepseek-ai/DeepSeek-V3.1')],
  // versions and sizes next door
  [ollama('llama3:8b'), openrouter('meta-llama/llama-3.1-8b-instruct')],
  [ollama('llama3.1:70b'), openrouter('meta-llama/llama-3.3-70b-instruct')],
  [ollama('llama3.2:1b'), openrouter('meta-llama/llama-3.2-3b-instruct')],
  [ollama('qwen2:7b'), openrouter('qwen/qwen-2.5-7b-instruct')],
  [ollama('qwen3:14b'), openrouter('qwen/qwen3.5-14b')],
  [ollama('gemma3n:e4b'), openrouter('google/gemma-3-4b-it')],
  [ollama('gemma2:27b'), openrouter('google/gemma-3-27b-it')],
  [ollama('mistral-small:24b'), openrouter('mistralai/mistral-small-3.1-24b-instruct')],
  [ollama('mistral-small3.1:24b'), openrouter('mistralai/mistral-small-3.2-24b-instruct')],
  [ollama('mistral-small:22b'), openrouter('mistralai/mistral-small-24b-instruct-2501')],
  [ollama('mistral-small3.2:24b-instruct-2501-q8_0'), openrouter('mistralai/mistral-small-3.2-24b-instruct')],
  [ollama('mixtral:8x7b'), openrouter('mistralai/mixtral-8x22b-instruct')],
  [ollama('mistral-nemo:12b'), openrouter('mistralai/mistral-7b-instruct-v0.3')],
  [ollama('llama4:scout'), openrouter('meta-llama/llama-4-maverick', 'meta-llama/Llama-4-Maverick-17B-128E-Instruct')],
  [ollama('qwen3:32b'), openrouter('qwen/qwen3-30b-a3b')],
  [ollama('llama-guard3:8b'), openrouter('meta-llama/llama-guard-4-12b')],
  // no size said
  [ollama('llama3.1'), openrouter('meta-llama/llama-3.1-8b-instruct')],
  [ollama('llama3.1:latest'), openrouter('meta-llama/llama-3.1-8b-instruct')],
  [ollama('phi4'), openrouter('microsoft/phi-4')],
  [ollama('llama3.1', '70.6B'), openrouter('meta-llama/llama-3.1-8b-instruct')],
  [ollama('qwen3-coder'), openrouter('qwen/qwen3-coder')],
  [ollama('qwen3-coder:480b'), openrouter('qwen/qwen3-coder')],
  // other people's work under the same name
  [ollama('someone/llama3.2:3b'), openrouter('meta-llama/llama-3.2-3b-instruct')],
  [ollama('example.com/library/llama3.2:3b'), openrouter('meta-llama/llama-3.2-3b-instruct')],
  [ollama('hf.co/someone/Llama-3.2-3B-Instruct-GGUF'), openrouter('meta-llama/llama-3.2-3b-instruct')],
  [ollama('hf.co/bartowski/Llama-3.2-3B-Instruct-abliterated-GGUF'), openrouter('meta-llama/llama-3.2-3b-instruct')],
  [ollama('hf.co/bartowski/someone_Llama-3.2-3B-Instruct-GGUF'), openrouter('meta-llama/llama-3.2-3b-instruct')],
  [ollama('llama2-uncensored:7b'), server('meta-llama/Llama-2-7b-chat-hf')],
  [ollama('llama3.1:8b-mine'), openrouter('meta-llama/llama-3.1-8b-instruct')],
  [ollama('llama3-gradient:8b'), openrouter('meta-llama/llama-3-8b-instruct')],
  [ollama('llama3.1:8b'), openrouter('aion-labs/aion-rp-llama-3.1-8b')],
  [ollama('deepseek-v3.1:671b-terminus-q4_K_M'), openrouter('nex-agi/deepseek-v3.1-nex-n1', 'nex-agi/DeepSeek-V3.1-Nex-N1')],
  [ollama('codellama:7b-instruct'), openrouter('alfredpros/codellama-7b-instruct-solidity', 'AlfredPros/CodeLlama-7b-Instruct-Solidity')],
  [ollama('llama3.3:70b'), server('llama-3.3-70b-versatile')],
  [ollama('llama3.3:70b'), server('meta-llama/Llama-3.3-70B-Instruct-Turbo')],
  // what the server says against the name
  [ollama('llama3.1:8b', '70.6B'), openrouter('meta-llama/llama-3.1-8b-instruct')],
  [ollama('llama3.1:8b', '8.0B', 'qwen2'), openrouter('meta-llama/llama-3.1-8b-instruct')],
  [ollama('llama3.2:3b', '1.2B'), openrouter('meta-llama/llama-3.2-3b-instruct')],
  [ollama('deepseek-r1:8b-llama-distill-q8_0', '8.2B', 'qwen3'), openrouter('deepseek/deepseek-r1-distill-llama-8b')],
  // trained again for a quantisation, run elsewhere, with a longer context, by another route
  [ollama('gemma3:27b-it-qat'), openrouter('google/gemma-3-27b-it')],
  [ollama('gpt-oss:120b-cloud'), openrouter('openai/gpt-oss-120b')],
  [ollama('hf.co/Qwen/Qwen2.5-7B-Instruct-1M-GGUF'), openrouter('qwen/qwen-2.5-7b-instruct')],
  [ollama('llama3.1:8b'), openrouter('meta-llama/llama-3.1-8b-instruct:online')],
  [ollama('llama3.1:8b'), openrouter('~meta-llama/llama-3.1-8b-instruct')],
  // a slug and its Hugging Face name that disagree
  [ollama('llama3.1:8b'), openrouter('meta-llama/llama-3.1-8b-instruct', 'meta-llama/Llama-3.2-8B-Instruct')],
  [ollama('llama3.2:1b'), openrouter('meta-llama/llama-3.2-3b-instruct', 'meta-llama/Llama-3.2-1B-Instruct')],
  [ollama('llama3.1:8b-text'), openrouter('meta-llama/llama-3.1-8b-instruct', 'meta-llama/Llama-3.1-8B')],
  [ollama('qwen2.5:7b'), openrouter('meta-llama/llama-3.1-8b-instruct', 'Qwen/Qwen2.5-7B-Instruct')],
  // two quantisations of what was not joined
  [ollama('llama3.2:3b-text-q4_0'), ollama('llama3.2:3b-instruct-q8_0')],
  [ollama('qwen2.5-coder:7b-base-q4_0'), ollama('qwen2.5-coder:7b-instruct-q8_0')],
  [ollama('deepseek-r1:8b-llama-distill-q4_K_M'), ollama('deepseek-r1:8b-0528-qwen3-q8_0')]
]

t.test('names that only look alike are never joined', async t => {
  t.ok(nearMisses.length >= 50)
  for (const [a, b] of nearMisses) {
    t.notOk(areJoined(a, b), `${a.name} | ${b.name}`)
    t.notOk(areJoined(b, a), `${b.name} | ${a.name}`)
  }
  // All of them at once: a third name must not bring two together either.
  const whole = joinModels(nearMisses.flat(), none)
  const together = nearMisses.filter(([a, b]) =>
    whole.joined.some(({ members }) => [a, b].every(({ name }) => members.some(member => member.name === name)))
  )
  t.same(together, [])
})

const truePairs: readonly (readonly [NamedModel, NamedModel])[] = [
  [ollama('llama3.2:3b'), openrouter('meta-llama/llama-3.2-3b-instruct')],
  [ollama('llama3.2:3b-instruct-q4_K_M'), openrouter('meta-llama/llama-3.2-3b-instruct:free')],
  [ollama('llama3.2:1b'), openrouter('meta-llama/llama-3.2-1b-instruct', 'meta-llama/Llama-3.2-1B-Instruct')],
  [ollama('llama3.1:8b'), openrouter('meta-llama/llama-3.1-8b-instruct', 'meta-llama/Meta-Llama-3.1-8B-Instruct')],
  [ollama('llama3.1', '8.0B', 'llama'), openrouter('meta-llama/llama-3.1-8b-instruct')],
  [ollama('llama3.1:latest', '70.6B', 'llama'), openrouter('meta-llama/llama-3.1-70b-instruct')],
  [ollama('llama3.3:70b'), openrouter('meta-llama/llama-3.3-70b-instruct')],
  [ollama('llama3:70b'), openrouter('meta-llama/llama-3-70b-instruct')],
  [ollama('llama3.2-vision:11b', '10.7B', 'mllama'), openrouter('meta-llama/llama-3.2-11b-vision-instruct')],
  [ollama('llama4:16x17b'), openrouter('meta-llama/llama-4-scout', 'meta-llama/Llama-4-Scout-17B-16E-Instruct')],
  [ollama('llama4:maverick'), openrouter('meta-llama/llama-4-maverick', 'meta-llama/Llama-4-Maverick-17B-128E-Instruct')],
  [ollama('llama-guard3:8b'), openrouter('meta-llama/llama-guard-3-8b')],
  [ollama('llama3.1:8b-text-q8_0'), server('meta-llama/Meta-Llama-3.1-8B-Base')],
  [ollama('qwen2.5:7b'), openrouter('qwen/qwen-2.5-7b-instruct')],
  [ollama('qwen2.5:latest', '7.6B', 'qwen2'), openrouter('qwen/qwen-2.5-7b-instruct', 'Qwen/Qwen2.5-7B-Instruct')],
  [ollama('qwen2.5:72b'), openrouter('qwen/qwen-2.5-72b-instruct')],
  [ollama('qwen2.5-coder:32b'), openrouter('qwen/qwen-2.5-coder-32b-instruct')],
  [ollama('qwen2.5vl:72b'), openrouter('qwen/qwen2.5-vl-72b-instruct')],
  [ollama('qwen3:8b'), openrouter('qwen/qwen3-8b')],
  [ollama('qwen3:14b', '14.8B', 'qwen3'), openrouter('qwen/qwen3-14b', 'Qwen/Qwen3-14B')],
  [ollama('qwen3:32b-q8_0'), server('Qwen/Qwen3-32B-FP8')],
  [ollama('qwen3:30b-a3b-instruct-2507-q8_0'), openrouter('qwen/qwen3-30b-a3b-instruct-2507')],
  [ollama('qwen3:30b-a3b-thinking-2507-q4_K_M'), openrouter('qwen/qwen3-30b-a3b-thinking-2507')],
  [ollama('qwen3:235b-a22b-instruct-2507-q4_K_M'), openrouter('qwen/qwen3-235b-a22b-2507', 'Qwen/Qwen3-235B-A22B-Instruct-2507')],
  [ollama('qwen3-coder:30b'), openrouter('qwen/qwen3-coder-30b-a3b-instruct')],
  [ollama('qwen3-coder:480b'), openrouter('qwen/qwen3-coder', 'Qwen/Qwen3-Coder-480B-A35B-Instruct')],
  [ollama('qwen3-vl:8b-instruct'), openrouter('qwen/qwen3-vl-8b-instruct')],
  [ollama('qwen3-vl:8b-thinking-q4_K_M'), openrouter('qwen/qwen3-vl-8b-thinking')],
  [ollama('qwen3.5:9b'), openrouter('qwen/qwen3.5-9b')],
  [ollama('gemma3:27b'), openrouter('google/gemma-3-27b-it')],
  [ollama('gemma3:12b-it-q8_0'), openrouter('google/gemma-3-12b-it')],
  [ollama('gemma3n:e4b'), openrouter('google/gemma-3n-e4b-it')],
  [ollama('gemma2:27b'), openrouter('google/gemma-2-27b-it')],
  [ollama('gemma3:27b-it-qat'), ollama('hf.co/google/gemma-3-27b-it-qat-q4_0-gguf')],
  [ollama('phi4:14b'), openrouter('microsoft/phi-4')],
  [ollama('phi4', '14.7B', 'phi3'), openrouter('microsoft/phi-4')],
  [ollama('phi4-mini:3.8b'), openrouter('microsoft/phi-4-mini-instruct')],
  [ollama('gpt-oss:20b'), openrouter('openai/gpt-oss-20b:free')],
  [ollama('gpt-oss:latest', '20.9B', 'gptoss'), openrouter('openai/gpt-oss-20b')],
  [ollama('gpt-oss:120b', '116.8B', 'gptoss'), openrouter('openai/gpt-oss-120b')],
  [ollama('mistral-small3.2:24b'), openrouter('mistralai/mistral-small-3.2-24b-instruct', 'mistralai/Mistral-Small-3.2-24B-Instruct-2506')],
  [ollama('mistral-small:24b'), openrouter('mistralai/mistral-small-24b-instruct-2501')],
  [ollama('mistral-nemo:12b'), openrouter('mistralai/mistral-nemo', 'mistralai/Mistral-Nemo-Instruct-2407')],
  [ollama('mixtral:8x22b'), openrouter('mistralai/mixtral-8x22b-instruct', 'mistralai/Mixtral-8x22B-Instruct-v0.1')],
  [ollama('mistral:7b-instruct-v0.3-q4_0'), openrouter('mistralai/mistral-7b-instruct-v0.3')],
  [ollama('ministral-3:8b-instruct-2512-q4_K_M'), openrouter('mistralai/ministral-8b-2512', 'mistralai/Ministral-3-8B-Instruct-2512')],
  [ollama('devstral-2:123b-instruct-2512-q4_K_M'), openrouter('mistralai/devstral-2512', 'mistralai/Devstral-2-123B-Instruct-2512')],
  [ollama('deepseek-r1:32b'), openrouter('deepseek/deepseek-r1-distill-qwen-32b')],
  [ollama('deepseek-r1:70b-llama-distill-q4_K_M'), openrouter('deepseek/deepseek-r1-distill-llama-70b')],
  [ollama('deepseek-r1:8b', '8.2B', 'qwen3'), openrouter('deepseek/deepseek-r1-0528-qwen3-8b')],
  [ollama('deepseek-r1:8b', '8.0B', 'llama'), openrouter('deepseek/deepseek-r1-distill-llama-8b')],
  [ollama('deepseek-r1:671b-0528-q4_K_M'), openrouter('deepseek/deepseek-r1-0528', 'deepseek-ai/DeepSeek-R1-0528')],
  [ollama('deepseek-v3.1:671b-terminus-q4_K_M'), openrouter('deepseek/deepseek-v3.1-terminus', 'deepseek-ai/DeepSeek-V3.1-Terminus')],
  [ollama('hermes3:70b'), openrouter('nousresearch/hermes-3-llama-3.1-70b')],
  [ollama('granite3.3:8b'), server('ibm-granite/granite-3.3-8b-instruct')],
  [ollama('olmo-3:32b-think'), openrouter('allenai/olmo-3-32b-think')],
  [ollama('hf.co/bartowski/Llama-3.2-3B-Instruct-GGUF:Q4_K_M'), openrouter('meta-llama/llama-3.2-3b-instruct')],
  [ollama('hf.co/bartowski/google_gemma-3-27b-it-GGUF:Q6_K'), openrouter('google/gemma-3-27b-it')],
  [ollama('hf.co/unsloth/Qwen3-30B-A3B-Instruct-2507-GGUF:UD-Q4_K_XL'), openrouter('qwen/qwen3-30b-a3b-instruct-2507')],
  // A release that is not known here, with everything said.
  [ollama('qwen9:40b-a4b-instruct-q4_K_M'), openrouter('qwen/qwen9-40b-a4b-instruct')],
  // The same at two quantisations.
  [ollama('llama3.2:3b-instruct-q4_K_M'), ollama('llama3.2:3b-instruct-q8_0')],
  [ollama('qwen3:8b'), ollama('qwen3:8b-fp16')]
]

t.test('two names of one model are joined', async t => {
  t.ok(truePairs.length >= 30)
  for (const [a, b] of truePairs) t.ok(areJoined(a, b), `${a.name} | ${b.name}: ${keyOf(a)} | ${keyOf(b)}`)
})

t.test('what the server says fills in what the name leaves out, and nothing else does', async t => {
  const read = (name: string, facts: ModelFacts) => {
    const parsed = parseModelName(name, { upstreamKind: 'ollama', ...facts })
    return parsed === null ? null : { size: parsed.size, quantization: parsed.quantization, key: joinKeyOf(parsed) }
  }
  t.same(read('llama3.1', { parameterSize: '8.0B', quantizationLevel: 'Q4_K_M' }), {
    size: '8b',
    quantization: 'Q4_K_M',
    key: 'llama 3.1 8b instruct'
  })
  t.same(read('llama3.1', {}), { size: null, quantization: null, key: null })
  t.same(read('llama3.1', { parameterSize: 'unknown', quantizationLevel: 'unknown' }), { size: null, quantization: null, key: null })
  t.equal(read('llama3.1', { parameterSize: '30B' })?.size, null, 'no size of this release')
  t.equal(read('qwen2.5:latest', { parameterSize: '494.03M' })?.size, '0.5b')
  t.equal(read('qwen3:latest', { parameterSize: '30.5B' })?.size, null, '30b-a3b and 32b are both near')
  t.equal(read('gemma2:latest', { parameterSize: '2.6B' })?.size, '2b')
  t.equal(read('llama3.1:8b-instruct-q8_0', { quantizationLevel: 'Q4_0' })?.quantization, 'Q8_0', 'the name comes first')
  t.equal(parseModelName('qwen9:latest', { parameterSize: '40.1B' })?.sizeB, 40.1, 'counted, but not a size in a name')
  t.equal(parseModelName('deepseek-r1:8b', { upstreamKind: 'ollama', family: 'constructor' })?.variant, null)
})

t.test('what was taken to be so, and what speaks against joining, is told', async t => {
  t.same(parseModelName('llama3.2:3b')?.assumed, ["instruct is what Ollama's tag without a variant means"])
  t.same(parseModelName('llama3.2:3b-instruct')?.assumed, [])
  t.same(parseModelName('mistral-small:24b')?.assumed, [
    "3 is the version of Ollama's mistral-small of 24b",
    "instruct is what Ollama's tag without a variant means"
  ])
  t.same(parseModelName('microsoft/phi-4')?.assumed, [
    '14b is the only size of this release',
    "main is what its publisher's name without a variant means"
  ])
  t.same(parseModelName('llama3.1', { parameterSize: '8.0B' })?.assumed[0], '8b is what its server counts')
  t.same(parseModelName('someone/llama3.2:3b')?.doubts, ['the namespace "someone" may hold anything'])
  t.same(parseModelName('llama3.2:3b-mine')?.doubts, ['"mine" is not understood'])
  t.same(parseModelName('llama3.2:7b')?.doubts, ['7b is not a size of this release'])
  t.same(parseModelName('solar:10.7b')?.doubts, ['its family is not known here, nor what its names leave unsaid'])
  t.same(parseModelName('qwen3:8b-14b')?.doubts, ['it says two sizes, 8b and 14b'])
  t.same(parseModelName('deepseek-r1:7b-distill')?.doubts[0], 'it does not say what it was distilled onto')
  t.same(parseModelName('llama3.2:3b-base-instruct')?.doubts, ['it says that it is base, and is not'])
  t.same(parseModelName('mistral:7b-instruct')?.doubts, ['it does not say its version'])
  t.same(parseModelName('hf.co/Qwen/Qwen2.5-7B-Instruct-1M')?.doubts, ['"1m" is not understood'])
  t.same(parseModelName('mistral-small:24b-constructor')?.doubts, ['"constructor" is not understood'])
  t.match(parseModelName('qwen3-embedding:8b')?.doubts, ['its vectors are compared only where the configuration says so'])
  t.equal(parseModelName('meta-llama/llama-3.2-3b-instruct:free')?.route, 'free')
})

t.test('groups tell their members, with the quantisation of each, and the reason', async t => {
  const { joined, guesses } = joinModels(
    [
      ollama('llama3.2:3b-instruct-q4_K_M'),
      { name: 'llama3.2:3b', upstreamKind: 'ollama', facts: { quantizationLevel: 'Q8_0' } },
      openrouter('meta-llama/llama-3.2-3b-instruct'),
      openrouter('qwen/qwen3-8b')
    ],
    none
  )
  t.same(
    joined.map(({ key, members, reason }) => ({ key, reason, members: members.map(({ name, quantization }) => [name, quantization]) })),
    [
      {
        key: 'llama 3.2 3b instruct',
        reason: `the same family, version, size and variant: llama 3.2 3b instruct; of "llama3.2:3b", instruct is what Ollama's tag without a variant means`,
        members: [
          ['llama3.2:3b-instruct-q4_K_M', 'Q4_K_M'],
          ['llama3.2:3b', 'Q8_0'],
          ['meta-llama/llama-3.2-3b-instruct', null]
        ]
      }
    ]
  )
  t.same(guesses, [])
})

t.test('names that may be one model and were not joined are listed, with what is missing', async t => {
  const guess = (...names: NamedModel[]) => joinModels(names, none).guesses
  t.same(guess(ollama('llama3.1'), openrouter('meta-llama/llama-3.1-8b-instruct')), [
    { names: ['llama3.1', 'meta-llama/llama-3.1-8b-instruct'], reason: '"llama3.1": it does not say its size' }
  ])
  t.same(guess(ollama('qwen3:30b'), openrouter('qwen/qwen3-30b-a3b')), [
    { names: ['qwen3:30b', 'qwen/qwen3-30b-a3b'], reason: '"qwen3:30b": it does not say its variant, and may mean several' }
  ])
  t.same(guess(ollama('llama3.2:3b-text'), openrouter('meta-llama/llama-3.2-3b-instruct')), [
    {
      names: ['llama3.2:3b-text', 'meta-llama/llama-3.2-3b-instruct'],
      reason: '"llama3.2:3b-text" is llama 3.2 3b base, "meta-llama/llama-3.2-3b-instruct" is llama 3.2 3b instruct'
    }
  ])
  t.same(guess(ollama('solar:10.7b'), openrouter('upstage/solar-10.7b'))[0]?.names, ['solar:10.7b', 'upstage/solar-10.7b'])
  t.same(guess(ollama('llama3:8b'), openrouter('meta-llama/llama-3.1-8b-instruct')), [], 'another version is no guess')
  t.same(guess(ollama('llama3.1:8b'), openrouter('meta-llama/llama-3.1-70b-instruct')), [], 'another size is no guess')
  t.same(guess(ollama('qwen3:8b'), openrouter('qwen/qwen3-max')), [], 'another line is no guess')
  t.same(guess(openrouter('qwen/qwen3-30b-a3b'), openrouter('qwen/qwen3-30b-a3b-2507')), [], "one provider's list tells them apart")
  t.equal(guess(ollama('qwen3:30b'), ollama('qwen3:30b-a3b-thinking-2507-q4_K_M')).length, 1, "Ollama's names do not")
  const unjoined = nearMisses.filter(([a, b]) => keyOf(a) === null && keyOf(b) !== null && guess(a, b).length === 0)
  t.same(
    unjoined.map(([a, b]) => `${a.name} ${b.name}`),
    [
      'qwen3-embedding:8b qwen/qwen3-8b',
      'deepseek-r1:8b deepseek/deepseek-r1',
      'hf.co/bartowski/someone_Llama-3.2-3B-Instruct-GGUF meta-llama/llama-3.2-3b-instruct'
    ],
    'listed whenever one of two is in doubt, but for another line, size or family'
  )
})

t.test('many guesses end at a number that is told', async t => {
  const names = Array.from({ length: 3_000 }, (_, index) => ollama(`llama3.1:8b-x${index}`))
  const { guesses, moreGuesses } = joinModels(names, none)
  t.equal(guesses.length, 1_000)
  t.ok(moreGuesses)
  t.notOk(joinModels(names.slice(0, 10), none).moreGuesses)
})

t.test('a name that means different models on different servers is joined with nothing', async t => {
  const rented = [openrouter('meta-llama/llama-3.1-8b-instruct'), openrouter('meta-llama/llama-3.1-70b-instruct')]
  const { joined, guesses } = joinModels([ollama('llama3.1', '8.0B'), ollama('llama3.1', '70.6B'), ...rented], none)
  t.same(joined, [])
  t.match(guesses[0]?.reason, '"llama3.1" is not the same model on every server')
  t.same(
    joinModels([ollama('llama3.1', '8.0B'), ollama('llama3.1:latest'), ...rented], none).joined,
    [],
    'nor one that is known on one only'
  )
  t.equal(joinModels([ollama('llama3.1', '8.0B'), ollama('llama3.1:latest', '8.0B'), ...rented], none).joined.length, 1)
})

t.test('the configuration wins, for a join and against one', async t => {
  const home = ollama('my-llama')
  const small = ollama('llama3.2:3b')
  const rented = openrouter('meta-llama/llama-3.2-3b-instruct')
  const other = openrouter('qwen/qwen3-8b')
  const groups = (names: readonly NamedModel[], overrides: Record<string, string>) =>
    joinModels(names, new Map(Object.entries(overrides))).joined.map(({ members }) => members.map(({ name }) => name))

  t.same(groups([home, rented], { 'my-llama': rented.name }), [['my-llama', rented.name]])
  t.same(groups([home, rented], { 'my-llama:latest': rented.name }), [['my-llama', rented.name]], 'x:latest is x')
  t.same(groups([home, rented], { 'my-llama': 'llama3.2:3b' }), [['my-llama', rented.name]], 'a name that nobody lists is read')
  t.same(groups([home, other], { 'my-llama': 'our-model', [other.name]: 'our-model' }), [['my-llama', other.name]], 'or stands for itself')
  t.same(groups([small, rented], { 'llama3.2:3b': 'llama3.2:3b' }), [], 'a name that is mapped to itself stays alone')
  t.same(groups([small, rented], { [rented.name]: rented.name }), [])
  t.same(groups([small, rented, home], { 'llama3.2:3b': 'llama3.2:3b', 'my-llama': 'llama3.2:3b' }), [['llama3.2:3b', 'my-llama']])
  t.same(
    groups([small, rented, other], { 'llama3.2:3b': other.name }),
    [['llama3.2:3b', other.name]],
    'taken out of one group into another'
  )
  t.same(groups([small, home, other], { 'my-llama': 'llama3.2:3b', 'llama3.2:3b': other.name }), [['llama3.2:3b', 'my-llama', other.name]])
  t.same(
    groups([small, home, rented], { 'my-llama': 'llama3.2:3b', 'llama3.2:3b': 'my-llama' }),
    [['llama3.2:3b', 'my-llama']],
    'a circle ends'
  )

  const { joined, guesses } = joinModels([home, rented], new Map([['my-llama', rented.name]]))
  t.match(joined[0]?.reason, 'the configuration says so of "my-llama"')
  t.same(guesses, [])
  t.same(joinModels([small, rented], new Map([['llama3.2:3b', 'llama3.2:3b']])).guesses, [], 'what was decided is no guess')
})

const pieces = fc.constantFrom(
  ...[
    'llama',
    'llama3.2',
    'qwen',
    'qwen3',
    'deepseek-r1',
    'mistral-small',
    'hf.co',
    'unsloth',
    'meta-llama',
    'qwen',
    'latest',
    'constructor'
  ],
  ...['3b', '8b', '30b', 'a3b', '8x7b', '16e', '1m', 'e4b', '0.5b', '671b', '3.2', 'v0.3', '2507', '0528', 'q4_K_M', 'q8_0', 'fp16'],
  ...['instruct', 'it', 'base', 'text', 'coder', 'vl', 'distill', 'thinking', 'free', 'gguf', 'cloud', '__proto__', 'tostring', '0', ''],
  ...['-', '-', '-', ':', '/', '.', '_', '~', '=']
)
const anyName = fc.oneof(
  fc.string({ maxLength: 300 }),
  fc.string({ unit: 'binary', maxLength: 300 }),
  fc.array(pieces, { maxLength: 24 }).map(parts => parts.join('')),
  fc.array(pieces, { maxLength: 12 }).map(parts => parts.join('-'))
)
const anyFacts = fc.record(
  {
    parameterSize: fc.oneof(fc.string(), fc.constantFrom('8.0B', '3.2B', '0B')),
    quantizationLevel: fc.string(),
    family: anyName,
    huggingFaceId: anyName
  },
  { requiredKeys: [] }
)
const realName = fc.constantFrom(...[...nearMisses, ...truePairs].flat())
const anyModel: fc.Arbitrary<NamedModel> = fc.oneof(
  realName,
  fc.record({ name: anyName, upstreamKind: fc.constantFrom('ollama', 'openrouter', 'openai'), facts: anyFacts })
)
const fewModels = fc.array(anyModel, { maxLength: 12 })

t.test('no text and no fact makes it throw', async () => {
  fc.assert(
    fc.property(anyName, fc.option(fc.constantFrom('ollama', 'openrouter', 'openai', 'huggingface')), anyFacts, (name, kind, facts) => {
      const parsed = parseModelName(name, { ...facts, upstreamKind: kind ?? undefined })
      const key = parsed === null ? null : joinKeyOf(parsed)
      return key === null || (typeof key === 'string' && parsed !== null && parsed.doubts.length === 0)
    }),
    { numRuns: 3_000 }
  )
})

t.test('a key is there only when family, version, size and variant are known, and does not hold the quantisation', async t => {
  const whole = parseModelName('llama3.2:3b-q4_K_M')
  if (whole === null) return t.fail('no name')
  t.equal(joinKeyOf(whole), 'llama 3.2 3b instruct')
  for (const part of ['version', 'size', 'variant'] as const) t.equal(joinKeyOf({ ...whole, [part]: null }), null, part)
  t.equal(joinKeyOf({ ...whole, variant: [] }), null)
  t.equal(joinKeyOf({ ...whole, doubts: ['anything'] }), null)
  t.equal(joinKeyOf({ ...whole, quantization: 'F16' }), joinKeyOf(whole))
})

/** Who is with whom, without order. */
function partition(models: readonly NamedModel[], overrides: ReadonlyMap<string, string>): string[] {
  return joinModels(models, overrides)
    .joined.map(({ key, members }) => [key, ...members.map(({ name, upstreamKind }) => `${upstreamKind} ${name}`).sort()].join('\n'))
    .sort()
}

const someOverrides = fewModels.chain(models =>
  fc.array(fc.tuple(fc.nat(), fc.nat()), { maxLength: 6 }).map(pairs => {
    const name = (index: number) => models[index % Math.max(1, models.length)]?.name ?? 'x'
    return [models, new Map(pairs.map(([from, to]) => [name(from), name(to)]))] as const
  })
)

t.test('the order of the names does not matter, and each is in one group at most', async () => {
  fc.assert(
    fc.property(someOverrides, fc.infiniteStream(fc.nat()), ([models, overrides], order) => {
      const shuffled = models.map(model => [order.next().value, model] as const).sort(([a], [b]) => a - b)
      const groups = joinModels(models, overrides).joined
      const names = groups.flatMap(({ members }) => [...new Set(members.map(({ name }) => name))])
      return (
        JSON.stringify(partition(models, overrides)) ===
          JSON.stringify(
            partition(
              shuffled.map(([, model]) => model),
              overrides
            )
          ) && new Set(names).size === names.length
      )
    }),
    { numRuns: 500 }
  )
})

t.test('without a word of the configuration, only equal keys are joined', async () => {
  fc.assert(
    fc.property(fewModels, models => {
      const keys = new Map(models.map(model => [model.name, keyOf(model)]))
      return joinModels(models, none).joined.every(
        ({ key, members }) => key.startsWith('=') || members.every(({ name }) => keys.get(name) === key)
      )
    }),
    { numRuns: 500 }
  )
})

t.test('whatever else is listed, a name that is mapped to itself is alone, and one that is mapped is with its canonical name', async () => {
  fc.assert(
    fc.property(fewModels, anyModel, anyModel, (others, one, canonical) => {
      const alone = joinModels([...others, one], new Map([[one.name, one.name]]))
      const plain = (name: string) => name.replace(/:latest$/, '')
      if (alone.joined.some(({ members }) => members.some(({ name }) => plain(name) === plain(one.name)))) return false
      if (plain(one.name) === plain(canonical.name)) return true
      return joinModels([...others, one, canonical], new Map([[one.name, canonical.name]])).joined.some(({ members }) =>
        [one, canonical].every(({ name }) => members.some(member => plain(member.name) === plain(name)))
      )
    }),
    { numRuns: 500 }
  )
})

t.test('the work is in proportion to the length, for the worst of 10,000 names too', async t => {
  const long = (text: string) => text.repeat(300).slice(0, 299)
  const seeds = [
    'a',
    '1',
    '-',
    '_',
    '.',
    '1.',
    'q4',
    'q4_',
    '.q4',
    'a-',
    '1b',
    '3x',
    'v1',
    'llama',
    'llama-',
    '-3b',
    ':',
    'qwen3-',
    'iq4_k_',
    'e4'
  ]
  const worst = seeds.flatMap(seed => [
    long(seed),
    `llama${long(seed)}`.slice(0, 299),
    `qwen3:${long(seed)}`.slice(0, 299),
    `hf.co/a/${long(seed)}`.slice(0, 299)
  ])
  const names = Array.from({ length: 10_000 }, (_, index) => worst[index % worst.length] ?? '')
  // The characters that expressions are given are the steps they take, as none of them goes back (below).
  let steps = 0
  const { exec } = RegExp.prototype
  t.teardown(() => Object.assign(RegExp.prototype, { exec }))
  RegExp.prototype.exec = function (text: string) {
    steps += 1 + text.length
    return exec.call(this, text)
  }
  for (const name of names) parseModelName(name)
  RegExp.prototype.exec = exec
  const characters = names.reduce((sum, name) => sum + name.length, 0)
  t.ok(steps < 60 * characters, `${(steps / characters).toFixed(1)} steps for a character`)
  for (const file of ['place', 'read', 'parse', 'fill', 'words']) {
    const source = readFileSync(new URL(`../../routing/model-names/${file}.ts`, import.meta.url), 'utf8')
    t.notMatch(source, /\)[*+]/, `${file}.ts repeats no group without an end, so that no expression can go back and forth`)
  }
})
