// tus-js-client. Beside its own options there are pauseAt, leaveAt and abortAt, in bytes; piped, for a stream whose length
// nobody knows; checksum, which adds digests, each of them a wrong one until one is refused; and urls, the file by which others go on.
import { createHash } from 'node:crypto'
import { createReadStream, readFileSync } from 'node:fs'
import { PassThrough } from 'node:stream'
import { FileUrlStorage, Upload } from 'tus-js-client'
import { print } from './frames.js'
import { at, fail, file, later, options, tus } from './upload.js'

const { pauseAt, leaveAt, abortAt, piped, checksum, urls, ...rest } = options

const pause = at(pauseAt, () => upload.abort().then(() => {
  print({ paused: true })
  later(() => upload.start())
}))
const leave = at(leaveAt, () => {
  if (previous) return
  print({ left: true })
  process.exit()
})
const abort = at(abortAt, () => upload.abort(true).then(() => print({ aborted: upload.url }), fail))

let refused = false
const addChecksum = (request) => {
  if (request.getMethod() !== 'PATCH') return
  const offset = Number(request.getHeader('Upload-Offset'))
  const chunk = readFileSync(file).subarray(offset, offset + rest.chunkSize)
  const digest = createHash('sha256').update(refused ? chunk : 'something else').digest('base64')
  request.setHeader('Upload-Checksum', `sha256 ${digest}`)
}
const retried = [0, 409, 423, 460, 503]

const upload = new Upload(piped ? createReadStream(file).pipe(new PassThrough()) : createReadStream(file), {
  ...tus,
  ...rest,
  ...(urls && { urlStorage: new FileUrlStorage(urls) }),
  ...(checksum && {
    onBeforeRequest: addChecksum,
    onShouldRetry: (error) => {
      const status = error.originalResponse?.getStatus() ?? 0
      refused ||= status === 460
      return retried.includes(status)
    },
  }),
  onProgress: (sent) => {
    pause(sent)
    leave(sent)
    abort(sent)
  },
  onSuccess: () => print({ done: upload.url }),
  onError: fail,
})
const [previous] = urls ? await upload.findPreviousUploads() : []
if (previous) {
  print({ previous: true })
  upload.resumeFromPreviousUpload(previous)
}
upload.start()
