// Recorded traffic of the real providers. It is not part of this repository; tests that need it are skipped by name without it.

import { existsSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import type { Behaviour } from './upstream.ts'

const folder = fileURLToPath(new URL('../../../shared/data/recordings/', import.meta.url))

/** For the options of a test. */
export const skipWithoutRecordings = existsSync(folder) ? false : 'the recordings of ../shared/data/recordings are not here'

export interface Interaction {
  readonly request: { readonly method: string; readonly uri: string; readonly body: Record<string, unknown> }
  readonly response: { readonly status: number; readonly headers: Record<string, string | string[]>; readonly body: unknown }
}

/** All of a file whose address ends like this. */
export function recorded(name: string, end: RegExp): Interaction[] {
  const { interactions } = JSON.parse(readFileSync(`${folder}${name}.json`, 'utf8')) as { interactions: Interaction[] }
  return interactions.filter(({ request }) => end.test(request.uri))
}

/** An answer as it was, to the byte where it was a stream. */
export function textOf({ response }: Interaction): string {
  return typeof response.body === 'string' ? response.body : JSON.stringify(response.body)
}

/** Serves a recorded answer in pieces that end where `cuts` says. */
export function replay(interaction: Interaction, cuts: readonly number[] = []): Behaviour {
  const bytes = Buffer.from(textOf(interaction))
  return async (_call, response) => {
    const type = interaction.response.headers['content-type']
    response.writeHead(interaction.response.status, { 'content-type': String(type ?? 'application/json') })
    response.flushHeaders()
    let from = 0
    for (const cut of cuts) {
      response.write(bytes.subarray(from, cut))
      from = cut
      // One piece, one packet.
      await new Promise(resolve => setImmediate(resolve))
    }
    response.end(bytes.subarray(from))
  }
}
