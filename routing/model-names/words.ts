// The words of a model's name, one at a time: which of them is a size, a quantisation, a version, a variant.

/** Spellings of one word; most stand for themselves. Any other word makes a name one that is not understood. */
const variants: ReadonlyMap<string, string> = new Map([
  ['it', 'instruct'],
  ['think', 'thinking'],
  ['vl', 'vision'],
  ['distilled', 'distill'],
  ['embedding', 'embed'],
  ...'air audio base chat coder distill embed exp flash guard h instruct large lite math maverick max medium micro mini nano next omni'
    .split(' ')
    .map(word => [word, word] as const),
  ...'plus preview pro qat reasoning safeguard scout small speciale terminus thinking tiny vision'
    .split(' ')
    .map(word => [word, word] as const)
])

/** Say how it is packed, not what it is. */
const packaging = new Set(['gguf', 'hf', 'mlx', 'imatrix', 'imat', 'i1'])

const float = /^(?:fp|f|bf|mxfp|nvfp)(?:4|8|16|32)$/
const ggml = /^(?:i|t)?q[1-8](?:_[a-z0-9]{1,4}){0,4}$/
const otherQuantization = /^(?:int[48]|awq|gptq|ud|[2-8]bit|w[48]a(?:4|8|16))$/

/** What a variant's word is called here, or null when it is none that is known. */
export function variantOf(word: string): string | null {
  return variants.get(word) ?? null
}

export function isPackaging(word: string): boolean {
  return packaging.has(word)
}

/** As Ollama's `quantization_level` has it (`Q4_K_M`, `F16`), or null when the word is none. */
export function quantizationOf(word: string): string | null {
  if (!float.test(word) && !ggml.test(word) && !otherQuantization.test(word)) return null
  return (/^fp(?:16|32)$/.test(word) ? `f${word.slice(2)}` : word).toUpperCase()
}

/** `2507`, `20250728`: when it was made. */
export function isDate(word: string): boolean {
  return /^(?:\d{4}|\d{6}|\d{8})$/.test(word)
}

export type SizePart =
  | { readonly kind: 'total' | 'active' | 'effective' | 'experts'; readonly text: string; readonly billions: number }
  | { readonly kind: 'count'; readonly text: string; readonly billions: null }

/** `3b`, `270m`, `1t`; `a3b` (active); `e4b` (effective); `8x7b`; `16e` (a count of experts). `1m` is a context, not a size. */
export function sizePartOf(word: string): SizePart | null {
  const total = /^(\d{1,4}(?:\.\d{1,3})?)([bmt])$/.exec(word)
  if (total !== null) {
    const figure = Number(total[1])
    if (figure === 0 || (total[2] === 'm' && figure < 10)) return null
    return { kind: 'total', text: `${figure}${total[2]}`, billions: inBillions(figure, total[2]) }
  }
  const part = /^([ae])(\d{1,3}(?:\.\d{1,2})?)b$/.exec(word)
  if (part !== null) {
    return { kind: part[1] === 'a' ? 'active' : 'effective', text: `${part[1]}${Number(part[2])}b`, billions: Number(part[2]) }
  }
  const experts = /^(\d{1,3})x(\d{1,3}(?:\.\d)?)b$/.exec(word)
  if (experts !== null) return { kind: 'experts', text: `${Number(experts[1])}x${Number(experts[2])}b`, billions: Number(experts[2]) }
  const count = /^(\d{1,3})e$/.exec(word)
  return count === null ? null : { kind: 'count', text: `${Number(count[1])}`, billions: null }
}

/** What a server says (`8.0B`, `494.03M`), in billions; null when it says nothing that can be read. */
export function parameterCount(text: string | null | undefined): number | null {
  const parts = /^(\d{1,6}(?:\.\d{1,6})?)([bmt])$/.exec((text ?? '').trim().toLowerCase().slice(0, 20))
  return parts === null || Number(parts[1]) === 0 ? null : inBillions(Number(parts[1]), parts[2])
}

/** `3`, `3.2`, `3n`, `v0.3`, and with their family's letter `r1`; without the v, and `4.0` is `4`. Null = it is none. */
export function versionOf(word: string, letter?: string): string | null {
  const parts = /^([a-z]?)(\d{1,2}(?:\.\d{1,2}){0,2})([a-z]?)$/.exec(word)
  if (parts === null || (parts[1] !== '' && parts[1] !== 'v' && parts[1] !== letter)) return null
  if (sizePartOf(word) !== null) return null
  const figures = (parts[2] ?? '').replace(/\.0$/, '')
  return `${parts[1] === 'v' ? '' : parts[1]}${figures}${parts[3]}`
}

function inBillions(figure: number, unit: string | undefined): number {
  if (unit === 't') return figure * 1_000
  return unit === 'm' ? figure / 1_000 : figure
}
