// What all jobs commands have in common: their options, and the address of a job.

import type { ClientOptions } from '../../config/client.ts'

export interface JobOptions extends ClientOptions {
  readonly json?: boolean
}

/** Throws an Error when this can be no job's id. */
export function jobPath(id: string, more = ''): string {
  if (!/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(id))
    throw new Error(`${JSON.stringify(id)} is no id of a job: it looks like 019a2b3c-….`)
  return `/v1/jobs/${id}${more}`
}
