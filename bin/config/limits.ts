// Limits of machines from DEVICE_LIMITS_JSON and DEVICE_LIMITS_FILE, in the shape llm-mcp v2 has them.

import { deviceLimitsSchema, type FileLimits } from './schema.ts'

/** What is known or set for one machine; what is missing is not limited. */
export interface DeviceLimits {
  readonly ramGb?: number
  readonly vramGb?: number
  readonly maxParamsB?: number
  readonly maxSizeGb?: number
  readonly maxContextK?: number
  readonly maxConcurrency?: number
  readonly allowModels?: readonly string[]
  readonly denyModels?: readonly string[]
}

export interface LimitsSource {
  /** `DEVICE_LIMITS_JSON`, or the name of the file. */
  readonly label: string
  readonly text: string
}

/** Limits by machine name, `*` for all of them; of two sources the later one wins, figure by figure. */
export async function readLimits(sources: readonly LimitsSource[], problems: string[]): Promise<Map<string, DeviceLimits>> {
  const merged = new Map<string, DeviceLimits>()
  if (sources.length === 0) return merged
  const { readDocument } = await import('./document.ts')
  for (const { label, text } of sources) {
    const document = readDocument({ label, text, schema: deviceLimitsSchema, environment: null })
    problems.push(...document.problems())
    if (document.value === undefined) continue
    // Checked against the schema this type is made from.
    for (const [name, limits] of Object.entries(document.value as FileLimits)) {
      merged.set(name, { ...merged.get(name), ...present(limits) })
    }
  }
  return merged
}

/** What holds for one machine: its own limits, and those of `*` where it has none. */
export function limitsOf(limits: ReadonlyMap<string, DeviceLimits>, deviceId: string): DeviceLimits {
  return { ...limits.get('*'), ...limits.get(deviceId) }
}

function present(limits: FileLimits[string]): DeviceLimits {
  const { ram_gb, vram_gb, max_params_b, max_size_gb, max_context_k, max_concurrency, allow_models, deny_models } = limits
  return {
    ...(ram_gb != null && { ramGb: ram_gb }),
    ...(vram_gb != null && { vramGb: vram_gb }),
    ...(max_params_b != null && { maxParamsB: max_params_b }),
    ...(max_size_gb != null && { maxSizeGb: max_size_gb }),
    ...(max_context_k != null && { maxContextK: max_context_k }),
    ...(max_concurrency != null && { maxConcurrency: max_concurrency }),
    ...(allow_models != null && { allowModels: allow_models }),
    ...(deny_models != null && { denyModels: deny_models })
  }
}
