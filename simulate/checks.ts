// Checks of values that came from a file. Each takes the path of what it looks at, and throws with it.

export type Fields = Readonly<Record<string, unknown>>
type Check = (value: unknown, path: string) => unknown

/** A `ScenarioError`: what is wrong, and where. */
export function wrong(path: string, what: string): Error {
  return Object.assign(new Error(`${path}: ${what}`), { name: 'ScenarioError' })
}

/** The fields of an object. */
export function record(value: unknown, path: string): Fields {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw wrong(path, `must be an object, not ${shown(value)}`)
  return value as Fields
}

/** An object that is not empty, each of whose fields passes. */
export function entries(value: unknown, path: string, check: Check): Fields {
  const fields = record(value, path)
  if (Object.keys(fields).length === 0) throw wrong(path, 'must not be empty')
  for (const [key, each] of Object.entries(fields)) check(each, `${path}.${key}`)
  return fields
}

/** What `check` makes of each element. */
export function list<T>(value: unknown, path: string, check: (each: unknown, path: string) => T): T[] {
  if (!Array.isArray(value)) throw wrong(path, `must be a list, not ${shown(value)}`)
  return value.map((each, index) => check(each, `${path}[${index}]`))
}

export function optional(value: unknown, path: string, check: Check): void {
  if (value !== undefined) check(value, path)
}

export function text(value: unknown, path: string): string {
  if (typeof value !== 'string' || value === '') throw wrong(path, `must be a text, not ${shown(value)}`)
  return value
}

export function truth(value: unknown, path: string): void {
  if (typeof value !== 'boolean') throw wrong(path, `must be true or false, not ${shown(value)}`)
}

export function oneOf<T>(allowed: readonly T[], value: unknown, path: string): T {
  const found = allowed.find(each => each === value)
  if (found === undefined) throw wrong(path, `must be one of ${allowed.join(', ')}, not ${shown(value)}`)
  return found
}

export function number(value: unknown, path: string): number {
  if (typeof value !== 'number' || !Number.isFinite(value)) throw wrong(path, `must be a number, not ${shown(value)}`)
  return value
}

export function above(bound: number, value: unknown, path: string): void {
  if (number(value, path) <= bound) throw wrong(path, `must be above ${bound}, not ${value}`)
}

export function atLeast(bound: number, value: unknown, path: string): void {
  if (number(value, path) < bound) throw wrong(path, `must be ${bound} or more, not ${value}`)
}

export function share(value: unknown, path: string): void {
  const given = number(value, path)
  if (given < 0 || given > 1) throw wrong(path, `must be between 0 and 1, not ${given}`)
}

export function count(value: unknown, path: string): void {
  if (!Number.isInteger(value) || Number(value) < 1) throw wrong(path, `must be a whole number above 0, not ${shown(value)}`)
}

export const shown = (value: unknown): string => (value === undefined ? 'nothing' : (JSON.stringify(value) ?? typeof value).slice(0, 60))
