// Which addresses a stranger's URL may lead to: those of the public internet, and none of ours.

import { BlockList, isIP } from 'node:net'

// Of IANA's special-purpose registry, whatever is not globally reachable.
const reservedRanges4 = [
  '0.0.0.0/8',
  '10.0.0.0/8',
  // Carrier-grade NAT, and tailnets; Alibaba's metadata (100.100.100.200) is in it.
  '100.64.0.0/10',
  '127.0.0.0/8',
  // Link-local, with the metadata of most clouds.
  '169.254.0.0/16',
  '172.16.0.0/12',
  // Protocol assignments, with Oracle's metadata.
  '192.0.0.0/24',
  '192.0.2.0/24',
  // 6to4 relays.
  '192.88.99.0/24',
  '192.168.0.0/16',
  '198.18.0.0/15',
  '198.51.100.0/24',
  '203.0.113.0/24',
  '224.0.0.0/4',
  // With the broadcast address.
  '240.0.0.0/4',
  // Azure's host, which looks public and answers virtual machines only.
  '168.63.129.16/32'
]
const reservedRanges6 = [
  // Protocol assignments: Teredo, benchmarks, ORCHID.
  '2001::/23',
  '2001:db8::/32',
  // 6to4 carries any IPv4 address.
  '2002::/16',
  '3fff::/20'
]
const reserved = rangesOf([...reservedRanges4, ...reservedRanges6])
const globalUnicast = rangesOf(['2000::/3'])

/** False for what is no address, too, and for one that names an interface (`%eth0`). */
export function isPublic(address: string): boolean {
  const family = address.includes('%') ? 0 : isIP(address)
  if (family === 4) return !reserved.check(address, 'ipv4')
  // What is no global unicast is refused unseen: ::, ::1, mapped, NAT64, unique local, link-local, multicast, and whatever comes next.
  if (family === 6) return globalUnicast.check(address, 'ipv6') && !reserved.check(address, 'ipv6')
  return false
}

/** Whether the range holds the address; never for what is no address. */
export function isWithin(ranges: BlockList, address: string): boolean {
  const family = isIP(address)
  return family !== 0 && ranges.check(address, family === 4 ? 'ipv4' : 'ipv6')
}

/** Ranges in CIDR form. Throws on what is none. */
export function rangesOf(texts: readonly string[]): BlockList {
  const ranges = new BlockList()
  for (const text of texts) {
    const [, network, prefix] = /^([0-9a-f.:]+)\/(\d{1,3})$/i.exec(text) ?? []
    if (network === undefined || isIP(network) === 0) throw new Error(`"${text}" is no range of addresses`)
    ranges.addSubnet(network, Number(prefix), isIP(network) === 4 ? 'ipv4' : 'ipv6')
  }
  return ranges
}
