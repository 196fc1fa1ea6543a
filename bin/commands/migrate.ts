// llm-mcp migrate

import { loadSettings } from '../config.ts'
import { openDatabase } from '../database.ts'

export async function migrateCommand({ json }: { json?: boolean }): Promise<void> {
  const database = await openDatabase({ settings: await loadSettings(), poolSize: 2, log: message => console.error(message) })
  await database.close()
  console.log(
    json === true ? JSON.stringify({ database: database.label, status: 'up_to_date' }) : `The database ${database.label} is up to date.`
  )
}
