// Run by tap before all files.

import { cluster, prepareTemplate } from './cluster.ts'

const server = await cluster()
await prepareTemplate(server.connection)
// The server stays up for the test files; `after.ts` stops it.
process.exit(0)
