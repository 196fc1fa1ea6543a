// What the operator has opened for strangers' URLs although it is not public: receivers in the own network.

import { type BlockList, isIP } from 'node:net'
import { isWithin, rangesOf } from './addresses.ts'

export interface Openings {
  /** Whether all addresses of this name are open. `host` as a URL has it, without brackets and final dot. */
  hasHost(host: string, port: number): boolean
  hasAddress(address: string, port: number): boolean
}

interface Opening {
  readonly host: string | null
  readonly range: BlockList | null
  /** Null = every port. */
  readonly port: number | null
}

/** Entries are `host`, `host:port` (a name or an address; IPv6 with a port in brackets) or a range in CIDR form. Throws on others. */
export function createOpenings(entries: readonly string[]): Openings {
  const openings = entries.map(openingOf)
  return {
    hasHost: (host, port) => openings.some(opening => opening.host === host && (opening.port ?? port) === port),
    hasAddress: (address, port) =>
      openings.some(opening => opening.range !== null && isWithin(opening.range, address) && (opening.port ?? port) === port)
  }
}

function openingOf(entry: string): Opening {
  if (entry.includes('/')) return { host: null, range: rangesOf([entry]), port: null }
  if (isIP(entry) === 6) return { host: null, range: rangesOf([`${entry}/128`]), port: null }
  const [, written, port] = /^(\[[^\]]+\]|[^:[\]\s@?#\\*]+)(?::(\d{1,5}))?$/.exec(entry) ?? []
  if (written === undefined || !URL.canParse(`http://${written}:${port ?? 80}/`)) {
    throw new Error(`"${entry}" is no host, host:port or range of addresses`)
  }
  const host = hostOf(new URL(`http://${written}/`))
  const family = isIP(host)
  return {
    host: family === 0 ? host : null,
    range: family === 0 ? null : rangesOf([`${host}/${family === 4 ? 32 : 128}`]),
    port: port === undefined ? null : Number(port)
  }
}

/** The host of a URL, without the brackets of an IPv6 address and without final dots: `localhost.` is `localhost`. */
export function hostOf(url: URL): string {
  return url.hostname.replace(/^\[|\]$/g, '').replace(/\.+$/, '')
}
