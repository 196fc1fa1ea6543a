// The way out to addresses that strangers named: looked up once, checked, and called at that very address. No redirects, caps on bytes and time.

import { lookup } from 'node:dns/promises'
import { isIP, Socket } from 'node:net'
import { networkInterfaces } from 'node:os'
import { buildConnector, Client } from 'undici'
import { GatewayError } from '../routing/errors.ts'
import { isPublic } from './guarded/addresses.ts'
import { createOpenings, hostOf } from './guarded/openings.ts'

export interface GuardedRequest {
  readonly headers: Readonly<Record<string, string>>
  readonly body: Buffer | string
  /** For all of it: looking up the name, connecting, and the answer. */
  readonly timeoutMs: number
  readonly signal?: AbortSignal
}

export interface Guarded {
  /**
   * Throws GatewayError `invalid_request` where the URL can be refused without looking up its name:
   * syntax, scheme, credentials, addresses that are not public.
   */
  check(url: string): void
  /**
   * The status of the answer, a redirect's too; the body is thrown away. Throws GatewayError `invalid_request` where the URL
   * may not be called, `upstream_unavailable` when there was no answer. Its message names the host and a code, never an address that was looked up.
   */
  post(url: string, request: GuardedRequest): Promise<{ readonly status: number }>
}

export interface GuardedPorts {
  /** `host`, `host:port` or CIDR: what may be called although it is not public. */
  readonly allow: readonly string[]
  /** All addresses of a name. */
  readonly resolve?: (host: string) => Promise<readonly string[]>
  /** Addresses of this machine: a call to one of them would come from behind its own firewall. */
  readonly ownAddresses?: () => readonly string[]
  readonly connectMs?: number
}

interface Target {
  readonly url: URL
  readonly host: string
  readonly port: number
}

const urlCharactersAtMost = 2_048
const answerBytesAtMost = 64 * 1024
// Every address of a name is checked, but no more than these are tried.
const addressesTriedAtMost = 4

/** Throws when `allow` has an entry that is none. */
export function createGuarded({
  allow,
  resolve = resolveAll,
  ownAddresses = addressesOfThisMachine,
  connectMs = 5_000
}: GuardedPorts): Guarded {
  const openings = createOpenings(allow)

  function check(url: string): void {
    checkedTarget(url)
  }

  function checkedTarget(text: string): Target {
    const target = targetOf(text)
    const { host, port } = target
    if (openings.hasHost(host, port)) return target
    if (isIP(host) !== 0 && !mayCall(host, port)) {
      throw refusal(`The URL must lead to the public internet; ${host} is not part of it, and the operator has not allowed it.`)
    }
    if (host === 'localhost' || host.endsWith('.localhost')) {
      throw refusal('The URL must lead to the public internet; localhost is not part of it, and the operator has not allowed it.')
    }
    return target
  }

  function mayCall(address: string, port: number): boolean {
    return openings.hasAddress(address, port) || (isPublic(address) && !ownAddresses().includes(address))
  }

  async function post(text: string, { headers, body, timeoutMs, signal }: GuardedRequest): Promise<{ status: number }> {
    const target = checkedTarget(text)
    const timeout = AbortSignal.timeout(timeoutMs)
    const over = signal === undefined ? timeout : AbortSignal.any([timeout, signal])
    try {
      const connection = pinnedConnection(target, await addressesOf(target, over), connectMs)
      try {
        return { status: await exchange(connection.client, target, { headers, body, over }) }
      } finally {
        connection.close()
      }
    } catch (error) {
      if (error instanceof GatewayError) throw error
      const reason = timeout.aborted ? `no answer within ${timeoutMs} ms` : over.aborted ? 'called off' : codeOf(error)
      throw new GatewayError('upstream_unavailable', `${target.host} could not be asked: ${reason}.`, { cause: error })
    }
  }

  async function addressesOf({ host, port }: Target, over: AbortSignal): Promise<readonly string[]> {
    const addresses = isIP(host) === 0 ? await unlessOver(resolve(host), over) : [host]
    // One bad address spoils them all: which of them would be called is up to whoever owns the name.
    if (!openings.hasHost(host, port) && !addresses.every(address => mayCall(address, port))) {
      throw refusal(`${host} leads to an address that is not part of the public internet, and the operator has not allowed it.`)
    }
    if (addresses.length === 0) throw Object.assign(new Error('a name without addresses'), { code: 'ENOTFOUND' })
    return addresses.slice(0, addressesTriedAtMost)
  }

  return { check, post }
}

