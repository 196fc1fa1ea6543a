// What a person should know of a machine by the version of its server. Pure.

// Before 0.17.1 it gives away its memory, other people's chats among it (CVE-2026-7482).
const safeOllama = [0, 17, 1]

/** `old_ollama`, or nothing. A version that cannot be read says nothing; a pre-release (`-rc0`) comes before its release, a later build (`-5-g1a2b3c`) after it. */
export function marksOf(adapter: string, version: string): string[] {
  const [, ...parts] = /^v?(\d{1,5})\.(\d{1,5})\.(\d{1,5})/.exec(version) ?? []
  if (adapter !== 'ollama' || parts.length === 0) return []
  const isBefore = /^v?[\d.]+-(?!\d+-g[\da-f]+)/.test(version)
  const at = safeOllama.findIndex((part, index) => Number(parts[index]) !== part)
  const isOld = at === -1 ? isBefore : Number(parts[at]) < (safeOllama[at] as number)
  return isOld ? ['old_ollama'] : []
}
