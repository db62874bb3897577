// Uppy with its plug-in for tus. Beside the plug-in's options there is pauseAt, in bytes.
import { readFileSync } from 'node:fs'
import Uppy from '@uppy/core'
import Tus from '@uppy/tus'
import { print } from './frames.js'
import { at, fail, file, later, options, tus } from './upload.js'

const { pauseAt, ...rest } = options
const { metadata, ...shared } = tus
const uppy = new Uppy().use(Tus, { ...shared, ...rest })
const pause = at(pauseAt, () => {
  uppy.pauseAll()
  print({ paused: true })
  later(() => uppy.resumeAll())
})
uppy.on('upload-progress', (_, progress) => pause(progress.bytesUploaded))

const bytes = readFileSync(file)
uppy.addFile({ name: metadata.filename, type: metadata.filetype, data: Object.assign(bytes, { size: bytes.length }) })
const { successful, failed } = await uppy.upload()
if (failed.length) fail(failed[0].error)
print({ done: successful[0].uploadURL })
