// gcs-resumable-upload. It remembers in configPath what it has begun: where it failed, it is started once more.
import { createReadStream, statSync } from 'node:fs'
import { upload } from 'gcs-resumable-upload'
import { headers, print, url } from './frames.js'
import { agent, fail, file, options } from './upload.js'

const to = upload({
  bucket: 'any',
  file: 'a file',
  apiEndpoint: url,
  metadata: { contentType: 'application/pdf', contentLength: statSync(file).size },
  customRequestOptions: { headers, agent },
  ...options,
})
to.once('progress', () => print({ from: to.offset }))
to.on('response', (response) => print({ status: response.status, range: response.headers.range }))
to.on('metadata', (resource) => print({ done: resource.id }))
to.on('error', fail)
createReadStream(file).pipe(to)
