// The machines in a `tailscale status --json` that may have models. Others wrote it: every field is optional, nothing is believed.

import { canonicalAddress, createAddressGuard } from './guard.ts'
import { isObject, type Json, listOf, objectOf, plainText } from './values.ts'

export interface TailnetPeer {
  /** Stays with the node, unlike its key and its addresses. */
  readonly nodeId: string
  /** For people, without control characters. */
  readonly name: string
  /** In lower case, without the final dot; empty when it has none. */
  readonly dnsName: string
  /** Where to ask: 127.0.0.1 for this machine, else its first address in the tailnet (or its first one at all, which the guard judges). */
  readonly address: string
  /** All it has in the tailnet. */
  readonly addresses: readonly string[]
  readonly os: string | null
  readonly tags: readonly string[]
  /** What the control plane believes; it is minutes late. */
  readonly online: boolean
  readonly isSelf: boolean
  readonly route: 'direct' | 'relay' | null
}

const peersAtMost = 1_000
const addressesAtMost = 8
const tagsAtMost = 32
const handhelds = new Set(['ios', 'android', 'tvos'])
const tailnet4 = createAddressGuard(['100.64.0.0/10'])
const tailnet6 = createAddressGuard(['fd7a:115c:a1e0::/48'])

/**
 * This machine first, then those of its own tailnet, then those that others share, at most 1,000, each in the order of its id:
 * of two with one name, the stranger is last. Left out: offline, expired, hidden ones, phones and televisions, Mullvad's exits.
 */
export function peersOf(json: unknown): TailnetPeer[] {
  const status = objectOf(json)
  const suffix = `.${withoutDot(objectOf(status['CurrentTailnet'])['MagicDNSSuffix'] ?? status['MagicDNSSuffix'])}`
  const self = isObject(status['Self']) ? toPeer(status['Self'], true) : null
  const others = Object.values(objectOf(status['Peer']))
    .filter(isObject)
    .filter(mayHaveModels)
    .map(node => ({ peer: toPeer(node, false), isOurs: suffix.length > 1 && withoutDot(node['DNSName']).endsWith(suffix) }))
    .flatMap(({ peer, isOurs }) => (peer === null ? [] : [{ peer, isOurs }]))
    .sort((a, b) => Number(b.isOurs) - Number(a.isOurs) || (a.peer.nodeId < b.peer.nodeId ? -1 : 1))
    .map(({ peer }) => peer)
  const byId = new Map<string, TailnetPeer>()
  for (const peer of self === null ? others : [self, ...others]) {
    if (byId.size === peersAtMost) break
    if (!byId.has(peer.nodeId)) byId.set(peer.nodeId, peer)
  }
  return [...byId.values()]
}

function mayHaveModels(node: Json): boolean {
  return (
    node['Online'] === true &&
    node['Expired'] !== true &&
    node['ShareeNode'] !== true &&
    !handhelds.has(String(node['OS']).toLowerCase()) &&
    !isObject(node['Location']) &&
    !withoutDot(node['DNSName']).endsWith('.mullvad.ts.net')
  )
}

/** Null for a node that cannot be told from others, or has no address. */
function toPeer(node: Json, isSelf: boolean): TailnetPeer | null {
  const addresses = listOf(node['TailscaleIPs'])
    .slice(0, addressesAtMost)
    .flatMap(address => (typeof address === 'string' ? (canonicalAddress(address) ?? []) : []))
  const own = addresses.find(address => tailnet4.allows(address)) ?? addresses.find(address => tailnet6.allows(address)) ?? addresses[0]
  const address = isSelf ? '127.0.0.1' : own
  const dnsName = withoutDot(node['DNSName'])
  // An old daemon tells no id; its name in DNS is unique too.
  const nodeId = [node['ID'], dnsName, own].find(id => typeof id === 'string' && /^[\x21-\x7e]{1,128}$/.test(id))
  if (address === undefined || typeof nodeId !== 'string') return null
  return {
    nodeId,
    name: plainText(dnsName.split('.')[0], 63) || plainText(node['HostName'], 63) || nodeId,
    dnsName,
    address,
    addresses,
    os: plainText(node['OS'], 32) || null,
    tags: listOf(node['Tags'])
      .slice(0, tagsAtMost)
      .map(tag => plainText(tag, 64))
      .filter(tag => tag !== ''),
    online: node['Online'] === true,
    isSelf,
    route: isSelf ? null : isText(node['CurAddr']) ? 'direct' : isText(node['PeerRelay']) || isText(node['Relay']) ? 'relay' : null
  }
}

/** Names in DNS come with a final dot. */
function withoutDot(name: unknown): string {
  return typeof name === 'string' ? name.slice(0, 512).toLowerCase().replace(/\.$/, '') : ''
}

function isText(value: unknown): boolean {
  return typeof value === 'string' && value !== ''
}
