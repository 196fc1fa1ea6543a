// llm-mcp devices: the commands that speak to a running gateway about its machines, and their options.

import { type Command, InvalidArgumentError } from 'commander'
import { collect, integer, reachable } from './jobs.ts'

/** Adds `devices` with all its commands; their code is loaded when one of them runs. */
export function addDeviceCommands(program: Command): void {
  const devices = program.command('devices').description('machines of a running gateway (admin keys)')

  reachable(devices.command('list'))
    .description('every machine: those of the configuration, and those that were found')
    .action(async options => {
      await (await import('./devices/show.ts')).listDevicesCommand(options)
    })
  reachable(devices.command('discover'))
    .description('look for machines now; what is found is proposed')
    .action(async options => {
      await (await import('./devices/show.ts')).discoverCommand(options)
    })
  reachable(devices.command('approve'))
    .description('machines may be sent prompts from now on')
    .argument('<id...>')
    .action(async (ids, options) => {
      await (await import('./devices/change.ts')).stateCommand('approved', ids, options)
    })
  reachable(devices.command('block'))
    .description('machines are sent nothing from now on')
    .argument('<id...>')
    .action(async (ids, options) => {
      await (await import('./devices/change.ts')).stateCommand('blocked', ids, options)
    })
  reachable(devices.command('limits'))
    .description('show the limits of a machine, or set some of them')
    .argument('<id>')
    .option('--max-concurrency <number>', 'answers at the same time', integer)
    .option('--watts <number>', 'drawn while it answers', figure)
    .option('--vram-gb <number>', 'memory of its GPUs', figure)
    .option('--ram-gb <number>', 'its main memory', figure)
    .option('--max-params-b <number>', 'billions of parameters a model may have', figure)
    .option('--max-size-gb <number>', 'how large the weights of a model may be', figure)
    .option('--max-context-k <number>', 'context a model is loaded with at most, in 1,024 tokens', figure)
    .option('--allow-model <pattern>', 'use these models only, "*" stands for any characters; may be given several times', collect)
    .option('--deny-model <pattern>', 'do not use these models; may be given several times', collect)
    .option('--unset <name>', 'take a limit away, such as watts or allow-model; may be given several times', collect)
    .action(async (id, options) => {
      await (await import('./devices/change.ts')).limitsCommand(id, options)
    })
}

function figure(text: string): number {
  const value = /^(\d{1,9})(\.\d{1,6})?$/.test(text) ? Number(text) : Number.NaN
  if (Number.isFinite(value)) return value
  throw new InvalidArgumentError('It must be a number, such as 24 or 7.5.')
}
