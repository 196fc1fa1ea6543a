// Runs the real command line in a folder of its own, as a process, to its end.

import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Test } from 'tap'

const program = fileURLToPath(new URL('../../bin/llm-mcp.js', import.meta.url))

export interface RunOptions {
  readonly folder: string
  readonly args: readonly string[]
  readonly env?: Readonly<Record<string, string>>
  /** llm-mcp.yaml, as a value: JSON is YAML. */
  readonly config?: object
}

export interface Ran {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

/** `ended` resolves whatever the exit code; the process is killed when `t` ends before it does. */
export async function startCommand(
  t: Test,
  { folder, args, env = {}, config }: RunOptions
): Promise<{ child: ChildProcess; ended: Promise<Ran> }> {
  if (config !== undefined) await writeFile(join(folder, 'llm-mcp.yaml'), JSON.stringify(config))
  const child = spawn(process.execPath, [program, ...args], {
    cwd: folder,
    // Nothing listens on port 9: the tests say what there is.
    env: { PATH: process.env.PATH ?? '', HOME: folder, OLLAMA_HOST: '127.0.0.1:9', LLM_MCP_DATA_DIR: join(folder, '.data'), ...env },
    stdio: ['ignore', 'pipe', 'pipe']
  })
  t.teardown(() => child.kill('SIGKILL'))
  let stdout = ''
  let stderr = ''
  child.stdout.on('data', chunk => {
    stdout += chunk
  })
  child.stderr.on('data', chunk => {
    stderr += chunk
  })
  const ended = once(child, 'close').then(([code]) => ({ code: code as number | null, stdout, stderr }))
  return { child, ended }
}

export async function runCommand(t: Test, options: RunOptions): Promise<Ran> {
  return (await startCommand(t, options)).ended
}
