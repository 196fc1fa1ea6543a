// What a watched job looks like on a terminal: the answer whole, and one line of progress that moves along below it.

import t, { type Test } from 'tap'
import { advanced, liveText, type Progress, progressLine, progressOf } from '../../bin/commands/jobs/progress.ts'
import { createScreen, type Output } from '../../bin/commands/jobs/screen.ts'
import { until } from '../support/wait.ts'

const attempt = { event: 'attempt', id: '1-0', data: { attempt: 1 } }
const chunk = { event: 'chunk', id: '1-1', data: {} }

t.test('the live line tells what is known: place in the queue, then attempt, pace and time', t => {
  const nowMs = 1_000_000
  let progress: Progress = progressOf('queued', 3, { p50: 1_200, p90: 62_400 })
  const live = (atMs: number): string => liveText(progress, { nowMs: atMs, sinceMs: nowMs - 3_000 })
  t.equal(live(nowMs), 'queued · position 3 · ETA 1.2 s–1:02 min · 3.0 s')
  progress = advanced(progress, attempt, nowMs)
  t.equal(live(nowMs), 'running · attempt 1 · 3.0 s')
  for (let at = 0; at < 10; at++) progress = advanced(progress, chunk, nowMs + at * 100)
  t.equal(live(nowMs + 400), 'running · attempt 1 · 10 tokens · 3.4 s', 'half a second is needed for a pace')
  t.equal(live(nowMs + 1_000), 'running · attempt 1 · 10 tokens · 10.0 tokens/s · 4.0 s')
  t.equal(live(nowMs + 60_000), 'running · attempt 1 · 10 tokens · 0.0 tokens/s · 1:03 min', 'nothing came of late')
  t.match(liveText({ ...progress, lost: 'gone' }, { nowMs, sinceMs: nowMs - 3_600_000 }), /^connection lost, trying again · .* 1:00:00 h$/)
  progress = advanced(progress, { event: 'status', id: null, data: { status: 'queued', position: 1, eta_ms: null } }, nowMs)
  t.match(progressLine(progress), { key: 'queued, position 1', text: 'queued, position 1' })
  t.equal(
    progressLine({ ...progress, etaMs: { p50: 1, p90: 2 } }).key,
    progressLine({ ...progress, etaMs: { p50: 5, p90: 9 } }).key,
    'an ETA that moves is no news'
  )
  t.end()
})

t.test('while the answer grows there is one line of progress below it, also at the end of the screen', async t => {
  const terminal = createTerminal({ rows: 6, columns: 20 })
  const screen = createScreen({ out: terminal.output, err: terminal.output, isShared: true })
  t.teardown(() => screen.close())
  let count = 0
  screen.progress(() => `PROGRESS ${count}`, { key: '', text: '' })
  t.same(terminal.lines(), ['PROGRESS 0'])
  const answer = 'One two three four five six seven,\n\neight \u6f22\u5b57 nine ten eleven twelve thirteen fourteen fifteen sixteen.'
  let said = ''
  for (const word of answer.match(/\S+|\s+/g) ?? []) {
    count++
    said += word
    screen.answer(word)
    const lines = terminal.everything()
    const below = lines.findIndex(line => line.startsWith('PROGRESS'))
    const above = below === -1 ? lines : lines.slice(0, below)
    t.equal(above.join('').replaceAll(' ', ''), said.replaceAll(/\s/g, ''), `after ${JSON.stringify(said)}`)
    if (below !== -1) t.same(lines.slice(below), [`PROGRESS ${count}`])
  }
  count = 99
  await until('the line to be written anew', () => terminal.everything().at(-1) === 'PROGRESS 99')
  screen.mark('--- again ---')
  screen.answer('Second')
  screen.close()
  screen.note('done')
  t.same(terminal.everything().slice(-3), ['--- again ---', 'Second', 'done'])
  t.notMatch(terminal.everything().join('\n'), /PROGRESS/)
  screen.close()
})

