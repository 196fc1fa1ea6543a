// What only the environment says of a terminal.

/** False for what calls itself "dumb", as an editor's shell does: nothing can be written over there. */
export function hasCursor(env: Readonly<Record<string, string | undefined>> = process.env): boolean {
  return env.TERM !== 'dumb'
}
