// Where the answer and the progress go: the answer to stdout; progress to stderr, as one line in place on a terminal,
// otherwise as a line for each change.

import { fstatSync } from 'node:fs'
import { styleText } from 'node:util'
import { hasCursor } from '../../config/terminal.ts'
import { plain } from '../print.ts'

export interface Output {
  write(text: string): unknown
  readonly isTerminal: boolean
  columns(): number
  style(format: 'dim' | 'red' | 'yellow', text: string): string
}

export interface ScreenPorts {
  readonly out: Output
  readonly err: Output
  /** Both are one terminal: what is written to one moves the cursor of the other. */
  readonly isShared: boolean
}

export interface Screen {
  /** A piece of the answer. */
  answer(text: string): void
  /** A line of its own amid the answer. */
  mark(text: string): void
  /** A line of its own beside the answer. */
  note(text: string, format?: 'red'): void
  /** `live` is what a terminal shows from now on, in place; elsewhere `text` is said when `key` is another than before. */
  progress(live: () => string, line: { readonly key: string; readonly text: string }): void
  /** Takes the progress line away and ends the last line of the answer. Safe to call twice. */
  close(): void
}

const redrawMs = 200

export function createScreen({ out, err, isShared }: ScreenPorts): Screen {
  let live: (() => string) | null = null
  let saidKey = ''
  /** Of the answer's last line; 0 = at its beginning. */
  let column = 0
  let isDrawn = false
  const timer = err.isTerminal ? setInterval(() => err.write(erased() + drawn()), redrawMs) : undefined

  /** Leaves the cursor at the end of the answer, whatever stands there now. */
  function erased(): string {
    if (!isDrawn) return ''
    isDrawn = false
    return isShared && column > 0 ? '\x1b[J' : '\r\x1b[2K'
  }

  function drawn(): string {
    if (live === null) return ''
    const text = err.style('dim', cut(plain(live()), err.columns() - 1))
    if (!isShared || column === 0) {
      isDrawn = true
      return text
    }
    // At the right edge a terminal has not decided yet which line the cursor is on.
    if (column % out.columns() === 0 || column % out.columns() === out.columns() - 1) return ''
    isDrawn = true
    // Down and up again makes room below, also on the last line; then save, write a line below, restore.
    return `\x1bD\x1b[A\x1b7\r\n${text}\x1b8`
  }

  function answer(text: string): void {
    if (text === '') return
    const shown = out.isTerminal ? text.replace(/[\x00-\x08\x0b-\x1f\x7f-\x9f]+/g, '') : text
    if (!isShared) {
      column = columnAfter(shown, column)
      out.write(shown)
      return
    }
    const before = erased()
    column = columnAfter(shown, column)
    out.write(before + shown + drawn())
  }

  function endLine(): void {
    const before = erased()
    if (before !== '') err.write(before)
    if (column > 0) out.write('\n')
    column = 0
  }

  return {
    answer,
    mark(text) {
      endLine()
      out.write(`${out.style('yellow', plain(text))}\n`)
    },
    note(text, format) {
      if (isShared) endLine()
      else err.write(erased())
      err.write(`${format === undefined ? plain(text) : err.style(format, plain(text))}\n`)
    },
    progress(shown, { key, text }) {
      live = shown
      if (err.isTerminal) {
        err.write(erased() + drawn())
      } else if (key !== saidKey) {
        saidKey = key
        err.write(`${plain(text)}\n`)
      }
    },
    close() {
      clearInterval(timer)
      live = null
      endLine()
    }
  }
}

/** This process's own. */
export function ownScreen(): ScreenPorts {
  const [out, err] = [outputOf(process.stdout), outputOf(process.stderr)]
  return { out, err, isShared: out.isTerminal && err.isTerminal && fstatSync(1).rdev === fstatSync(2).rdev }
}

function outputOf(stream: NodeJS.WriteStream): Output {
  return {
    write: text => stream.write(text),
    isTerminal: stream.isTTY === true && hasCursor(),
    columns: () => stream.columns ?? 80,
    style: (format, text) => styleText(format, text, { stream })
  }
}

function cut(text: string, width: number): string {
  return text.length <= width ? text : `${text.slice(0, Math.max(0, width - 1))}…`
}

const wide =
  /\p{Emoji_Presentation}|[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6]|[\u{20000}-\u{3fffd}]/u

/** Columns that the last line of a text takes, begun at `column`; only its edge cases are guesses. */
function columnAfter(text: string, column: number): number {
  const lines = text.split('\n')
  let at = lines.length > 1 ? 0 : column
  for (const character of lines.at(-1) ?? '') {
    if (character === '\t') at += 8 - (at % 8)
    else if (!/\p{M}|\u200d/u.test(character)) at += wide.test(character) ? 2 : 1
  }
  return at
}
