// What is wrong with a configuration, in words that can be printed: one line a problem, and no secret in any of them.

const maxLines = 20
const maxShown = 60

/** The configuration cannot be used. `message` is ready to print: the first problem on the first line, one line each. */
export class ConfigError extends Error {
  readonly problems: readonly string[]

  constructor(problems: readonly string[]) {
    const more = problems.length - maxLines
    super([...problems.slice(0, maxLines), ...(more > 0 ? [`and ${more} more`] : [])].join('\n'))
    this.name = 'ConfigError'
    this.problems = problems
  }
}

/** A value as it was written, quoted and cut, with whatever looks like a secret left out. */
export function shown(text: string): string {
  const safe = masked(text)
  return JSON.stringify(safe.length > maxShown ? `${safe.slice(0, maxShown)}…` : safe)
}

/**
 * Keys end up in the wrong place: in a URL, as a map key, one line too high. So: user info of URLs, the usual prefixes,
 * runs that no one would make up (both cases and digits), and very long ones.
 */
export function masked(text: string): string {
  return text
    .replace(/\/\/[^/\s]*@/g, '//…@')
    .replace(/\b(g?sk[-_]|bearer )[^\s"',;]{6,}/gi, '$1…')
    .replace(/[A-Za-z0-9_-]{20,}/g, run => (looksRandom(run) ? '…' : run))
}

function looksRandom(run: string): boolean {
  return /\d/.test(run) && /[a-z]/i.test(run) && (run.length >= 32 || (/[a-z]/.test(run) && /[A-Z]/.test(run)))
}
