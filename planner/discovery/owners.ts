// Which of the machines that were found may be sent prompts: those that were approved, and one for each address. Pure.

import type { DeviceRecord } from '../../store/fleet.ts'

type Claim = Pick<DeviceRecord, 'id' | 'url' | 'origin' | 'state' | 'marks' | 'onlyHost' | 'foundAt' | 'goneAt'>

/**
 * `configuredUrls`: of the machines in the configuration, which come first. Of the others an address is held by who was found there
 * last, whatever was said of it: what a person trusted was the machine, and an address that was given to another inherits nothing.
 * One that is gone stays in use while nobody else holds its address: it may be back before it is looked for again.
 */
export function machinesInUse<Found extends Claim>(
  records: readonly Found[],
  { host, configuredUrls }: { readonly host: string; readonly configuredUrls: readonly string[] }
): Found[] {
  const here = records.filter(({ origin, onlyHost }) => origin !== 'config' && (onlyHost === null || onlyHost === host))
  const configured = new Set(configuredUrls.map(originOf))
  const holders = new Map<string, Found>()
  for (const record of here) {
    const at = originOf(record.url)
    const other = holders.get(at)
    if (other === undefined || comesBefore(record, other)) holders.set(at, record)
  }
  return here.filter(
    record =>
      // Whoever answers as no honest server does gets nothing, whatever was said of it before.
      record.state === 'approved' &&
      !record.marks.includes('hostile') &&
      !configured.has(originOf(record.url)) &&
      holders.get(originOf(record.url)) === record
  )
}

function comesBefore(record: Claim, other: Claim): boolean {
  if ((record.goneAt === null) !== (other.goneAt === null)) return record.goneAt === null
  return (record.foundAt?.getTime() ?? 0) > (other.foundAt?.getTime() ?? 0)
}

function originOf(url: string): string {
  return URL.parse(url)?.origin ?? url
}
