// Where the server listens, and why it cannot.

import type { Settings } from './config.ts'

/** The error of `listen` as one line for the operator. */
export function portError(error: unknown, { host, port }: Settings): Error {
  const code = (error as NodeJS.ErrnoException).code
  if (code === 'EADDRINUSE') return new Error(`Port ${port} on ${host} is taken by another program. Stop it, or set PORT to another one.`)
  if (code === 'EACCES') return new Error(`Port ${port} needs rights that this user does not have. Set PORT to one above 1023.`)
  if (code === 'EADDRNOTAVAIL' || code === 'ENOTFOUND') return new Error(`HOST=${host} is no address of this machine.`)
  return error as Error
}

/** For people on this machine: an address for all is shown as loopback. */
export function urlOf(address: ReturnType<import('node:net').Server['address']>, host: string): string {
  const port = typeof address === 'object' && address !== null ? address.port : 0
  const shown = host === '0.0.0.0' || host === '::' ? '127.0.0.1' : host.includes(':') ? `[${host}]` : host
  return `http://${shown}:${port}`
}
