// Run by tap after all files.

import { rm } from 'node:fs/promises'
import { cluster, clusterDir } from './cluster.ts'

const server = await cluster()
await server.release()
await rm(clusterDir, { recursive: true, force: true })
await rm(server.dataDir, { recursive: true, force: true })
process.exit(0)
