// Names with `*` in them: what a key may use. Linear in the length of the name, whatever the pattern.

/** True when one of the names matches one of the patterns, in which `*` stands for any characters, and for none. */
export function matchesAny(patterns: readonly string[], names: readonly string[]): boolean {
  return patterns.some(pattern => names.some(name => matches(pattern, name)))
}

/** Greedy, piece by piece: each piece is searched for once, so no pattern can make it slow. */
export function matches(pattern: string, name: string): boolean {
  const pieces = pattern.split('*')
  const first = pieces[0] as string
  if (pieces.length === 1) return first === name
  const last = pieces.at(-1) as string
  if (name.length < first.length + last.length || !name.startsWith(first) || !name.endsWith(last)) return false
  let at = first.length
  const end = name.length - last.length
  for (const piece of pieces.slice(1, -1)) {
    const found = name.indexOf(piece, at)
    if (found === -1 || found + piece.length > end) return false
    at = found + piece.length
  }
  return true
}
