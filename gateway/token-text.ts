// Lists of tokens as the text they stand for. LangChain and others send cl100k_base tokens to every embedding model.

/** cl100k_base, OpenAI's encoding for its embedding models and gpt-3.5; no token is outside of it. */
const largestToken = 100_276
// The byte 0xff, which no text has. The decoder keeps half a character for its next call; this makes it let go.
const endToken = 187

/**
 * The decoder. Its table takes 80 ms and 43 MB to load, so it is loaded when the first list of tokens comes, once.
 * The decoder throws when a token is not in the encoding; half a character at an end becomes U+FFFD.
 */
export async function loadDecoder(): Promise<(tokens: readonly number[]) => string> {
  const { decode } = await import('gpt-tokenizer/encoding/cl100k_base')
  return tokens => decode([...tokens, endToken]).slice(0, -1)
}

/** Between the last word and the special ones, OpenAI left some numbers out. */
function isGap(token: number): boolean {
  return token === 100_256 || (token >= 100_261 && token <= 100_275)
}

/** True for what can be a token of the encoding. */
export function isToken(value: unknown): value is number {
  return typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= largestToken && !isGap(value)
}
