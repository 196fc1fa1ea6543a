// The events of jobs: `createEventWriter` where attempts run, `createWatches` where somebody follows.

export type { EventRow } from '../store/job-events.ts'
export { insertEvents } from '../store/job-events.ts'
export type { EventLog, EventWriter, Watches } from './events/types.ts'
export { createWatches } from './events/watch.ts'
export { createEventWriter } from './events/writer.ts'
