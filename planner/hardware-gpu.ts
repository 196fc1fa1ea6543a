// The process of hardware.ts that asks for GPUs: prints those there are, as JSON, and ends.

import systeminformation from 'systeminformation'
import type { Graphics } from './hardware.ts'

const { controllers } = await systeminformation.graphics()
const found: readonly Graphics[] = controllers.map(({ name, model, vendor, memoryTotal, memoryUsed, vram }) => ({
  name: (name || model || vendor || 'GPU').slice(0, 200),
  // On Linux, `vram` is the window that the bus has into it: 256 MB of 24 GB.
  totalMb: memoryTotal ?? (process.platform === 'linux' ? null : vram) ?? null,
  usedMb: memoryUsed ?? null
}))
process.stdout.write(JSON.stringify(found))
