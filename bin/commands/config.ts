// llm-mcp config schema | check

import { writeFile } from 'node:fs/promises'
import { ConfigError, configJsonSchema, loadSettings } from '../config.ts'
import { printJson } from './print.ts'

/** The schema is JSON as it is; with `write`, `json` says where it went. */
export async function schemaCommand({ write, json }: { readonly write?: string; readonly json?: boolean }): Promise<void> {
  const text = `${JSON.stringify(configJsonSchema(), null, 2)}\n`
  if (write === undefined) process.stdout.write(text)
  else await writeFile(write, text)
  if (write !== undefined && json === true) printJson({ file: write })
}

/** With `json`, a configuration that cannot be used is an answer too: `ok: false`, and exit code 1. */
export async function checkCommand({ json }: { readonly json?: boolean } = {}): Promise<void> {
  try {
    const { configFile, upstreams, aliases } = await loadSettings()
    if (json === true) return printJson({ ok: true, problems: [], file: configFile, upstreams: upstreams.length, aliases: aliases.size })
    console.log(`${configFile ?? 'The environment'} is in order: upstreams: ${upstreams.length}, aliases: ${aliases.size}.`)
  } catch (error) {
    if (json !== true || !(error instanceof ConfigError)) throw error
    printJson({ ok: false, problems: error.problems })
    process.exitCode = 1
  }
}
