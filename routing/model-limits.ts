// Which models of a machine are used, by the limits that a person set for it. Pure.

import { canonical } from './catalog.ts'
import { matchesAny } from './patterns.ts'
import type { Device, ModelLimits, ModelListing } from './types.ts'

const gib = 1024 ** 3

export type OverLimit = 'denied' | 'not_allowed' | 'too_many_parameters' | 'too_large'

/** Why a model is not used here; null = it is. A figure that nobody knows is no reason, but see `usualParamsB`. */
export function overLimit(
  { model, memory, build }: Pick<ModelListing, 'model' | 'memory' | 'build'>,
  device: Pick<Device, 'vramGb' | 'ramGb' | 'modelLimits'>
): OverLimit | null {
  const limits: ModelLimits = device.modelLimits ?? {}
  const names = [model, canonical(model)]
  if (limits.denyModels !== undefined && matchesAny(limits.denyModels, names)) return 'denied'
  if (limits.allowModels !== undefined && !matchesAny(limits.allowModels, names)) return 'not_allowed'
  const params = build?.paramsB ?? null
  // The size of the weights says more than a rule of thumb.
  const maxParamsB = limits.maxParamsB ?? (memory === null && limits.maxSizeGb === undefined ? usualParamsB(device) : null)
  if (maxParamsB !== null && params !== null && params > maxParamsB) return 'too_many_parameters'
  if (limits.maxSizeGb !== undefined && memory !== null && memory.weightBytes > limits.maxSizeGb * gib) return 'too_large'
  return null
}

/**
 * Billions of parameters that fit by the rule of thumb: 5 in 8 GB, 12 in 16 GB, 0.75 for each GB of more. Of the GPU's memory where it
 * has one, otherwise of its main memory; null when neither is known.
 */
export function usualParamsB({ vramGb, ramGb }: Pick<Device, 'vramGb' | 'ramGb'>): number | null {
  const memoryGb = vramGb !== null && vramGb > 0 ? vramGb : ramGb
  if (memoryGb === null) return null
  if (memoryGb <= 8) return 5
  return memoryGb <= 16 ? 12 : 0.75 * memoryGb
}

/** The context a model may be loaded with at most; null = not limited. */
export function contextTokensAtMost({ modelLimits }: Pick<Device, 'modelLimits'>): number | null {
  return modelLimits?.maxContextK === undefined ? null : Math.floor(modelLimits.maxContextK * 1_024)
}
