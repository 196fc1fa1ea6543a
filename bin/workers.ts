// WORKERS=n: a supervisor starts n gateways on one port, starts another where one dies, and ends when all have ended.

import cluster, { type Worker } from 'node:cluster'
import { once } from 'node:events'
import { loadSettings, type Settings } from './config.ts'
import { createLog } from './log.ts'
import { onShutdown } from './shutdown.ts'
import type { Message } from './siblings.ts'

// One that dies as soon as it begins would only do so again.
const restartAfterMs = 250
const restartAtMostMs = 10_000
const livedMs = 30_000
// A worker takes 33 s for its own end at most (serve.ts).
const endWithinMs = 40_000

/** One gateway, or the supervisor of several. Throws an Error with one line for the operator when it cannot start. */
export async function serveAll(): Promise<void> {
  const settings = await loadSettings()
  if (settings.workers > 1 && cluster.isPrimary) return supervise(settings)
  await (await import('./serve.ts')).serve(settings)
}

/** Resolves when the first serves; the others follow, as what they share stands by then. The first one's failure to start is ours. */
async function supervise({ workers, logLevel, underNpm }: Settings): Promise<void> {
  const { log, flush } = createLog(logLevel)
  let isEnding = false
  let quickDeaths = 0
  const restarts = new Set<NodeJS.Timeout>()
  onShutdown({
    limitMs: endWithinMs,
    endsWithParent: underNpm,
    async stop({ error }) {
      if (error !== undefined) log.fatal({ err: error }, 'the supervisor stops: an error nobody handled')
      isEnding = true
      for (const restart of restarts) clearTimeout(restart)
      await Promise.all(living().map(ended))
      flush()
    }
  })
  cluster.on('message', (worker, message: Message) => passOn(worker, message))

  const first = cluster.fork()
  const failed = await Promise.race([readyOf(first), once(first, 'exit') as Promise<[number | null, NodeJS.Signals | null]>])
  if (failed !== null) {
    // It has said why.
    if (!isEnding) process.exit(failed[0] ?? 1)
    return
  }
  watch(first)
  for (let count = 1; count < workers && !isEnding; count++) watch(cluster.fork())

  function watch(worker: Worker): void {
    const beganAt = performance.now()
    worker.on('exit', (code, signal) => {
      if (isEnding) return
      quickDeaths = performance.now() - beganAt < livedMs ? quickDeaths + 1 : 0
      const afterMs = quickDeaths === 0 ? 0 : Math.min(restartAtMostMs, restartAfterMs * 2 ** (quickDeaths - 1))
      log.error({ pid: worker.process.pid, code, signal, restartMs: afterMs }, 'a worker has died, another takes its place')
      const restart = setTimeout(() => {
        restarts.delete(restart)
        watch(cluster.fork())
      }, afterMs)
      restarts.add(restart)
    })
  }
}

function living(): Worker[] {
  return Object.values(cluster.workers ?? {}).filter(worker => worker !== undefined && !worker.isDead()) as Worker[]
}

/** As npm or a terminal would ask it to. */
async function ended(worker: Worker): Promise<void> {
  const exit = once(worker, 'exit')
  worker.process.kill('SIGTERM')
  await exit
}

function readyOf(worker: Worker): Promise<null> {
  return new Promise(resolve => {
    worker.on('message', ({ what }: Message) => {
      if (what === 'ready') resolve(null)
    })
  })
}

/** Questions of one to all others, and their answers back: each question has an id that nobody else has. */
const askers = new Map<string, Worker>()

function passOn(worker: Worker, message: Message): void {
  if (message.what === 'metrics?') {
    const others = living().filter(other => other !== worker && other.isConnected())
    worker.send({ what: 'asked', id: message.id, count: others.length } satisfies Message)
    if (others.length === 0) return
    askers.set(message.id, worker)
    setTimeout(() => askers.delete(message.id), endWithinMs).unref()
    for (const other of others) other.send(message)
  } else if (message.what === 'metrics') {
    const asker = askers.get(message.id)
    if (asker?.isConnected() === true) asker.send(message)
  }
}
