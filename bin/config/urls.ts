// Addresses of servers, as people write them, in the one form the rest of the project knows.

import { isIP, isIPv4, isIPv6 } from 'node:net'

/** `fault` says what was expected; `secret` that the text may hold a password and must not be shown. */
export type ParsedUrl = { readonly url: string } | { readonly fault: string; readonly secret: boolean }

/** Services that are rented, whatever a configuration calls them: their prompts leave the house. */
const rentedHosts = ['openai.com', 'openrouter.ai', 'ollama.com']

/** Scheme, host, port and path without a slash at the end; http and https only, no user info, query or hash. */
export function parseUrl(text: string): ParsedUrl {
  const written = text.trim()
  const [, authority = '', rest = ''] = /^https?:\/\/([^/?#]*)(.*)$/is.exec(written) ?? []
  if (authority === '' || /[\s\\]/.test(written)) return { fault: 'an http or https URL', secret: false }
  if (authority.includes('@')) return { fault: 'a URL without user name and password', secret: true }
  if (/[?#]/.test(rest)) return { fault: 'a URL without ? and #', secret: true }
  const url = URL.parse(written)
  if (url === null || url.port === '0') return { fault: 'an http or https URL', secret: false }
  return { url: url.origin + url.pathname.replace(/\/+$/, '') }
}

/**
 * The address in OLLAMA_HOST, read as Ollama reads it: host, host:port or URL; 11434 unless there is a scheme, then 80 or 443;
 * a port that makes no sense is the default. A server's "everywhere" (0.0.0.0, ::) is 127.0.0.1 for a client.
 * Null = blank. Source: envconfig.Host in ollama/ollama.
 */
export function parseOllamaHost(text: string): ParsedUrl | null {
  const written = text
    .trim()
    .replace(/^["']+|["']+$/g, '')
    .trim()
  if (written === '') return null
  const [, scheme = 'http', hostPort = '', path = ''] = /^(?:([^:/]*):\/\/)?([^/]*)(.*)$/s.exec(written) ?? []
  const defaultPort = written.includes('://') ? { http: '80', https: '443' }[scheme.toLowerCase()] : '11434'
  if (defaultPort === undefined) return { fault: 'a host, host:port, or an http or https URL', secret: false }

  if (hostPort.includes('@')) return { fault: 'a URL without user name and password', secret: true }
  const { host, port } = splitHostPort(hostPort)
  const number = /^\d+$/.test(port) && Number(port) <= 65_535 ? port : defaultPort
  const known = host === '' || host === '0.0.0.0' || host === '::' ? '127.0.0.1' : host
  const parsed = parseUrl(`${scheme}://${isIPv6(known) ? `[${known}]` : known}:${number}${path}`)
  if ('url' in parsed) return parsed
  return parsed.secret ? parsed : { fault: 'a host, host:port, or an http or https URL', secret: false }
}

function splitHostPort(text: string): { host: string; port: string } {
  if (isIP(text) !== 0) return { host: text, port: '' }
  const [, bracketed, plain, port = ''] = /^(?:\[(.*)\]|([^\]]*?))(?::([^:\]]*))?$/.exec(text) ?? []
  return { host: bracketed ?? plain ?? text, port }
}

/** True for addresses that only this machine can reach. A name other than localhost is not resolved: it is not one. */
export function isLoopback(host: string): boolean {
  if (host.toLowerCase() === 'localhost') return true
  if (isIPv4(host)) return host.startsWith('127.')
  // The URL parser writes every spelling of an IPv6 address in the one short form.
  const short = isIPv6(host) ? URL.parse(`http://[${host}]`)?.hostname : undefined
  return short === '[::1]' || short?.startsWith('[::ffff:7f') === true
}

/** A name as DNS and compose files have them, without a port. */
export function isHostName(text: string): boolean {
  return text.length <= 253 && /^[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*$/i.test(text)
}

/** Two URLs of one server: the same port, under any of the names a machine has for itself. */
export function isSameServer(a: string, b: string): boolean {
  return canonicalOrigin(a) === canonicalOrigin(b)
}

function canonicalOrigin(text: string): string {
  const url = new URL(text)
  const host = url.hostname.replace(/^\[|\]$/g, '')
  if (isLoopback(host) || host === '0.0.0.0' || host === '::') url.hostname = '127.0.0.1'
  return url.origin
}

export function isRentedHost(text: string): boolean {
  const host = new URL(text).hostname
  return rentedHosts.some(rented => host === rented || host.endsWith(`.${rented}`))
}
