// Loaded into a gateway by NODE_OPTIONS: on SIGWINCH it collects garbage and writes down what the process holds.

import { writeFileSync } from 'node:fs'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { isMainThread } from 'node:worker_threads'

if (isMainThread && process.env.PROBE_FILE !== undefined) {
  setFlagsFromString('--expose-gc')
  const collect = runInNewContext('gc')
  let number = 0
  process.on('SIGWINCH', () => {
    collect()
    collect()
    const resources = {}
    for (const name of process.getActiveResourcesInfo()) resources[name] = (resources[name] ?? 0) + 1
    writeFileSync(
      process.env.PROBE_FILE,
      JSON.stringify({ number: ++number, rss: process.memoryUsage.rss(), heap: process.memoryUsage().heapUsed, resources })
    )
  })
}
