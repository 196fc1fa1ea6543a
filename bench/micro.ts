// What single duties of a request cost, in microseconds: against the one that has become dear without anybody noticing. `npm run bench:micro`.
// The least of several rounds, in one process with nothing else; what they cost together is more, for the collector comes on top (bench/speed.ts).

import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { isPlain } from '../adapters/shared/chunks.ts'
import { readBody } from '../gateway/body.ts'
import { readChatRequest } from '../gateway/dialects/openai-chat.ts'
import { hashKey } from '../gateway/keys.ts'
import { createJournal } from '../ledger/journal.ts'
import { createSseSplitter, eachEvent } from '../outbound/sse.ts'
import { createAffinity } from '../routing/brain/affinity.ts'
import { createLengthModel } from '../routing/brain/lengths.ts'
import { uuidv7 } from '../routing/ids.ts'
import { createLoad } from '../routing/load.ts'
import { Passing } from '../routing/places.ts'
import { estimateTokens } from '../routing/tokens.ts'
import type { CostRow } from '../store/costs.ts'
import { chatOf } from './speed/requests.ts'
import { publish, type Row } from './support/figures.ts'

const folder = mkdtempSync(join(tmpdir(), 'llm-mcp-micro-'))
const knobs = { requestId: uuidv7(Date.now()), localOnly: false }
const bodies = Object.fromEntries(
  (['1 KB', '64 KB'] as const).map(size => {
    const { request } = chatOf({ port: 1, headers: {} }, { size })
    return [size, Buffer.from(request.slice(request.indexOf('\r\n\r\n') + 4), 'latin1')]
  })
) as Record<'1 KB' | '64 KB', Buffer>
const token = Buffer.from(
  'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1760000000,"model":"m","choices":[{"index":0,"delta":{"content":"word"},"logprobs":null,"finish_reason":null}],"usage":null}\n\n'
)
const row = {
  attemptId: '',
  source: 'me',
  model: 'gpt-4o-mini',
  provider: 'openai',
  costNanoUsd: 42_000,
  promptTokens: 200
} as unknown as CostRow

const journal = createJournal(folder, { processId: 'micro', pid: process.pid, startTicks: null, realm: 'micro' })
const load = createLoad(() => performance.now())
const lengths = createLengthModel()
const affinity = createAffinity()
const chain = readChatRequest(bodies['64 KB'], knobs).request.prefix ?? []
const splitter = createSseSplitter(1e6)
const passing = new Passing<{ readonly id: string }>()
let ids = 0

/** µs; the bound is twice to three times what was measured when it was set: other machines are slower, and none by ten times. */
const duties: readonly (readonly [name: string, boundUs: number, run: () => unknown])[] = [
  ['a body of 1 KB is read', 15, () => readBody(bodies['1 KB'])],
  ['a body of 64 KB is read', 250, () => readBody(bodies['64 KB'])],
  ['a chat request of 1 KB, as routing needs it', 25, () => readChatRequest(bodies['1 KB'], knobs)],
  ['a chat request of 64 KB, with the links of its conversation', 400, () => readChatRequest(bodies['64 KB'], knobs)],
  ['the model of 64 KB is changed', 60, withModel()],
  ['a key is hashed', 3, () => hashKey('sk-llm-0123456789abcdef0123456789abcdef')],
  ['an id', 3, () => uuidv7(Date.now())],
  ['an estimate of tokens', 1, () => estimateTokens({ textBytes: 4_000, messages: 12, pictures: 0 })],
  ['lengths of answers are looked up', 6, () => lengths.of('me', 'gpt-4o-mini', 500)],
  ['a length is learned', 6, () => lengths.observe('me', 'gpt-4o-mini', { tokens: 120, isCut: false })],
  ['how much of a conversation is kept', 3, () => affinity.cached('openai/gpt-4o-mini', chain, 1)],
  [
    'a call begins and ends, for the load',
    4,
    () => {
      load.begin('openai')
      load.finish('openai', 12)
    }
  ],
  [
    'something comes and goes',
    1,
    () => {
      const id = `id-${ids++}`
      passing.set(id, { id })
      passing.delete(id)
    }
  ],
  [
    'an intent and a settlement are journalled',
    40,
    () => {
      const attempt = { ...row, attemptId: `a${ids++}` }
      journal.intent(attempt)
      journal.settle(attempt)
      journal.stored([attempt])
    }
  ],
  [
    'a token is cut and looked at',
    4,
    () => {
      const block = splitter.push(token) as Buffer
      if (!isPlain(block)) throw new Error('it is plain')
      eachEvent(block, () => {})
    }
  ]
]

const rows: Row[] = []
for (const [name, boundUs, run] of duties) {
  const us = least(run)
  rows.push({ name, figure: `${us.toFixed(us < 10 ? 2 : 1)} us`, bound: `≤ ${boundUs} us`, isMet: us <= boundUs })
}
journal.close()
rmSync(folder, { recursive: true, force: true })
publish(new URL('results.md', import.meta.url), 'Single duties', 'the least of 12 rounds', rows)
if (rows.some(({ isMet }) => !isMet)) process.exitCode = 1

function withModel(): () => unknown {
  const body = readBody(bodies['64 KB'])
  return () => body.with({ model: 'another/model' })
}

/** µs a time. */
function least(run: () => unknown): number {
  let best = Number.POSITIVE_INFINITY
  for (let round = 0; round < 12; round++) {
    const beganAt = performance.now()
    let times = 0
    // As often as twenty milliseconds take.
    for (; performance.now() - beganAt < 20; times += 20) for (let count = 0; count < 20; count++) run()
    best = Math.min(best, ((performance.now() - beganAt) * 1e3) / times)
  }
  return best
}
