// What becomes of a body that is still on its way when its answer is known.

import type { IncomingMessage } from 'node:http'
import type { FastifyReply } from 'fastify'

// Reading this much to its end is cheaper, for both sides, than another connection.
const keptBytesAtMost = 64 * 1024
// Twice the largest body: whoever sends more does not listen for an answer.
const drainedBytesAtMost = 64 * 1024 * 1024
// After our last word: most refused bodies end within it, and their senders then read the answer undisturbed.
const lingerBytesAtMost = 1024 * 1024
const lingerMs = 1_000

/** True while a body is to come that is too long, or of unknown length, to be read for nothing. */
export function isUnread(request: IncomingMessage): boolean {
  const announced = request.headers['transfer-encoding'] !== undefined || Number(request.headers['content-length']) > keptBytesAtMost
  return announced && !request.complete
}

/** Reads a body that nobody wants, up to a bound; the request's own time-out ends a slow one. */
export function drain(request: IncomingMessage): void {
  let bytes = 0
  request.on('data', (chunk: Buffer) => {
    bytes += chunk.length
    if (bytes > drainedBytesAtMost) request.destroy()
  })
  request.resume()
}

/**
 * Makes the answer to come the last one of its connection, with next to nothing read of the body.
 * Closing on unread bytes resets the connection, and may take the answer from a sender that is still sending. So our side
 * ends first, the other has a second to notice, and only then is it cut off.
 */
export function closeUnread(request: IncomingMessage, reply: FastifyReply): void {
  const { socket } = request
  const destroySoon = socket.destroySoon.bind(socket)
  let bytes = 0
  reply.header('connection', 'close')
  request.on('data', (chunk: Buffer) => {
    bytes += chunk.length
    if (bytes > lingerBytesAtMost) request.pause()
  })
  // Node calls this when the last answer of a connection is written.
  socket.destroySoon = () => {
    if (request.readableEnded) return destroySoon()
    socket.end()
    const timer = setTimeout(() => socket.destroy(), lingerMs)
    request.once('end', destroySoon)
    socket.once('close', () => clearTimeout(timer))
  }
}
