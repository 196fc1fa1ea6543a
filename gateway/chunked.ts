// A streamed body in one write for each token. Node's own chunked encoding makes three buffers of each, and handing three to the kernel
// costs as much again as one. Large pieces are not copied: for a reader that stands still, that would be its memory twice.

import type { ServerResponse } from 'node:http'
import { holdUntilTurnEnd } from '../outbound/turn.ts'

const lineEnd = Buffer.from('\r\n')
const lastChunk = Buffer.from('0\r\n\r\n')
const copiedBytesAtMost = 8 * 1024

/** Writes the body of a response whose head was just written, by RFC 9112, 7.1, or plainly where the client does not know chunks (HTTP/1.0). */
export interface BodyWriter {
  /** False = the reader is full. */
  write(bytes: Buffer): boolean
  end(bytes?: Buffer): void
}

/** From here on nobody else may write to it. */
export function createBodyWriter(response: ServerResponse): BodyWriter {
  const isChunked = response.chunkedEncoding
  // What is written now goes out as it is.
  response.chunkedEncoding = false
  return {
    // A chunk of no bytes would be the end.
    write(bytes) {
      if (bytes.length === 0) return !response.writableNeedDrain
      // Null while an earlier answer on this connection is not over.
      if (response.socket !== null) holdUntilTurnEnd(response.socket)
      if (!isChunked) return response.write(bytes)
      if (bytes.length <= copiedBytesAtMost) return response.write(chunk(bytes))
      response.write(`${bytes.length.toString(16)}\r\n`, 'latin1')
      response.write(bytes)
      return response.write(lineEnd)
    },
    end(bytes) {
      const last = bytes === undefined || bytes.length === 0 ? null : bytes
      if (!isChunked) response.end(last ?? undefined)
      else response.end(last === null ? lastChunk : Buffer.concat([chunk(last), lastChunk]))
    }
  }
}

function chunk(bytes: Buffer): Buffer {
  const size = bytes.length.toString(16)
  const framed = Buffer.allocUnsafe(size.length + bytes.length + 4)
  let at = framed.write(size, 0, 'latin1')
  at += lineEnd.copy(framed, at)
  at += bytes.copy(framed, at)
  lineEnd.copy(framed, at)
  return framed
}
