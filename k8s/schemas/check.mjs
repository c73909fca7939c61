// Checks custom resources against their schemas: node check.mjs MANIFESTS.json. A line for each complaint, and status 3.
//
// The packages hold a validator for each kind. It asks an object for each field that the schema knows, so a field that
// is there and was never asked for is unknown; an object that was asked for none may hold any. A map's are asked for all.
import { readFileSync } from 'node:fs'

const MODELS = {
  'keda.sh/v1alpha1': ['keda', 'ComGithubKedacoreKedaV2ApisKedaV1alpha1'],
  'monitoring.coreos.com/v1': [
    'prometheus-operator', 'ComGithubPrometheusOperatorPrometheusOperatorPkgApisMonitoringV1'],
  'external-secrets.io/v1': ['external-secrets', 'ComGithubExternalSecretsExternalSecretsApisExternalsecretsV1'],
}

function watched(value, asked, path = '') {
  if (value === null || typeof value !== 'object') return value
  const seen = new Map()
  return new Proxy(value, {
    get(target, key) {
      const item = Reflect.get(target, key)
      if (typeof key !== 'string' || typeof item === 'function') return item
      if (!Array.isArray(target)) {
        if (!asked.has(path)) asked.set(path, new Set())
        asked.get(path).add(key)
      }
      if (!seen.has(key)) seen.set(key, watched(item, asked, `${path}/${key}`))
      return seen.get(key)
    },
  })
}

function unknownFields(value, asked, path = '') {
  if (value === null || typeof value !== 'object') return []
  const known = Array.isArray(value) ? null : asked.get(path)
  const found = []
  for (const key of Object.keys(value)) {
    if (known && !known.has(key)) found.push(`${path}/${key}: unknown field`)
    else found.push(...unknownFields(value[key], asked, `${path}/${key}`))
  }
  return found
}

let wrong = 0
for (const manifest of JSON.parse(readFileSync(process.argv[2], 'utf8'))) {
  const [model, prefix] = MODELS[manifest.apiVersion]
  // Not by the packages' names: they export models, not validators.
  const file = `./node_modules/@kubernetes-models/${model}/_schemas/${prefix}${manifest.kind}.js`
  const { validate } = await import(file)
  const asked = new Map()
  const found = []
  if (!validate(watched(manifest, asked))) {
    for (const error of validate.errors) found.push(`${error.instancePath}: ${error.message ?? error.keyword}`)
  }
  found.push(...unknownFields(manifest, asked))
  for (const line of found) console.log(`${manifest.kind}/${manifest.metadata.name} ${line}`)
  wrong += found.length
}
// Not 1, with which node itself ends when this program fails.
process.exitCode = wrong ? 3 : 0
