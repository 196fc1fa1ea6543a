// fast-check with one seed for all runs: the same tree gives the same verdict. PROPERTY_SEED=<number> tries another, `any` a new one.

import fc from 'fast-check'

const wish = process.env.PROPERTY_SEED ?? '20261121'
if (wish !== 'any') fc.configureGlobal({ ...fc.readConfigureGlobal(), seed: Number(wish) })

export { fc }
