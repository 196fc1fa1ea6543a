// `${NAME}` and `${NAME:-default}` in the texts of a configuration file; `$${` is a plain `${`.
// biome-ignore-all lint/suspicious/noTemplateCurlyInString: `${NAME}` is what a configuration file holds

export type Environment = Readonly<Record<string, string | undefined>>

/**
 * The text with its variables filled in. As in a shell, `:-default` also stands in for a variable that is set but empty.
 * A variable that is not set and has no default is a fault: a key that is silently empty costs an evening.
 */
export function expand(text: string, environment: Environment): { readonly text: string } | { readonly fault: string } {
  const faults: string[] = []
  const expanded = text.replace(/\$\$\{|\$\{([^{}\n]*)\}|\$\{/g, (whole, inner: string | undefined) => {
    if (whole === '$${') return '${'
    const [, name, fallback] = /^([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?$/s.exec(inner ?? '') ?? []
    if (name === undefined) {
      faults.push('expected ${NAME} or ${NAME:-default} (a plain ${ is written $${)')
      return ''
    }
    const value = Object.hasOwn(environment, name) ? environment[name] : undefined
    if (fallback !== undefined) return value === undefined || value === '' ? fallback : value
    if (value === undefined) faults.push(`the environment variable ${name} is not set`)
    return value ?? ''
  })
  return faults[0] === undefined ? { text: expanded } : { fault: faults[0] }
}

/** What YAML would take for its own inside of `${…}`; the codes are noncharacters, which no text holds. */
const special = '{}[],:#'
const firstCode = 0xfdd0

/**
 * The same text, character for character, with `${…}` made safe for every place of a YAML file:
 * `{ api_key: ${KEY} }` is otherwise not YAML, and everybody writes it. Positions stay as they are.
 */
export function guarded(yaml: string): string {
  return yaml.replace(/\$\{[A-Za-z_][A-Za-z0-9_]*(?::-[^{}"'\n]*)?\}/g, variable =>
    variable.replace(/[{}[\],:#]/g, character => String.fromCharCode(firstCode + special.indexOf(character)))
  )
}

export function unguarded(text: string): string {
  return text.replace(/[\ufdd0-\ufdd6]/g, code => special[code.charCodeAt(0) - firstCode] ?? code)
}
