// The clients, in a process of their own: raw sockets, so that they cost less than what they measure. Driven by messages of speed/clients.ts.

import { connect, type Socket } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import type { Closed, ClosedFigures, Order, Paired, PairedFigures, Streamed, StreamedFigures } from './clients.ts'

process.on('message', (order: Order) => {
  void run(order).then(
    figures => process.send?.({ figures }),
    (error: unknown) => process.send?.({ error: String(error) })
  )
})
process.on('disconnect', () => process.exit(0))
process.send?.('ready')

function run(order: Order): Promise<ClosedFigures | PairedFigures | StreamedFigures> {
  if (order.kind === 'closed') return closed(order)
  return order.kind === 'paired' ? paired(order) : streamed(order)
}

/** One connection and one request at a time on it. */
class Line {
  readonly socket: Socket
  private onEnd: ((isGood: boolean) => void) | null = null
  private onToken: (() => void) | null = null
  private status = ''
  private left = -1
  private tail = ''
  private head: Buffer | null = null

  constructor(port: number) {
    this.socket = connect({ port, host: '127.0.0.1', noDelay: true })
    this.socket.on('data', bytes => this.read(bytes))
    this.socket.on('close', () => this.over(false))
    this.socket.on('error', () => this.over(false))
  }

  /** `onEnd`: the answer is whole, and a 200. `onToken`: the first token is here. */
  ask(request: Buffer, onEnd: (isGood: boolean) => void, onToken: (() => void) | null = null): void {
    this.onEnd = onEnd
    this.onToken = onToken
    this.status = ''
    this.left = -1
    this.tail = ''
    this.head = null
    this.socket.write(request)
  }

  private over(isGood: boolean): void {
    const end = this.onEnd
    this.onEnd = null
    end?.(isGood)
  }

  private read(bytes: Buffer): void {
    if (this.onToken !== null && bytes.includes('#')) {
      this.onToken()
      this.onToken = null
    }
    let body = bytes
    if (this.status === '') {
      const all: Buffer = this.head === null ? bytes : Buffer.concat([this.head, bytes])
      const end = all.indexOf('\r\n\r\n')
      if (end < 0) {
        this.head = all
        return
      }
      const head = all.toString('latin1', 0, end)
      this.status = head.slice(9, 12)
      const length = /\r\ncontent-length: *(\d+)/i.exec(head)
      this.left = length === null ? -1 : Number(length[1])
      body = all.subarray(end + 4)
    }
    if (this.left >= 0) {
      this.left -= body.length
      if (this.left <= 0) this.over(this.status === '200')
      return
    }
    this.tail = (this.tail + body.toString('latin1', Math.max(0, body.length - 7))).slice(-7)
    if (this.tail === '\r\n0\r\n\r\n') this.over(this.status === '200')
  }
}

/** As many requests as come back, on each connection one after the other. */
function closed({ target, connections, seconds }: Closed): Promise<ClosedFigures> {
  const request = Buffer.from(target.request, 'latin1')
  return new Promise(resolve => {
    let answers = 0
    let failed = 0
    let open = connections
    const startedAt = performance.now()
    const until = startedAt + seconds * 1_000
    for (let at = 0; at < connections; at++) {
      const line = new Line(target.port)
      const next = (isGood: boolean): void => {
        if (isGood) answers++
        else failed++
        if (isGood && performance.now() < until) return line.ask(request, next)
        line.socket.destroy()
        if (--open === 0) resolve({ answers, failed, seconds: (performance.now() - startedAt) / 1_000 })
      }
      line.ask(request, next)
    }
  })
}