/** WHATWG's reading of the text, and no other one: what is checked is what is called. */
function targetOf(text: string): Target {
  if (text.length > urlCharactersAtMost) throw refusal(`The URL must not be longer than ${urlCharactersAtMost} characters.`)
  const url = URL.parse(text)
  if (url === null) throw refusal('The URL cannot be read.')
  if (url.protocol !== 'http:' && url.protocol !== 'https:') throw refusal('The URL must begin with http:// or https://.')
  if (url.username !== '' || url.password !== '') throw refusal('The URL must not carry a user name or a password.')
  const host = hostOf(url)
  if (host === '') throw refusal('The URL names no host.')
  return { url, host, port: url.port === '' ? (url.protocol === 'https:' ? 443 : 80) : Number(url.port) }
}

function refusal(message: string): GatewayError {
  return new GatewayError('invalid_request', message)
}

/** A connection to these addresses, tried in turn, and to nothing else; the Host header and the name in TLS stay those of the URL. */
function pinnedConnection({ url, host }: Target, addresses: readonly string[], connectMs: number): { client: Client; close(): void } {
  const connect = buildConnector({ timeout: connectMs, allowH2: false, maxCachedSessions: 0 })
  let socket: Socket | undefined

  function connectPinned(options: buildConnector.Options, callback: buildConnector.Callback, index = 0): void {
    const hostname = addresses[index]
    if (hostname === undefined) return callback(new Error('no address is left'), null)
    const servername = url.protocol === 'https:' && isIP(host) === 0 ? host : ''
    const made: unknown = connect({ ...options, hostname, servername }, (error, connected) => {
      if (error === null) callback(null, connected)
      else if (index + 1 === addresses.length || client.destroyed) callback(error, null)
      else connectPinned(options, callback, index + 1)
    })
    socket = made instanceof Socket ? made : undefined
  }

  const client = new Client(url.origin, {
    connect: (options, callback) => connectPinned(options, callback),
    // The whole exchange has one limit, which is the caller's.
    headersTimeout: 0,
    bodyTimeout: 0,
    maxHeaderSize: 16 * 1024
  })
  return {
    client,
    close() {
      void client.destroy()
      // One that is still connecting is not the client's yet.
      socket?.destroy()
    }
  }
}

async function exchange(
  client: Client,
  { url }: Target,
  {
    headers,
    body,
    over
  }: { readonly headers: Readonly<Record<string, string>>; readonly body: Buffer | string; readonly over: AbortSignal }
): Promise<number> {
  const answer = await client.request({
    path: `${url.pathname}${url.search}`,
    method: 'POST',
    // Nothing is inflated here, and so nothing compressed is asked for.
    headers: { ...headers, 'accept-encoding': 'identity' },
    body,
    reset: true,
    signal: over
  })
  // The status line is the answer: a body that is too long, too slow or torn takes nothing back.
  await answer.body.dump({ limit: answerBytesAtMost, signal: over }).catch(() => {})
  return answer.statusCode
}

/** The system's lookup cannot be called off; it is left to itself. */
function unlessOver<T>(promise: Promise<T>, over: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const cancel = (): void => reject(over.reason)
    if (over.aborted) cancel()
    over.addEventListener('abort', cancel, { once: true })
    promise.then(resolve, reject).finally(() => over.removeEventListener('abort', cancel))
  })
}

function codeOf(error: unknown): string {
  const code = error instanceof Error && 'code' in error ? error.code : null
  return typeof code === 'string' && /^[A-Z][A-Z0-9_]{1,60}$/.test(code) ? code : 'the connection failed'
}

async function resolveAll(host: string): Promise<readonly string[]> {
  return (await lookup(host, { all: true })).map(({ address }) => address)
}

function addressesOfThisMachine(): readonly string[] {
  return Object.values(networkInterfaces()).flatMap(list => list?.map(({ address }) => address) ?? [])
}
