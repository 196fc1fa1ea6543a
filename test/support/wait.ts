// Waiting for conditions, with an end. Tests never sleep for a fixed time and hope.

/** The first truthy value of `probe`, asked every few ms. Throws after `ms`, naming what was waited for. */
export async function until<T>(what: string, probe: () => T | Promise<T>, ms = 15_000): Promise<NonNullable<T>> {
  const end = performance.now() + ms
  for (;;) {
    const value = await probe()
    if (value) return value as NonNullable<T>
    if (performance.now() > end) throw new Error(`waited ${ms} ms in vain for: ${what}`)
    await new Promise(resolve => setTimeout(resolve, 5))
  }
}
