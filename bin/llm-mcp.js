#!/usr/bin/env node
// The guard: plain JavaScript that any Node can read. Runs the program with a Node that can, or says what is missing.
import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import module from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import v8 from 'node:v8'

const needed = [22, 19]
const [major, minor] = process.versions.node.split('.').map(Number)

if (major > needed[0] || (major === needed[0] && minor >= needed[1])) {
  // Collected when there is 2.5 times what was left the last time, and not four times: after a short flood 70 MB less; after a long one it made no difference.
  v8.setFlagsFromString('--heap-growing-percent=150')
  // What was compiled once is read the next time: half a second and 25 MB less. Where it cannot be kept, it is compiled again.
  module.enableCompileCache?.(join(dirname(fileURLToPath(import.meta.url)), '../node_modules/.cache/llm-mcp'))
  const { main } = await import('./main.ts').catch(notInstalled)
  await main(process.argv)
} else {
  const packaged = packagedNode()
  if (packaged === null) {
    console.error(
      `llm-mcp needs Node ${needed.join('.')} or newer, and this is ${process.versions.node}. "npm ci" brings one along for this project (without --omit=optional); or install a newer Node.`
    )
    process.exit(1)
  }
  const child = spawn(packaged, process.argv.slice(1), { stdio: 'inherit' })
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => child.kill(signal))
  child.on('error', error => {
    console.error(`llm-mcp could not start the packaged Node: ${error.message}`)
    process.exit(1)
  })
  child.on('exit', (code, signal) => process.exit(code ?? (signal === null ? 1 : 128)))
}

/** @param {Error & { code?: string }} error */
function notInstalled(error) {
  if (error.code !== 'ERR_MODULE_NOT_FOUND') throw error
  console.error('llm-mcp is not installed yet: run "npm ci" first.')
  process.exit(1)
}

/** The Node that came as an optional package for this platform, or null. */
function packagedNode() {
  const { platform, arch } = process
  const names = platform === 'win32' ? [`node-win-${arch}`] : [`node-${platform}-${arch}`, `node-bin-${platform}-${arch}`]
  let folder = dirname(fileURLToPath(import.meta.url))
  for (;;) {
    for (const name of names) {
      const path = join(folder, 'node_modules', name, 'bin', platform === 'win32' ? 'node.exe' : 'node')
      if (existsSync(path)) return path
    }
    const parent = dirname(folder)
    if (parent === folder) return null
    folder = parent
  }
}
