// Streams of jobs whose readers are cut anywhere, whose gateways are restarted, and whose workers are killed or frozen under them.

import t from 'tap'
import { type Chance, createChance } from '../chaos/chance.ts'
import { createDatabase } from '../support/cluster.ts'
import { type RunningGateway, startGateway } from '../support/gateway.ts'
import { nativeLines, startOllama } from '../support/upstream.ts'
import { until } from '../support/wait.ts'
import { type Json, jobsOf, model, untilListed } from './queue-support.ts'
import { createStreamReader, type StreamReader } from './stream-reader.ts'

const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 1e9))
t.comment(`SEED=${seed}`)
const chance = createChance(seed)

/** An answer of the machine that goes on as the test says. */
interface Speech {
  readonly said: string
  readonly isClosed: boolean
  say(...texts: readonly string[]): void
  end(): void
}

const database = await createDatabase(t)
const machine = await startOllama(t)
const speeches: Speech[] = []
machine.behaviour = (_call, response) => {
  let said = ''
  response.writeHead(200, { 'content-type': 'application/x-ndjson' })
  response.flushHeaders()
  speeches.push({
    get said() {
      return said
    },
    get isClosed() {
      return response.closed
    },
    say(...texts) {
      said += texts.join('')
      response.write(
        nativeLines(model, ...texts)
          .slice(0, -1)
          .join('')
      )
    },
    end: () => void response.end(nativeLines(model).join(''))
  })
}

const start = (role: string, port = '0'): Promise<RunningGateway> =>
  startGateway(t, {
    databaseUrl: database.url,
    config: { machines: { box: { url: machine.origin, max_concurrency: 4 } } },
    env: { LLM_MCP_ROLE: role, PORT: port }
  })
let [gateway, worker] = await Promise.all([start('gateway'), start('worker')])
await untilListed(gateway)

// What a stream of events, JSON, UTF-8 or a database could stumble over.
const words = [
  'a',
  ' word',
  'naïve ',
  '€',
  '😀',
  '\n',
  '\n\n',
  '\r\n',
  'data: x\n',
  'id: 9-9\n\n',
  '"',
  '\\',
  '\u2028',
  '\0',
  '[DONE]',
  '{"a":'
]

function pieces(chance: Chance, count: number): string[] {
  return Array.from({ length: count }, () => Array.from({ length: 1 + chance.below(6) }, () => chance.pick(words)).join(''))
}

async function begin(content: string): Promise<{ readonly id: string; readonly speech: Speech }> {
  const count = speeches.length
  const id = await jobsOf(gateway).chat(content, { stream: true })
  return { id, speech: await spoken(count) }
}

/** The machine's answer with this number, once it was asked for. */
function spoken(number: number): Promise<Speech> {
  return until('the machine to be asked', () => speeches[number])
}

/** Says more, a little at a time, until `reading` is over: each time when the reader has got what was said before. */
async function sayWhile<T>({ speech, heard, reading }: { speech: Speech; heard: () => string; reading: Promise<T> }): Promise<T> {
  let isOver = false
  const over = reading.finally(() => {
    isOver = true
  })
  while (!isOver) {
    speech.say(...pieces(chance, 1 + chance.below(6)))
    await until('the reader to have all that was said', () => isOver || heard() === speech.said)
  }
  return over
}

/** To the end, by any number of connections that are cut anywhere, ever later: the last event is as long as the answer. */
async function readOn(reader: StreamReader, chance: Chance): Promise<void> {
  for (let most = 2_000; most < 1e9; most *= 1.1) if ((await reader.read(gateway.url, { atByte: 1 + chance.below(most) })) === 'end') return
  throw new Error(`no end after ${reader.lastId()}`)
}

const contentOf = (job: Json): string => (job.result as { choices: { message: { content: string } }[] }).choices[0]?.message.content ?? ''
const markers = ({ events }: StreamReader): number[] => events.filter(({ event }) => event === 'attempt').map(({ attempt }) => attempt)

