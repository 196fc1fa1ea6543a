// llm-mcp jobs watch: follows a job to its end, tokens to stdout as they come, progress to stderr.

import { type GatewayClient, withClient } from '../client.ts'
import { printJson } from '../print.ts'
import type { StreamEvent } from './events.ts'
import { follow } from './follow.ts'
import { answerText, chunkText, dollars, type Job, readJob, seconds } from './job.ts'
import { type JobOptions, jobPath } from './path.ts'
import { advanced, liveText, progressLine, progressOf } from './progress.ts'
import { createScreen, ownScreen, type Screen } from './screen.ts'

/** Exit code 0 when the job is done, 1 when it failed or was cancelled, 130 when the reader went away. */
export async function watchCommand(id: string, options: JobOptions): Promise<void> {
  await withClient(options, async client => {
    const { body } = await client.ask({ method: 'GET', path: jobPath(id) })
    await watch({ client, job: readJob(body), onEvent: options.json === true ? printJson : null })
  })
}

export interface WatchOptions {
  readonly client: GatewayClient
  readonly job: Job
  /** Takes the place of everything that is shown to people; null = show it. */
  readonly onEvent: ((event: StreamEvent) => void) | null
}

/** Sets the exit code. Ctrl-C leaves the job as it is. */
export async function watch({ client, job, onEvent }: WatchOptions): Promise<void> {
  const left = new AbortController()
  const leave = (): void => left.abort()
  // Kept to the end: a second one would otherwise end us in the middle of a word. (Under npm each Ctrl-C comes twice.)
  process.on('SIGINT', leave)
  // Whoever reads us has gone (`| head`).
  process.stdout.on('error', leave)
  const screen = onEvent === null ? createScreen(ownScreen()) : null
  const viewer = screen === null ? null : createViewer(screen, job)
  let status = ''
  try {
    await follow({
      client,
      id: job.id,
      signal: left.signal,
      onOpen: () => viewer?.found(),
      onEvent(event) {
        onEvent?.(event)
        viewer?.show(event)
        if (event.event === 'end') status = String(event.data.status)
      },
      onLost: reason => viewer?.lost(reason)
    })
  } finally {
    screen?.close()
  }
  if (status !== '' || !left.signal.aborted) {
    process.exitCode = status === 'done' ? 0 : 1
    return
  }
  process.exitCode = 130
  console.error(`The job goes on. Come back with: npm run llm-mcp -- jobs watch ${job.id}`)
}

interface Viewer {
  /** The connection stands, or stands again. */
  found(): void
  show(event: StreamEvent): void
  lost(reason: string): void
}

function createViewer(screen: Screen, job: Job): Viewer {
  const sinceMs = job.createdAt === null ? Date.now() : Date.parse(job.createdAt)
  let progress = progressOf(job.status, job.position, job.etaMs)
  let hasOutput = false
  const say = (): void => screen.progress(() => liveText(progress, { nowMs: Date.now(), sinceMs }), progressLine(progress))
  say()

  function show(event: StreamEvent): void {
    const { attempt } = progress
    progress = advanced(progress, event, Date.now())
    if (event.event === 'chunk') {
      const text = chunkText(event.data)
      if (text === '') return
      hasOutput = true
      screen.answer(text)
      return
    }
    if (event.event === 'attempt' && hasOutput) {
      screen.mark(`--- attempt ${attempt} did not get to its end; attempt ${progress.attempt} begins the answer again ---`)
      hasOutput = false
    }
    if (event.event === 'result') return finish(readJob(event.data))
    if (event.event !== 'end') say()
  }

  function finish(ended: Job): void {
    if (ended.status === 'done' && !hasOutput) screen.answer(`${answerText(ended)}\n`)
    screen.close()
    if (ended.status === 'done') screen.note(summary(ended))
    else screen.note(endOf(ended), 'red')
  }

  return {
    show,
    found() {
      progress = { ...progress, lost: null }
      say()
    },
    lost(reason) {
      progress = { ...progress, lost: reason }
      say()
    }
  }
}

/** Why there is no answer, on one line. */
function endOf({ status, error }: Job): string {
  const what = status === 'cancelled' ? 'The job was cancelled' : 'The job failed'
  return error === null ? `${what}.` : `${what}${error.code === null ? '' : ` (${error.code})`}: ${error.message}`
}

function summary(job: Job): string {
  const { createdAt, firstTokenAt, finishedAt, completionTokens } = job
  const tookMs = between(createdAt, finishedAt)
  const writingMs = between(firstTokenAt, finishedAt)
  const where = job.device ?? job.provider
  return [
    `done${tookMs === null ? '' : ` in ${seconds(tookMs)}`}`,
    ...(where === null ? [] : [`on ${where}`]),
    ...((job.attempts ?? 1) > 1 ? [`${job.attempts} attempts`] : []),
    ...(completionTokens === null ? [] : [`${completionTokens} tokens`]),
    ...(completionTokens === null || writingMs === null || writingMs <= 0
      ? []
      : [`${((completionTokens / writingMs) * 1_000).toFixed(1)} tokens/s`]),
    ...(job.costUsd === null ? [] : [dollars(job.costUsd)])
  ].join(', ')
}

function between(from: string | null, to: string | null): number | null {
  return from === null || to === null ? null : Date.parse(to) - Date.parse(from)
}
