// Times as clients write them.

const form = /^(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d(?:\.\d{1,9})?)([Zz]|[+-]\d\d:\d\d)$/

/** A time by RFC 3339, as epoch ms; null for anything else, such as a day that no month has. */
export function timeOf(value: unknown): number | null {
  const [, day, clock, zone] = (typeof value === 'string' ? form.exec(value) : null) ?? []
  if (day === undefined || clock === undefined || zone === undefined) return null
  // Date takes the 30th of February for the 2nd of March.
  const midnight = Date.parse(`${day}T00:00:00Z`)
  if (Number.isNaN(midnight) || new Date(midnight).toISOString().slice(0, 10) !== day) return null
  const at = Date.parse(`${day}T${clock}${zone.toUpperCase()}`)
  return Number.isNaN(at) ? null : at
}
