// "Did you mean": the names closest to one that was not found, for models and for configuration keys.

/** What a name can differ from a candidate in and still be taken for a slip of the same word. */
const maxEdits = 6
const maxNameLength = 200
const maxCandidates = 5_000
/** Shorter fragments are part of too many names to say anything. */
const minFragment = 3

/**
 * At most `limit` of the candidates, the likeliest first, each once and spelled as given; empty when nothing is near.
 * 1. a few typing errors away (insert, delete, replace, swap; case does not count);
 * 2. the same model apart from its vendor (before the last `/`) and its size or tag (after the first `:`), with typing errors;
 * 3. one is a part of the other.
 * Work is bounded: names are cut at 200 characters, and the first 5,000 candidates are looked at.
 */
export function nearest(name: string, candidates: Iterable<string>, limit: number): string[] {
  const wanted = folded(name)
  if (wanted === '' || limit < 1) return []
  const ranks = new Map<string, number>()
  let seen = 0
  for (const candidate of candidates) {
    seen += 1
    if (seen > maxCandidates) break
    const rank = rankOf(wanted, folded(candidate))
    if (rank !== null) ranks.set(candidate, rank)
  }
  return [...ranks]
    .sort(([a, rankA], [b, rankB]) => rankA - rankB || a.length - b.length || (a < b ? -1 : 1))
    .slice(0, limit)
    .map(([candidate]) => candidate)
}

/** Smaller is nearer; null = not near. */
function rankOf(wanted: string, candidate: string): number | null {
  // 1.
  const edits = editsBetween(wanted, candidate, allowedEdits(wanted))
  if (edits !== null) return edits
  // 2.
  const family = familyOf(wanted)
  const otherFamily = familyOf(candidate)
  if (family.length >= minFragment && (family !== wanted || otherFamily !== candidate)) {
    const familyEdits = editsBetween(family, otherFamily, allowedEdits(family))
    if (familyEdits !== null) return 100 + familyEdits
  }
  // 3.
  const [shorter, longer] = wanted.length < candidate.length ? [wanted, candidate] : [candidate, wanted]
  return shorter.length >= minFragment && longer.includes(shorter) ? 200 + longer.length - shorter.length : null
}

/** A third of the word: at more, unrelated short words look alike. */
function allowedEdits(name: string): number {
  return Math.min(maxEdits, Math.max(1, Math.floor(name.length / 3)))
}

function folded(name: string): string {
  return name.slice(0, maxNameLength).toLowerCase().trim()
}

/** `openrouter/meta/llama3.2:3b` -> `llama3.2`. */
function familyOf(name: string): string {
  const bare = name.slice(name.lastIndexOf('/') + 1)
  const colon = bare.indexOf(':')
  return colon > 0 ? bare.slice(0, colon) : bare
}

/**
 * Damerau-Levenshtein distance (optimal string alignment), or null when it is above `most`.
 * Only the band of `most` cells around the diagonal is filled in: 13 cells a row at the most, whatever the length.
 */
function editsBetween(a: string, b: string, most: number): number | null {
  if (Math.abs(a.length - b.length) > most) return null
  const far = most + 1
  let twoAbove = new Uint8Array(b.length + 1).fill(far)
  let above = Uint8Array.from({ length: b.length + 1 }, (_, column) => Math.min(column, far))
  let current = new Uint8Array(b.length + 1).fill(far)
  for (let row = 1; row <= a.length; row++) {
    const first = Math.max(1, row - most)
    const last = Math.min(b.length, row + most)
    // Left of the band the buffer still holds an older row; right of it, nothing was ever written.
    current[first - 1] = first === 1 ? Math.min(row, far) : far
    let least = current[first - 1] ?? far
    for (let column = first; column <= last; column++) {
      let edits = Math.min(
        cell(above, column) + 1,
        cell(current, column - 1) + 1,
        cell(above, column - 1) + (a.charCodeAt(row - 1) === b.charCodeAt(column - 1) ? 0 : 1),
        far
      )
      if (
        row > 1 &&
        column > 1 &&
        a.charCodeAt(row - 1) === b.charCodeAt(column - 2) &&
        a.charCodeAt(row - 2) === b.charCodeAt(column - 1)
      ) {
        edits = Math.min(edits, cell(twoAbove, column - 2) + 1)
      }
      current[column] = edits
      least = Math.min(least, edits)
    }
    if (least > most) return null
    const oldest = twoAbove
    twoAbove = above
    above = current
    current = oldest
  }
  const edits = cell(above, b.length)
  return edits <= most ? edits : null
}

function cell(row: Uint8Array, column: number): number {
  return row[column] ?? 0
}
