// The environment for a child of ours: the same as this process has, with a few changes.

import type { Environment } from './expansion.ts'

export function inheritedEnvironment(changes: Readonly<Record<string, string>>): Environment {
  return { ...process.env, ...changes }
}
