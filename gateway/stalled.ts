// Readers that take nothing of an answer, whatever answer it is: their connections are cut off, by one clock for all.

import type { Server } from 'node:http'
import type { Socket } from 'node:net'
import { stalledMs } from './reply.ts'

/** Watches the connections of a server from now on, until it closes. An answer that was taken at once costs nothing here. */
export function cutStalled(server: Server, { afterMs = stalledMs, lookEveryMs = 1_000 } = {}): void {
  const connections = new Set<Socket>()
  /** What the other side has not taken, and since when it has been as much. */
  const stalled = new Map<Socket, { readonly bytes: number; readonly since: number }>()
  const clock = setInterval(look, lookEveryMs)
  clock.unref()
  server.on('connection', (socket: Socket) => {
    connections.add(socket)
    socket.once('close', () => {
      connections.delete(socket)
      stalled.delete(socket)
    })
  })
  server.once('close', () => clearInterval(clock))

  function look(): void {
    const now = performance.now()
    for (const socket of connections) {
      if (socket.writableLength === 0) {
        if (stalled.size > 0) stalled.delete(socket)
        continue
      }
      const bytes = unsentBytes(socket)
      const known = stalled.get(socket)
      if (known === undefined || known.bytes !== bytes) stalled.set(socket, { bytes, since: now })
      else if (now - known.since > afterMs) socket.destroy()
    }
  }
}

/** Of a write that the kernel has taken in part, the socket itself only knows the whole. */
function unsentBytes(socket: Socket): number {
  const handle = (socket as { _handle?: { writeQueueSize?: number } | null })._handle
  return socket.writableLength + (handle?.writeQueueSize ?? 0)
}