t.test('a reader that is cut at 50 random places, while its gateway is restarted three times, has what the machine said', async t => {
  const { id, speech } = await begin('a long answer')
  const reader = createStreamReader(id)
  const heard = (): string => reader.text(1)
  const port = new URL(gateway.url).port
  const signals = new Map<number, NodeJS.Signals>([
    [10, 'SIGKILL'],
    [22, 'SIGTERM'],
    [34, 'SIGKILL']
  ])

  async function restart(signal: NodeJS.Signals): Promise<void> {
    const bytes = 1 + chance.below(2_500)
    let stopped: ReturnType<RunningGateway['stop']> | undefined
    const before = { atByte: bytes, act: () => void (stopped = gateway.stop(signal)) }
    // One that leaves in order serves its readers on until they have left.
    const atByte = signal === 'SIGKILL' ? Number.POSITIVE_INFINITY : bytes + chance.below(2_500)
    const reading = reader.read(gateway.url, { atByte, before })
    const ending = await sayWhile({ speech, heard, reading })
    t.equal(ending, signal === 'SIGKILL' ? 'lost' : 'cut', signal)
    t.match(await stopped, signal === 'SIGKILL' ? { signal } : { code: 0 })
    speech.say(...pieces(chance, chance.below(20)))
    t.equal(await reader.read(gateway.url), 'refused', 'nobody is there')
    gateway = await start('gateway', port)
  }

  for (let cut = 0; cut < 45; cut++) {
    // Of this only the table knows.
    speech.say(...pieces(chance, chance.below(8)))
    const signal = signals.get(cut)
    if (signal !== undefined) await restart(signal)
    else {
      const reading = reader.read(gateway.url, { atByte: 1 + chance.below(2_500) })
      t.equal(await sayWhile({ speech, heard, reading }), 'cut', `${cut}`)
    }
  }
  // The last ones in what follows the machine's last word. The result repeats all that was said: its end is further than that.
  speech.say(...pieces(chance, 100))
  speech.end()
  const job = await jobsOf(gateway).until(id, 'done')
  for (let cut = 45; cut < 50; cut++)
    t.equal(await reader.read(gateway.url, { atByte: 1 + chance.below(Buffer.byteLength(speech.said)) }), 'cut', `${cut}`)
  t.equal(await reader.read(gateway.url), 'end')

  const text = Buffer.from(reader.text(1))
  t.comment(`${reader.events.length} events, ${text.length} bytes of text, ${reader.halves} cuts in the middle of an event`)
  t.same(reader.faults(), [])
  t.ok(text.equals(Buffer.from(speech.said)), 'its text is that of the machine')
  t.ok(text.equals(Buffer.from(contentOf(job))), 'and that of the result')
  t.match(reader.events.at(-2)?.data, { id, status: 'done', attempts: 1, result: job.result })
  t.same(markers(reader), [1])
  const later = createStreamReader(id)
  await readOn(later, chance)
  t.same(later.events, reader.events, 'who comes when all is over is told the same')
})

t.test('a job whose worker is killed: what it had said, the next attempt’s marker, and that attempt whole', async t => {
  const { id, speech } = await begin('killed')
  const chances = [chance.fork(), chance.fork(), chance.fork()]
  const cutAnywhere = chances.map(() => createStreamReader(id))
  const reading = cutAnywhere.map((reader, index) => readOn(reader, chances[index] as Chance))
  const [never, between, after] = [createStreamReader(id), createStreamReader(id), createStreamReader(id)]
  const through = never.read(gateway.url)
  for (const reader of [between, after])
    t.equal(
      await sayWhile({ speech, heard: () => reader.text(1), reading: reader.read(gateway.url, { atByte: 4_000 + chance.below(4_000) }) }),
      'cut'
    )
  await until('the one that is not cut to have all', () => never.text(1) === speech.said)
  const first = speech.said
  t.match(await worker.stop('SIGKILL'), { signal: 'SIGKILL' })
  speech.say(...pieces(chance, 5))
  await jobsOf(gateway).until(id, 'queued')
  // With what it has it stands where the first attempt broke off, and waits for what comes next.
  const onward = between.read(gateway.url)
  await until('it to have the rest of the first attempt', () => between.text(1) === first)

  const count = speeches.length
  worker = await start('worker')
  const second = await spoken(count)
  for (let round = 0; round < 20; round++) {
    second.say(...pieces(chance, 1 + chance.below(5)))
    await until('both to have all that was said', () => never.text(2) === second.said && between.text(2) === second.said)
  }
  second.end()
  t.same(await Promise.all([through, onward, after.read(gateway.url)]), ['end', 'end', 'end'])
  await Promise.all(reading)

  const job = await jobsOf(gateway).find(id)
  t.match(job, { status: 'done', attempts: 1 })
  t.equal(contentOf(job), second.said)
  for (const reader of [never, between, after, ...cutAnywhere]) {
    t.same(reader.faults(), [])
    t.same(markers(reader), [1, 2])
    t.ok(first.startsWith(reader.text(1)))
    t.equal(reader.text(2), second.said)
  }
  t.equal(never.text(1), first)
})

t.test('a worker that was frozen and goes on writing when another has taken over is not heard any more', async t => {
  const { id, speech } = await begin('frozen')
  const reader = createStreamReader(id)
  const reading = reader.read(gateway.url)
  speech.say(...pieces(chance, 10))
  await until('the beginning', () => reader.text(1) === speech.said)
  const frozen = worker
  frozen.child.kill('SIGSTOP')
  const count = speeches.length
  worker = await start('worker')
  const second = await spoken(count)
  second.say(...pieces(chance, 10))
  await until('the second attempt', () => reader.text(2) === second.said)
  const first = reader.text(1)
  speech.say(...pieces(chance, 10))
  frozen.child.kill('SIGCONT')
  await until('it to see that the job is not its own any more', () => speech.isClosed)
  second.say(...pieces(chance, 10))
  second.end()
  t.equal(await reading, 'end')
  const late = createStreamReader(id)
  t.equal(await late.read(gateway.url), 'end')
  t.same([...reader.faults(), ...late.faults()], [])
  t.same([markers(reader), markers(late)], [[1, 2], [2]])
  t.same([reader.text(1), reader.text(2), late.text(2)], [first, second.said, second.said])
  t.equal(contentOf(await jobsOf(gateway).find(id)), second.said)
})
