// Which addresses discovery may contact: those in the configured ranges, as literals, and nothing else.

import { isIP } from 'node:net'
import { isWithin, rangesOf } from '../../outbound/guarded/addresses.ts'
import { createOpenings } from '../../outbound/guarded/openings.ts'

export interface AddressGuard {
  /** False for what is no address. An entry with a port of its own allows that port only. */
  allows(address: string, port?: number): boolean
}

/** This machine and the tailnet. */
export const defaultRanges: readonly string[] = ['127.0.0.0/8', '::1/128', '100.64.0.0/10', 'fd7a:115c:a1e0::/48']

// Whatever the configuration says: no machine of anybody's is found there, but metadata and other networks are.
const never = rangesOf([
  '0.0.0.0/8',
  // Link-local, with the metadata of most clouds; then Oracle's and Azure's.
  '169.254.0.0/16',
  '192.0.0.0/24',
  '168.63.129.16/32',
  // Within the tailnet's ranges, but never a node: Tailscale's own service, Alibaba's metadata, ChromeOS.
  '100.100.100.0/24',
  '100.115.92.0/23',
  'fd7a:115c:a1e0::53/128',
  // Multicast, reserved, broadcast.
  '224.0.0.0/3',
  '::/128',
  // IPv4 in disguise: NAT64, Teredo, 6to4.
  '64:ff9b::/96',
  '64:ff9b:1::/48',
  '2001::/32',
  '2002::/16',
  // Metadata of AWS and Google.
  'fd00:ec2::/32',
  'fd20:ce::/32',
  'fe80::/10',
  'ff00::/8'
])

/** Entries are ranges in CIDR form, addresses, or `address:port` (IPv6 in brackets). Throws on others, on names too. */
export function createAddressGuard(ranges: readonly string[]): AddressGuard {
  for (const entry of ranges) if (!isNumeric(entry)) throw new Error(`"${entry}" is no range of addresses`)
  const openings = createOpenings(ranges)
  return {
    allows(address, port = 0) {
      const canonical = canonicalAddress(address)
      return canonical !== null && !isWithin(never, canonical) && openings.hasAddress(canonical, port)
    }
  }
}

/** The one short spelling of an address; null for what is none, for IPv4 inside IPv6, and with an interface (`%eth0`). */
export function canonicalAddress(text: string): string | null {
  const family = text.includes('%') ? 0 : isIP(text)
  if (family !== 6) return family === 4 ? text : null
  const short = URL.parse(`http://[${text}]/`)?.hostname.slice(1, -1) ?? null
  // A BlockList would take it for the IPv4 address in it.
  return short?.startsWith('::ffff:') === true ? null : short
}

/** Names are never looked up, and so a rule about one would never hold. */
function isNumeric(entry: string): boolean {
  const address = entry.replace(/\/\d+$/, '')
  return isIP(address) !== 0 || isIP(address.replace(/:\d+$/, '').replace(/^\[|\]$/g, '')) !== 0
}
