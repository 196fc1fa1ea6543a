// A server on a free port of the loopback, for pretended machines and providers.

import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'

export type Json = Readonly<Record<string, unknown>>

export interface Served {
  readonly url: string
  close(): void
}

/** `answer` is told the path and the body, which is empty when there was none. */
export async function serve(answer: (path: string, body: Json, response: ServerResponse) => void): Promise<Served> {
  const server = createServer((request, response) => {
    bodyOf(request).then(
      body => answer(request.url ?? '/', body, response),
      () => response.destroy()
    )
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    close() {
      server.close()
      server.closeAllConnections()
    }
  }
}

export function json(response: ServerResponse, value: unknown, { status = 200, headers = {} as Record<string, string> } = {}): void {
  if (response.destroyed) return
  response.writeHead(status, { 'content-type': 'application/json', ...headers }).end(JSON.stringify(value))
}

async function bodyOf(request: IncomingMessage): Promise<Json> {
  const chunks: Buffer[] = []
  for await (const chunk of request) chunks.push(chunk as Buffer)
  const text = Buffer.concat(chunks).toString('utf8')
  return text === '' ? {} : (JSON.parse(text) as Json)
}
