// UUIDv7 (RFC 9562, 5.7): ordered by time, unique without asking anyone.

import { randomFillSync } from 'node:crypto'

const pool = Buffer.alloc(16 * 256)
let used = pool.length

/** When a UUIDv7 was made: epoch, ms. */
export function timeOf(id: string): number {
  return Number.parseInt(id.slice(0, 8) + id.slice(9, 13), 16)
}

// Its 36 characters are written here, and read once: as slices of a longer text it would be nine objects.
const text = Buffer.alloc(36, 0x2d)
const hex = Buffer.from('0123456789abcdef')
const places = Uint8Array.of(0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34)

/** `nowMs`: epoch, ms. Random bits come from a pool, because one call to the generator costs more than 256 ids do. */
export function uuidv7(nowMs: number): string {
  if (used === pool.length) {
    randomFillSync(pool)
    used = 0
  }
  pool.writeUIntBE(nowMs, used, 6)
  for (let at = 0; at < 16; at++) {
    let byte = pool[used++] as number
    if (at === 6) byte = (byte & 0x0f) | 0x70
    else if (at === 8) byte = (byte & 0x3f) | 0x80
    const place = places[at] as number
    text[place] = hex[byte >> 4] as number
    text[place + 1] = hex[byte & 0x0f] as number
  }
  return text.toString('latin1')
}
