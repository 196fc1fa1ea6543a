// What HTTP alone costs: Node's server before undici's pool, and no duty at all.

import { createServer, type ServerResponse } from 'node:http'
import { type Dispatcher, Pool } from 'undici'

const pool = new Pool(`http://127.0.0.1:${process.argv[2]}`, { connections: 1_100, pipelining: 1 })
const headers = { 'content-type': 'application/json', authorization: 'Bearer sk-upstream' }

class Relay implements Dispatcher.DispatchHandler {
  readonly response: ServerResponse
  pieces: Buffer[] = []
  isStream = false

  constructor(response: ServerResponse) {
    this.response = response
  }

  onRequestStart(controller: Dispatcher.DispatchController): void {
    this.response.on('close', () => {
      if (!this.response.writableFinished) controller.abort(new Error('the client left'))
    })
  }

  onResponseStart(_controller: Dispatcher.DispatchController, status: number, given: Record<string, string | string[] | undefined>): void {
    const type = String(given['content-type'] ?? 'application/json')
    this.isStream = type.startsWith('text/event-stream')
    if (this.isStream) this.response.writeHead(status, { 'content-type': type })
  }

  onResponseData(_controller: Dispatcher.DispatchController, piece: Buffer): void {
    if (this.isStream) this.response.write(piece)
    else this.pieces.push(piece)
  }

  onResponseEnd(): void {
    if (this.isStream) return void this.response.end()
    const body = this.pieces.length === 1 ? (this.pieces[0] as Buffer) : Buffer.concat(this.pieces)
    this.response.writeHead(200, { 'content-type': 'application/json', 'content-length': body.length })
    this.response.end(body)
  }

  onResponseError(): void {
    this.response.destroy()
  }
}

const server = createServer({ noDelay: true }, (request, response) => {
  const pieces: Buffer[] = []
  request.on('data', piece => pieces.push(piece))
  request.on('end', () => {
    const body = pieces.length === 1 ? (pieces[0] as Buffer) : Buffer.concat(pieces)
    pool.dispatch({ path: request.url ?? '/', method: 'POST', headers, body }, new Relay(response))
  })
})

server.listen(0, '127.0.0.1', () => process.send?.({ port: (server.address() as { port: number }).port }))
process.on('disconnect', () => process.exit(0))
