// A tailnet for discovery: a `tailscale` command that shows the machines a test names.

import { chmod, mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Test } from 'tap'
import { newFolder } from './gateway.ts'

type Json = Record<string, unknown>

/** A folder whose `tailscale` shows these machines. */
export async function tailnet(t: Test, nodes: readonly Json[]) {
  const folder = await newFolder(t)
  await mkdir(join(folder, 'bin'))
  const command = join(folder, 'bin/tailscale')
  await writeFile(command, '#!/bin/sh\ncat "$(dirname "$0")/status.json"\n')
  await chmod(command, 0o755)
  const show = (list: readonly Json[]) =>
    writeFile(
      join(folder, 'bin/status.json'),
      JSON.stringify({
        BackendState: 'Running',
        TUN: true,
        Self: null,
        Peer: Object.fromEntries(list.map((node, at) => [`nodekey:${at}`, node]))
      })
    )
  await show(nodes)
  return { command, show }
}

export function node(name: string, address: string, more: Json = {}): Json {
  return { ID: `n-${name}`, HostName: name, DNSName: `${name}.tail1.ts.net.`, OS: 'linux', TailscaleIPs: [address], Online: true, ...more }
}
