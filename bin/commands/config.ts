// llm-mcp config schema | check

import { writeFile } from 'node:fs/promises'
import { configJsonSchema, loadSettings } from '../config.ts'

export async function schemaCommand({ write }: { write?: string }): Promise<void> {
  const text = `${JSON.stringify(configJsonSchema(), null, 2)}\n`
  if (write === undefined) process.stdout.write(text)
  else await writeFile(write, text)
}

export async function checkCommand(): Promise<void> {
  const settings = await loadSettings()
  console.log(
    `${settings.configFile ?? 'The environment'} is in order: upstreams: ${settings.upstreams.length}, aliases: ${settings.aliases.size}.`
  )
}
