// A legacy completion for Ollama's /api/generate: what the request becomes, and how its lines become OpenAI's text.

import type { ModelRequest, Target, Usage } from '../../routing/types.ts'
import type { NativeLine, TokenLogprobs } from './lines.ts'
import { optionFields, optionsOf } from './options.ts'
import { mayThink, type ThinkFields, thinkFields, wishedThinking } from './thinking.ts'
import { flag, isGiven, type Json, positiveWhole, unsupported, wrong } from './values.ts'
import { type Assembly, createBatch, createIdentity, type EventWriter, type ReplyPorts, usageJson } from './writing.ts'

const fields = ['best_of', 'echo', 'logprobs', 'max_tokens', 'n', 'prompt', 'raw', 'suffix'] as const
// Only what is listed can be read below, so that the list is true.
type CompletionBody = Readonly<Partial<Record<(typeof fields)[number], unknown>>> & ThinkFields

/** Everything that is looked at here; what else a client gives is left out. */
export const completionFields: readonly string[] = [...fields, ...optionFields, ...thinkFields]

// OpenAI's, and clients of this endpoint rely on it.
const defaultAnswerTokens = 16
const topLogprobsAtMost = 20

/** Throws GatewayError `invalid_request` and `unsupported_parameter`, as the chat does. */
export function toNativeCompletion({ body, input }: ModelRequest, target: Target): Json {
  const given = body.json()
  const asked: CompletionBody = given
  const [prompt, ...more] = input?.texts ?? []
  if (prompt === undefined || more.length > 0) throw unsupported('prompt', 'Ollama continues one prompt per request.')
  for (const name of ['n', 'best_of'] as const) {
    if (isGiven(asked[name]) && positiveWhole(asked[name], name) > 1)
      throw unsupported(name, `Ollama gives one answer per request; ${name} must be 1.`)
  }
  if (flag(asked.echo, 'echo') === true) throw unsupported('echo', 'Ollama does not repeat the prompt.')
  if (isGiven(asked.suffix) && typeof asked.suffix !== 'string') throw wrong('suffix', 'a string')
  const native: Record<string, unknown> = {
    model: target.model,
    prompt,
    stream: true,
    // An error instead of text that vanishes without a word.
    truncate: false,
    shift: false,
    options: optionsOf(given, {
      contextTokens: target.contextTokens,
      answerTokens: isGiven(asked.max_tokens) ? positiveWhole(asked.max_tokens, 'max_tokens') : null,
      defaultAnswerTokens
    })
  }
  const parts = {
    suffix: asked.suffix === '' ? undefined : asked.suffix,
    // Ollama's own: the prompt without the model's template.
    raw: flag(asked.raw, 'raw') === true ? true : undefined,
    // A model left to itself would think its few tokens away, and thoughts are no part of a completion.
    think: thinkOf(asked, target),
    keep_alive: target.upstream.device?.keepAlive,
    ...logprobsOf(asked.logprobs)
  }
  for (const [name, value] of Object.entries(parts)) {
    if (isGiven(value)) native[name] = value
  }
  return native
}

function thinkOf(asked: CompletionBody, target: Target): boolean | string | undefined {
  const wish = wishedThinking(asked)
  return mayThink(target) ? (wish ?? false) : undefined
}

/** Here a number: of the alternatives wanted beside the token itself. */
function logprobsOf(count: unknown): { readonly logprobs?: true; readonly top_logprobs?: number } {
  if (!isGiven(count)) return {}
  if (typeof count !== 'number' || !Number.isInteger(count) || count < 0 || count > topLogprobsAtMost)
    throw wrong('logprobs', `a whole number from 0 to ${topLogprobsAtMost}`)
  return { logprobs: true, top_logprobs: count }
}

/** Does the line bring a piece of the text? Thoughts are none. */
export function bringsText(line: NativeLine): boolean {
  return line.content !== ''
}

/** Several lines of one network chunk become one buffer. Finish last and once, whatever the lines are. */
export function createCompletionWriter(ports: ReplyPorts, includeUsage: boolean): EventWriter {
  const identity = createIdentity(ports, 'cmpl')
  const legacy = createLegacyLogprobs()
  const end = `}]${includeUsage ? ',"usage":null' : ''}}\n\n`
  let prefix = ''
  const batch = createBatch()

  function add(line: NativeLine): void {
    if (prefix === '') prefix = `data: ${identity(line.createdAt, 'text_completion')},"choices":[`
    const logprobs = logprobsToShow(line)
    if (bringsText(line) || logprobs !== null) {
      batch.text += `${prefix}${choiceStart(line.content)},"logprobs":${legacy(logprobs)},"finish_reason":null${end}`
    }
    if (bringsText(line)) batch.tokens++
    if (line.done) batch.text += `${prefix}${choiceStart('')},"logprobs":null,"finish_reason":"${finishOf(line)}"${end}`
  }

  return {
    add,
    take: batch.take,
    usageEvent: usage => Buffer.from(`data: ${identity(undefined, 'text_completion')},"choices":[],"usage":${usageJson(usage)}}\n\n`)
  }
}

/** Collects the lines of a completion that is not streamed to the client. */
export function createCompletionAssembly(ports: ReplyPorts, maxBytes: number): Assembly {
  const identity = createIdentity(ports, 'cmpl')
  const texts: string[] = []
  const logprobs: TokenLogprobs[] = []
  let start = ''
  let finish = 'stop'
  let bytes = 0

  function add(line: NativeLine): boolean {
    if (start === '') start = identity(line.createdAt, 'text_completion')
    const shown = logprobsToShow(line)
    if (shown !== null) {
      logprobs.push(...shown)
      bytes += JSON.stringify(shown).length
    }
    texts.push(line.content)
    bytes += Buffer.byteLength(line.content)
    if (line.done) finish = finishOf(line)
    return bytes <= maxBytes
  }

  function body(usage: Usage): Buffer {
    const probabilities = createLegacyLogprobs()(logprobs.length === 0 ? null : logprobs)
    const choice = `${choiceStart(texts.join(''))},"logprobs":${probabilities},"finish_reason":"${finish}"}`
    return Buffer.from(`${start},"choices":[${choice}],"usage":${usageJson(usage)}}`)
  }

  return { add, body }
}

function choiceStart(text: string): string {
  return `{"text":${JSON.stringify(text)},"index":0`
}

/** Those of thoughts belong to no text. */
function logprobsToShow(line: NativeLine): readonly TokenLogprobs[] | null {
  return line.thinking === '' ? line.logprobs : null
}

function finishOf(line: NativeLine): 'length' | 'stop' {
  return line.doneReason === 'length' ? 'length' : 'stop'
}

/** The form of this endpoint, as JSON: four lists side by side; offsets are characters from the beginning of the text. */
function createLegacyLogprobs(): (entries: readonly TokenLogprobs[] | null) => string {
  let offset = 0
  return entries => {
    if (entries === null) return 'null'
    const offsets = entries.map(({ token }) => {
      const at = offset
      offset += [...token].length
      return at
    })
    const hasTop = entries.some(({ top_logprobs: top }) => top.length > 0)
    return JSON.stringify({
      tokens: entries.map(({ token }) => token),
      token_logprobs: entries.map(({ logprob }) => logprob),
      top_logprobs: hasTop ? entries.map(({ top_logprobs: top }) => Object.fromEntries(top.map(one => [one.token, one.logprob]))) : null,
      text_offset: offsets
    })
  }
}
