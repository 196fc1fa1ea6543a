// llm-mcp jobs cancel, retry: one after the other; one that cannot be does not keep the others from it.

import { withClient } from '../client.ts'
import { plain, printJson } from '../print.ts'
import { readJob } from './job.ts'
import { type JobOptions, jobPath } from './path.ts'

/** Prints each job's status after it; exit code 1 when one of them could not be changed. */
export async function changeCommand(action: 'cancel' | 'retry', ids: readonly string[], options: JobOptions): Promise<void> {
  const paths = ids.map(id => jobPath(id, `/${action}`))
  await withClient(options, async client => {
    const changed: unknown[] = []
    for (const [index, path] of paths.entries()) {
      try {
        const { body } = await client.ask({ method: 'POST', path })
        changed.push(body)
        const { id, status } = readJob(body)
        if (options.json !== true) console.log(`${plain(id)}  ${plain(status)}`)
      } catch (error) {
        process.exitCode = 1
        console.error(`${ids.length === 1 ? 'llm-mcp' : ids[index]}: ${error instanceof Error ? error.message : String(error)}`)
      }
    }
    if (options.json === true && changed.length > 0) printJson({ object: 'list', data: changed })
  })
}
