// Is this Node new enough, and whose is it?

import { readFileSync } from 'node:fs'
import { type Finding, fail, ok } from './check.ts'

export interface NodeFacts {
  readonly version: string
  readonly execPath: string
  /** `engines.node` of package.json. */
  readonly engines: string
}

export function nodeFacts(): NodeFacts {
  const { engines } = JSON.parse(readFileSync(new URL('../../../package.json', import.meta.url), 'utf8')) as { engines: { node: string } }
  return { version: process.versions.node, execPath: process.execPath, engines: engines.node }
}

export function nodeCheck({ version, execPath, engines }: NodeFacts): Finding {
  const needed = engines.replace(/^>=\s*/, '')
  // The launcher takes it where the system's own is too old, or there is none.
  const isPackaged = /[\\/]node_modules[\\/]node-(bin-)?(linux|darwin|win)-/.test(execPath)
  const whose = isPackaged ? 'the one packaged with llm-mcp' : 'installed on this machine'
  if (isAtLeast(version, needed)) return ok(`Node ${version}, ${whose}; ${needed} or newer is needed`)
  return fail(
    `Node ${version}, ${whose}; ${needed} or newer is needed`,
    'Run "npm ci" (without --omit=optional), which brings a Node along, or install a newer one.'
  )
}

function isAtLeast(version: string, needed: string): boolean {
  const [have, want] = [version, needed].map(text => text.split('.').map(Number))
  for (const [at, number] of (want ?? []).entries()) {
    const difference = (have?.[at] ?? 0) - number
    if (difference !== 0) return difference > 0
  }
  return true
}
