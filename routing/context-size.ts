// The one context size a model is loaded with on a machine: as large as its memory allows, and then never changed per request. Pure.

import type { Device, ModelMemory } from './types.ts'

const ladder = [8_192, 16_384, 32_768, 65_536, 131_072]
const smallest = 8_192
const gib = 1024 ** 3
// Compute buffers grow with the model; Ollama keeps some memory back for the display and for itself.
const weightFactor = 1.1
const vramShare = 0.92
const ramShare = 0.6
// Where the model does not say: an 8B model with grouped attention has 131 kB a token on 4.9 GB of weights.
const kvShareOfWeights = 3e-5

/**
 * Tokens of prompt and answer together. 8k to 128k, never above the model's own limit; a size set by hand wins.
 * Without knowledge of the machine: what is loaded fully on its GPU now stays as it is, otherwise 8k.
 */
export function chooseContextTokens(device: Device, memory: ModelMemory | null, maxContextTokens: number | null): number {
  const cap = maxContextTokens ?? Number.POSITIVE_INFINITY
  if (device.numCtx !== null) return Math.min(device.numCtx, cap)
  const budget = memory === null ? null : budgetBytes(device, memory)
  if (memory !== null && budget !== null) {
    const perToken = memory.kvBytesPerToken ?? memory.weightBytes * kvShareOfWeights
    const fitting = ladder.filter(tokens => memory.weightBytes * weightFactor + perToken * tokens <= budget)
    return Math.min(fitting.at(-1) ?? smallest, cap)
  }
  const loaded = memory?.loadedContextTokens ?? null
  const onGpu = memory !== null && memory.loadedBytes !== null && memory.loadedBytes === memory.loadedVramBytes
  if (loaded !== null && onGpu && loaded >= smallest) return Math.min(loaded, ladder.at(-1) as number, cap)
  return Math.min(smallest, cap)
}

/** What model and cache may take; null = the machine's memory is unknown. */
function budgetBytes(device: Device, memory: ModelMemory): number | null {
  if (device.vramGb !== null && device.vramGb > 0) return device.vramGb * gib * vramShare
  const onCpu = device.vramGb === 0 || memory.loadedVramBytes === 0
  return onCpu && device.ramGb !== null ? device.ramGb * gib * ramShare : null
}
