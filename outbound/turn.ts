// What is written in one turn of the event loop goes out together at its end. Whoever reads it is woken once, and not for each piece while we
// are busy with the next: with the reader on another processor that took us 5 us each (perf, docs/decisions/where-the-time-goes.md).

import type { Socket } from 'node:net'

let held: Socket[] = []

/** What is written to this socket from here on goes out when all that has arrived by now was looked at: nothing waits for a clock. */
export function holdUntilTurnEnd(socket: Socket): void {
  if (socket.writableCorked > 0) return
  socket.cork()
  if (held.push(socket) === 1) setImmediate(releaseAll)
}

function releaseAll(): void {
  const sockets = held
  held = []
  for (const socket of sockets) socket.uncork()
}
