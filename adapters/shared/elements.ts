// How much memory a JSON text would take, told before it is parsed: a limit of bytes alone lets 4 MB of "{}," become 200.

// OpenRouter has some 50 for each model, Ollama 26: five thousand models.
export const elementsAtMost = 250_000

/** Whether a list is larger than any honest one. Those within strings are counted too. */
export function hasTooManyElements(text: string): boolean {
  let elements = 0
  for (let index = 0; index < text.length; index++) {
    const code = text.charCodeAt(index)
    // , [ {
    if (code === 0x2c || code === 0x5b || code === 0x7b) elements++
  }
  return elements > elementsAtMost
}
