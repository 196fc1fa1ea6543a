// Loads settings from a file and an environment of a test's own, and reads what they say.

import type { Test } from 'tap'
import { ConfigError, loadSettings, type Settings } from '../../bin/config.ts'

export type Variables = Record<string, string>

/** In an empty directory that holds only the file. */
export async function load(t: Test, yaml: string | null, env: Variables = {}): Promise<Settings> {
  const cwd = t.testdir(yaml === null ? {} : { 'llm-mcp.yaml': yaml })
  return loadSettings({ env, cwd })
}

export async function problemsOf(loading: Promise<Settings>): Promise<string> {
  const error = await loading.then(
    () => null,
    (error: unknown) => error
  )
  return error instanceof ConfigError ? error.message : `no ConfigError but ${String(error)}`
}

export function upstream(settings: Settings, id: string) {
  const found = settings.upstreams.find(upstream => upstream.id === id)
  if (found === undefined) throw new Error(`no upstream ${id}`)
  return found
}

export const ids = (settings: Settings) => settings.upstreams.map(upstream => upstream.id)