/** One request at a time, to each target in turn: whatever disturbs the machine disturbs all alike. */
async function paired({ targets, rounds, untilToken }: Paired): Promise<PairedFigures> {
  const lines = targets.map(({ port }) => new Line(port))
  const requests = targets.map(({ request }) => Buffer.from(request, 'latin1'))
  const times: number[][] = targets.map(() => [])
  let failed = 0
  for (let round = -20; round < rounds; round++) {
    for (const [at, line] of lines.entries()) {
      const startedAt = performance.now()
      const took = await new Promise<number | null>(resolve => {
        let tokenMs: number | null = null
        const onToken = untilToken ? (): void => void (tokenMs = performance.now() - startedAt) : null
        const onEnd = (isGood: boolean): void => resolve(isGood ? (tokenMs ?? performance.now() - startedAt) : null)
        line.ask(requests[at] as Buffer, onEnd, onToken)
      })
      if (took === null) {
        failed++
        line.socket.destroy()
        lines[at] = new Line((targets[at] as { port: number }).port)
      } else if (round >= 0) times[at]?.push(took)
      // Whatever a target does after its answer is done before the next one is asked.
      await delay(2)
    }
  }
  for (const { socket } of lines) socket.destroy()
  return { times, failed }
}

interface Reader {
  next: number
  reordered: number
  carry: string
  text: string
  isDone: boolean
}

/** Many streams at once, each token by its number and age. */
async function streamed({ target, streams, tokens, everyMs, graceMs }: Streamed): Promise<StreamedFigures> {
  const request = Buffer.from(target.request, 'latin1')
  const delays: number[] = []
  const firsts: number[] = []
  const readers: Reader[] = []
  const sockets: Socket[] = []
  let done = 0
  let received = 0
  let failed = 0
  let lastAt = performance.now()
  let firstAt: number | null = null
  let finished: () => void = () => {}
  const all = new Promise<void>(resolve => {
    finished = resolve
  })
  function take(reader: Reader, bytes: Buffer): void {
    const text = reader.carry + bytes.toString('latin1')
    let at = 0
    for (;;) {
      const start = text.indexOf('#', at)
      if (start < 0) {
        at = text.length
        break
      }
      const end = text.indexOf(';', start)
      if (end < 0) {
        at = start
        break
      }
      // Where a piece of the transfer ends within it.
      const token = text.slice(start + 1, end).replaceAll(/\r\n[0-9a-f]+\r\n/g, '')
      const middle = token.indexOf('@')
      if (Number(token.slice(0, middle)) !== reader.next) reader.reordered++
      reader.next++
      if (++received % 16 === 0) delays.push((Number(process.hrtime.bigint()) - Number(token.slice(middle + 1))) / 1e6)
      at = end + 1
    }
    reader.carry = text.slice(at)
    reader.text = (reader.text + text).slice(-7)
    lastAt = performance.now()
    firstAt ??= lastAt
    if (!reader.isDone && reader.text === '\r\n0\r\n\r\n') {
      reader.isDone = true
      if (++done === streams) finished()
    }
  }
  // Opened over one interval, as streams of different people are.
  const openedAt = performance.now()
  for (let at = 0; at < streams; at++) {
    const waitMs = openedAt + (at * 1_000) / streams - performance.now()
    if (waitMs > 1) await delay(waitMs)
    const reader: Reader = { next: 0, reordered: 0, carry: '', text: '', isDone: false }
    readers.push(reader)
    const askedAt = performance.now()
    const socket = connect({ port: target.port, host: '127.0.0.1', noDelay: true })
    sockets.push(socket)
    socket.on('error', () => {})
    socket.on('close', () => {
      if (reader.isDone) return
      reader.isDone = true
      failed++
      if (++done === streams) finished()
    })
    socket.on('data', bytes => {
      if (reader.next === 0 && reader.text === '') firsts.push(performance.now() - askedAt)
      take(reader, bytes)
    })
    socket.write(request)
  }
  await Promise.race([all, delay(tokens * everyMs + graceMs)])
  const ended = done - failed
  for (const socket of sockets) socket.destroy()
  const offered = streams * tokens
  return {
    offered,
    received,
    failed,
    ended,
    lost: offered - received,
    reordered: readers.reduce((sum, reader) => sum + reader.reordered, 0),
    delays: sample(delays),
    firsts: sample(firsts),
    seconds: (lastAt - (firstAt ?? lastAt)) / 1_000
  }
}

function sample(values: number[]): StreamedFigures['delays'] {
  const sorted = values.sort((a, b) => a - b)
  const at = (share: number): number => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN
  return { p50: at(0.5), p99: at(0.99) }
}