t.test('what others send cannot steer the terminal, and a long line is cut', t => {
  const terminal = createTerminal({ rows: 6, columns: 20 })
  const screen = opened(t, terminal.output, true)
  screen.progress(() => 'a line that is longer than the terminal is wide', { key: '', text: '' })
  t.same(terminal.lines(), ['a line that is lon…'])
  screen.answer('a\x1b[2Jb\x07c\r\nd\te\x9b')
  screen.close()
  screen.note('note \x1b[31m')
  t.same(terminal.everything(), ['a[2Jbc', 'd       e', 'note  [31m'])
  t.end()
})

t.test('with the answer going elsewhere, the terminal has the progress and the answer is left as it is', t => {
  const terminal = createTerminal({ rows: 6, columns: 40 })
  let file = ''
  const out: Output = { ...terminal.output, isTerminal: false, write: text => (file += text) }
  const screen = createScreen({ out, err: terminal.output, isShared: false })
  t.teardown(() => screen.close())
  screen.progress(() => 'running', { key: '', text: '' })
  screen.answer('a\x1bb\r\n')
  t.same(terminal.lines(), ['running'])
  screen.answer('c')
  screen.close()
  t.same(terminal.lines(), [])
  t.equal(file, 'a\x1bb\r\nc\n')
  t.end()
})

function opened(t: Test, output: Output, isShared: boolean) {
  const screen = createScreen({ out: output, err: output, isShared })
  t.teardown(() => screen.close())
  return screen
}

/** As much of a terminal as is needed: it wraps, scrolls, and knows the sequences that are used here. */
function createTerminal({ rows, columns }: { readonly rows: number; readonly columns: number }) {
  const screen: string[][] = Array.from({ length: rows }, () => [])
  const scrolled: string[][] = []
  let [row, column] = [0, 0]
  let saved = { row: 0, column: 0 }
  // At the right edge the cursor waits: only the next character decides.
  const down = (): void => {
    if (row < rows - 1) row++
    else {
      scrolled.push(screen.shift() ?? [])
      screen.push([])
    }
  }
  const put = (character: string): void => {
    const width = character >= '\u1100' && character !== '…' ? 2 : 1
    if (column + width > columns) {
      down()
      column = 0
    }
    const line = screen[row] ?? []
    while (line.length < column) line.push(' ')
    line[column] = character
    if (width === 2) line[column + 1] = ''
    column += width
  }
  const sequences: Readonly<Record<string, () => void>> = {
    '\r': () => (column = 0),
    // As a terminal driver has it: a line feed returns, too.
    '\n': () => {
      down()
      column = 0
    },
    '\t': () => (column += 8 - (column % 8)),
    '\x1bD': () => {
      if (column === columns) column--
      down()
    },
    '\x1b[A': () => (row = Math.max(0, row - 1)),
    '\x1b7': () => (saved = { row, column }),
    '\x1b8': () => ({ row, column } = saved),
    '\x1b[2K': () => screen[row]?.splice(0),
    '\x1b[J': () => {
      screen[row]?.splice(column)
      for (const line of screen.slice(row + 1)) line.splice(0)
    }
  }
  const write = (text: string): void => {
    for (const [piece] of text.matchAll(/\x1b\[\d*[A-Z]|\x1b[D78]|[\s\S]/gu)) {
      const act = sequences[piece]
      if (act !== undefined) act()
      else if (piece < ' ') throw new Error(`unknown: ${JSON.stringify(piece)}`)
      else put(piece)
    }
  }
  const textOf = (lines: readonly string[][]): string[] => lines.map(line => line.join('').trimEnd()).filter(line => line !== '')
  return {
    output: { write, isTerminal: true, columns: () => columns, style: (_format, text) => text } satisfies Output as Output,
    lines: () => textOf(screen),
    everything: () => textOf([...scrolled, ...screen])
  }
}
