// The floor: bytes from one socket to another, nothing understood.

import { connect, createServer } from 'node:net'

const upstream = Number(process.argv[2])

const server = createServer({ noDelay: true }, client => {
  const target = connect({ port: upstream, host: '127.0.0.1', noDelay: true })
  client.pipe(target)
  target.pipe(client)
  client.on('error', () => target.destroy())
  target.on('error', () => client.destroy())
  client.on('close', () => target.destroy())
  target.on('close', () => client.destroy())
})

server.listen(0, '127.0.0.1', () => process.send?.({ port: (server.address() as { port: number }).port }))
process.on('disconnect', () => process.exit(0))
