// How long a prompt is, in tokens, without a tokenizer: an exact count costs 2 ms per 64 KB on the request path.

import type { TokenEstimate } from './types.ts'

// English runs at 4 to 5 bytes a token, code at 3, Chinese and Cyrillic at 3 to 5.
const bytesPerToken = 4
// Lists of long words and runs of spaces reach 12; nothing that people send was seen above.
const bytesPerTokenAtMost = 12
const tokensPerMessage = 4
// What vision models charge for a picture varies from under 100 to about 1,600; never its base64.
const tokensPerPicture = 1_200
const tokensPerPictureAtLeast = 64
// A page of a PDF is 50 kB or more, and about 1,000 tokens with its picture; a second of compressed speech is 8 kB and ten tokens. A third more as base64.
const base64PerFileToken = 64
const base64PerSoundToken = 1_000

export interface PromptSize {
  /** Bytes of UTF-8 text in messages and tool definitions. */
  readonly textBytes: number
  readonly messages: number
  readonly pictures: number
  /** Bytes of base64; absent = none. */
  readonly fileBytes?: number
  readonly soundBytes?: number
}

/** Pure. Used to leave out targets that cannot hold the prompt, and to price what nobody counted. */
export function estimateTokens(size: PromptSize): TokenEstimate {
  return {
    low: Math.ceil(size.textBytes / bytesPerTokenAtMost) + size.pictures * tokensPerPictureAtLeast,
    expected:
      Math.ceil(size.textBytes / bytesPerToken) +
      size.messages * tokensPerMessage +
      size.pictures * tokensPerPicture +
      Math.ceil((size.fileBytes ?? 0) / base64PerFileToken) +
      Math.ceil((size.soundBytes ?? 0) / base64PerSoundToken)
  }
}
