// Files of JSON lines.

/** One value a line; a last line cut short is left out. */
export function readLines<T>(text: string): T[] {
  return text.split('\n').flatMap(line => {
    try {
      return line === '' ? [] : [JSON.parse(line) as T]
    } catch {
      return []
    }
  })
}

/** The value at a share of the sorted list: 0.5 = the median. Null of an empty list. */
export function quantile(values: readonly number[], share: number): number | null {
  const sorted = values.toSorted((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? null
}
