// What the programs of this folder that upload share. They are called with the address of an instance, a token, a file, and
// options in JSON; they print what happens, one line of JSON each, and end with another status than 0 where they fail.
import { Agent } from 'node:http'
import { DefaultHttpStack } from 'tus-js-client'
import { headers, print, url } from './frames.js'

export const file = process.argv[4]
export const options = JSON.parse(process.argv[5])

export const fail = (error) => {
  console.error(error.message)
  process.exit(1)
}

// at calls something once: when so many bytes were sent. Without a number, never.
export const at = (bytes, call) => (sent) => {
  if (sent >= bytes) {
    bytes = Infinity
    call()
  }
}

// later is a moment in which an upload stands still.
export const later = (call) => setTimeout(call, 200)

// Each request has a connection of its own, and so goes to another instance.
export const agent = new Agent({ keepAlive: false })

// tus is what all programs on top of tus-js-client have it do: print each answer.
export const tus = {
  endpoint: `${url}/v2/uploads`,
  headers,
  metadata: { filename: 'a file', filetype: options.type ?? 'application/pdf' },
  retryDelays: [0, 200, ...Array(20).fill(500)],
  httpStack: new DefaultHttpStack({ agent }),
  onAfterResponse: (request, response) => print({
    method: request.getMethod(), status: response.getStatus(), offset: Number(response.getHeader('Upload-Offset') ?? -1),
  }),
}
