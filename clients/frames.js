// What the programs of this folder share: they are called with the address of an instance and a token, and print each
// frame that they receive as one line of JSON, in the form that it has over NDJSON.
export const [url, token] = process.argv.slice(2)
export const headers = { Authorization: `Bearer ${token}` }

export const print = (frame) => process.stdout.write(JSON.stringify(frame) + '\n')

// The names under which an EventSource must listen: a service's, and the frames'.
export const names = ['finance', 'ack', 'ping', 'reset', 'reauth', 'drain', 'problem']

export const fromSSE = (name, id, text) => {
  const data = JSON.parse(text)
  return data.service === name ? { type: 'event', cursor: id, event: data } : { ...data, type: name }
}

// For clients that do not come back by themselves.
export const forever = async (read) => {
  for (;;) {
    try {
      await read()
    } catch (error) {
      console.error(error.message, error.cause?.message ?? '')
    }
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
}
