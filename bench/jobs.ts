// What it costs to submit jobs and to list them, and how soon they start. `npm run bench:jobs [-- --quick]`.

import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { createSubmitter, rowOf } from '../queue/submit.ts'
import type { JobFilter } from '../queue/types.ts'
import { uuidv7 } from '../routing/ids.ts'
import { listJobs } from '../store/jobs/read.ts'
import { measureStreams } from './streams.ts'
import { fill, openBenchDatabase, reset } from './support/database.ts'
import { publish, type Row, rateRow, timesOf, timesRow } from './support/figures.ts'
import { startBenchGateway } from './support/gateway.ts'

const isQuick = process.argv.includes('--quick')
const many = isQuick ? 20_000 : 1_000_000
const rows: Row[] = []
// One case takes seconds; whoever waits sees them come.
const add = (row: Row): void => {
  rows.push(row)
  process.stderr.write(`${row.name}: ${row.figure}\n`)
}

const database = await openBenchDatabase(process.env.BENCH_DATABASE_URL)
const { pool, boss } = database

// 1. submit
await reset(pool, { count: 1, places: 4 })
const submitter = createSubmitter({ pool, boss })
const seconds = isQuick ? 2 : 5
add(rateRow('submit, one after another', await submits(1), 500))
add(rateRow('submit, 32 at once', await submits(32), null))
add(rateRow('submit, 256 at once', await submits(256), 5_000))

// 2. lists
await reset(pool, { count: 20, places: 1 })
await fill(pool, { count: many, lanes: 40, isMixed: true })
const none: JobFilter = { status: null, kind: null, model: null, device: null, source: null, createdAfter: null, createdBefore: null }
const lists: Record<string, Partial<JobFilter>> = {
  'no filter': {},
  source: { source: 'source7' },
  'status error': { status: 'error' },
  'status queued': { status: 'queued' },
  kind: { kind: 'embed' },
  model: { model: 'm3' },
  device: { device: 'box3' },
  'source and status': { source: 'source7', status: 'queued' },
  'source and model': { source: 'source7', model: 'm7' },
  'source and kind': { source: 'source7', kind: 'chat' },
  'device and status': { device: 'box3', status: 'error' },
  'the last minute': { createdAfter: Date.now() - 60_000 },
  'source, of which there is none': { source: 'nobody' }
}
for (const [name, filter] of Object.entries(lists)) {
  const times: number[] = []
  for (let at = 0; at < (isQuick ? 50 : 200); at++) {
    const began = performance.now()
    await listJobs(pool, { filter: { ...none, ...filter }, source: null, after: null, limit: 20 })
    times.push(performance.now() - began)
  }
  add(timesRow(`list of ${many.toLocaleString('en')}: ${name}`, timesOf(times), { p50: 2 }))
}
const { label } = database
await database.close()

// 3. submit to start, over HTTP, on an idle gateway
add(timesRow('submit to start: a chat job on an idle machine, over HTTP', timesOf(await starts()), { p50: 15 }))

// 4. streams
const streams = await measureStreams(isQuick ? { seconds: 3 } : {})
add(timesRow('100 streams x 50 tokens/s: a token within one process', { ...streams.withinMs, count: streams.tokens }, { p99: 5 }))
add(timesRow('100 streams x 50 tokens/s: a token across processes', { ...streams.acrossMs, count: streams.tokens }, { p99: 80 }))
const cpu = streams.databaseCpuPercent
add({ name: '100 streams x 50 tokens/s: the database', figure: `${cpu.toFixed(1)} % of a core`, bound: '≤ 5 %', isMet: cpu <= 5 })

publish(new URL('results-queue.md', import.meta.url), `Jobs${isQuick ? ' (quick)' : ''}`, label, rows)
process.exit(rows.every(({ isMet }) => isMet) ? 0 : 1)

/** Jobs a second. */
async function submits(atOnce: number): Promise<number> {
  const until = performance.now() + seconds * 1_000
  const began = performance.now()
  let count = 0
  await Promise.all(
    Array.from({ length: atOnce }, async (_, caller) => {
      while (performance.now() < until) {
        const source = `source${caller % 50}`
        await submitter.submit(
          rowOf({
            id: uuidv7(Date.now()),
            kind: 'echo',
            class: 'normal',
            model: null,
            request: null,
            echo: Buffer.from(JSON.stringify({ text: 'x'.repeat(600) })),
            caller: { keyId: null, source, subSource: null, kind: 'source', models: null, providers: null },
            weight: 1,
            maxAttempts: 3,
            deadlineAt: null,
            maxCostUsd: null,
            stream: false,
            idempotency: null,
            metadata: null,
            webhookUrl: null
          })
        )
        count++
      }
    })
  )
  return (count / (performance.now() - began)) * 1_000
}

/** From the client's call to the moment the machine hears of it, ms: both clocks are ours. */
async function starts(): Promise<number[]> {
  const heard = new Map<string, number>()
  const machine = createServer((request, response) => {
    const chunks: Buffer[] = []
    request.on('data', chunk => chunks.push(chunk))
    request.on('end', () => {
      response.setHeader('content-type', request.url === '/api/chat' ? 'application/x-ndjson' : 'application/json')
      if (request.url === '/api/tags')
        return response.end(JSON.stringify({ models: [{ name: 'm:latest', model: 'm:latest', size: 1e9, details: {} }] }))
      if (request.url === '/api/version') return response.end('{"version":"0.20.0"}')
      if (request.url === '/api/ps') return response.end('{"models":[]}')
      if (request.url === '/api/show') return response.end(JSON.stringify({ capabilities: ['completion'], model_info: {}, details: {} }))
      // A command to load it, ahead of its requests.
      if (request.url === '/api/generate') return response.end('{"done":true}')
      const body = JSON.parse(Buffer.concat(chunks).toString())
      heard.set(body.messages[0].content, performance.now())
      response.end(
        `${JSON.stringify({ model: 'm', created_at: new Date().toISOString(), message: { role: 'assistant', content: 'yes' }, done: false })}\n${JSON.stringify({ model: 'm', created_at: new Date().toISOString(), message: { role: 'assistant', content: '' }, done: true, done_reason: 'stop', prompt_eval_count: 3, eval_count: 1, total_duration: 1, eval_duration: 1 })}\n`
      )
    })
  })
  await new Promise<void>(resolve => machine.listen(0, '127.0.0.1', resolve))
  const gateway = await startBenchGateway({
    machines: { box: { url: `http://127.0.0.1:${(machine.address() as AddressInfo).port}`, max_concurrency: 4 } }
  })
  const times: number[] = []
  for (let at = 0; at < (isQuick ? 50 : 300); at++) {
    const text = `job ${at}`
    const began = performance.now()
    const payload = { model: 'm', messages: [{ role: 'user', content: text }] }
    const answer = await gateway.fetch('/v1/jobs', { json: { kind: 'chat', payload } })
    if (answer.status !== 202) throw new Error(`${answer.status} ${await answer.text()}`)
    while (!heard.has(text)) await new Promise(resolve => setTimeout(resolve, 1))
    times.push((heard.get(text) as number) - began)
  }
  await gateway.stop()
  machine.close()
  return times
}
