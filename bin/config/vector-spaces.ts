// Which embedding models are declared to make the same vectors.

import type { CheckedDocument } from './document.ts'
import type { ConfigFile } from './schema.ts'

/** The space of each model, and the length of each space's vectors where it is declared. A model in two spaces is a problem. */
export function vectorSpacesOf(file: { readonly value: ConfigFile; readonly document: CheckedDocument } | null): {
  readonly vectorSpaces: ReadonlyMap<string, string>
  readonly vectorDimensions: ReadonlyMap<string, number>
} {
  const vectorSpaces = new Map<string, string>()
  const vectorDimensions = new Map<string, number>()
  for (const [name, { models, dimensions }] of Object.entries(file?.value?.vector_spaces ?? {})) {
    if (dimensions !== undefined) vectorDimensions.set(name, dimensions)
    for (const model of models) {
      const key = model.endsWith(':latest') ? model.slice(0, -':latest'.length) : model
      const other = vectorSpaces.get(key)
      if (other !== undefined && other !== name)
        file?.document.complain(['vector_spaces', name, 'models'], `"${model}" is in the space "${other}" already`)
      vectorSpaces.set(key, name)
    }
  }
  return { vectorSpaces, vectorDimensions }
}
