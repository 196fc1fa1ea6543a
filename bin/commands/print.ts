// How commands show things: JSON on one line, tables for people, and nothing that could steer a terminal.

/** One JSON value, on a line of its own. */
export function printJson(value: unknown): void {
  console.log(JSON.stringify(value))
}

/** Lines of columns as wide as they must be; the columns named in `right` are numbers. */
export function table(head: readonly string[], rows: readonly (readonly string[])[], right: readonly number[] = []): string {
  const lines = [head, ...rows].map(row => row.map(plain))
  const widths = head.map((_, column) => Math.max(...lines.map(row => row[column]?.length ?? 0)))
  return lines
    .map(row =>
      row
        .map((cell, column) => (right.includes(column) ? cell.padStart(widths[column] ?? 0) : cell.padEnd(widths[column] ?? 0)))
        .join('  ')
        .trimEnd()
    )
    .join('\n')
}

/** Without control characters: names and messages come from other people's servers. */
export function plain(text: string): string {
  return text.replace(/[\x00-\x1f\x7f-\x9f]+/g, ' ')
}
