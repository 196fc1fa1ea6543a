// @fastify/http-proxy as its README sets it up, and nothing else.

import httpProxy from '@fastify/http-proxy'
import fastify from 'fastify'

const app = fastify({ bodyLimit: 16 * 1024 * 1024 })
await app.register(httpProxy, { upstream: `http://127.0.0.1:${process.argv[2]}` })
await app.listen({ port: 0, host: '127.0.0.1' })
process.send?.({ port: (app.server.address() as { port: number }).port })
process.on('disconnect', () => process.exit(0))
