// Machines of a tailnet, faked on addresses of 127.0.0.0/8: each with its own way to answer, or not to. Linux only: elsewhere they do not exist.

import { createServer, type RequestListener } from 'node:http'
import { connect, createServer as createTcpServer, type Server, type Socket } from 'node:net'
import { Worker } from 'node:worker_threads'
import type { Test } from 'tap'

/** For the options of a test. */
export const skipWithoutLoopbackNetwork = process.platform === 'linux' ? false : 'only Linux has all of 127.0.0.0/8 without being told to'

/** The same port on all machines, as Ollama's is; below the ports that systems give out. */
export const machinePort = 21_434

/** Different addresses in each test file, because files run side by side. */
export function machineAddress(number: number): string {
  return `127.${64 + (process.pid % 128)}.${(process.pid >> 7) % 256}.${number}`
}

/** An Ollama with these models, as it answers. */
export function ollama(models: readonly string[], { version = '0.32.7' }: { readonly version?: string } = {}): RequestListener {
  return (request, response) => {
    const entries = models.map(name => ({ name, model: name, size: 4_000_000_000, details: { family: 'llama', context_length: 8192 } }))
    const loaded = entries.slice(0, 1).map(entry => ({ ...entry, size_vram: entry.size, context_length: 4096 }))
    if (request.url === '/api/version') response.end(JSON.stringify({ version }))
    else if (request.url === '/api/tags') response.end(JSON.stringify({ models: entries }))
    else if (request.url === '/api/ps') response.end(JSON.stringify({ models: loaded }))
    else response.writeHead(404).end('404 page not found')
  }
}

/** A server with OpenAI's list of models. */
export function compatible(models: readonly string[]): RequestListener {
  return (request, response) => {
    if (request.url === '/v1/models') response.end(JSON.stringify({ object: 'list', data: models.map(id => ({ id, object: 'model' })) }))
    else response.writeHead(404, { 'content-type': 'application/json' }).end('{"detail":"Not Found"}')
  }
}

export interface Machine {
  readonly address: string
  readonly port: number
  /** `Host path` of each request. */
  readonly asked: string[]
  connections(): number
}

export async function machine(t: Test, address: string, listener: RequestListener, port = machinePort): Promise<Machine> {
  const asked: string[] = []
  const server = createServer((request, response) => {
    asked.push(`${request.headers.host} ${request.url}`)
    listener(request, response)
  })
  const counted = await listen(t, server, { address, port })
  return { address, port: counted.port, asked, connections: counted.connections }
}

/** A machine that speaks no HTTP by itself. */
export async function tcpMachine(t: Test, address: string, connected: (socket: Socket) => void, port = machinePort): Promise<Machine> {
  const counted = await listen(t, createTcpServer(connected), { address, port })
  return { address, port: counted.port, asked: [], connections: counted.connections }
}

async function listen(
  t: Test,
  server: Server,
  { address, port }: { readonly address: string; readonly port: number }
): Promise<{ port: number; connections(): number }> {
  const sockets = new Set<Socket>()
  let count = 0
  server.on('connection', (socket: Socket) => {
    count++
    sockets.add(socket)
    socket.on('close', () => sockets.delete(socket))
    socket.on('error', () => {})
  })
  await new Promise<void>((resolve, reject) => server.once('error', reject).listen(port, address, resolve))
  t.teardown(() => {
    for (const socket of sockets) socket.destroy()
    return new Promise(resolve => server.close(resolve))
  })
  const bound = server.address()
  return { port: typeof bound === 'object' && bound !== null ? bound.port : port, connections: () => count }
}

/**
 * Machines that drop connections, as a firewall does: their listeners stand in a thread that never takes one, and their short
 * queues are full. Resolves when they are.
 */
export async function droppingMachines(t: Test, addresses: readonly string[], port = machinePort): Promise<void> {
  const gate = new Int32Array(new SharedArrayBuffer(4))
  const source = `
    const { parentPort, workerData } = require('node:worker_threads')
    const { createServer } = require('node:net')
    const servers = []
    const listening = workerData.addresses.map(host => new Promise((resolve, reject) => {
      const server = createServer(socket => socket.destroy())
      server.on('error', reject).listen({ host, port: workerData.port, backlog: 1 }, resolve)
      servers.push(server)
    }))
    Promise.all(listening).then(() => {
      parentPort.postMessage('listening')
      Atomics.wait(workerData.gate, 0, 0)
      process.exit()
    })`
  const worker = new Worker(source, { eval: true, workerData: { addresses, port, gate } })
  const fillers: Socket[] = []
  t.teardown(async () => {
    for (const socket of fillers) socket.destroy()
    Atomics.store(gate, 0, 1)
    Atomics.notify(gate, 0)
    await worker.terminate()
  })
  await new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject))
  // A queue of 1 holds two on Linux.
  const filled = addresses.flatMap(host =>
    [1, 2].map(() => {
      const socket = connect({ host, port })
      socket.on('error', () => {})
      fillers.push(socket)
      return new Promise(resolve => socket.once('connect', resolve))
    })
  )
  await Promise.all(filled)
}
