// A gateway of our own for one request: the real program as a child process, on any free port.

import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { inheritedEnvironment } from '../../config/inherited.ts'

const program = fileURLToPath(new URL('../../llm-mcp.js', import.meta.url))
const readyMs = 20_000
const stopMs = 5_000
const outputAtMost = 64 * 1024

export interface ChildGateway {
  readonly url: string
  /** SIGTERM, and SIGKILL when that does not end it in 5 s. Never rejects. */
  stop(): Promise<void>
}

/**
 * Started with the same environment and folder as this process; resolves when it listens, within 20 s.
 * Throws an Error with its last line when it ends before.
 */
export async function startChildGateway(signal: AbortSignal): Promise<ChildGateway> {
  const child = spawn(process.execPath, [program, 'serve'], {
    // Under npm it ends with its parent, which is what a child of ours should do.
    env: inheritedEnvironment({ PORT: '0', npm_lifecycle_event: 'doctor' }),
    stdio: ['ignore', 'pipe', 'pipe']
  })
  const exited = once(child, 'exit').catch(() => {})
  try {
    return { url: await readyUrl(child, signal), stop: () => stop(child, exited) }
  } catch (error) {
    await stop(child, exited)
    throw error
  }
}

function readyUrl(child: ChildProcess, signal: AbortSignal): Promise<string> {
  const { promise, resolve, reject } = Promise.withResolvers<string>()
  const limit = setTimeout(() => reject(new Error(`it was not ready within ${readyMs / 1_000} s`)), readyMs)
  const calledOff = (): void => reject(signal.reason)
  signal.addEventListener('abort', calledOff, { once: true })
  if (signal.aborted) calledOff()
  let output = ''
  let errors = ''
  let isReady = false
  // Read to the end, or the child would stand still on a full pipe.
  child.stdout?.setEncoding('utf8').on('data', (text: string) => {
    if (isReady) return
    output = (output + text).slice(-outputAtMost)
    const url = urlIn(output)
    if (url === null) return
    isReady = true
    resolve(url)
  })
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    errors = (errors + text).slice(-outputAtMost)
  })
  child.once('error', reject)
  child.once('close', () => reject(new Error(`it ended: ${lastLine(errors) ?? lastLine(output) ?? 'without a word'}`)))
  return promise.finally(() => {
    clearTimeout(limit)
    signal.removeEventListener('abort', calledOff)
  })
}

/** Of the line that says it is ready. */
function urlIn(output: string): string | null {
  for (const line of output.split('\n').slice(0, -1)) {
    if (!line.includes('"ready"')) continue
    try {
      const { event, url } = JSON.parse(line) as { event?: unknown; url?: unknown }
      if (event === 'ready' && typeof url === 'string') return url
    } catch {
      // A line that only looks like it.
    }
  }
  return null
}

function lastLine(text: string): string | undefined {
  return text.trim().split('\n').at(-1)?.slice(0, 500) || undefined
}

async function stop(child: ChildProcess, exited: Promise<unknown>): Promise<void> {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return
  child.kill('SIGTERM')
  const late = setTimeout(() => child.kill('SIGKILL'), stopMs)
  await exited
  clearTimeout(late)
}
