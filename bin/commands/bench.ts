// llm-mcp bench: the commands that have a running gateway measure, and their options.

import type { Command } from 'commander'
import { collect, integer, reachable } from './jobs.ts'

/** Adds `bench` with all its commands; their code is loaded when one of them runs. */
export function addBenchCommands(program: Command): void {
  const bench = program.command('bench').description('benchmarks by a running gateway (admin keys)')

  reachable(bench.command('device'), 'print JSON: {object: "list", data: [benchmark]}')
    .description('measure the models of a machine, or of a rented provider with --model; exit code 1 when one fails')
    .argument('<id>')
    .option('--model <name>', 'only this one; may be given several times', collect)
    .option('--runs <number>', 'answers that are measured alone, 1 to 20 (default 3)', integer)
    .option('--yes-pay', 'also a rented model above BENCHMARK_MAX_PRICE_PER_1M; it is written down who wanted it')
    .action(async (id, options) => {
      await (await import('./bench/device.ts')).benchDeviceCommand(id, options)
    })
  reachable(bench.command('cancel'), 'print JSON: the benchmark')
    .description('end a benchmark where it is; nothing of it is learned')
    .argument('<id>')
    .action(async (id, options) => {
      await (await import('./bench/device.ts')).cancelBenchmarkCommand(id, options)
    })
}
